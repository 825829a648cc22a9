// Package fair measures what a long prompt does to those who are being answered:
// streams decode, a prompt of thousands of tokens arrives, and the gaps between the
// streams' tokens are compared with those before it. Three ways to compute the
// prompt, each with an engine of its own:
//
//	whole    in one step: everybody waits for it (--no-enable-chunked-prefill)
//	chunks   of --max-num-batched-tokens 512, whatever that takes
//	measured the default: as many rows a step as keep it within twice the streams'
//	         own, by the step times seen so far (engine/budget.go)
//
// The price is the long prompt's own time to first token, beside the streams and alone.
package fair

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"sestina"
	"sestina/batch"
	"sestina/engine"
	"sestina/internal/cpuinfo"
)

// Schema names the document's format.
const Schema = "sestina.bench-fair/1"

// Config is the workload.
type Config struct {
	Streams   int `json:"streams"`    // that decode
	StreamLen int `json:"stream_len"` // tokens of each stream's prompt
	PromptLen int `json:"prompt_len"` // tokens of the long prompt
	Before    int `json:"before"`     // gaps of each stream measured before it comes
	Reps      int `json:"reps"`       // long prompts of each row
}

// Defaults are a prompt of 4,000 tokens beside 8 streams.
func Defaults() Config {
	return Config{Streams: 8, StreamLen: 64, PromptLen: 4000, Before: 100, Reps: 3}
}

// Check refuses what cannot be measured.
func (c *Config) Check() error {
	if c.Streams < 1 || c.StreamLen < 1 || c.PromptLen < 1 || c.Before < 10 || c.Reps < 1 {
		return fmt.Errorf("--streams %d, --stream-len %d, --prompt-len %d and --reps %d must be at least 1, --before %d at least 10", c.Streams, c.StreamLen, c.PromptLen, c.Reps, c.Before)
	}
	return nil
}

// Report is the document.
type Report struct {
	Schema  string `json:"schema"`
	Machine string `json:"machine"`
	Model   string `json:"model"`
	Config  Config `json:"config"`
	Rows    []Row  `json:"rows"`
}

// Row is one way to compute the prompt; times are milliseconds. Gaps of all
// repetitions are pooled, times to first token are medians.
type Row struct {
	Name      string  `json:"name"`
	ITL50     float64 `json:"itl_p50_ms"` // between the streams' tokens, before
	ITL99     float64 `json:"itl_p99_ms"`
	During50  float64 `json:"itl_during_p50_ms"` // while the prompt is computed
	During99  float64 `json:"itl_during_p99_ms"`
	Worst     float64 `json:"itl_during_max_ms"`
	Ratio     float64 `json:"p99_ratio"`
	After50   float64 `json:"itl_after_p50_ms"` // when it has ended: the streams' contexts have grown meanwhile
	After99   float64 `json:"itl_after_p99_ms"`
	RatioThen float64 `json:"p99_ratio_after"` // during over after
	TTFT      float64 `json:"ttft_ms"`         // the long prompt's, beside the streams
	TTFTAlone float64 `json:"ttft_alone_ms"`   // on an idle engine
	Gaps      int     `json:"gaps_during"`
}

var ways = []struct {
	name string
	set  func(o *sestina.Options)
}{
	{"whole", func(o *sestina.Options) {
		o.Techniques.ChunkedPrefill, o.MaxNumBatchedTokens = "off", o.MaxModelLen
	}},
	{"chunks", func(o *sestina.Options) { o.MaxNumBatchedTokens = engine.DefaultMaxNumBatchedTokens }},
	{"measured", func(*sestina.Options) {}},
}

// Run measures the three ways. opt holds threads, kernels and dtypes.
func Run(ctx context.Context, name string, opt sestina.Options, cfg Config, progress func(string)) (*Report, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	r := &Report{Schema: Schema, Config: cfg}
	for _, w := range ways {
		progress(w.name)
		row, err := r.measure(ctx, name, opt, w.set)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		row.Name = w.name
		r.Rows = append(r.Rows, row)
	}
	return r, nil
}

// gaps collects the times between the streams' tokens: some to warm up, which are
// not kept, then those before the prompt, then, when told, those during it and those after it.
type gaps struct {
	mu     sync.Mutex
	skip   int           // still to warm up
	wanted int           // still to come before the prompt
	ready  chan struct{} // closed when there are enough of them
	prompt bool          // it is being computed
	ended  bool          // it has been
	rest   int           // still to come after it
	done   chan struct{} // closed when there are enough of these
	before []float64
	during []float64
	after  []float64
}

// warm is how many gaps of a stream are not kept.
const warm = 10

// begin expects a repetition's streams.
func (g *gaps) begin(cfg *Config) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = false
	g.skip, g.wanted, g.ready = warm*cfg.Streams, cfg.Before*cfg.Streams, make(chan struct{})
	g.rest, g.done = g.wanted, make(chan struct{})
	return g.ready
}

func (g *gaps) add(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.skip > 0:
		g.skip--
	case g.wanted > 0:
		g.before = append(g.before, d.Seconds()*1e3)
		if g.wanted--; g.wanted == 0 {
			close(g.ready)
		}
	case g.prompt:
		g.during = append(g.during, d.Seconds()*1e3)
	case g.ended && g.rest > 0:
		g.after = append(g.after, d.Seconds()*1e3)
		if g.rest--; g.rest == 0 {
			close(g.done)
		}
	}
}

func (g *gaps) computing(prompt bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.prompt, g.ended = prompt, !prompt
}

