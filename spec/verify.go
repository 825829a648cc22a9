package spec

import (
	"slices"

	"sestina/batch"
	"sestina/sampler"
)

// Verification: which tokens does a step commit, given the logits of a
// sequence's last token and of its drafts d₁ … dₙ?
//
//	row 0   after the last token    draw t₁;  t₁ = d₁?  accepted, go on
//	row 1   after d₁                draw t₂;  t₂ ≠ d₂:  recovered, stop: rows 2… followed a token that is not there
//	row n   after dₙ                draw:     bonus
//
// One-hot drafts. A token is drawn exactly as it would be without drafts: from
// this row, after the commits before it, with the random number of its output
// index. By induction the committed tokens are those of plain decoding, whatever
// was proposed: bit for bit with a seed, under every processor, and with greedy
// as the case of one point. A draft x is accepted with probability p(x), which
// is what rejection sampling gives a one-hot proposal, min(1, p/1). Nothing is
// rolled back, because rejected drafts are never committed.
//
// Sampled drafts (Leviathan, Kalman and Matias 2023; Chen et al. 2023). x was
// drawn from q: accept with probability min(1, p(x)/q(x)), else draw from the
// residual (p − q)⁺, normalised. The token then has distribution p, and is
// accepted with probability Σ min(p, q) instead of Σ p·q. The price: seeded
// output depends on the drafts, so this is an option. p is after all processors.
//
// Ends are decided token by token as they are committed: an end-of-generation
// id, a stop string or the budget cuts inside an accepted draft, and what is
// behind it was never drawn.
//
// Tests: TestEqualsPlainDecoding, TestDistribution (and its biased twin, which fails).

// Verification is what a step decided for one sequence. Its memory is reused.
type Verification struct {
	Samples  []sampler.Sample // what to commit, in order, at least one; accepted drafts first
	Tokens   []int32          // their ids
	Drafted  int              // drafts that had a row
	Accepted int              // drafts that the target would have drawn; the last may have ended the sequence
	Finish   batch.FinishReason

	p sampler.Dist // the target's, of one row of rejection sampling
}

// Recovered reports whether a draft was rejected: the last token replaces it.
func (v *Verification) Recovered() bool {
	return v.Accepted < v.Drafted && len(v.Tokens) > v.Accepted
}

// Bonus reports whether the last token is one beyond the drafts, all accepted.
func (v *Verification) Bonus() bool {
	return v.Accepted == v.Drafted && len(v.Tokens) > v.Accepted
}

// Target is the target model's side of a verification.
type Target struct {
	Sampler *sampler.Sampler
	// Row returns the logits that follow i accepted drafts, 0 ≤ i ≤ drafts. It is
	// asked once for each i, ascending, and the row may be overwritten.
	Row func(i int) []float32
	// Output is the index of the first token among the sequence's outputs.
	Output int
	// Ends is told each committed token with its output index, in order, and says
	// whether the sequence ends with it.
	Ends func(output int, token int32) batch.FinishReason
}

// Verify fills v with what the target commits, given drafts (none is plain
// decoding). Each committed token has been given to Sampler.Commit and Ends.
//
// dists, when not nil, are what the drafts were sampled from and select rejection
// sampling; samples then carry no log probabilities, so a request that wants them
// is verified without dists, which is exact as well.
//
// Errors are the sampler's, of the first row. An error in a later row ends the
// verification before it: the tokens so far stand, and the next step meets that
// row as its first, as plain decoding would.
func (v *Verification) Verify(t *Target, drafts []int32, dists []sampler.Dist) error {
	if dists == nil {
		return v.verify(t, drafts, func(i int) (sampler.Sample, bool, error) {
			s, err := t.Sampler.Sample(t.Row(i), t.Output+i)
			s.Top = slices.Clone(s.Top) // the sampler uses its memory again
			return s, i < len(drafts) && s.Token == drafts[i], err
		})
	}
	r := rejection{t: t, drafts: drafts, dists: dists, p: &v.p, accept: acceptRatio}
	return v.verify(t, drafts, r.draw)
}

// verify is the loop of both kinds: draw returns the token of output t.Output+i
// and whether it is draft i.
func (v *Verification) verify(t *Target, drafts []int32, draw func(i int) (s sampler.Sample, accepted bool, err error)) error {
	*v = Verification{Samples: v.Samples[:0], Tokens: v.Tokens[:0], Drafted: len(drafts), p: v.p}
	for i := 0; ; i++ {
		s, accepted, err := draw(i)
		if err != nil {
			if i > 0 {
				return nil
			}
			return err
		}
		s.Origin = origin(i, len(drafts), accepted)
		v.Samples = append(v.Samples, s)
		v.Tokens = append(v.Tokens, s.Token)
		t.Sampler.Commit(s.Token)
		v.Finish = t.Ends(t.Output+i, s.Token)
		if accepted {
			v.Accepted++
		}
		if !accepted || v.Finish != batch.NotFinished {
			return nil
		}
	}
}

// origin of the token in place of draft i of n, or behind the last.
func origin(i, n int, accepted bool) sampler.Origin {
	switch {
	case accepted:
		return sampler.Accepted
	case i < n:
		return sampler.Recovered
	case n > 0:
		return sampler.Bonus
	}
	return sampler.Plain
}

// rejection draws by rejection sampling against the drafts' distributions.
type rejection struct {
	t      *Target
	drafts []int32
	dists  []sampler.Dist
	p      *sampler.Dist
	accept func(p, q, u float64) bool
}

// acceptRatio accepts with probability min(1, p/q), u being uniform in [0, 1).
func acceptRatio(p, q, u float64) bool { return u*q < p }

func (r *rejection) draw(i int) (s sampler.Sample, accepted bool, err error) {
	out := r.t.Output + i
	if i == len(r.drafts) {
		s, err = r.t.Sampler.Sample(r.t.Row(i), out)
		s.Top = slices.Clone(s.Top)
		return s, false, err
	}
	if err = r.t.Sampler.Distribution(r.p, r.t.Row(i), out); err != nil {
		return s, false, err
	}
	x, q := r.drafts[i], &r.dists[i]
	if r.accept(float64(r.p.Prob(x)), float64(q.Prob(x)), r.t.Sampler.Uniform(out, sampler.LaneAccept)) {
		return sampler.Sample{Token: x}, true, nil
	}
	return sampler.Sample{Token: residual(r.p, q, r.t.Sampler.Uniform(out, sampler.LaneResidual))}, false, nil
}

// residual is the id at u ∈ [0, 1) of the distribution (p − q)⁺, normalised;
// of p where rounding leaves nothing.
func residual(p, q *sampler.Dist, u float64) int32 {
	total := 0.0
	for i, id := range p.IDs {
		total += max(0, float64(p.Probs[i])-float64(q.Prob(id)))
	}
	if total <= 0 {
		return p.Draw(u)
	}
	last, sum := p.IDs[0], 0.0
	for i, id := range p.IDs {
		if d := float64(p.Probs[i]) - float64(q.Prob(id)); d > 0 {
			last = id
			if sum += d; sum > u*total {
				break
			}
		}
	}
	return last
}
