// Package sestina runs large language models: the library behind the command of
// the same name.
//
//	llm, err := sestina.Open(ctx, "model.gguf", sestina.Options{})
//	if err != nil { … }
//	defer llm.Close()
//	for delta, err := range llm.Chat(ctx, []chat.Message{{Role: "user", Content: "Hello"}}, sestina.GenerateOptions{}) {
//		if err != nil { … }
//		fmt.Print(delta.Text)
//	}
//
// An LLM serves any number of goroutines at once; their requests share steps
// (continuous batching) without changing one another's answers.
package sestina

import (
	"context"
	"fmt"
	"slices"

	"sestina/backend"
	_ "sestina/backend/all" // the backends
	"sestina/backend/cpu"
	"sestina/batch"
	"sestina/chat"
	"sestina/checkpoint"
	"sestina/engine"
	"sestina/hub"
	"sestina/model"
	_ "sestina/model/all" // the architectures
	"sestina/runner"
	"sestina/spec"
	_ "sestina/spec/all" // the proposers
	"sestina/tensor"
	"sestina/tokenizer"
)

// Options configure Open. The zero value is usable.
type Options struct {
	engine.Options

	Backend            string // "" = cpu
	Threads            int    // 0 = the physical cores that are free to use
	ISA                string // force a kernel family; "" = the best
	ActivationDType    string // auto | f32
	SpeculativeConfig  string // JSON, see speculate.go; "" = n-gram lookup, then the checkpoint's MTP layer, with automatic depth
	KVCacheDType       string // auto (= f16) | f32 | f16 | bf16 | q8_0 | q4_0, and by layer: see KVFormat
	KVCacheMemoryBytes uint64 // 0 = a quarter of the free memory, at most what the limits can use
	KVHostTierBytes    uint64 // host memory for KV blocks that the pool has no room for; 0 = none; beside a disk tier two of the longest prompts, at most the pool's size, at least 256 MiB
	KVDiskTier         string // folder for them, which survives restarts; "" = none
	KVDiskTierBytes    uint64 // limit of that folder; 0 = 8 GiB
	ModelProgress      func(done, total uint64)
	Profile            bool        // time every operation of the backend, see LLM.Parts
	Pull               hub.Options // how a model that is not here is fetched
	StoreDir           string      // "" = $SESTINA_HOME or the user's data folder
}

// Check validates what can be validated without a model, and fills in the
// techniques' defaults: unknown or impossible values, and techniques that are
// not built yet, each by name.
func (o *Options) Check() error {
	if err := o.Options.Check(); err != nil {
		return err
	}
	if o.Backend != "" && !slices.Contains(backend.Names(), o.Backend) {
		return fmt.Errorf("--backend %q is not built; built: %v", o.Backend, backend.Names())
	}
	cfg, err := o.backend()
	if err != nil {
		return err
	}
	if err := cpu.CheckOptions(cfg); err != nil {
		return err
	}
	if _, err := o.speculation(); err != nil {
		return err
	}
	if err := o.checkTiers(); err != nil {
		return err
	}
	_, err = ParseKVFormat(o.KVCacheDType)
	return err
}

// backend translates the options for the backend.
func (o *Options) backend() (backend.Options, error) {
	cfg := backend.Options{Threads: o.Threads, ISA: o.ISA,
		FullAttention: o.Techniques.Attention == "full", ExpandHeads: o.Techniques.GQA == "expanded"}
	switch o.ActivationDType {
	case "", "auto":
	case "f32":
		cfg.Activations = backend.ActivationsF32
	default:
		return cfg, fmt.Errorf("--activation-dtype %q is unknown; choose auto or f32", o.ActivationDType)
	}
	return cfg, nil
}

// LLM is a loaded model, ready to generate. It is safe for concurrent use.
type LLM struct {
	Engine    *engine.Engine
	Tokenizer *tokenizer.Tokenizer // nil where the checkpoint has none
	Template  *chat.Template       // nil where the checkpoint has none
	Defaults  batch.SamplingParams // from generation_config.json, else temperature 1
	Name      string               // the model's name as found
	Path      string

	Info     model.Info
	Pool     Pool
	Describe string // the backend in one line
	backend  backend.Backend
	model    model.Model
	draft    *LLM                // the draft model, if there is one
	runner   *runner.ModelRunner // of a draft model; an engine owns its own
	bos, eos string
	digest   string // of the checkpoint, for a disk tier

	keepCurve func() // nil without speculation
}

// Pool is the KV cache's size in its three units.
type Pool struct {
	Blocks, BlockSize int
	Bytes             uint64
	TokenBytes        uint64
	Format            KVFormat
	Windows           []int          // sliding windows of the block groups, 0 = sees everything
	layers            []tensor.DType // Format of each layer; nil when all are alike
	oneGroup          bool           // nothing is let go
	hybrid            bool           // layers differ in their windows
	context, chunk    int            // see runner.Config
	tokens            int
}

// Tokens is the number of positions the pool holds; over several block groups,
// those of one sequence.
func (p Pool) Tokens() int { return p.tokens }

