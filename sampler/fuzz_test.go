package sampler

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"

	"sestina/batch"
)

// Whatever the parameters and the row, a refusal is a typed error and a token
// is one that may be drawn; an ordinary row always gives one.
func FuzzSample(f *testing.F) {
	row := func(x ...float32) []byte {
		var b []byte
		for _, v := range x {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
		return b
	}
	inf := float32(math.Inf(1))
	f.Add(row(1, 2, 3, 4), float32(1), 2, float32(0.9), float32(0.05), float32(0.9), float32(1.1), float32(0.5), float32(0.1), uint64(1))
	f.Add(row(1, float32(math.NaN())), float32(0), 0, float32(0), float32(0), float32(0), float32(0), float32(0), float32(0), uint64(2))
	f.Add(row(-inf, -inf, 7), float32(0.001), 1, float32(1e-9), float32(1), float32(1e-9), float32(0.01), float32(1), float32(0), uint64(3))
	f.Add(row(3e38, -3e38, 0, inf), float32(1e-4), 9, float32(1), float32(0), float32(1), float32(100), float32(0), float32(1), uint64(4))
	f.Add(row(0, 0, 0, 0, 0, 0, 0), float32(50), 3, float32(0.99), float32(0), float32(0.5), float32(2), float32(1), float32(0), uint64(5))
	f.Fuzz(func(t *testing.T, data []byte, temperature float32, topK int, topP, minP, typical, repetition, xtc, threshold float32, seed uint64) {
		vocab := min(len(data)/4, 2000)
		logits := make([]float32, vocab)
		for i := range logits {
			logits[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		}
		p := batch.SamplingParams{
			Temperature: temperature, TopK: topK, TopP: topP, MinP: minP, TypicalP: typical, RepetitionPenalty: repetition,
			FrequencyPenalty: minP, XTC: batch.XTC{Probability: xtc, Threshold: threshold},
			DRY:  batch.DRY{Multiplier: xtc, Base: 1.5, AllowedLength: 1},
			Seed: seed, Logprobs: int(seed%22) - 1, MinTokens: 1,
		}
		banned := map[int32]bool{}
		if vocab > 2 {
			p.LogitBias = []batch.LogitBias{{ID: int32(seed % uint64(vocab)), Bias: -100}}
			p.StopIDs = []int32{int32(seed / 7 % uint64(vocab))}
			banned[p.LogitBias[0].ID], banned[p.StopIDs[0]] = true, true
		}
		var prompt []int32
		for i := range min(vocab, 20) {
			prompt = append(prompt, int32(i%3%vocab))
		}
		s, err := New(&p, 0, vocab, prompt, nil)
		var param *ParamError
		if err != nil {
			if !errors.As(err, &param) {
				t.Fatalf("New: %v", err)
			}
			return
		}
		got, err := s.Sample(slices.Clone(logits), 0)
		if err != nil {
			if !errors.Is(err, ErrNaN) || ordinary(logits, banned) {
				t.Fatalf("Sample: %v", err)
			}
			return
		}
		if got.Token < 0 || int(got.Token) >= vocab || banned[got.Token] || math.IsInf(float64(logits[got.Token]), -1) {
			t.Fatalf("token %d of %d may not be drawn (banned: %v)", got.Token, vocab, banned)
		}
		var d Dist
		if err := s.Distribution(&d, logits, 0); err != nil {
			t.Fatalf("Distribution after Sample: %v", err)
		}
		sum := 0.0
		for i, id := range d.IDs {
			if i > 0 && id <= d.IDs[i-1] || banned[id] || !(d.Probs[i] > 0) {
				t.Fatalf("survivor %d: id %d with p %g", i, id, d.Probs[i])
			}
			sum += float64(d.Probs[i])
		}
		if math.Abs(sum-1) > 1e-4 || d.Prob(got.Token) <= 0 {
			t.Fatalf("probabilities sum to %g; the drawn token has %g", sum, d.Prob(got.Token))
		}
	})
}

// ordinary tells whether a row is finite and leaves a token that is not banned.
func ordinary(logits []float32, banned map[int32]bool) bool {
	free := false
	for i, v := range logits {
		if !(math.Abs(float64(v)) < 1e30) {
			return false
		}
		free = free || !banned[int32(i)]
	}
	return free
}
