package explain

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"sestina"
	"sestina/bench"
	"sestina/explain/chart"
	"sestina/internal/arena"
	"sestina/internal/cpuinfo"
	"sestina/internal/simd"
)

// Measure adds what the loaded model shows on this machine now: through the
// engine for whole steps, through the kernels for single operations. opt are the
// options that llm was opened with; it is opened once more for speculation.
func (r *Report) Measure(ctx context.Context, llm *sestina.LLM, opt sestina.Options) error {
	r.Model = fmt.Sprintf("%s: %s, %s of weights", llm.Name, llm.Info.Arch, size(llm.Info.ResidentBytes))
	r.Machine = fmt.Sprintf("%s · %s", cpuinfo.Name(), llm.Describe)
	m := &measurement{ctx: ctx, llm: llm, opt: opt}
	for _, t := range []struct {
		id   string
		fill func(*measurement, *Section) error
	}{
		{"bottleneck", (*measurement).bottleneck}, {"kv-cache", (*measurement).kvCache}, {"paged-attention", (*measurement).pagedAttention},
		{"flash-attention", (*measurement).flashAttention}, {"gqa", (*measurement).groupedQuery}, {"continuous-batching", (*measurement).batching},
		{"speculative-decoding", (*measurement).speculation}, {"mtp", (*measurement).mtp},
	} {
		if s := r.section(t.id); s != nil {
			if err := t.fill(m, s); err != nil {
				return fmt.Errorf("measuring %s: %w", t.id, err)
			}
		}
	}
	return nil
}

// measurement holds the model and what several techniques ask about it.
type measurement struct {
	ctx context.Context
	llm *sestina.LLM
	opt sestina.Options
	one map[string]float64 // medians of one stream, by row
}

const (
	answerLen = 32 // tokens decoded
	streams   = 4
)

// promptLen is the context that passes are timed at.
func (m *measurement) promptLen() int { return min(512, m.llm.Engine.MaxLen()-answerLen) }

// alone measures one stream, once.
func (m *measurement) alone() (map[string]float64, error) {
	if m.one != nil {
		return m.one, nil
	}
	var err error
	m.one, err = m.run(bench.Config{PromptLen: m.promptLen(), OutputLen: answerLen, Streams: 1, Reps: 3})
	return m.one, err
}

func (m *measurement) run(c bench.Config) (map[string]float64, error) {
	report, err := bench.Run(m.ctx, m.llm, c)
	if err != nil {
		return nil, err
	}
	rows := map[string]float64{}
	for _, row := range report.Rows {
		rows[row.Name] = row.Median
	}
	return rows, nil
}

func (m *measurement) bottleneck(s *Section) error {
	rows, err := m.alone()
	if err != nil {
		return err
	}
	i := m.llm.Info
	ops := 2 * float64(i.Params) / 1e9
	s.counted("this model's weights read per token", float64(i.StepBytes)/1e6, "MB", "as the engine keeps them")
	s.counted("this model's weights read for 200 tokens", 200*float64(i.StepBytes)/1e9, "GB", "")
	s.measured("decoding, one stream", rows["decode"], "tok/s", "")
	s.measured("memory bandwidth, one thread", rows["read_bandwidth"], "GB/s", "reading a buffer of the weights' size")
	s.measured("bandwidth used while decoding", 100*rows["mbu"], "%", "of one thread's; several threads may reach more")
	s.measured("arithmetic while decoding", ops*rows["decode"], "G op/s", "2 operations per parameter and token")
	if prefill := rows["prefill"]; prefill > 0 {
		s.measured("arithmetic while reading a prompt", ops*prefill, "G op/s", fmt.Sprintf("%d tokens share each weight read", m.promptLen()))
		s.measured("arithmetic used while decoding", 100*rows["decode"]/prefill, "%", "of what the same kernels reach on the prompt: the units wait for memory")
	}
	return nil
}

func (m *measurement) kvCache(s *Section) error {
	rows, err := m.alone()
	if err != nil || rows["decode"] == 0 {
		return err
	}
	pass, token := rows["ttft"], 1e3/rows["decode"]
	s.measured("one pass over the whole context", pass, "ms", fmt.Sprintf("%d tokens: what each further token costs without a cache", m.promptLen()))
	s.measured("one token with the cache", token, "ms", "")
	s.measured("cheaper", pass/token, "x", "and more with every token of context")
	s.draw("-measured", chart.Bars{Title: fmt.Sprintf("One more token at %d tokens of context", m.promptLen()), Unit: "ms, measured", Bars: []chart.Bar{
		{Label: "without a KV cache", Value: pass, Text: Number(pass) + " ms"}, {Label: "with", Value: token, Text: Number(token) + " ms", Colour: 2}}})
	return nil
}

