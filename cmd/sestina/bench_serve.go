package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"sestina/bench/serve"
)

// benchServeFlags are the flags that need more than a variable of serve.Config.
type benchServeFlags struct {
	c         serve.Config
	rate      float64
	burst     float64
	mix       string
	goodput   []string
	extraBody string
	saveTo    string
	output    string
}

func newBenchServe() *cobra.Command {
	var f benchServeFlags
	cmd := &cobra.Command{
		Use:   "serve --base-url URL [--model NAME]",
		Short: "Load any OpenAI-compatible server and measure what its users would feel",
		Long: `Send requests to an OpenAI-compatible server and measure TTFT, TPOT, ITL, E2EL, throughput
and goodput. --request-rate is an open loop with Poisson arrivals, --max-concurrency a closed
loop; flags and definitions follow vLLM's bench serve. Failed requests are counted by reason.
The last line is one JSON document. Exits 1 when no request succeeds, or --verify-alone finds a difference.`,
		Example: `  sestina bench serve --base-url http://127.0.0.1:8000 --max-concurrency 16 --mix 50x20,50x200 --random-input-len 27
  sestina bench serve --request-rate 8 --num-prompts 500 --goodput ttft:200 tpot:50 --reps 3
  sestina bench serve --endpoint /v1/chat/completions --max-concurrency 32 --num-prompts 100 --verify-alone`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && len(f.goodput) == 0 {
				return benchServeUsage(fmt.Errorf("serve takes no arguments, got %q", args))
			}
			f.goodput = append(f.goodput, args...) // --goodput ttft:200 tpot:50
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return benchServeUsage(err) })
	f.register(cmd)
	return cmd
}

func benchServeUsage(err error) error { return usageError{err, "bench serve "} }

func (f *benchServeFlags) register(cmd *cobra.Command) {
	fs, c := cmd.Flags(), &f.c
	fs.SortFlags = false
	fs.StringVar(&c.BaseURL, "base-url", "http://127.0.0.1:8000", "the server, without /v1")
	fs.StringVar(&c.Endpoint, "endpoint", serve.Completions, serve.Completions+" or "+serve.Chat)
	fs.StringVarP(&c.Model, "model", "m", "", "model name to ask for (default: the first of /v1/models)")
	fs.StringVar(&c.APIKey, "api-key", "", "sent as a bearer token")
	fs.IntVar(&c.NumPrompts, "num-prompts", 1000, "requests of one repetition")
	fs.IntVar(&c.NumWarmups, "num-warmups", 0, "requests sent before, not counted")
	fs.IntVar(&c.Reps, "reps", 1, "repetitions, each with fresh prompts")
	fs.Float64Var(&f.rate, "request-rate", math.Inf(1), "requests a second (inf = all at once)")
	fs.Float64Var(&f.burst, "burstiness", 1, "gamma shape of the intervals: 1 Poisson, below 1 bursts, inf even")
	fs.IntVar(&c.MaxConcurrency, "max-concurrency", 0, "most requests in flight (0 = no limit)")
	fs.StringVar(&c.RampUp, "ramp-up-strategy", "", "linear or exponential, instead of --request-rate")
	fs.Float64Var(&c.RampStart, "ramp-up-start-rps", 0, "rate of the first request")
	fs.Float64Var(&c.RampEnd, "ramp-up-end-rps", 0, "rate of the last request")
	fs.IntVar(&c.InputLen, "random-input-len", 1024, "words of each prompt, about one token each")
	fs.IntVar(&c.OutputLen, "random-output-len", 128, "tokens asked of each answer (max_tokens)")
	fs.Float64Var(&c.RangeRatio, "random-range-ratio", 0, "draw lengths uniformly in ± this share, 0 to 1")
	fs.IntVar(&c.VocabSize, "vocab-size", 0, "send random token ids below it instead of words (completions only)")
	fs.StringVar(&c.PromptFile, "prompt-file", "", "one prompt a line, used in order")
	fs.StringVar(&f.mix, "mix", "", "COUNTxOUTPUT_LEN,… instead of --num-prompts and --random-output-len")
	fs.BoolVar(&c.IgnoreEOS, "ignore-eos", false, "answers run to their full length")
	fs.Float64Var(&c.Temperature, "temperature", 0, "0 is greedy")
	fs.Uint64Var(&c.Seed, "seed", 0, "of prompts, lengths, arrivals and the server's draws")
	fs.StringVar(&f.extraBody, "extra-body", "", "JSON object laid over each request; null removes a field")
	fs.StringSliceVar(&c.PercentileMetrics, "percentile-metrics", []string{"ttft", "tpot", "itl", "e2el"}, "latencies to report")
	fs.Float64SliceVar(&c.MetricPercentiles, "metric-percentiles", []float64{50, 90, 99}, "percentiles to report")
	fs.StringSliceVar(&f.goodput, "goodput", nil, "objectives in ms: ttft:200 tpot:50 e2el:3000")
	fs.DurationVar(&c.Timeout, "timeout", 10*time.Minute, "longest wait for one answer")
	fs.BoolVar(&c.DisableKeepAlive, "disable-keepalive", false, "a new connection for each request")
	fs.BoolVar(&c.VerifyAlone, "verify-alone", false, "then repeat each request alone and compare the answers")
	fs.StringVar(&f.saveTo, "save-result", "", "write the document with every request to this file")
	fs.StringVar(&f.output, "output", "text", "text or json")
	fs.Lookup("request-rate").DefValue = "inf"
}

