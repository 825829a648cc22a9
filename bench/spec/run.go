package spec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"sestina"
	"sestina/batch"
	"sestina/bench"
	"sestina/bench/prompts"
	"sestina/chat"
	"sestina/engine"
	"sestina/internal/cpuinfo"
	"sestina/spec"
)

// Run measures a model. opt holds what both sides share: threads, kernels, dtypes,
// and the configuration of speculation; progress is told what is being measured.
func Run(ctx context.Context, name string, opt sestina.Options, cfg Config, progress func(string)) (*Report, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	s := &suite{ctx: ctx, opt: opt, cfg: cfg, progress: progress,
		report: Report{Schema: Schema, Method: opt.SpeculativeConfig, Config: cfg, Load: loadAverage()}}
	if err := s.prepare(name); err != nil {
		return nil, err
	}
	s.nowhere = noStore()
	for _, set := range cfg.Sets {
		for _, streams := range cfg.Streams {
			for _, t := range cfg.Temperatures {
				if err := s.cell(set, streams, t); err != nil {
					return nil, fmt.Errorf("%s, %d streams, temperature %v: %w", set, streams, t, err)
				}
			}
		}
	}
	if cfg.Acceptance > 0 {
		if err := s.synthetic(); err != nil {
			return nil, err
		}
	}
	if after := loadAverage(); after != "" {
		s.report.Load += " → " + after
	}
	return &s.report, nil
}

// suite is one run over all cells.
type suite struct {
	ctx      context.Context
	path     string
	nowhere  string // see noStore
	opt      sestina.Options
	cfg      Config
	prompts  map[string][][]int32
	longest  int // prompt, in tokens
	report   Report
	progress func(string)
}

// prepare opens the model once, for its tokenizer, its template and its name.
func (s *suite) prepare(name string) error {
	opt := s.opt
	opt.MaxNumSeqs = 1
	llm, err := sestina.Open(s.ctx, name, opt)
	if err != nil {
		return err
	}
	defer llm.Close()
	s.path, s.opt.ModelProgress = llm.Path, nil
	s.report.Machine = bench.Machine{CPU: cpuinfo.Name(), Cores: runtime.NumCPU(), Features: cpuinfo.Features(), Backend: llm.Describe, OS: runtime.GOOS + "/" + runtime.GOARCH}
	s.report.Model = bench.Model{Name: llm.Name, Arch: llm.Info.Arch, Params: llm.Info.Params, StepBytes: llm.Info.StepBytes, KVDType: llm.Pool.KVDType()}
	s.prompts = map[string][][]int32{}
	for _, set := range s.cfg.Sets {
		texts, err := prompts.Set(set)
		if err != nil {
			return err
		}
		n := s.cfg.Prompts
		if set == prompts.Mixed {
			n *= len(prompts.Names())
		}
		for i, text := range texts[:min(n, len(texts))] {
			ids, err := encode(llm, text)
			if err != nil {
				return err
			}
			if room := llm.Engine.MaxLen() - s.cfg.OutputLen; len(ids) > room {
				return fmt.Errorf("prompt %d of set %s has %d tokens; beside %d of output this model has room for %d: leave the set out (--sets)", i+1, set, len(ids), s.cfg.OutputLen, room)
			}
			s.prompts[set] = append(s.prompts[set], ids)
			s.longest = max(s.longest, len(ids))
		}
	}
	return nil
}

// encode asks through the model's chat template where it has one.
func encode(llm *sestina.LLM, text string) ([]int32, error) {
	ids, err := llm.ChatIDs(chat.Input{Messages: []chat.Message{{Role: "user", Content: text}}, AddGenerationPrompt: true})
	if errors.Is(err, sestina.ErrNoTemplate) {
		return llm.Encode(text)
	}
	return ids, err
}

// timeline is how many drafts a sequence had in each step that held no prompt.
type timeline struct {
	mu    sync.Mutex
	depth []float64
}

func (t *timeline) step(i engine.StepInfo) {
	if i.Rows == i.Seqs+i.Drafts {
		t.mu.Lock()
		t.depth = append(t.depth, float64(i.Drafts)/float64(i.Seqs))
		t.mu.Unlock()
	}
}

// parts are the means of n equal parts.
func (t *timeline) parts(n int) (out []float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range n {
		part := t.depth[i*len(t.depth)/n : (i+1)*len(t.depth)/n]
		sum := 0.
		for _, d := range part {
			sum += d
		}
		out = append(out, sum/float64(max(1, len(part))))
	}
	return out
}

// open makes one side's engine, with room for all streams. It keeps no cost curve
// for the next: every cell begins with the roofline.
func (s *suite) open(streams int, speculation string, depth *timeline) (*sestina.LLM, error) {
	opt := s.opt
	opt.StoreDir = s.nowhere
	if depth != nil {
		opt.Observer = &engine.Observer{Step: depth.step}
	}
	opt.MaxNumSeqs = streams
	opt.MaxModelLen = s.longest + s.cfg.OutputLen
	opt.Techniques.Speculation = speculation
	if speculation == "off" {
		opt.SpeculativeConfig = ""
	}
	return sestina.Open(s.ctx, s.path, opt)
}

// side is one engine and what its repetitions showed; the first is the cold one.
type side struct {
	llm     *sestina.LLM
	depth   *timeline
	speed   []float64
	answers [][]int32 // of all repetitions
	tokens  int       // after each request's first
	drafted int
	hit     int
}