func (m *measurement) pagedAttention(s *Section) error {
	p := m.llm.Pool
	s.counted("this model's K and V of a token", float64(p.TokenBytes)/1024, "KiB", p.KVDType())
	s.counted("tokens in its pool", float64(p.Tokens()), "", fmt.Sprintf("%d blocks of %d, %s", p.Blocks, p.BlockSize, size(p.Bytes)))
	s.counted("users of 50 tokens in its pool, 2,048 reserved", float64(p.Tokens()/reserved), "", "")
	s.counted("users of 50 tokens in its pool, in blocks", float64(p.Blocks/((used+p.BlockSize-1)/p.BlockSize)), "", "")
	return nil
}

func (m *measurement) flashAttention(s *Section) error {
	const n, runs = 2048, 3
	i := m.llm.Info
	w, err := newWorkload(n, i.HeadDim, i.Heads/i.KVHeads)
	if err != nil {
		return err
	}
	full := fastest(runs, func() { w.attend(n, true) })
	tiles := fastest(runs, func() { w.attend(pieceRows, false) })
	note := fmt.Sprintf("%d tokens, %d query heads on one KV head of this model, one thread", n, i.Heads/i.KVHeads)
	s.measured("full score matrix", full, "ms", note)
	s.measured("tiles", tiles, "ms", "")
	s.measured("faster", full/tiles, "x", "")
	cache, memory := readSpeed(256<<10), readSpeed(max(int(min(i.StepBytes, 1<<30)), 64<<20))
	s.measured("read bandwidth of the cache", cache, "GB/s", "256 KiB again and again, one thread")
	s.measured("read bandwidth of the memory", memory, "GB/s", "more than the caches hold, one thread")
	s.measured("the two tiers", cache/memory, "x", "what a tile gains by staying in the upper one")
	s.draw("-measured", chart.Bars{Title: fmt.Sprintf("Attention over %d tokens", n), Unit: "ms, measured, one thread", Bars: []chart.Bar{
		{Label: "full score matrix", Value: full, Text: Number(full) + " ms"}, {Label: "tiles", Value: tiles, Text: Number(tiles) + " ms", Colour: 2}}})
	return nil
}

func (m *measurement) groupedQuery(s *Section) error {
	const n, runs = 4096, 20
	i := m.llm.Info
	group := i.Heads / i.KVHeads
	s.counted("this model's K and V of a token", float64(m.llm.Pool.TokenBytes)/1024, "KiB", fmt.Sprintf("%d query heads in %d groups", i.Heads, i.KVHeads))
	s.counted("without groups", float64(m.llm.Pool.TokenBytes)*float64(group)/1024, "KiB", "a K and a V for each query head")
	if group == 1 {
		s.Notes = append(s.Notes, "this model has a K and V head for every query head: nothing to measure")
		return nil
	}
	w, err := newWorkload(n, i.HeadDim, group)
	if err != nil {
		return err
	}
	apart := fastest(runs, func() { w.last(true) })
	together := fastest(runs, func() { w.last(false) })
	s.measured("a decode step's attention, head by head", 1e3*apart, "µs", fmt.Sprintf("one group of %d heads over %d tokens, one thread", group, n))
	s.measured("the group together", 1e3*together, "µs", "K and V pass by once")
	s.measured("faster", apart/together, "x", "")
	return nil
}

func (m *measurement) batching(s *Section) error {
	limit := m.llm.Engine.Options().MaxNumSeqs
	if limit < streams {
		s.Notes = append(s.Notes, fmt.Sprintf("not measured: the engine takes %d sequences at once, the measurement %d", limit, streams))
		return nil
	}
	c := bench.Config{PromptLen: 0, OutputLen: answerLen, Streams: 1, Reps: 3}
	one, err := m.run(c)
	if err != nil {
		return err
	}
	c.Streams = streams
	four, err := m.run(c)
	if err != nil {
		return err
	}
	s.measured("decoding, one stream", one["decode"], "tok/s", "")
	s.measured("decoding, four streams", four["decode"], "tok/s", "one read of the weights serves a token of each")
	s.measured("more", four["decode"]/one["decode"], "x", "")
	return nil
}

// readSpeed is how fast one thread reads a buffer of so many bytes, in GB/s,
// its best pass: the cache's or the memory's bandwidth, by the size.
func readSpeed(bytes int) float64 {
	region, err := arena.Alloc(uint64(bytes))
	if err != nil {
		return 0
	}
	defer region.Free()
	floats := arena.View[float32](region.Bytes())
	for i := range floats {
		floats[i] = float32(i & 1023)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	passes := max(4, (64<<20)/bytes) // read 64 MiB at least, piece by piece so that Go can stop between calls
	best := 0.0
	for range 5 {
		begin := time.Now()
		for range passes / 4 {
			for rest := floats; len(rest) > 0; rest = rest[min(len(rest), 256<<10):] {
				simd.Max(rest[:min(len(rest), 256<<10)])
			}
		}
		best = max(best, float64(len(floats))*4*float64(passes/4)/time.Since(begin).Seconds()/1e9)
	}
	return best
}

func size(bytes uint64) string { return Number(float64(bytes)/(1<<20)) + " MiB" }
