package explain

import (
	"fmt"
	"slices"
	"strings"

	"sestina/backend/cpu/attention"
	"sestina/explain/chart"
	"sestina/kvcache"
	"sestina/scheduler"
	"sestina/spec"
	_ "sestina/spec/all" // the methods
)

// The techniques that save time: flash attention, continuous batching,
// speculation, and all together.

// transfers are the elements that attention over n tokens of one head of d
// dimensions moves to and from slow memory. Standard attention writes the n × n
// scores, reads them, writes the weights and reads those. Tiled attention reads K
// and V once per tile of query rows, and Q and writes the output once.
func standardTransfers(n int) float64 { return 4 * float64(n) * float64(n) }

func tiledTransfers(n, d, tile int) float64 {
	tiles := (n + tile - 1) / tile
	return 2*float64(n)*float64(d)*float64(tiles) + 2*float64(n)*float64(d)
}

// pieceRows is how many query positions of a sequence the CPU backend takes
// together (TestPieceRowsAreTheBackends).
const pieceRows = 16

func flashAttention(s *Section) {
	const n, d, tile = 4000, 64, 128
	const million = 1e6
	standard, tiled := standardTransfers(n), tiledTransfers(n, d, tile)
	s.seed("element transfers, standard", 64, "M", "N = 4,000, d = 64")
	s.seed("element transfers, tiled", 16.9, "M", "query tiles of 128")
	s.formula("element transfers, standard", standard/million, "M", "4·N²: scores and weights written and read")
	s.formula("element transfers, tiled", tiled/million, "M", "2·N·d·⌈N/128⌉ + 2·N·d: K and V once a tile; Q in, output out")
	s.formula("fewer", standard/tiled, "x", "")
	s.formula("fewer at N = 1,000", standardTransfers(1000)/tiledTransfers(1000, d, tile), "x", "")
	s.formula("fewer at N = 16,000", standardTransfers(16_000)/tiledTransfers(16_000, d, tile), "x", "")
	s.formula("fewer, the limit", 2*tile/float64(d), "x", "4·N² / (2·N²·d/128) = 2 · 128 / d")
	for _, group := range []int{8, 1} {
		ours := tiledTransfers(n, d, pieceRows)/float64(group) + 2*n*d*(1-1/float64(group)) // K and V once a group, Q and output a head
		note := "our tile: 16 positions × the 8 heads of a group = 128 query rows, per head"
		if group == 1 {
			note = "our tile without groups: 16 rows. More than standard, but from the cache: a partition of K and V is 64 KiB"
		}
		s.formula("element transfers, our tile × "+Number(float64(group))+" heads", ours/million, "M", note)
	}
	s.formula("K and V of one partition", attention.Partition*d*2*2/1024, "KiB", "256 positions × 64 × K and V × 2 bytes: stays in the second-level cache while a tile passes over it")
	const counted, heads = 1000, 2
	w, err := newWorkload(counted, d, heads)
	if err != nil {
		s.fail(err)
		return
	}
	matrix, tiles := float64(w.moved(counted, true))/heads, float64(w.moved(tile/heads, false))/heads
	s.counted("element transfers at N = 1,000, full score matrix", matrix/million, "M", "the real kernel's counters, per head; causal, so about half: no row reads later keys")
	s.counted("element transfers at N = 1,000, tiled", tiles/million, "M", "64 positions × 2 heads of a group = query tiles of 128")
	s.counted("fewer at N = 1,000", matrix/tiles, "x", "")
	differ, values, err := compareAttention(600)
	if err != nil {
		s.fail(err)
		return
	}
	s.counted("output values compared", float64(values), "", "the real kernel, full score matrix against tiles, 600 tokens, 4 heads, d = 64")
	s.counted("output values that differ in any bit", float64(differ), "", "both add in one order, so the answer is the same")
	s.draw("", flashChart(d, tile))
}

func flashChart(d, tile int) chart.Chart {
	standard, tiled := chart.Series{Name: "standard"}, chart.Series{Name: "tiles of 128"}
	for n := 128; n <= 128<<10; n *= 2 {
		x := float64(n)
		standard.X, standard.Y = append(standard.X, x), append(standard.Y, standardTransfers(n))
		tiled.X, tiled.Y = append(tiled.X, x), append(tiled.Y, tiledTransfers(n, d, tile))
	}
	return chart.Lines{Title: "Attention: elements moved to and from slow memory", XLabel: "tokens", YLabel: "elements", Series: []chart.Series{standard, tiled}}
}