// Open resolves a model (an alias, a path, or org/repo[:QUANT]; "" is the
// default model), fetches it if need be, loads it and starts the engine.
func Open(ctx context.Context, name string, opt Options) (*LLM, error) {
	l, err := load(ctx, name, &opt)
	if err != nil {
		return nil, err
	}
	r, pool, err := l.newRunner(&opt)
	if err != nil {
		l.backend.Close()
		return nil, err
	}
	l.Pool = pool
	if opt.Speculator, err = l.newSpeculator(ctx, r, &opt); err != nil {
		r.Close()
		l.Close()
		return nil, err
	}
	if opt.Tier, err = l.newTier(ctx, &opt, r); err != nil {
		r.Close()
		l.Close()
		return nil, err
	}
	if l.Engine, err = engine.New(r, pool.Blocks, opt.Options); err != nil {
		if opt.Tier != nil {
			opt.Tier.Close()
		}
		r.Close()
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close ends what is running and releases the model's memory.
func (l *LLM) Close() error {
	var err error
	if l.Engine != nil {
		if err = l.Engine.Close(); err == nil && l.keepCurve != nil {
			l.keepCurve()
		}
	}
	if l.runner != nil {
		l.runner.Close()
	}
	if l.draft != nil {
		l.draft.Close()
	}
	if e := l.backend.Close(); err == nil {
		err = e
	}
	return err
}

// Parts is where the backend's time has gone since the model was opened, by kind of operation; nil without
// Options.Profile. Engine.Stats().Spent has the rest of a step.
func (l *LLM) Parts() []backend.Part {
	if p, ok := l.backend.(*backend.Profiled); ok {
		return p.Parts()
	}
	return nil
}

// Resolve finds a model without loading it, fetching it if need be.
func Resolve(ctx context.Context, name string, opt Options) (hub.Model, error) {
	store, err := hub.OpenStore(opt.StoreDir)
	if err != nil {
		return hub.Model{}, err
	}
	defer store.Close()
	return store.Resolve(ctx, name, opt.Pull)
}

// load opens the checkpoint, its text side and its weights.
func load(ctx context.Context, name string, opt *Options) (*LLM, error) {
	found, err := Resolve(ctx, name, *opt)
	if err != nil {
		return nil, err
	}
	c, err := checkpoint.Open(found.Path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	l := &LLM{Name: found.Name, Path: found.Path}
	if err := l.loadText(c); err != nil {
		return nil, err
	}
	if found.Name == hub.DefaultName { // its card's recommendation, which the GGUF file does not carry
		l.Defaults.Temperature, l.Defaults.TopP = 0.2, 0.9
	}
	if err := l.loadWeights(ctx, c, opt); err != nil {
		return nil, fmt.Errorf("%s: %w", found.Name, err)
	}
	if opt.KVDiskTier != "" {
		if l.digest, err = digest(c); err != nil {
			l.backend.Close()
			return nil, fmt.Errorf("%s: its digest, for --kv-disk-tier: %w", found.Name, err)
		}
	}
	opt.EOG = append(opt.EOG, l.endIDs(c)...)
	return l, nil
}

// loadWeights opens the backend and reads the model into it.
func (l *LLM) loadWeights(ctx context.Context, c *checkpoint.Checkpoint, opt *Options) error {
	from, err := mtpSource(ctx, c, opt)
	if err != nil {
		return err
	}
	if from != nil && from != c {
		defer from.Close()
	}
	cfg, err := opt.backend()
	if err != nil {
		return err
	}
	name := opt.Backend
	if name == "" {
		name = "cpu"
	}
	b, err := backend.Open(name, cfg)
	if err != nil {
		return err
	}
	if opt.Profile {
		b = backend.Profile(b)
	}
	mo := model.Options{MaxRows: opt.MaxNumBatchedTokens, MaxLogitRows: opt.MaxNumSeqs, MTP: from}
	if mo.MaxRows == 0 {
		mo.MaxRows = engine.DefaultMaxNumBatchedTokens
	}
	if mo.MaxLogitRows == 0 {
		mo.MaxLogitRows = engine.DefaultMaxNumSeqs
	}
	if opt.Techniques.Speculation != "off" { // a row of logits for every draft, too
		mo.MaxLogitRows = max(mo.MaxLogitRows, min(mo.MaxRows, mo.MaxLogitRows*(1+spec.MaxDraft)))
	}
	if p := opt.ModelProgress; p != nil {
		mo.Progress = func(done uint64) { p(done, c.Bytes()) }
	}
	m, err := model.Load(c, b, mo)
	if err == nil {
		err = c.CheckUnchanged()
	}
	if err == nil && from != nil {
		err = from.CheckUnchanged()
	}
	if err != nil {
		b.Close()
		return err
	}
	l.backend, l.Info, l.Describe, l.model = b, m.Info(), b.Describe(), m
	return nil
}

// newRunner sizes the KV pool and allocates it.
func (l *LLM) newRunner(opt *Options) (*runner.ModelRunner, Pool, error) {
	pool, err := sizePool(l.Info, opt)
	if err != nil {
		return nil, pool, err
	}
	cfg := pool.config()
	if l.Info.MTP {
		s, err := opt.speculation()
		if err != nil {
			return nil, pool, err
		}
		cfg.DraftSeqs, cfg.DraftLen = opt.seqs(), s.Tokens
	}
	r, err := runner.New(l.model, l.backend, cfg)
	if err != nil {
		return nil, pool, err
	}
	pool.Bytes = r.CacheBytes()
	return r, pool, nil
}
