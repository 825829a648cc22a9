package spec

import (
	"cmp"
	"math/bits"
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
//	tokens per second (D) = (N + W(D)) / (c(N) + surcharge·(c(b+D) − c(b)) + p·k)
//
// with W what the gains are worth, their sum for one sequence, less in a batch
// (worth.go), and p·k the proposer's passes, where it has a price. As g falls with m, the
// best D rows are taken to be the D largest g of all sequences, and taking them in order
// never takes a draft before its predecessor. So the plan sorts the gains and reads
// off the best D: no assumption that c is convex (kernels have steps). The best of many
// uncertain rates looks better than it is: that is what the surcharge is for. Depth 0
// is taken unless the gain is at least margin.
//
// # What keeps it honest
//
// Estimates can be wrong, and a controller that stopped would never learn that
// times have changed. Two accounts, in plain steps (the time of a step at depth 0):
//
//   - purse: every step pays in tithe; every step with drafts adds its realised
//     result, worth/N of each accepted token − (c(b+D) − c(b) + proposing)/c(N),
//     positive or not. It starts at start and holds at most ceiling. A step stakes
//     no more than half of it, so a new engine tries short drafts and those that
//     come true pay for longer ones. So whatever the acceptance does, at most
//     start + (tithe + probeTithe)·steps plain steps are ever lost to plain decoding, and
//     at most ceiling after a good spell, as far as c is right.
//   - probes: every step pays in probeTithe; a probe, some rows beyond the plan for
//     one sequence, costs what its rows cost. Rows that are nearly free are probed
//     often, dear ones rarely, and a turned-off proposer finds its way back.
//
// Before anything was accepted, proposers say what their classes are worth
// (Graded): a match of one token is right 15 times in 100, one of eight 85. What
// was seen is kept for the engine's life, by class, and fades.
//
// And c is measured where the comparison stands on it: drafts wait until steps of
// b rows are known, and a plain step is put in now and then, the sooner the less
// speculation seems to win by. A sequence without drafts is forgiven slowly.
//
// All of it is a function of the calls: no clock, no chance. TestDepthNeverLoses
// plays scripted traces against every fixed depth; with 4,000 plain steps each it
// keeps 0.99 of plain decoding or more in all of them, and 0.95 of the best fixed
// depth or more in the stationary ones, where it often beats it. One trace is
// excepted, and says why: a wrong c(N) that is never measured. TestReplay plays what
// a real model said, from 1 to 32 streams, on five machines and with noisy clocks.
type Depth struct {
	curve  *Curve
	first  [][Classes]float64 // by proposer: acceptance before anything is known
	shared []History          // by proposer
	purse  float64
	probes float64
	turn   int // whose probe it is
	worth  worth
	token  float64 // what a token accepted in this step is worth, in tokens

	sincePlain int // steps
	order      []row
	ahead      []float64 // by candidate: tokens expected beyond the plain one
	p          [MaxDraft]float64
}

const (
	tithe      = 0.002
	start      = 1.
	ceiling    = 25.
	stake      = 0.5 // part of the purse that a step may lose
	probeTithe = 0.004
	firstProbe = 0.25
	surcharge  = 1.1 // on rows, for plans only
	margin     = 1.01
	refresh    = 0.005 // part of the gain that is given for plain steps
	least      = 0.02  // gains below are never worth a row
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

// NewDepth makes a controller for some proposers, given the acceptance by class
// that each expects of its drafts' first tokens.
func NewDepth(curve *Curve, first ...[Classes]float64) *Depth {
	return &Depth{curve: curve, first: first, shared: make([]History, len(first)), purse: start, probes: firstProbe, turn: 1}
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
	base = max(base, len(cands))
	decided := 0
	for i := range cands {
		k[i] = cands[i].Min
		decided += k[i]
	}
	cost := d.costs(base, len(cands), float64(pass))
	d.rank(&cost, cands)
	d.token = cost.own
	if decided == 0 && d.curve.measured(base) < warmUp {
		return
	}
	if d.purse >= 0 {
		worth := d.best(&cost, decided, k)
		if decided == 0 && float64(d.sincePlain) > min((worth-1)/refresh, 8*d.curve.measured(base)) {
			clear(k)
			return
		}
	}
	d.probe(&cost, cands, k)
	d.fade(cands, k)
}

// fade lets a sequence that gets no drafts be forgiven: its estimate returns to
// that of all within some 100 steps.
func (d *Depth) fade(cands []Candidate, k []int) {
	for i := range cands {
		if c := &cands[i]; c.Max > 0 && k[i] == 0 {
			c.Own.fade(c.Class, 0.99)
		}
	}
}

// rank lists the rows worth considering, best first.
func (d *Depth) rank(s *stepCost, cands []Candidate) {
	d.order = d.order[:0]
	few := max(least, surcharge*s.least*float64(s.n)/s.plain) // cannot pay for its row
	for i := range cands {
		c := &cands[i]
		if c.Max < 1 {
			continue
		}
		p := d.p[:min(c.Max, MaxDraft)]
		survival(p, d.first[c.Source][c.Class], c.Own, &d.shared[c.Source], c.Class)
		for m, g := range p {
			must := m < c.Min
			if g < few && !must {
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
	own         float64 // worth of a token of one sequence alone
	plain, rest float64 // c(N), c(base)
	least       float64 // of a row, see costs
	pass        float64
}

// costs prices drafts beside base rows. In a large batch a few rows more cost less
// than what two steps of about that size differ by chance, and would often look
// free; so a row costs half of what rows cost on the way to twice the batch, at least.
// Small batches, whose first rows are free indeed, are spared that.
func (d *Depth) costs(base, n int, pass float64) stepCost {
	s := stepCost{curve: d.curve, base: base, n: n, plain: max(1, d.curve.at(n)), rest: d.curve.at(base), pass: pass}
	s.own = d.worth.own(n, d.curve.at(1), s.plain)
	s.least = max(0, d.curve.at(2*base)-s.rest) / float64(base) * min(0.5, float64(base)/32)
	return s
}

// rows is what so many draft rows add.
func (s *stepCost) rows(drafts int) float64 {
	return max(float64(drafts)*s.least, s.curve.at(s.base+drafts)-s.rest)
}

// most is how many draft rows are tried: no step has more than twice the rows of
// any before it, a slow start, so that a prior that is far too flat costs one step.
func (s *stepCost) most() int { return 2*s.curve.reach - s.base }

// best takes the rows with the most tokens per second, the decided ones among
// them, and returns how many times plain decoding that is. With passes to pay
// for, every cap on the longest draft is tried.
func (d *Depth) best(s *stepCost, decided int, k []int) (worth float64) {
	first := 1 // cap tried first
	if s.pass == 0 {
		first = MaxDraft
	}
	n := float64(s.n)
	bestRate, bestCap, bestRows := margin*n/s.plain, 0, 0
	for limit := first; limit <= MaxDraft; limit++ {
		rows, extra := 0, s.pass*float64(limit)
		t := d.gains(s.n)
		for _, r := range d.order {
			if int(r.m) >= limit && !r.must {
				continue
			}
			if rows++; rows > max(decided, s.most()) {
				break
			}
			t.add(r)
			price := surcharge*s.rows(rows) + extra
			value := t.worth(s.own)
			rate := (n + value) / (s.plain + price)
			if rows == decided {
				bestRate, d.token = max(rate, bestRate), value/t.sum
			}
			if rows > decided && rate > bestRate && price <= stake*d.purse*s.plain {
				bestRate, bestCap, bestRows = rate, limit, rows
				d.token = value / t.sum
			}
		}
	}
	for _, r := range d.order {
		if bestRows == 0 {
			break
		}
		if r.must || int(r.m) < bestCap {
			bestRows--
			if !r.must {
				k[r.who]++
			}
		}
	}
	return bestRate * s.plain / n
}

// probe lengthens one sequence's draft beyond the plan, by 1, 2, 4 or 8 rows in
// turn, once the account can pay for them.
func (d *Depth) probe(s *stepCost, cands []Candidate, k []int) {
	rows := 0
	for _, n := range k {
		rows += n
	}
	for i := range cands {
		i = (i + d.turn) % len(cands)
		more := min(1<<min(bits.TrailingZeros(uint(d.turn)), 3), min(cands[i].Max, MaxDraft)-k[i], s.most()-rows)
		if more <= 0 {
			continue
		}
		price := (s.rows(rows+more) - s.rows(rows) + s.pass*float64(more)) / s.plain
		paid := price <= d.probes
		if paid {
			d.probes -= price
			k[i] += more
		}
		if paid || price > 1 { // done, or never to be had
			d.turn++
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
	d.probes = min(d.probes+probeTithe, 1)
	d.sincePlain++
	if drafts == 0 {
		d.sincePlain = 0
	}
	if drafts > 0 && seqs > 0 {
		s := d.costs(base, seqs, 0)
		d.purse += d.token*float64(accepted)/float64(seqs) - (s.rows(drafts)+float64(proposing))/s.plain
	}
	d.purse = min(d.purse, ceiling)
}
