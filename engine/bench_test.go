package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"sestina/backend"
	"sestina/batch"
	"sestina/model"
	"sestina/runner"
	"sestina/sampler"
)

// BenchmarkPostprocess draws the tokens of a step with a real vocabulary.
func BenchmarkPostprocess(b *testing.B) {
	const vocab = 131072
	for _, rows := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			e := &Engine{live: map[int64]*stream{}}
			var seqs []batch.Scheduled
			out := runner.Output{Output: model.Output{Logits: backend.Rows{N: rows, Width: vocab, Host: make([]float32, rows*vocab)}}}
			for i := range out.Logits.Host {
				out.Logits.Host[i] = float32(rand.NormFloat64() * 3)
			}
			for i := range rows {
				p := batch.SamplingParams{Temperature: 0.8, TopP: 0.95, TopK: 40, Logprobs: -1, Seed: uint64(i)}
				s, err := sampler.New(&p, 0, vocab, []int32{1}, nil)
				if err != nil {
					b.Fatal(err)
				}
				seq := &batch.Sequence{ID: int64(i), Tokens: []int32{1}, PromptLen: 1, MaxTokens: 1 << 30}
				e.live[seq.ID] = &stream{seq: seq, sampler: s}
				seqs = append(seqs, batch.Scheduled{Seq: seq, NumTokens: 1})
				out.Shares = append(out.Shares, runner.LogitShare{First: i, Len: 1})
			}
			for b.Loop() {
				e.result = e.result[:0]
				e.postprocess(seqs, out, nil)
			}
		})
	}
}

// BenchmarkStep is what the engine itself adds to a step of 16 greedy streams:
// everything but the model, in ns/own.
func BenchmarkStep(b *testing.B) {
	m := &hashModel{}
	r, err := runner.New(m, hashBackend{}, runner.Config{Blocks: 1 << 12, BlockSize: 16})
	if err != nil {
		b.Fatal(err)
	}
	e, err := prepare(r, 1<<12, Options{MaxModelLen: 1 << 12, BlockSize: 16})
	if err != nil {
		b.Fatal(err)
	}
	var hs []*Handle
	steps, start := 0, m.spent
	b.ReportAllocs()
	for b.Loop() {
		for len(e.live) < 16 {
			hs = append(hs[max(0, len(hs)-15):], submit(b, e, Request{Prompt: []int32{5}, MaxTokens: 400, Sampling: endless()}))
			e.intake()
		}
		e.intake()
		step := e.schedule()
		e.compute(step)
		e.update(step)
		e.account(step)
		e.publish()
		e.deliver()
		for _, h := range hs {
			h.take()
		}
		steps++
	}
	b.ReportMetric(float64(b.Elapsed()-(m.spent-start))/float64(steps), "ns/own")
}
