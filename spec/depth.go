package spec

import (
	"cmp"
	"slices"
	"time"
)

// Depth is the depth controller: how many draft rows does each sequence get in
// the next step? None is always among the answers.
//
// # What is maximised
//
// Let N sequences wait for their next token in a step of b rows without drafts.
// Draft m of sequence i commits one more token with probability
//
//	g(i,m) = a(i,1) · … · a(i,m)      a: acceptance given the ones before (history.go)
//
// and D draft rows cost c(b+D) − c(b) (curve.go). The rows of prompts in b pay
// for themselves, so the sequences are charged what they would cost alone:
//
//	tokens per second (D) = (N + G(D)) / (c(N) + c(b+D) − c(b) + p·k)
//
// with p·k the proposer's passes, where it has a price. As g falls with m, the best D
// rows are the D largest g of all sequences, and taking them in order never
// takes a draft before its predecessor. So the plan sorts the gains and reads
// off the best D: no heuristic, and no assumption that c is convex (kernels
// have steps). It takes depth 0 unless the gain is at least margin.
//
// # What keeps it honest
//
// Estimates can be wrong, and a controller that stopped would never learn that
// times have changed. Two accounts, in plain steps (the time of a step at depth 0):
//
//   - purse: every step pays in tithe; every step with drafts pays its realised
//     result, accepted/N − (c(b+D) − c(b))/c(N), positive or not. It starts at
//     start and holds at most ceiling. Below 0 nothing is drafted. So whatever the
//     acceptance does, at most start + tithe·steps plain steps are lost to
//     plain decoding, as far as c is right; a measured c is right soon.
//   - probes: every step pays in tithe; a probe, some rows beyond the plan for
//     one sequence, pays what its rows cost. Rows that are nearly free are probed
//     often, dear ones rarely, and a turned-off proposer finds its way back.
//
// Besides, a step goes without drafts when c(b) has not been measured for
// stale steps.
//
// All of it is a function of the calls: no clock, no chance. Test:
// TestDepthNeverLoses plays scripted traces against every fixed depth.
type Depth struct {
	curve  *Curve
	shared []History // by proposer
	purse  float64
	probes float64
	turn   int // whose probe it is
	order  []row
	p      [MaxDraft]float64
}

const (
	tithe   = 0.004
	start   = 3.
	ceiling = 6.
	margin  = 1.01
	stale   = 256
	least   = 0.02 // gains below are never worth a row
)

// row is a candidate draft row.
type row struct {
	gain float64
	who  int32
	m    int32 // position in its draft
	must bool  // decided already
}

// Candidate is a sequence that may be given drafts.
type Candidate struct {
	Own    *History // the sequence's, with that proposer
	Source int      // which proposer
	Class  int      // of the draft; 0 while it is not known
	Max    int      // longest draft there is, or may be asked for; 0: none
	Min    int      // drafts decided on by an earlier plan of this step, and paid for
}

// NewDepth makes a controller for so many proposers.
func NewDepth(curve *Curve, sources int) *Depth {
	return &Depth{curve: curve, shared: make([]History, sources), purse: start}
}

// Plan fills k[i] with the drafts of candidate i, Min ≤ k[i] ≤ Max, for a step of
// base rows without drafts in which the candidates are all sequences that wait
// for a token (those without a draft included, with Max 0). pass is what the
// proposer takes for each token of the longest draft; 0 when the drafts are there
// already. No allocation in steady state.
func (d *Depth) Plan(base int, cands []Candidate, pass time.Duration, k []int) {
	clear(k)
	if len(cands) == 0 {
		return
	}
	d.rank(cands)
	base = max(base, len(cands))
	decided := 0
	for i := range cands {
		k[i] = cands[i].Min
		decided += k[i]
	}
	cost := d.costs(base, len(cands), float64(pass))
	if d.purse >= 0 && (decided > 0 || d.curve.age(base) <= stale) {
		d.best(&cost, decided, k)
	}
	if d.curve.age(base) <= stale {
		d.probe(&cost, cands, k)
	}
}

