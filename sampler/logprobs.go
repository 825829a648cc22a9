package sampler

import (
	"cmp"
	"math"
	"slices"

	"sestina/internal/simd"
)

// sampleLogprobs is Sample with log probabilities: the processors get a copy,
// so that the raw logits are still there when the token is known.
func (s *Sampler) sampleLogprobs(sc *scratch, logits []float32, output int) (Sample, error) {
	best, top := simd.ArgMax(logits)
	if err := checkTop(best, top); err != nil {
		return Sample{}, err
	}
	row := grow(sc.row, len(logits))
	sc.row = row
	logTotal := math.Log(simd.SoftmaxWeights(row, logits, top, 1))
	logprob := func(id int32) float32 {
		return float32(float64(logits[id]) - float64(top) - logTotal)
	}

	copy(row, logits)
	d, err := s.distribution(sc, row, output)
	if err != nil {
		return Sample{}, err
	}
	out := Sample{Token: s.draw(sc, d, output)}
	out.Logprob = logprob(out.Token)
	if n := s.params.Logprobs; n > 0 {
		s.top = s.top[:0]
		for _, id := range sc.topK(logits, n) { // the scratch is free again: the token is drawn
			s.top = append(s.top, TokenLogprob{id, logprob(id)})
		}
		// Ids ascend, so a stable sort leaves ties with the lowest id first.
		slices.SortStableFunc(s.top, func(a, b TokenLogprob) int {
			return cmp.Compare(logits[b.Token], logits[a.Token])
		})
		out.Top = s.top
	}
	return out, nil
}
