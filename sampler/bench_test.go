package sampler

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"sestina/batch"
)

// Budget: 50 µs a row at 49,152 tokens and 150 µs at 131,072; greedy 10 µs at
// 49,152. The copy that restores the row is part of the figure ("restore").
func BenchmarkSample(b *testing.B) {
	penalties := func(p batch.SamplingParams) batch.SamplingParams {
		p.RepetitionPenalty, p.FrequencyPenalty, p.PresencePenalty = 1.1, 0.2, 0.2
		return p
	}
	for _, bench := range []struct {
		name string
		p    batch.SamplingParams
	}{
		{"greedy", batch.Greedy()},
		{"temperature", batch.DefaultSampling()},
		{"top-p", batch.SamplingParams{Temperature: 0.8, TopP: 0.95, Logprobs: -1}},
		{"min-p", batch.SamplingParams{Temperature: 0.8, MinP: 0.05, Logprobs: -1}},
		{"top-k+top-p+penalties", penalties(batch.SamplingParams{Temperature: 0.8, TopK: 50, TopP: 0.95, Logprobs: -1})},
		{"top-p+penalties", penalties(batch.SamplingParams{Temperature: 0.8, TopP: 0.95, Logprobs: -1})},
		{"top-k=1000", batch.SamplingParams{Temperature: 0.8, TopK: 1000, Logprobs: -1}},
		{"top-p-flat", batch.SamplingParams{Temperature: 4, TopP: 0.95, Logprobs: -1}},
		{"typical", batch.SamplingParams{Temperature: 0.8, TypicalP: 0.95, Logprobs: -1}},
		{"xtc", batch.SamplingParams{Temperature: 0.8, XTC: batch.XTC{Probability: 0.5, Threshold: 0.1}, Logprobs: -1}},
		{"dry", batch.SamplingParams{DRY: batch.DRY{Multiplier: 0.8, Base: 1.75, AllowedLength: 2}, Logprobs: -1}},
		{"logprobs=20", batch.SamplingParams{Temperature: 1, Logprobs: 20}},
	} {
		for _, vocab := range []int{49152, 131072} {
			b.Run(fmt.Sprintf("%s/%d", bench.name, vocab), func(b *testing.B) {
				r := rand.New(rand.NewPCG(1, uint64(vocab)))
				logits := logitsLike(r, vocab)
				s := mustNew(b, bench.p, vocab, randomTokens(r, 2000, vocab), nil, nil)
				row := make([]float32, vocab)
				i := 0
				for b.Loop() {
					copy(row, logits)
					if _, err := s.Sample(row, i); err != nil {
						b.Fatal(err)
					}
					i++
				}
			})
		}
	}
}

func BenchmarkRestore(b *testing.B) {
	for _, vocab := range []int{49152, 131072} {
		b.Run(fmt.Sprint(vocab), func(b *testing.B) {
			row, logits := make([]float32, vocab), make([]float32, vocab)
			for b.Loop() {
				copy(row, logits)
			}
		})
	}
}
