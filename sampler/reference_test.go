package sampler

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"sestina/batch"
)

// The oracle: every processor as its definition reads, in float64, by sorting
// everything.

// ref is a distribution as a list in ascending id order.
type ref []refToken

type refToken struct {
	id     int
	logit  float64
	p      float64
	number float64 // sort key of typical
}

func referenceDistribution(p *batch.SamplingParams, logits []float32, prompt, output, eog []int32, xtcActs bool) ref {
	l := make([]float64, len(logits))
	for i, v := range logits {
		l[i] = float64(v)
	}
	referenceBias(p, l, len(output), eog)
	referencePenalties(p, l, prompt, output)
	referenceDRY(&p.DRY, l, append(slices.Clone(prompt), output...))
	if p.Temperature < greedyBelow {
		best := 0
		for i := range l {
			if l[i] > l[best] {
				best = i
			}
		}
		return ref{{id: best, p: 1}}
	}
	d := make(ref, len(l))
	for i, v := range l {
		d[i] = refToken{id: i, logit: v / float64(p.Temperature)}
	}
	if p.TopK > 0 {
		d = d.sorted(func(t refToken) float64 { return -t.logit })
		d = d[:min(p.TopK, len(d))]
	}
	d = d.softmax()
	if on(p.TypicalP) {
		entropy := 0.0
		for _, t := range d {
			if t.p > 0 {
				entropy -= t.p * math.Log(t.p)
			}
		}
		d = d.prefix(float64(p.TypicalP), func(t refToken) float64 { return math.Abs(-math.Log(t.p) - entropy) })
	}
	if on(p.TopP) {
		d = d.prefix(float64(p.TopP), func(t refToken) float64 { return -t.p })
	}
	if p.MinP > 0 {
		top := slices.MaxFunc(d, func(a, b refToken) int { return cmp.Compare(a.p, b.p) }).p
		d = slices.DeleteFunc(d, func(t refToken) bool { return t.p < float64(p.MinP)*top })
	}
	if xtcActs {
		d = d.renormalised().xtc(float64(p.XTC.Threshold))
	}
	d = slices.DeleteFunc(d, func(t refToken) bool { return t.p == 0 })
	slices.SortFunc(d, func(a, b refToken) int { return cmp.Compare(a.id, b.id) })
	return d.renormalised()
}

func referenceBias(p *batch.SamplingParams, l []float64, output int, eog []int32) {
	for _, b := range p.LogitBias {
		if l[b.ID] += float64(b.Bias); b.Bias <= -100 {
			l[b.ID] = math.Inf(-1)
		}
	}
	if output < p.MinTokens {
		for _, id := range append(slices.Clone(eog), p.StopIDs...) {
			l[id] = math.Inf(-1)
		}
	}
}

func referencePenalties(p *batch.SamplingParams, l []float64, prompt, output []int32) {
	for i := range l {
		inPrompt, n := slices.Contains(prompt, int32(i)), 0
		for _, t := range output {
			if t == int32(i) {
				n++
			}
		}
		if p.RepetitionPenalty > 0 && (inPrompt || n > 0) {
			if l[i] > 0 {
				l[i] /= float64(p.RepetitionPenalty)
			} else {
				l[i] *= float64(p.RepetitionPenalty)
			}
		}
		if n > 0 {
			l[i] -= float64(n)*float64(p.FrequencyPenalty) + float64(p.PresencePenalty)
		}
	}
}

