package engine

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"sestina/batch"
	"sestina/kvcache"
	"sestina/scheduler"
)

// machine is a device on a virtual clock: a step reads the weights, which takes
// read, and computes its rows, which takes row each and as much again for each
// `double` tokens of context; the longer of both, and then each sequence's context
// at kv a token; times noise.
type machine struct {
	read, row time.Duration
	kv        time.Duration
	double    int
	noise     float64 // relative deviation
	spikes    float64 // share of steps that take five times as long
	rng       *rand.Rand
}

func (m *machine) time(step *batch.Step) time.Duration {
	work := 0.0
	for _, s := range step.Seqs {
		for i := range s.NumTokens {
			work += float64(m.row) * (1 + float64(s.Seq.NumComputed+i)/float64(m.double))
		}
	}
	contexts := 0
	for _, s := range step.Seqs {
		contexts += s.Seq.NumComputed
	}
	t := (max(float64(m.read), work)+float64(m.kv)*float64(contexts))*(1+m.noise*math.Abs(m.rng.NormFloat64())) + 50e3
	if m.rng.Float64() < m.spikes {
		t *= 5
	}
	return time.Duration(t)
}

// street is the engine's loop on that clock: the real scheduler, block manager
// and pace, budgets set as [Engine.schedule] sets them.
type street struct {
	machine
	sched    *scheduler.Scheduler
	pace     pace
	greedy   bool // chunks as large as they go
	now      time.Duration
	id       int64
	decoding int
	last     map[int64]time.Duration // when a sequence got its newest token
}

func (s *street) add(t *testing.T, prompt, output int) *batch.Sequence {
	s.id++
	seq := &batch.Sequence{ID: s.id, Tokens: make([]int32, prompt), PromptLen: prompt, MaxTokens: output}
	if err := s.sched.Add(s.now, seq); err != nil {
		t.Fatal(err)
	}
	return seq
}

// step returns the gaps between tokens, in milliseconds.
func (s *street) step() (gaps []float64) {
	budget := DefaultMaxNumBatchedTokens
	if !s.greedy {
		budget = s.pace.rows(s.decoding, budget)
	}
	s.sched.SetStepBudget(func(n int) time.Duration { return time.Duration(n) }, time.Duration(budget))
	step := s.sched.Schedule(s.now)
	took := s.time(step)
	s.now += took
	results := make([]batch.Result, len(step.Seqs))
	s.decoding = 0
	for i, sch := range step.Seqs {
		if !sch.NeedsLogits() {
			continue
		}
		results[i].Tokens = []int32{1}
		id := sch.Seq.ID
		if before, ok := s.last[id]; ok {
			gaps = append(gaps, (s.now-before).Seconds()*1e3)
		}
		s.last[id] = s.now
		s.decoding++
	}
	streams, own := decoding(step)
	s.sched.Update(step, results)
	s.pace.observe(streams, own, step.NumTokens(), took)
	return gaps
}

func p99(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)*99/100]
}

// While a prompt of 4,000 tokens is computed beside 8 streams, the 99th percentile
// of the time between their tokens at most doubles, on machines that wait for
// memory and on machines that wait for arithmetic, quiet and noisy; and the prompt
// gets what is left. Where contexts are dear the streams slow down by themselves as
// theirs grow, so there the measure is what they cost when the prompt has ended. The
// twin without a budget must fail.
func TestLongPromptAtMostDoublesTheGaps(t *testing.T) {
	const streams, prompt, before, repeats = 8, 4000, 400, 5
	for _, c := range []struct {
		name      string
		read, row time.Duration
		kv        time.Duration
		noise     float64
		spikes    float64
	}{
		{"memory bound", 40 * time.Millisecond, 500 * time.Microsecond, 0, 0, 0},
		{"balanced", 8 * time.Millisecond, time.Millisecond, 0, 0, 0},
		{"compute bound", 2 * time.Millisecond, 2 * time.Millisecond, 0, 0, 0},
		{"compute bound, noisy", 2 * time.Millisecond, 2 * time.Millisecond, 0, 0.2, 0},
		{"balanced, noisy, with spikes", 8 * time.Millisecond, time.Millisecond, 0, 0.2, 0.03},
		{"dear contexts", 6 * time.Millisecond, time.Millisecond, time.Microsecond, 0.1, 0},
	} {
		run := func(budget bool) (ratio float64, beside, alone time.Duration, chunks int) {
			var quiet, during []float64
			for seed := range uint64(repeats) { // one run has few spikes
				blocks, err := kvcache.New(kvcache.Config{NumBlocks: 4096, BlockSize: DefaultBlockSize})
				if err != nil {
					t.Fatal(err)
				}
				s := &street{machine: machine{c.read, c.row, c.kv, prompt, c.noise, c.spikes, rand.New(rand.NewPCG(seed, 8))}, last: map[int64]time.Duration{}, greedy: !budget,
					sched: scheduler.New(scheduler.Config{MaxNumSeqs: 16, MaxNumBatchedTokens: DefaultMaxNumBatchedTokens, ChunkedPrefill: true}, blocks)}
				first := func(seq *batch.Sequence) (took time.Duration, gaps []float64) {
					begin := s.now
					for seq.NumOutput() == 0 {
						gaps = append(gaps, s.step()...)
						chunks++
					}
					return s.now - begin, gaps
				}
				alone, _ = first(s.add(t, prompt, 1))
				for range streams {
					s.add(t, 64, 8000)
				}
				for n := range before {
					if gaps := s.step(); n >= before/4 { // without the streams' own prompts
						quiet = append(quiet, gaps...)
					}
				}
				chunks = 0
				var gaps []float64
				beside, gaps = first(s.add(t, prompt, 1))
				during = append(during, gaps...)
				if c.kv > 0 {
					quiet = nil
					for range before {
						quiet = append(quiet, s.step()...)
					}
				}
				if err := s.sched.Check(); err != nil {
					t.Fatal(err)
				}
			}
			return p99(during) / p99(quiet), beside, alone, chunks
		}
		ratio, beside, alone, chunks := run(true)
		without, fast, _, _ := run(false)
		if ratio > 2 || without < 4 {
			t.Errorf("%s: p99 of the gaps is %.2fx what it was, %.1fx without a budget; want 2x at most and more than 4x", c.name, ratio, without)
		}
		if c.kv > 0 && chunks > 1200 {
			t.Errorf("%s: the prompt took %d steps: the streams' own growth was taken for its cost", c.name, chunks)
		}
		t.Logf("%s: p99 of the gaps %.2fx (in chunks of 512: %.1fx); the prompt's TTFT %.1f s in %d steps (chunks of 512: %.1f s; alone: %.1f s)",
			c.name, ratio, without, beside.Seconds(), chunks, fast.Seconds(), alone.Seconds())
	}
}
