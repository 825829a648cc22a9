package sampler

import (
	"math"
	"slices"

	"sestina/batch"
)

// DRY, "don't repeat yourself" (p-e-w's sampler of text-generation-webui, also
// in llama.cpp): if the last L tokens have occurred before, the token that came
// after them then would prolong a repetition, and its logit loses
// multiplier·base^(L − allowed) when L ≥ allowed.
//
//	history   a b c d … a b c        L = 3: d is penalised
//	                          ^ next
//
// All L's at once are the Z function of the reversed history: z[i] is the
// length of the common prefix of reverse and reverse[i:], found in one linear
// pass; the token to penalise stands at reverse[i−1]. A breaker (a newline, a
// quote) ends a match and is never penalised itself, so matches are no longer
// than the run since the last breaker, and most rows stop right there.

// maxDRYPenalty keeps base^length finite: beyond it a token is out of reach anyway.
const maxDRYPenalty = 1e9

// history is what DRY remembers; empty when it is off.
type history struct {
	batch.DRY
	tokens   []int32 // prompt and output
	breakers []int32 // sorted
	run      int     // tokens since the last breaker
}

func (h *history) init(p *batch.DRY, prompt []int32) {
	h.DRY = *p
	if p.Multiplier == 0 {
		return
	}
	h.breakers = slices.Clone(p.Breakers)
	slices.Sort(h.breakers)
	h.tokens = make([]int32, 0, len(prompt)+256)
	for _, t := range prompt {
		h.commit(t)
	}
}

func (h *history) isBreaker(token int32) bool {
	_, ok := slices.BinarySearch(h.breakers, token)
	return ok
}

func (h *history) commit(token int32) {
	if h.Multiplier == 0 {
		return
	}
	h.tokens = append(h.tokens, token)
	h.run++
	if h.isBreaker(token) {
		h.run = 0
	}
}

// penalize costs O(window), nothing while a match cannot be long enough.
func (h *history) penalize(sc *scratch, logits []float32) {
	if h.Multiplier == 0 || h.run < h.AllowedLength {
		return
	}
	window := h.tokens
	if h.LastN > 0 && h.LastN < len(window) {
		window = window[len(window)-h.LastN:]
	}
	sc.best = grow(sc.best, len(logits))
	sc.hit = sc.hit[:0]
	sc.z = zReversed(grow(sc.z, len(window)), window)
	for i := 1; i < len(window); i++ {
		length := min(int(sc.z[i]), h.run)
		next := window[len(window)-i]
		if length < h.AllowedLength || int(sc.best[next]) >= length || h.isBreaker(next) {
			continue
		}
		if sc.best[next] == 0 {
			sc.hit = append(sc.hit, next)
		}
		sc.best[next] = int32(length)
	}
	for _, id := range sc.hit {
		logits[id] -= h.penalty(int(sc.best[id]))
		sc.best[id] = 0
	}
}

// penalty of prolonging a match of that length.
func (h *history) penalty(length int) float32 {
	p := float64(h.Multiplier) * math.Pow(float64(h.Base), float64(length-h.AllowedLength))
	return float32(min(p, maxDRYPenalty))
}

// zReversed fills z with the Z function of the reverse of x: z[i] is the length
// of the longest common suffix of x and x[:len(x)−i]; z[0] is not used.
// [left, right) is the match found so far that reaches furthest (Gusfield 1997, §1.4).
func zReversed(z, x []int32) []int32 {
	last := len(x) - 1
	left, right := 0, 0
	for i := 1; i < len(x); i++ {
		n := 0
		if i < right {
			n = min(right-i, int(z[i-left]))
		}
		if i+n >= right {
			for i+n <= last && x[last-n] == x[last-i-n] {
				n++
			}
			left, right = i, i+n
		}
		z[i] = int32(n)
	}
	return z
}
