package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sestina/runner/tier"
	"sestina/scheduler"
	"sestina/spec"
)

// Options configure an engine. The zero value is usable: every limit has a
// default and every technique is on.
type Options struct {
	MaxModelLen         int // longest prompt + output; 0 = the model's context
	MaxNumSeqs          int // sequences in one step; 0 = 16
	MaxNumBatchedTokens int // rows in one step; 0 = auto: 512, and no more than keep the running streams' latency within twice their own
	BlockSize           int // tokens per KV block; 0 = 16
	MaxQueuedSeqs       int // waiting sequences before new ones are refused; 0 = 1024
	MaxQueuedTokens     int // waiting prompt tokens before new ones are refused; 0 = 4 Mi
	EOG                 []int32
	Techniques          Techniques
	Speculator          *spec.Speculator // nil = no speculation
	Tier                *tier.Store      // where evicted KV blocks go and come back from; the engine closes it; nil = nowhere

	QueueShare   float64       // of the queue that one key may hold while others want in; 0 = 0.5, 1 = all
	QueueTimeout time.Duration // longest wait for the first step; 0 = no limit
	StepTimeout  time.Duration // a step that takes longer means that the engine is stuck; 0 = 10 s
	TraceEvents  int           // length of the flight recorder; 0 = 512
	TraceTokens  bool          // record token ids too
	Observer     *Observer     // nil = none
	Log          *slog.Logger  // nil = slog.Default()

	timed bool // MaxNumBatchedTokens was auto
}

// Techniques are the switches. Empty means on. A value whose technique is not
// built yet is refused by name.
type Techniques struct {
	KVCache        string // on | off
	KVLayout       string // paged | contiguous
	Attention      string // flash | full
	GQA            string // grouped | expanded
	Batching       string // continuous | static | none
	PrefixCaching  string // on | off
	ChunkedPrefill string // on | off
	Speculation    string // auto | off
}

// choice is one switch: the values it takes and those of them that are built.
type choice struct {
	name  string
	value *string
	built []string // the first is the default
	known []string // designed, not built
}

func (t *Techniques) choices() []choice {
	return []choice{
		{"kv-cache", &t.KVCache, []string{"on", "off"}, nil},
		{"kv-layout", &t.KVLayout, []string{"paged", "contiguous"}, nil},
		{"attention", &t.Attention, []string{"flash", "full"}, nil},
		{"gqa", &t.GQA, []string{"grouped", "expanded"}, nil},
		{"batching", &t.Batching, []string{"continuous", "static", "none"}, nil},
		{"enable-prefix-caching", &t.PrefixCaching, []string{"on", "off"}, nil},
		{"enable-chunked-prefill", &t.ChunkedPrefill, []string{"on", "off"}, nil},
		{"speculation", &t.Speculation, []string{"auto", "off"}, nil},
	}
}

// number is an option that counts something; 0 is its default.
type number struct {
	name      string
	v         *int
	otherwise int
}

func (o *Options) numbers(context int) []number {
	return []number{
		{"max-model-len", &o.MaxModelLen, context}, {"max-num-seqs", &o.MaxNumSeqs, DefaultMaxNumSeqs},
		{"max-num-batched-tokens", &o.MaxNumBatchedTokens, DefaultMaxNumBatchedTokens}, {"block-size", &o.BlockSize, DefaultBlockSize},
		{"max-queued-seqs", &o.MaxQueuedSeqs, 1024}, {"max-queued-tokens", &o.MaxQueuedTokens, 4 << 20},
		{"trace-events", &o.TraceEvents, 512},
	}
}

// Check refuses what is unknown, impossible or not built, as far as no model is needed for it.
func (o *Options) Check() error {
	for _, n := range o.numbers(0) {
		if *n.v < 0 {
			return fmt.Errorf("--%s is %d; it must be at least 1 (or 0 for the default)", n.name, *n.v)
		}
	}
	return o.Techniques.Check()
}