func (r *Report) measure(ctx context.Context, name string, opt sestina.Options, set func(*sestina.Options)) (row Row, err error) {
	cfg, g := &r.Config, &gaps{}
	steps := 2*cfg.Before + cfg.PromptLen + 64 // a stream's answer is never over before the prompt is, at one row a step
	opt.MaxNumSeqs = cfg.Streams + 1
	opt.MaxModelLen = max(cfg.PromptLen, cfg.StreamLen+steps) + 1
	opt.Techniques.PrefixCaching, opt.Techniques.Speculation = "off", "off" // what is timed is computed, one token a step
	set(&opt)
	opt.Observer = &engine.Observer{TokenGap: g.add}
	llm, err := sestina.Open(ctx, name, opt)
	if err != nil {
		return row, err
	}
	defer llm.Close()
	if need := cfg.PromptLen + 1 + cfg.Streams*(cfg.StreamLen+steps); llm.Pool.Tokens() < need {
		return row, fmt.Errorf("the KV pool holds %d tokens and the workload may need %d: raise --kv-cache-memory-bytes, or lower --streams or --prompt-len", llm.Pool.Tokens(), need)
	}
	r.Machine, r.Model = cpuinfo.Name()+" · "+llm.Describe, llm.Name
	var beside, alone []float64
	rng := rand.New(rand.NewPCG(3, 9))
	for range cfg.Reps {
		b, a, err := repetition(ctx, llm, cfg, g, rng, steps)
		if err != nil {
			return row, err
		}
		beside, alone = append(beside, b), append(alone, a)
	}
	row = Row{ITL50: quantile(g.before, 0.5), ITL99: quantile(g.before, 0.99), During50: quantile(g.during, 0.5), During99: quantile(g.during, 0.99),
		Worst: quantile(g.during, 1), TTFT: quantile(beside, 0.5), TTFTAlone: quantile(alone, 0.5), Gaps: len(g.during)}
	row.Ratio = row.During99 / row.ITL99
	row.After50, row.After99 = quantile(g.after, 0.5), quantile(g.after, 0.99)
	row.RatioThen = row.During99 / row.After99
	return row, nil
}

// errEarly says that the streams did not outlast the prompt, whose turn came late.
var errEarly = errors.New("a stream came to its end before the long prompt was computed: the machine is too busy to measure, try again")

// repetition starts the streams, lets them run, sends the long prompt and, when
// the streams have been stopped, another one; it returns both times to first token.
func repetition(ctx context.Context, llm *sestina.LLM, cfg *Config, g *gaps, rng *rand.Rand, steps int) (beside, alone float64, err error) {
	ids := func(n int) []int32 {
		out := make([]int32, n)
		for i := range out {
			out[i] = int32(rng.IntN(llm.Info.Vocab))
		}
		return out
	}
	streaming, stop := context.WithCancel(ctx)
	defer stop()
	ready := g.begin(cfg)
	var all sync.WaitGroup
	failed := make([]error, cfg.Streams)
	for i := range failed {
		h, err := submit(ctx, llm, ids(cfg.StreamLen), steps)
		if err != nil {
			return 0, 0, err
		}
		all.Go(func() {
			_, err := read(streaming, h)
			if streaming.Err() == nil {
				if err == nil {
					err = errEarly
				}
				failed[i] = err
				stop()
			}
		})
	}
	select {
	case <-ready:
		g.computing(true)
		beside, err = first(streaming, llm, ids(cfg.PromptLen))
		g.computing(false)
		select {
		case <-g.done:
		case <-streaming.Done():
		}
	case <-streaming.Done():
	}
	stop()
	all.Wait()
	if err = errors.Join(append(failed, err, ctx.Err())...); err == nil {
		alone, err = first(ctx, llm, ids(cfg.PromptLen))
	}
	return beside, alone, err
}

func submit(ctx context.Context, llm *sestina.LLM, prompt []int32, output int) (*engine.Handle, error) {
	p := batch.Greedy()
	p.IgnoreEOS = true
	return llm.Engine.Submit(ctx, engine.Request{Prompt: prompt, MaxTokens: output, Sampling: p})
}

// read reads a request to its end.
func read(ctx context.Context, h *engine.Handle) (engine.Timings, error) {
	defer h.Cancel()
	for outs, ok := h.Next(ctx); ok; outs, ok = h.Next(ctx) {
		for _, o := range outs {
			if o.Err != nil {
				return engine.Timings{}, o.Err
			}
		}
	}
	return h.Timings(), ctx.Err()
}

// first is the time to the first token of a prompt, in milliseconds.
func first(ctx context.Context, llm *sestina.LLM, prompt []int32) (float64, error) {
	h, err := submit(ctx, llm, prompt, 1)
	if err != nil {
		return 0, err
	}
	t, err := read(ctx, h)
	return t.TTFT().Seconds() * 1e3, err
}

// quantile of some values: the smallest that a share p of them does not exceed.
func quantile(v []float64, p float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[min(len(v)-1, int(p*float64(len(v))))]
}

// Print writes the table.
func (r *Report) Print(out io.Writer) {
	c := r.Config
	fmt.Fprintf(out, "%s · %s\na prompt of %d tokens beside %d streams, %d times\n", r.Machine, r.Model, c.PromptLen, c.Streams, c.Reps)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PROMPT\tITL P50 MS\tP99\tDURING P50\tP99\tMAX\tAFTER P50\tP99\tP99 TO BEFORE\tTO AFTER\tTTFT MS\tALONE\tCOST")
	for _, row := range r.Rows {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.2fx\t%.2fx\t%.0f\t%.0f\t%.2fx\n", row.Name, row.ITL50, row.ITL99, row.During50, row.During99, row.Worst, row.After50, row.After99, row.Ratio, row.RatioThen, row.TTFT, row.TTFTAlone, row.TTFT/row.TTFTAlone)
	}
	w.Flush()
}
