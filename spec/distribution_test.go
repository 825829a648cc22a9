package spec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"sestina/batch"
	"sestina/sampler"
)

// chain is a Markov chain over a tiny vocabulary: the target, and what drafts
// are drawn from.
type chain struct {
	logits [][]float32    // of the target, by last token
	p      [][]float64    // their softmax
	q      []sampler.Dist // the proposer's
}

func newChain(seed uint64, vocab int) *chain {
	r := rand.New(rand.NewPCG(seed, 17))
	c := &chain{}
	for range vocab {
		row, p, total := make([]float32, vocab), make([]float64, vocab), 0.
		q, ids := make([]float32, vocab), make([]int32, vocab)
		sum := float32(0)
		for i := range row {
			row[i] = float32(1.2 * r.NormFloat64())
			p[i] = math.Exp(float64(row[i]))
			total += p[i]
			q[i], ids[i] = float32(math.Exp(float64(row[i])+r.NormFloat64())), int32(i) // like p, but off
			sum += q[i]
		}
		for i := range p {
			p[i] /= total
			q[i] /= sum
		}
		c.logits, c.p = append(c.logits, row), append(c.p, p)
		c.q = append(c.q, sampler.Dist{IDs: ids, Probs: q})
	}
	return c
}

// run verifies drafts of random lengths until n tokens are committed, and counts
// tokens by the token before. accept is the rule for sampled drafts; nil takes them as one-hot.
func (c *chain) run(t *testing.T, seed uint64, n int, accept func(p, q, u float64) bool) (counts [][]float64, acceptance float64) {
	vocab := len(c.p)
	counts = make([][]float64, vocab)
	for i := range counts {
		counts[i] = make([]float64, vocab)
	}
	s := newSampler(t, batch.SamplingParams{Temperature: 1, Seed: seed, Logprobs: -1}, vocab, nil, nil)
	r := rand.New(rand.NewPCG(seed, 23))
	buf, last, drafts, dists := make([]float32, vocab), int32(0), []int32{}, []sampler.Dist{}
	target := Target{Sampler: s, Ends: func(int, int32) batch.FinishReason { return batch.NotFinished }}
	target.Row = func(i int) []float32 {
		state := last
		if i > 0 {
			state = drafts[i-1]
		}
		copy(buf, c.logits[state])
		return buf
	}
	var v Verification
	drafted, accepted := 0, 0
	for target.Output < n {
		drafts, dists = drafts[:0], dists[:0]
		for state, k := last, r.IntN(6); k > 0; k-- {
			dists = append(dists, c.q[state])
			state = c.q[state].Draw(r.Float64())
			drafts = append(drafts, state)
		}
		var err error
		if accept == nil {
			err = v.Verify(&target, drafts, nil)
		} else {
			re := rejection{t: &target, drafts: drafts, dists: dists, p: &v.p, accept: accept}
			err = v.verify(&target, drafts, re.draw)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range v.Tokens {
			counts[last][token]++
			last = token
		}
		target.Output += len(v.Tokens)
		drafted += v.Drafted
		accepted += v.Accepted
	}
	return counts, float64(accepted) / float64(drafted)
}

// fit is the p-value of the counts: chi-square over all states.
func (c *chain) fit(counts [][]float64) float64 {
	chi, dof := 0., 0
	for state, row := range counts {
		n := 0.
		for _, k := range row {
			n += k
		}
		for token, k := range row {
			want := n * c.p[state][token]
			chi += (k - want) * (k - want) / want
		}
		dof += len(row) - 1
	}
	// Wilson and Hilferty: (chi/dof)^⅓ is nearly normal.
	k := float64(dof)
	z := (math.Cbrt(chi/k) - (1 - 2/(9*k))) / math.Sqrt(2/(9*k))
	return math.Erfc(z/math.Sqrt2) / 2
}

// A million tokens on each of 20 seeds: committed tokens have the target's
// distribution given the token before, with sampled drafts and with one-hot ones. A
// verifier that accepts 10 % too often is found out on every seed.
func TestDistribution(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			const vocab, tokens = 5, 1000000
			c := newChain(seed, vocab)
			counts, sampled := c.run(t, seed, tokens, acceptRatio)
			if p := c.fit(counts); p < 1e-3 {
				t.Errorf("p = %g: sampled drafts change the distribution", p)
			}
			biased := func(p, q, u float64) bool { return u*q < 1.1*p }
			counts, _ = c.run(t, seed, tokens/10, biased)
			if p := c.fit(counts); p > 1e-3 {
				t.Errorf("p = %g: the test does not see a bias of 10 %%", p)
			}
			if seed%4 != 0 { // one-hot drafts give plain decoding's tokens, see TestEqualsPlainDecoding
				return
			}
			counts, onehot := c.run(t, seed, tokens, nil)
			if p := c.fit(counts); p < 1e-3 {
				t.Errorf("p = %g: one-hot drafts change the distribution", p)
			}
			if sampled <= onehot {
				t.Errorf("acceptance %.3f by rejection sampling, %.3f one-hot", sampled, onehot)
			}
		})
	}
}

// The residual where p and q agree, overlap and are disjoint.
func TestResidual(t *testing.T) {
	p := &sampler.Dist{IDs: []int32{1, 2, 5}, Probs: []float32{0.5, 0.3, 0.2}}
	for _, c := range []struct {
		q    sampler.Dist
		u    float64
		want int32
	}{
		{sampler.Dist{IDs: []int32{1}, Probs: []float32{1}}, 0, 2},
		{sampler.Dist{IDs: []int32{1}, Probs: []float32{1}}, 0.59, 2},
		{sampler.Dist{IDs: []int32{1}, Probs: []float32{1}}, 0.61, 5},
		{sampler.Dist{IDs: []int32{1, 2, 5}, Probs: []float32{0.4, 0.3, 0.3}}, 0.99, 1},
		{sampler.Dist{IDs: []int32{9}, Probs: []float32{1}}, 0.49, 1},
		{*p, 0.6, 2}, // nothing left: p itself
	} {
		if got := residual(p, &c.q, c.u); got != c.want {
			t.Errorf("residual against %v at %v: %d, want %d", c.q, c.u, got, c.want)
		}
	}
}