// cell measures one set at one number of streams and one temperature.
func (s *suite) cell(set string, streams int, temperature float32) error {
	var sides [2]side // on, off
	for i, speculation := range []string{"auto", "off"} {
		depth := &timeline{}
		llm, err := s.open(streams, speculation, depth)
		if err != nil {
			return err
		}
		defer llm.Close()
		sides[i].llm, sides[i].depth = llm, depth
	}
	n := len(s.prompts[set])
	requests := (n + streams - 1) / streams * streams // whole waves
	for rep := range s.cfg.Reps + 1 {
		s.progress(fmt.Sprintf("%s, %d streams, temperature %v: repetition %d of %d", set, streams, temperature, rep, s.cfg.Reps))
		for turn := range sides {
			if err := s.repetition(&sides[(rep+turn)%2], s.prompts[set], requests, streams, rep, temperature); err != nil {
				return err
			}
		}
	}
	c := Cell{Set: set, Streams: streams, Temperature: temperature, Requests: requests}
	c.fill(&sides[0], &sides[1])
	s.report.Cells = append(s.report.Cells, c)
	return nil
}

// repetition answers all requests in waves and books the speed.
func (s *suite) repetition(d *side, prompts [][]int32, requests, streams, rep int, temperature float32) error {
	tokens, took := 0, time.Duration(0)
	for first := 0; first < requests; first += streams {
		wave := make([]answer, streams)
		var wg sync.WaitGroup
		for i := range wave {
			p := batch.Greedy()
			p.Temperature, p.Seed = temperature, uint64(1000*rep+first+i+1)
			req := engine.Request{Prompt: prompts[(first+i)%len(prompts)], MaxTokens: s.cfg.OutputLen, Sampling: p, Salt: fmt.Sprintf("%d/%d", rep, first+i)}
			wg.Go(func() { wave[i] = ask(s.ctx, d.llm.Engine, req) })
		}
		wg.Wait()
		n, t, err := d.book(wave)
		if err != nil {
			return err
		}
		tokens, took = tokens+n, took+t
	}
	if tokens == 0 || took <= 0 {
		return errors.New("the answers are too short to measure: raise --output-len, or use fewer --streams")
	}
	d.speed = append(d.speed, float64(tokens)/took.Seconds())
	return nil
}

// timeParts is how many parts depth over time has.
const timeParts = 5

// answer is what one request showed.
type answer struct {
	ids     []int32
	at      []time.Time
	timings engine.Timings
	err     error
}

func ask(ctx context.Context, e *engine.Engine, req engine.Request) (a answer) {
	h, err := e.Submit(ctx, req)
	if err != nil {
		return answer{err: err}
	}
	defer h.Cancel()
	for outs, ok := h.Next(ctx); ok; outs, ok = h.Next(ctx) {
		now := time.Now()
		for _, o := range outs {
			if o.Err != nil {
				return answer{err: o.Err}
			}
			for _, t := range o.Tokens {
				a.ids, a.at = append(a.ids, t.Token), append(a.at, now)
			}
		}
	}
	a.timings, a.err = h.Timings(), context.Cause(ctx)
	return a
}

// book keeps a wave's answers and returns the tokens and the time that count as
// decoding: what follows the last stream's first token.
func (d *side) book(wave []answer) (tokens int, took time.Duration, err error) {
	var begin, end time.Time
	for i := range wave {
		a := &wave[i]
		if a.err != nil {
			return 0, 0, a.err
		}
		d.answers = append(d.answers, a.ids)
		d.tokens += max(0, len(a.ids)-1)
		d.drafted += a.timings.Drafted
		d.hit += a.timings.Accepted
		begin, end = later(begin, a.timings.FirstToken), later(end, a.timings.Last)
	}
	for _, a := range wave {
		for i, t := range a.at { // read a moment after they were committed
			if i > 0 && t.After(begin) {
				tokens++
			}
		}
	}
	return tokens, end.Sub(begin), nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// fill computes the cell's figures. The cold repetition counts in none of the
// speeds, and in all counts of drafts.
func (c *Cell) fill(on, off *side) {
	c.On, c.Off = speed(on.speed[1:]), speed(off.speed[1:])
	var each []float64
	for i := range on.speed {
		each = append(each, on.speed[i]/off.speed[i])
	}
	c.Cold = each[0]
	c.Ratio = Ratio{c.On.Median / c.Off.Median, slices.Min(each[1:]), slices.Max(each[1:])}
	c.Drafted, c.Accepted = on.drafted, on.hit
	if passes := on.tokens - on.hit; passes > 0 { // each commits one token and what was accepted
		c.TokensPerPass = float64(on.tokens) / float64(passes)
		c.DraftsPerPass = float64(on.drafted) / float64(passes)
	}
	for i := range on.answers {
		if !slices.Equal(on.answers[i], off.answers[i]) {
			c.Differing++
		}
	}
	c.OverTime = on.depth.parts(timeParts)
	if after := settled(on.llm.Engine); after != nil {
		c.Tried, c.ByPosition = positions(&spec.Stats{Proposers: make([]spec.ProposerStats, len(after.Proposers))}, after)
	}
}

// settled is the engine's count of drafts once its last step is in it.
func settled(e *engine.Engine) *spec.Stats {
	st := e.Stats()
	for range 100 {
		if st.Running == 0 {
			break
		}
		time.Sleep(time.Millisecond)
		st = e.Stats()
	}
	return st.Speculation
}

func speed(v []float64) Speed { return Speed{median(v), slices.Min(v), slices.Max(v)} }

// median of a non-empty list.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// loadAverage is the system's own, where it says one.
func loadAverage() string {
	data, _ := os.ReadFile("/proc/loadavg") // elsewhere: not said
	if f := strings.Fields(string(data)); len(f) > 2 {
		return strings.Join(f[:3], " ")
	}
	return ""
}