func continuousBatching(s *Section) {
	const requests, short, long, seats, stepSeconds = 100, 20, 200, 4, 0.05
	const total = requests / 2 * (short + long)
	run := func(cfg scheduler.Config) float64 {
		cfg.MaxNumSeqs, cfg.ChunkedPrefill = seats, true
		m := newSimulation(cfg, kvcache.Config{NumBlocks: 128})
		for i := range requests {
			n := short + (long-short)*(i%2)
			m.add(-n, 1, n)
		}
		m.drain()
		s.fail(m.err)
		return m.now.Seconds()
	}
	s.seed("static batches", 250, "s", "100 requests alternating 20 and 200 tokens, 4 seats, 50 ms a step, prefill free")
	s.seed("static batches", 44, "tok/s", "")
	s.seed("continuous", 1.8, "x", "at most, with every seat always taken")
	const bound = total / seats * stepSeconds
	s.formula("least time with 4 seats", bound, "s", "11,000 tokens / 4 = 2,750 steps of 50 ms")
	s.formula("most tokens per second", total/bound, "tok/s", "")
	s.formula("most, over static", 250/bound, "x", "")
	none, static := run(scheduler.Config{Policy: scheduler.None}), run(scheduler.Config{Policy: scheduler.Static})
	fcfs, longest := run(scheduler.Config{}), run(scheduler.Config{Order: scheduler.PriorityOrder})
	s.counted("one at a time", none, "s", "the real scheduler, --batching none")
	s.counted("static batches", static, "s", "--batching static: a seat is empty until the longest of its batch ends")
	s.counted("static batches", total/static, "tok/s", "")
	s.counted("continuous, by arrival", fcfs, "s", "--batching continuous: the default")
	s.counted("continuous, by arrival", total/fcfs, "tok/s", "")
	s.counted("continuous, by arrival, over static", static/fcfs, "x", "")
	s.counted("continuous, longest first", longest, "s", "the least possible: lengths are multiples of 20, so no seat can end at step 2,750")
	s.draw("", chart.Bars{Title: "100 requests, 4 seats, 50 ms a step", Unit: "seconds", Bars: []chart.Bar{
		{Label: "one at a time", Value: none, Text: Number(none) + " s"}, {Label: "static batches", Value: static, Text: Number(static) + " s"},
		{Label: "continuous, by arrival", Value: fcfs, Text: Number(fcfs) + " s", Colour: 2}, {Label: "continuous, longest first", Value: longest, Text: Number(longest) + " s", Colour: 2},
		{Label: "bound", Value: bound, Text: Number(bound) + " s", Colour: 3}}})
}

const (
	targetTime, draftTime = 50.0, 5.0 // ms
	draftLength           = 4
	wanted                = 200 // tokens
)

// verify runs one sequence through the real scheduler with drafts before each step.
func (s *Section) verify(accepted int) (rounds int) {
	m := newSimulation(scheduler.Config{ChunkedPrefill: true}, kvcache.Config{NumBlocks: 64})
	m.drafts, m.accepted = draftLength, accepted
	m.add(0, 1, wanted)
	m.drain()
	s.fail(m.err)
	return m.rounds
}

func speculativeDecoding(s *Section) {
	const round = targetTime + draftLength*draftTime
	s.seed("a round", 70, "ms", "the target takes 50 ms, the draft 5 ms, 4 drafts")
	s.seed("all 4 accepted: 5 tokens", 3.57, "x", "")
	s.seed("3 accepted: 4 tokens", 2.86, "x", "")
	s.seed("200 tokens without", 10, "s", "")
	s.seed("200 tokens with 3 accepted", 3.5, "s", "")
	s.formula("a round", round, "ms", "50 + 4 × 5")
	s.formula("all 4 accepted: 5 tokens", 5*targetTime/round, "x", "5 × 50 / 70")
	s.formula("3 accepted: 4 tokens", 4*targetTime/round, "x", "4 × 50 / 70")
	s.formula("200 tokens without", wanted*targetTime/1000, "s", "200 × 50 ms")
	s.formula("200 tokens, 3 accepted", wanted/4*round/1000, "s", "50 rounds of 70 ms")
	s.formula("200 tokens, all accepted", wanted/5*round/1000, "s", "40 rounds of 70 ms")
	three, four := s.verify(3), s.verify(4)
	s.counted("rounds for 200 tokens, 3 accepted", float64(three), "", "the real scheduler; the prompt's own pass has given the first token")
	s.counted("rounds for 200 tokens, all accepted", float64(four), "", "")
	plain, ours := wanted*targetTime/1000, (targetTime+float64(three)*round)/1000
	s.counted("200 tokens, 3 accepted", ours, "s", "the prompt's pass and those rounds, on a clock of 50 and 5 ms")
	s.methods("speculative decoding", "ngram", "draft_model")
	s.draw("", chart.Bars{Title: "200 tokens, target 50 ms, draft 5 ms", Unit: "seconds", Bars: []chart.Bar{
		{Label: "one by one", Value: plain, Text: Number(plain) + " s"}, {Label: "4 drafts, 3 accepted", Value: ours, Text: Number(ours) + " s", Colour: 2}}})
}

// methods notes which ways of drafting are not built.
func (s *Section) methods(what string, names ...string) {
	built := spec.Methods()
	for _, name := range names {
		if !slices.Contains(built, name) {
			s.Notes = append(s.Notes, fmt.Sprintf("%s here: method %q is not built yet; built: %s", what, name, strings.Join(built, ", ")))
		}
	}
}

func multiTokenPrediction(s *Section) {
	s.seed("DeepSeek-V3", 1.8, "x", "as published; about")
	s.seed("Gemma 4", 3, "x", "as published; up to")
	s.formula("tokens a pass, one extra head, 85 % accepted", 1+0.85, "", "1 + the share of second tokens that is accepted; DeepSeek-V3 reports 85 to 90 %")
	s.methods("multi-token prediction", "mtp")
}

func stacked(s *Section) {
	s.seed("over naive, at least", 20, "x", "gains multiply, says the article; measured here as a product of single gains beside the total")
}