// referenceDRY looks at every earlier occurrence of the last token and walks
// back from both while they agree.
func referenceDRY(p *batch.DRY, l []float64, x []int32) {
	if p.LastN > 0 && len(x) > p.LastN {
		x = x[len(x)-p.LastN:]
	}
	if p.Multiplier == 0 || len(x) == 0 {
		return
	}
	last := len(x) - 1
	longest := map[int32]int{}
	for i := range last {
		next := x[i+1]
		if slices.Contains(p.Breakers, next) {
			continue
		}
		n := 0
		for i-n >= 0 && x[i-n] == x[last-n] && !slices.Contains(p.Breakers, x[last-n]) {
			n++
		}
		longest[next] = max(longest[next], n)
	}
	for id, n := range longest {
		if n >= p.AllowedLength {
			l[id] -= min(float64(p.Multiplier)*math.Pow(float64(p.Base), float64(n-p.AllowedLength)), maxDRYPenalty)
		}
	}
}

// sorted orders by number ascending, ties by id.
func (d ref) sorted(number func(refToken) float64) ref {
	d = slices.Clone(d)
	for i := range d {
		d[i].number = number(d[i])
	}
	slices.SortFunc(d, func(a, b refToken) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.id, b.id))
	})
	return d
}

func (d ref) softmax() ref {
	top := math.Inf(-1)
	for _, t := range d {
		top = max(top, t.logit)
	}
	for i := range d {
		d[i].p = math.Exp(d[i].logit - top)
		if d[i].logit-top < -87 { // the contract's exp flushes here
			d[i].p = 0
		}
	}
	return slices.DeleteFunc(d, func(t refToken) bool { return t.p == 0 }).renormalised()
}

func (d ref) renormalised() ref {
	sum := 0.0
	for _, t := range d {
		sum += t.p
	}
	for i := range d {
		d[i].p /= sum
	}
	return d
}

func (d ref) prefix(mass float64, number func(refToken) float64) ref {
	d = d.sorted(number)
	for i, sum := 0, 0.0; i < len(d); i++ {
		if sum += d[i].p; sum >= mass {
			d = d[:i+1]
		}
	}
	return d.renormalised()
}

func (d ref) xtc(threshold float64) ref {
	d = d.sorted(func(t refToken) float64 { return -t.p })
	top := 0
	for top < len(d) && d[top].p >= threshold {
		top++
	}
	return d[max(top-1, 0):]
}

// compareDist fails unless the ids are the same and the probabilities agree to
// float32's accuracy.
func compareDist(t *testing.T, got *Dist, want ref) {
	t.Helper()
	if len(got.IDs) != len(want) {
		t.Fatalf("%d ids survive, want %d", len(got.IDs), len(want))
	}
	for i, w := range want {
		if got.IDs[i] != int32(w.id) {
			t.Fatalf("survivor %d is id %d, want %d", i, got.IDs[i], w.id)
		}
		if p := float64(got.Probs[i]); math.Abs(p-w.p) > 2e-5*w.p+1e-12 {
			t.Fatalf("p(%d) = %g, want %g", w.id, p, w.p)
		}
	}
}

// logitsLike returns a row shaped like a language model's: a normal bulk and a
// few tokens far above it.
func logitsLike(r *rand.Rand, vocab int) []float32 {
	x := make([]float32, vocab)
	for i := range x {
		x[i] = float32(r.NormFloat64() * 2)
	}
	for i := range min(vocab, 40) {
		x[r.IntN(vocab)] += float32(12 - 0.3*float64(i))
	}
	return x
}

func randomTokens(r *rand.Rand, n, vocab int) []int32 {
	x := make([]int32, n)
	for i := range x {
		x[i] = int32(r.IntN(vocab))
	}
	return x
}

// chiSquareP returns the probability of a deviation at least as large as that
// of the counts from their expectations (Wilson and Hilferty's cube root,
// accurate to a few per cent of p in the tail used here).
func chiSquareP(counts []int, expected []float64) float64 {
	chi, df := 0.0, -1.0
	for i, e := range expected {
		d := float64(counts[i]) - e
		chi += d * d / e
		df++
	}
	z := (math.Cbrt(chi/df) - (1 - 2/(9*df))) / math.Sqrt(2/(9*df))
	return math.Erfc(z/math.Sqrt2) / 2
}
