package main

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sestina"
	"sestina/batch"
)

// modelFlags are what every command that loads a model takes.
type modelFlags struct {
	model  string
	opt    sestina.Options
	kvMem  byteSize
	kvHost byteSize
	kvDisk byteSize
	output string
}

func (f *modelFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SortFlags = false
	f.registerModel(fs)
	f.registerOutput(fs)
	fs.IntVar(&f.opt.Threads, "threads", 0, "compute threads (0 = free physical cores)")
	fs.StringVar(&f.opt.Backend, "backend", "cpu", "cpu, or ref (the slow scalar oracle)")
	fs.StringVar(&f.opt.ISA, "isa", "", "force a kernel family: generic, avx2, avx512vnni, amx")
	fs.StringVar(&f.opt.ActivationDType, "activation-dtype", "auto", "auto (int8 for integer weight formats, bf16 for BF16) or f32")
	fs.StringVar(&f.opt.KVCacheDType, "kv-cache-dtype", "auto", "auto (f16), f32, f16, bf16, or quantised: q8_0, q4_0 (head size a multiple of 32); by layer: q4_0,0-1=f16,29=f16")
	fs.Var(&f.kvMem, "kv-cache-memory-bytes", "size of the KV pool, e.g. 2G (0 = a quarter of free memory, at most what the limits use)")
	fs.Var(&f.kvHost, "kv-host-tier-bytes", "host memory for K/V that the pool has no room for, e.g. 4G (0 = none; with --kv-disk-tier two of the longest prompts)")
	fs.StringVar(&f.opt.KVDiskTier, "kv-disk-tier", "", "folder for K/V that the pool has no room for; it survives restarts")
	fs.Var(&f.kvDisk, "kv-disk-tier-bytes", "limit of that folder (0 = 8G)")
	fs.IntVar(&f.opt.MaxModelLen, "max-model-len", 0, "longest prompt + output in tokens (0 = the model's context)")
	fs.IntVar(&f.opt.MaxNumBatchedTokens, "max-num-batched-tokens", 0, "rows of one step (0 = 512)")
	fs.IntVar(&f.opt.BlockSize, "block-size", 0, "tokens per KV block (0 = 16)")
	t := &f.opt.Techniques
	fs.StringVar(&t.KVCache, "kv-cache", "on", "technique switch: on, off")
	fs.StringVar(&t.KVLayout, "kv-layout", "paged", "technique switch: paged, contiguous")
	fs.StringVar(&t.Attention, "attention", "flash", "technique switch: flash, full")
	fs.StringVar(&t.GQA, "gqa", "grouped", "technique switch: grouped, expanded")
	fs.StringVar(&t.Batching, "batching", "continuous", "technique switch: continuous, static, none")
	fs.StringVar(&t.Speculation, "speculation", "auto", "technique switch: auto, off")
	fs.StringVar(&f.opt.SpeculativeConfig, "speculative-config", "", `JSON: {"method":"ngram|draft_model|mtp","model":"…","num_speculative_tokens":8,"depth":"auto|fixed"}`)
	onOff(fs, "enable-prefix-caching", &t.PrefixCaching)
	onOff(fs, "enable-chunked-prefill", &t.ChunkedPrefill)
}

func (f *modelFlags) registerModel(fs *pflag.FlagSet) {
	fs.StringVarP(&f.model, "model", "m", "", "alias, path, or org/repo[:QUANT] (default SmolLM2-135M-Instruct)")
}

func (f *modelFlags) registerOutput(fs *pflag.FlagSet) {
	fs.StringVar(&f.output, "output", "text", "text or json")
}

// check finishes what flags alone cannot say.
func (f *modelFlags) check(cmd *cobra.Command) error {
	if err := checkOutput(cmd, f.output); err != nil {
		return err
	}
	f.opt.KVCacheMemoryBytes, f.opt.KVHostTierBytes, f.opt.KVDiskTierBytes = uint64(f.kvMem), uint64(f.kvHost), uint64(f.kvDisk)
	if err := f.opt.Check(); err != nil {
		return usageError{err, commandPath(cmd)}
	}
	return nil
}

func checkOutput(cmd *cobra.Command, output string) error {
	if output != "text" && output != "json" {
		return usagef(cmd, "--output is %q; choose text or json", output)
	}
	return nil
}

// onOff is a pair of flags, --NAME and --no-NAME, for one technique; with neither
// the engine decides.
func onOff(fs *pflag.FlagSet, name string, value *string) {
	fs.Var(&switchFlag{value, "on", "off"}, name, "technique switch (default on)")
	fs.Var(&switchFlag{value, "off", "on"}, "no-"+name, "turn it off")
	fs.Lookup(name).NoOptDefVal = "true"
	fs.Lookup("no-" + name).NoOptDefVal = "true"
	fs.Lookup("no-" + name).DefValue = "false"
	fs.Lookup(name).DefValue = "true"
}

type switchFlag struct {
	value    *string
	yes, not string
}

func (s *switchFlag) String() string { return "" }
func (s *switchFlag) Type() string   { return "bool" }
func (s *switchFlag) Set(v string) error {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return fmt.Errorf("%q is not true or false", v)
	}
	*s.value = s.not
	if b {
		*s.value = s.yes
	}
	return nil
}

// byteSize is a number of bytes with an optional K, M, G or T (powers of 1024).
type byteSize uint64

func (b *byteSize) Type() string { return "bytes" }
func (b *byteSize) String() string {
	if *b == 0 {
		return "0"
	}
	return strconv.FormatUint(uint64(*b), 10)
}

