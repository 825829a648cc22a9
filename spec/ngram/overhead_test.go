package ngram

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"sestina/batch"
	"sestina/spec"
)

// BenchmarkStep is what speculation takes from a step in which nothing is drafted,
// because a row costs as much as a step: indexing the token of the step before,
// looking for matches, which text(…) has plenty of, weighing them, and booking the step.
func BenchmarkStep(b *testing.B) {
	const more = 256 // tokens that a sequence grows by
	for _, streams := range []int{1, 32} {
		for _, context := range []int{100, 2000, 8000} {
			b.Run(fmt.Sprintf("streams=%d/context=%d", streams, context), func(b *testing.B) {
				all := text(context + more)
				s := spec.New(spec.Config{Vocab: 1 << 20, Now: func() time.Duration { return 0 }}, mustNew(b, Config{}))
				seqs, step := make([]*batch.Sequence, streams), &batch.Step{}
				results := make([]batch.Result, streams)
				id, drafts, steps := int64(0), 0, 0
				fresh := func() {
					step.Seqs = step.Seqs[:0]
					for i := range seqs {
						id++
						seqs[i] = sequence(id, fmt.Sprint(id), slices.Clone(all[:context])...)
						seqs[i].PromptLen = context
						step.Seqs = append(step.Seqs, batch.Scheduled{Seq: seqs[i], NumTokens: 1})
					}
					s.Draft(seqs, streams) // indexes the prompts
					s.Done(step, results, time.Duration(streams)*10*time.Millisecond)
				}
				fresh()
				b.ReportAllocs()
				for b.Loop() {
					n := len(seqs[0].Tokens)
					if n == len(all) {
						b.StopTimer()
						for _, seq := range seqs {
							s.Release(seq)
						}
						fresh()
						n = context
						b.StartTimer()
					}
					for i, seq := range seqs {
						seq.Tokens = append(seq.Tokens, all[n])
						results[i] = batch.Result{Tokens: seq.Tokens[n:]}
					}
					s.Draft(seqs, streams)
					rows := 0
					for i, seq := range seqs {
						drafts += len(seq.Drafts)
						step.Seqs[i].NumDrafts, step.Seqs[i].NumTokens = len(seq.Drafts), 1+len(seq.Drafts)
						rows += 1 + len(seq.Drafts)
					}
					s.Done(step, results, time.Duration(rows)*10*time.Millisecond)
					steps++
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(streams), "ns/sequence")
				b.ReportMetric(float64(drafts)/float64(steps), "drafts/step")
			})
		}
	}
}
