package spec

import (
	"math"

	"sestina/spec"
)

// Synthetic is what an acceptance would bring with the curve measured now.
type Synthetic struct {
	Acceptance float64 `json:"acceptance"`
	Curve      []Point `json:"curve"`  // measured
	Depths     []Depth `json:"depths"` // formula on the measured curve
	Best       Depth   `json:"best"`
	Claims     []Claim `json:"claims"`
}

// Depth is the gain at one draft length, proposing for free.
type Depth struct {
	Drafts int     `json:"drafts"`
	Cost   float64 `json:"cost"`                  // c(1+k)/c(1), measured
	Tokens float64 `json:"tokens_per_pass"`       // formula
	Gain   float64 `json:"gain"`                  // formula: Tokens / Cost
	Even   float64 `json:"break_even_acceptance"` // formula: the acceptance from which this length pays; above 1 none does
}

// Claim is a published figure held against the curve.
type Claim struct {
	Name       string  `json:"name"`
	Published  float64 `json:"published_gain"`
	Drafts     int     `json:"drafts"`               // of the published method; 0 = not published, the best is taken
	Acceptance float64 `json:"acceptance,omitempty"` // published; 0 = not
	Propose    float64 `json:"propose_cost"`         // of a token, in plain steps: assumed
	Gain       float64 `json:"gain,omitempty"`       // formula, at the published acceptance
	Needed     float64 `json:"needed_acceptance"`    // formula, for the published gain on this curve; above 1: out of reach
	Bound      float64 `json:"bound"`                // formula: the gain with every draft accepted
}

// published are the claims. DeepSeek-V3's report (2024, §5.4.3) gives 85 to 90 %
// acceptance of the second token and 1.8 times the tokens per second; its head is
// one layer of 61. Gemma 4's names neither depth nor acceptance; a head of some
// hundredth of the model is assumed.
var published = []Claim{
	{Name: "DeepSeek-V3, one MTP layer", Published: 1.8, Drafts: 1, Acceptance: 0.875, Propose: 1. / 61},
	{Name: "Gemma 4, up to", Published: 3, Propose: 0.01},
}

func (s *suite) synthetic() error {
	curve, err := s.curve(spec.MaxDraft, curveReps)
	if err != nil {
		return err
	}
	s.report.Synthetic = evaluate(s.cfg.Acceptance, curve)
	return nil
}

// evaluate applies the formula to a curve whose i-th point has 1 + i rows.
func evaluate(p float64, curve []Point) *Synthetic {
	out := &Synthetic{Acceptance: p, Curve: curve, Best: Depth{Cost: 1, Tokens: 1, Gain: 1}}
	for k := 1; k < len(curve); k++ {
		d := Depth{Drafts: k, Cost: curve[k].MS / curve[0].MS, Tokens: tokens(p, k), Gain: gain(curve, p, k, 0)}
		d.Even = acceptanceFor(1, func(p float64) float64 { return gain(curve, p, k, 0) })
		if out.Depths = append(out.Depths, d); d.Gain > out.Best.Gain {
			out.Best = d
		}
	}
	out.Claims = Claims(curve)
	return out
}

// Claims are the published figures held against a curve.
func Claims(curve []Point) (out []Claim) {
	for _, c := range published {
		at := func(p float64) float64 {
			if c.Drafts > 0 {
				return gain(curve, p, c.Drafts, c.Propose)
			}
			best := 1.
			for k := 1; k < len(curve); k++ {
				best = max(best, gain(curve, p, k, c.Propose))
			}
			return best
		}
		if c.Acceptance > 0 {
			c.Gain = at(c.Acceptance)
		}
		c.Needed, c.Bound = acceptanceFor(c.Published, at), at(1)
		out = append(out, c)
	}
	return out
}

// tokens is what a pass with k drafts commits on average.
func tokens(p float64, k int) float64 {
	sum, power := 1., 1.
	for range k {
		power *= p
		sum += power
	}
	return sum
}

// gain is S(P, k) of the package's essay.
func gain(curve []Point, p float64, k int, propose float64) float64 {
	return tokens(p, k) / (curve[k].MS/curve[0].MS + propose*float64(k))
}

// acceptanceFor is the least acceptance with which a gain, which grows with it,
// reaches target; 2 when none does.
func acceptanceFor(target float64, gain func(p float64) float64) float64 {
	if gain(1) < target {
		return 2
	}
	low, high := 0., 1.
	for range 50 {
		if mid := (low + high) / 2; gain(mid) < target {
			low = mid
		} else {
			high = mid
		}
	}
	return math.Round(high*1e6) / 1e6
}
