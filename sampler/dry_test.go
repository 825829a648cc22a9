package sampler

import (
	"math"
	"math/rand/v2"
	"testing"

	"sestina/batch"
)

func TestDRYByHand(t *testing.T) {
	// a b c d x a b c: d would prolong a match of 3. Token ids: a=0 … x=9.
	text := []int32{0, 1, 2, 3, 9, 0, 1, 2}
	for _, tt := range []struct {
		name string
		dry  batch.DRY
		text []int32
		want map[int]float32 // logits lost
	}{
		{"match of 3", batch.DRY{Multiplier: 1, Base: 2, AllowedLength: 2}, text, map[int]float32{3: 2}},
		{"exactly allowed", batch.DRY{Multiplier: 0.5, Base: 2, AllowedLength: 3}, text, map[int]float32{3: 0.5}},
		{"too short", batch.DRY{Multiplier: 1, Base: 2, AllowedLength: 4}, text, nil},
		{"off", batch.DRY{Base: 2, AllowedLength: 1}, text, nil},
		{"window hides the first", batch.DRY{Multiplier: 1, Base: 2, AllowedLength: 1, LastN: 4}, text, nil},
		{"window cuts the match", batch.DRY{Multiplier: 1, Base: 2, AllowedLength: 1, LastN: 7}, text, map[int]float32{3: 2}},
		{"breaker inside", batch.DRY{Multiplier: 1, Base: 2, AllowedLength: 1, Breakers: []int32{1}}, text, map[int]float32{3: 1}},
		{"breaker last", batch.DRY{Multiplier: 1, Base: 2, AllowedLength: 1, Breakers: []int32{2}}, text, nil},
		{"breaker next", batch.DRY{Multiplier: 1, Base: 2, AllowedLength: 1, Breakers: []int32{3}}, text, nil},
		{"overlap", batch.DRY{Multiplier: 1, Base: 2, AllowedLength: 1}, []int32{5, 5, 5, 5}, map[int]float32{5: 4}},
		{"longest wins", batch.DRY{Multiplier: 1, Base: 2, AllowedLength: 1}, []int32{1, 2, 7, 2, 7, 1, 2}, map[int]float32{7: 2}},
		{"empty", batch.DRY{Multiplier: 1, Base: 2, AllowedLength: 1}, nil, nil},
		{"never infinite", batch.DRY{Multiplier: 100, Base: 100, AllowedLength: 1}, make([]int32, 300), map[int]float32{0: maxDRYPenalty}},
	} {
		var h history
		h.init(&tt.dry, tt.text)
		logits := make([]float32, 10)
		h.penalize(newScratch(), logits)
		for id, got := range logits {
			if -got != tt.want[id] {
				t.Errorf("%s: token %d loses %g, want %g", tt.name, id, -got, tt.want[id])
			}
		}
	}
}

// Random texts over few tokens, so full of repetitions, against walking back
// from every occurrence; the scratch is reused, so what one row leaves behind
// would show in the next.
func TestDRYAgainstReference(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	sc, penalised := newScratch(), 0
	for round := range 3000 {
		alphabet := 1 + r.IntN(5)
		text := randomTokens(r, r.IntN(60), alphabet)
		dry := batch.DRY{Multiplier: 0.5, Base: 1.5, AllowedLength: 1 + r.IntN(4), LastN: r.IntN(70)}
		dry.Breakers = randomTokens(r, r.IntN(3), alphabet+2)
		want, got := make([]float64, 8), make([]float32, 8)
		referenceDRY(&dry, want, text)
		var h history
		h.init(&dry, text[:len(text)/2])
		for _, token := range text[len(text)/2:] {
			h.commit(token)
		}
		h.penalize(sc, got)
		for id := range got {
			if math.Abs(float64(got[id])-want[id]) > 1e-5*math.Abs(want[id]) {
				t.Fatalf("round %d, %v of %v: token %d gets %g, want %g", round, dry, text, id, got[id], want[id])
			}
			if got[id] != 0 {
				penalised++
			}
		}
	}
	if penalised < 1000 {
		t.Errorf("only %d penalties: nothing was tested", penalised)
	}
}