// rank lists the rows worth considering, best first.
func (d *Depth) rank(cands []Candidate) {
	d.order = d.order[:0]
	for i := range cands {
		c := &cands[i]
		if c.Max < 1 {
			continue
		}
		p := d.p[:min(c.Max, MaxDraft)]
		survival(p, c.Own, &d.shared[c.Source], c.Class)
		for m, g := range p {
			must := m < c.Min
			if g < least && !must {
				break
			}
			d.order = append(d.order, row{g, int32(i), int32(m), must})
		}
	}
	slices.SortStableFunc(d.order, func(a, b row) int {
		if a.must != b.must {
			if a.must {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.gain, a.gain)
	})
}

// stepCost prices a step's drafts, in nanoseconds.
type stepCost struct {
	curve       *Curve
	base, n     int
	plain, rest float64 // c(N), c(base)
	pass        float64
}

func (d *Depth) costs(base, n int, pass float64) stepCost {
	return stepCost{d.curve, base, n, max(1, d.curve.at(n)), d.curve.at(base), pass}
}

// rows is what so many draft rows add.
func (s *stepCost) rows(drafts int) float64 { return max(0, s.curve.at(s.base+drafts)-s.rest) }

// best takes the rows with the most tokens per second, the decided ones among
// them. With passes to pay for, every cap on the longest draft is tried.
func (d *Depth) best(s *stepCost, decided int, k []int) {
	first := 1 // cap tried first
	if s.pass == 0 {
		first = MaxDraft
	}
	n := float64(s.n)
	bestRate, bestCap, bestRows := margin*n/s.plain, 0, 0
	for limit := first; limit <= MaxDraft; limit++ {
		tokens, rows, extra := n, 0, s.pass*float64(limit)
		for _, r := range d.order {
			if int(r.m) >= limit && !r.must {
				continue
			}
			rows++
			tokens += r.gain
			rate := tokens / (s.plain + s.rows(rows) + extra)
			if rows == decided {
				bestRate = max(rate, bestRate)
			}
			if rows > decided && rate > bestRate {
				bestRate, bestCap, bestRows = rate, limit, rows
			}
		}
	}
	for _, r := range d.order {
		if bestRows == 0 {
			return
		}
		if r.must || int(r.m) < bestCap {
			bestRows--
			if !r.must {
				k[r.who]++
			}
		}
	}
}

// probe lengthens one sequence's draft beyond the plan, by 1, 2, 4 or 8 rows in
// turn, when the account can pay for them.
func (d *Depth) probe(s *stepCost, cands []Candidate, k []int) {
	rows := 0
	for _, n := range k {
		rows += n
	}
	for range cands {
		d.turn++
		i := d.turn % len(cands)
		more := min(1<<(d.turn/len(cands)%4), min(cands[i].Max, MaxDraft)-k[i])
		if more <= 0 {
			continue
		}
		price := (s.rows(rows+more) - s.rows(rows) + s.pass*float64(more)) / s.plain
		if price <= d.probes {
			d.probes -= price
			k[i] += more
		}
		return
	}
}

// Verified tells of a draft of one sequence: how many were accepted, and whether
// one was rejected after them.
func (d *Depth) Verified(c *Candidate, accepted int, rejected bool) {
	c.Own.observe(c.Class, accepted, rejected, ownDecay)
	d.shared[c.Source].observe(c.Class, accepted, rejected, sharedDecay)
}

// Done tells of a step: its rows without drafts, its draft rows, sequences that
// got tokens, drafts accepted, what the proposers took for it and how long the
// step itself took.
func (d *Depth) Done(base, drafts, seqs, accepted int, proposing, took time.Duration) {
	d.curve.Observe(base+drafts, took)
	d.purse += tithe
	d.probes = min(d.probes+tithe, 1)
	if drafts > 0 && seqs > 0 {
		s := d.costs(base, seqs, 0)
		d.purse += float64(accepted)/float64(seqs) - (s.rows(drafts)+float64(proposing))/s.plain
	}
	d.purse = min(d.purse, ceiling)
}