// fill applies defaults and refuses what is unknown or not built.
func (o *Options) fill(context int) error {
	if err := o.Check(); err != nil {
		return err
	}
	o.timed = o.MaxNumBatchedTokens == 0 && o.Techniques.ChunkedPrefill == "on" && o.Techniques.KVCache == "on"
	for _, n := range o.numbers(context) {
		if *n.v == 0 {
			*n.v = n.otherwise
		}
	}
	if err := o.fillQueue(); err != nil {
		return err
	}
	if o.Tier != nil && o.Techniques.PrefixCaching != "on" {
		return errors.New("a KV tier is found by prefix hashes: leave prefix caching on, or take --kv-host-tier-bytes and --kv-disk-tier away")
	}
	if o.MaxModelLen > context {
		return fmt.Errorf("--max-model-len %d is more than the model's context of %d tokens", o.MaxModelLen, context)
	}
	if o.Techniques.ChunkedPrefill == "off" && o.MaxNumBatchedTokens < o.MaxModelLen {
		return fmt.Errorf("--no-enable-chunked-prefill needs --max-num-batched-tokens (%d) of at least --max-model-len (%d): a prompt must fit one step",
			o.MaxNumBatchedTokens, o.MaxModelLen)
	}
	return nil
}

// Check sets empty switches to their defaults and refuses by name what is
// unknown or not built yet. Without a cache, or with a contiguous one, no blocks
// are shared: prefix caching is then off, and refused if asked for.
func (t *Techniques) Check() error {
	unshared := t.KVCache == "off" || t.KVLayout == "contiguous"
	if unshared && t.PrefixCaching == "" {
		t.PrefixCaching = "off"
	}
	for _, c := range t.choices() {
		if *c.value == "" {
			*c.value = c.built[0]
		}
		if err := c.check(); err != nil {
			return err
		}
	}
	if unshared && t.PrefixCaching == "on" {
		return fmt.Errorf("--kv-cache %s with --kv-layout %s shares no blocks: add --no-enable-prefix-caching", t.KVCache, t.KVLayout)
	}
	return nil
}

func (o *Options) fillQueue() error {
	if o.QueueShare == 0 {
		o.QueueShare = 0.5
	}
	if o.StepTimeout == 0 {
		o.StepTimeout = 10 * time.Second
	}
	switch {
	case !(o.QueueShare > 0 && o.QueueShare <= 1):
		return fmt.Errorf("--queue-share is %v; it must be above 0 and at most 1", o.QueueShare)
	case o.QueueTimeout < 0:
		return fmt.Errorf("--queue-timeout is %v; it must not be negative", o.QueueTimeout)
	case o.StepTimeout < 0:
		return fmt.Errorf("--step-timeout is %v; it must not be negative", o.StepTimeout)
	}
	return nil
}

func (c choice) check() error {
	for _, v := range c.built {
		if *c.value == v {
			return nil
		}
	}
	for _, v := range c.known {
		if *c.value == v {
			return fmt.Errorf("--%s %s is not built yet; built: %v", c.name, v, c.built)
		}
	}
	return fmt.Errorf("--%s %q is unknown; choose one of %v", c.name, *c.value, append(c.built, c.known...))
}

// scheduler translates the options; they are filled.
func (o *Options) scheduler() scheduler.Config {
	policy := map[string]scheduler.Policy{"continuous": scheduler.Continuous, "static": scheduler.Static, "none": scheduler.None}
	cfg := scheduler.Config{
		MaxNumSeqs: o.MaxNumSeqs, MaxNumBatchedTokens: o.MaxNumBatchedTokens, MaxModelLen: o.MaxModelLen,
		Policy: policy[o.Techniques.Batching], NoKVCache: o.Techniques.KVCache == "off", Order: scheduler.PriorityOrder, ChunkedPrefill: o.Techniques.ChunkedPrefill == "on",
	} // the queue is bounded before it gets there, see queue.go
	if o.Tier != nil {
		cfg.RecallBlocks = max(1, recallBytes/o.Tier.BlockBytes())
	}
	return cfg
}

// recallBytes is what may come back from the tier between two steps of running
// streams, and push as much out: about two milliseconds of copying.
const recallBytes = 8 << 20

// Defaults of the limits.
const (
	DefaultMaxNumSeqs          = 16
	DefaultMaxNumBatchedTokens = 512
	DefaultBlockSize           = 16
)