func (b *byteSize) Set(s string) error {
	shift := map[byte]uint{'K': 10, 'M': 20, 'G': 30, 'T': 40}
	text := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(strings.TrimSpace(s)), "IB"), "B")
	var by uint
	if n := len(text); n > 0 {
		if by = shift[text[n-1]]; by > 0 {
			text = text[:n-1]
		}
	}
	v, err := strconv.ParseFloat(text, 64)
	if v *= float64(uint64(1) << by); err != nil || !(v >= 0 && v < math.MaxInt64) {
		return fmt.Errorf("%q is not a size; write a number with K, M, G or T", s)
	}
	*b = byteSize(v)
	return nil
}

// idList parses token ids: 1,2,3.
func idList(cmd *cobra.Command, text string) ([]int32, error) {
	var ids []int32
	for _, s := range strings.Split(text, ",") {
		id, err := strconv.ParseInt(strings.TrimSpace(s), 10, 32)
		if err != nil {
			return nil, usagef(cmd, "--ids: %q is not a token id; write 1,2,3", s)
		}
		ids = append(ids, int32(id))
	}
	return ids, nil
}

// samplingFlags are the draws' settings; those not given keep the model's defaults.
type samplingFlags struct {
	fs                                             *pflag.FlagSet
	temperature, topP, minP, typical               float32
	repetition, presence, frequency                float32
	dryMultiplier, dryBase                         float32
	xtcProbability, xtcThreshold                   float32
	topK, dryAllowed, dryLastN, minTokens, maxToks int
	seed                                           uint64
	ignoreEOS                                      bool
	stop                                           []string
	bias                                           []string
}

func (f *samplingFlags) registerSampling(fs *pflag.FlagSet) {
	f.fs = fs
	fs.IntVar(&f.maxToks, "max-tokens", 0, "most tokens to generate (0 = what the context has left)")
	fs.Float32Var(&f.temperature, "temperature", 1, "0 is greedy")
	fs.IntVar(&f.topK, "top-k", 0, "keep the k likeliest (0 = off)")
	fs.Float32Var(&f.topP, "top-p", 1, "keep the likeliest with this total probability")
	fs.Float32Var(&f.minP, "min-p", 0, "keep those at least this likely relative to the likeliest")
	fs.Float32Var(&f.typical, "typical-p", 1, "locally typical sampling")
	fs.Float32Var(&f.repetition, "repetition-penalty", 1, "over prompt and output")
	fs.Float32Var(&f.presence, "presence-penalty", 0, "over output")
	fs.Float32Var(&f.frequency, "frequency-penalty", 0, "over output")
	fs.Float32Var(&f.dryMultiplier, "dry-multiplier", 0, "penalty on continued repetitions (0 = off)")
	fs.Float32Var(&f.dryBase, "dry-base", 1.75, "growth of the DRY penalty per token")
	fs.IntVar(&f.dryAllowed, "dry-allowed-length", 2, "repetitions up to this length are free")
	fs.IntVar(&f.dryLastN, "dry-penalty-last-n", 0, "tokens looked back at (0 = all)")
	fs.Float32Var(&f.xtcProbability, "xtc-probability", 0, "chance of excluding top choices (0 = off)")
	fs.Float32Var(&f.xtcThreshold, "xtc-threshold", 0.1, "probability from which a token counts as a top choice")
	fs.StringArrayVar(&f.bias, "logit-bias", nil, "ID=BIAS, may repeat")
	fs.Uint64Var(&f.seed, "seed", 0, "seed of the draws (default: random)")
	fs.IntVar(&f.minTokens, "min-tokens", 0, "no end before so many tokens")
	fs.BoolVar(&f.ignoreEOS, "ignore-eos", false, "run on past the model's end-of-generation tokens")
	fs.StringArrayVar(&f.stop, "stop", nil, "text that ends the answer, may repeat")
}

// apply overlays the flags that were given on the model's defaults.
func (f *samplingFlags) apply(cmd *cobra.Command, p batch.SamplingParams) (batch.SamplingParams, error) {
	given := func(name string) bool { return f.fs.Changed(name) }
	for _, s := range []struct {
		name string
		dst  *float32
		v    float32
	}{
		{"temperature", &p.Temperature, f.temperature}, {"top-p", &p.TopP, f.topP}, {"min-p", &p.MinP, f.minP},
		{"typical-p", &p.TypicalP, f.typical}, {"repetition-penalty", &p.RepetitionPenalty, f.repetition},
		{"presence-penalty", &p.PresencePenalty, f.presence}, {"frequency-penalty", &p.FrequencyPenalty, f.frequency},
	} {
		if given(s.name) {
			*s.dst = s.v
		}
	}
	if given("top-k") {
		p.TopK = f.topK
	}
	if f.dryMultiplier != 0 {
		p.DRY = batch.DRY{Multiplier: f.dryMultiplier, Base: f.dryBase, AllowedLength: f.dryAllowed, LastN: f.dryLastN}
	}
	if f.xtcProbability != 0 {
		p.XTC = batch.XTC{Probability: f.xtcProbability, Threshold: f.xtcThreshold}
	}
	for _, s := range f.bias {
		id, bias, ok := strings.Cut(s, "=")
		n, err := strconv.ParseInt(id, 10, 32)
		v, err2 := strconv.ParseFloat(bias, 32)
		if !ok || err != nil || err2 != nil {
			return p, usagef(cmd, "--logit-bias %q: write ID=BIAS", s)
		}
		p.LogitBias = append(p.LogitBias, batch.LogitBias{ID: int32(n), Bias: float32(v)})
	}
	p.Seed, p.MinTokens, p.IgnoreEOS = f.seed, f.minTokens, f.ignoreEOS
	if !given("seed") {
		p.Seed = randomSeed()
	}
	return p, nil
}

func note(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