func (f *benchServeFlags) run(cmd *cobra.Command) error {
	if err := f.finish(cmd); err != nil {
		return benchServeUsage(err)
	}
	if err := f.readPrompts(); err != nil {
		return err
	}
	if err := f.c.Check(); err != nil {
		return benchServeUsage(err)
	}
	report, err := serve.Run(cmd.Context(), f.c, f.progress())
	if err != nil {
		return err
	}
	if f.saveTo != "" {
		if err := saveJSON(f.saveTo, report); err != nil {
			return err
		}
	}
	if f.output == "text" {
		report.Print(os.Stdout)
	}
	if err := json.NewEncoder(os.Stdout).Encode(report.Summary()); err != nil {
		return err
	}
	return verdict(report)
}

// verdict is the error that makes the command exit 1.
func verdict(r *serve.Report) error {
	switch {
	case r.Completed() == 0:
		return errors.New("no request succeeded: the reasons are counted above")
	case r.Verify != nil && r.Verify.Differing > 0:
		return fmt.Errorf("differing answers: %d of %d", r.Verify.Differing, r.Verify.Compared)
	case r.Verify != nil && !r.Verify.OK():
		return errors.New("some requests failed when repeated alone: their answers are not verified")
	}
	return nil
}

// finish completes the configuration from the flags.
func (f *benchServeFlags) finish(cmd *cobra.Command) (err error) {
	if f.output != "text" && f.output != "json" {
		return fmt.Errorf("--output is %q; choose text or json", f.output)
	}
	f.c.RequestRate, f.c.Burstiness = serve.Rate(f.rate), serve.Rate(f.burst)
	if f.mix != "" {
		if cmd.Flags().Changed("num-prompts") || cmd.Flags().Changed("random-output-len") {
			return errors.New("--mix says counts and lengths: leave --num-prompts and --random-output-len out")
		}
		if f.c.Mix, err = serve.ParseMix(f.mix); err != nil {
			return err
		}
	}
	if f.c.Goodput, err = serve.ParseSLO(f.goodput); err != nil {
		return err
	}
	if f.extraBody != "" {
		if err := json.Unmarshal([]byte(f.extraBody), &f.c.ExtraBody); err != nil {
			return fmt.Errorf("--extra-body is not a JSON object: %v", err)
		}
	}
	return nil
}

// readPrompts reads --prompt-file; blank lines do not count.
func (f *benchServeFlags) readPrompts() error {
	if f.c.PromptFile == "" {
		return nil
	}
	file, err := os.Open(f.c.PromptFile)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" {
			f.c.Prompts = append(f.c.Prompts, line)
		}
	}
	if lines.Err() == nil && len(f.c.Prompts) == 0 {
		return fmt.Errorf("%s has no prompt; write one a line", f.c.PromptFile)
	}
	return lines.Err()
}

// progress counts finished requests on a terminal's stderr.
func (f *benchServeFlags) progress() func(rep, done, total int) {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return nil
	}
	return func(rep, done, total int) {
		fmt.Fprintf(os.Stderr, "\rrepetition %d/%d: %d/%d requests ", rep+1, f.c.Reps, done, total)
		if done == total {
			fmt.Fprint(os.Stderr, "\r\033[K")
		}
	}
}

func saveJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
