// Package prefix measures what the prefix cache does for time to first token: a
// prompt whose beginning nobody has sent, then others that go on from the same
// beginning. Each says why the cache had no more of it.
package prefix

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"text/tabwriter"

	"sestina"
	"sestina/batch"
	"sestina/engine"
	"sestina/internal/cpuinfo"
)

// Schema names the document's format.
const Schema = "sestina.bench-prefix/1"

// Config is the workload.
type Config struct {
	Lengths []int `json:"prefix_lens"` // tokens that prompts begin with alike
	TailLen int   `json:"tail_len"`    // tokens of each prompt's own after that
	Reps    int   `json:"reps"`
}

// Defaults have the 2,000 tokens of a long system prompt in the middle.
func Defaults() Config { return Config{Lengths: []int{500, 1000, 2000, 4000}, TailLen: 8, Reps: 5} }

// Check refuses what cannot be measured.
func (c *Config) Check() error {
	if len(c.Lengths) == 0 || slices.Min(c.Lengths) < 1 || c.TailLen < 1 || c.Reps < 1 {
		return fmt.Errorf("--prefix-lens %v, --tail-len %d and --reps %d must be at least 1", c.Lengths, c.TailLen, c.Reps)
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

// Row is one length; times are medians, the hit's with its spread.
type Row struct {
	Prefix int     `json:"prefix_len"`
	Miss   float64 `json:"ttft_miss_ms"`
	Hit    float64 `json:"ttft_hit_ms"`
	Worst  float64 `json:"ttft_hit_max_ms"`
	Cached int     `json:"cached_tokens"` // on a hit
	Ratio  float64 `json:"hit_over_miss"`
	Stop   string  `json:"cache_stop"` // on a hit
	StopAt int     `json:"cache_stop_at"`
}

// Run measures an engine of its own, with the prefix cache on and nobody else there.
func Run(ctx context.Context, name string, opt sestina.Options, cfg Config) (*Report, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	opt.Techniques.PrefixCaching = "on"
	opt.MaxNumSeqs, opt.MaxModelLen = 1, slices.Max(cfg.Lengths)+cfg.TailLen+1
	llm, err := sestina.Open(ctx, name, opt)
	if err != nil {
		return nil, err
	}
	defer llm.Close()
	r := &Report{Schema: Schema, Machine: cpuinfo.Name() + " · " + llm.Describe, Model: llm.Name, Config: cfg}
	m := &measurement{ctx, llm, rand.New(rand.NewPCG(2, 7))}
	if _, err := m.ask(m.ids(cfg.TailLen)); err != nil { // the first step touches all memory
		return nil, err
	}
	for _, n := range cfg.Lengths {
		row, err := m.row(n, &cfg)
		if err != nil {
			return nil, err
		}
		r.Rows = append(r.Rows, row)
	}
	return r, nil
}

type measurement struct {
	ctx context.Context
	llm *sestina.LLM
	rng *rand.Rand
}

func (m *measurement) ids(n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(m.rng.IntN(m.llm.Info.Vocab))
	}
	return out
}

func (m *measurement) row(n int, cfg *Config) (row Row, err error) {
	var miss, hit []float64
	for range cfg.Reps {
		prefix := m.ids(n)
		for i := range 2 {
			t, err := m.ask(slices.Concat(prefix, m.ids(cfg.TailLen)))
			if err != nil {
				return row, err
			}
			ms := t.TTFT().Seconds() * 1e3
			if i == 0 {
				miss = append(miss, ms)
				continue
			}
			hit = append(hit, ms)
			row.Cached, row.Stop, row.StopAt = t.Cached, t.Match.Stop.String(), t.Match.At
		}
	}
	row.Prefix, row.Miss, row.Hit, row.Worst = n, median(miss), median(hit), slices.Max(hit)
	row.Ratio = row.Hit / row.Miss
	return row, nil
}

// ask sends a prompt for one token.
func (m *measurement) ask(prompt []int32) (engine.Timings, error) {
	h, err := m.llm.Engine.Submit(m.ctx, engine.Request{Prompt: prompt, MaxTokens: 1, Sampling: batch.Greedy()})
	if err != nil {
		return engine.Timings{}, err
	}
	defer h.Cancel()
	for outs, ok := h.Next(m.ctx); ok; outs, ok = h.Next(m.ctx) {
		for _, o := range outs {
			if o.Err != nil {
				return engine.Timings{}, o.Err
			}
		}
	}
	return h.Timings(), m.ctx.Err()
}

// median of a non-empty list.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// Print writes the table.
func (r *Report) Print(out io.Writer) {
	fmt.Fprintf(out, "%s · %s\nprompts with the same beginning and %d tokens of their own, %d times\n", r.Machine, r.Model, r.Config.TailLen, r.Config.Reps)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PREFIX\tTTFT MISS MS\tHIT MS\tMAX\tHIT / MISS\tCACHED\tSTOPS")
	for _, row := range r.Rows {
		fmt.Fprintf(w, "%d\t%.1f\t%.1f\t%.1f\t1/%.0f\t%d\t%s at %d\n", row.Prefix, row.Miss, row.Hit, row.Worst, 1/row.Ratio, row.Cached, row.Stop, row.StopAt)
	}
	w.Flush()
}
