package spec

import (
	"time"

	"sestina/batch"
	"sestina/sampler"
)

// Config says how a Speculator works. Its zero value, with a vocabulary, is usable.
type Config struct {
	Vocab    int    // of the target model
	MaxDraft int    // longest draft; 0 = 12
	Fixed    int    // > 0: always so many drafts, no depth controller
	Curve    *Curve // of this model on this machine; nil = unknown

	// RejectionSampling verifies drafts that come with distributions against
	// them: more are accepted, but seeded output then depends on the drafts.
	RejectionSampling bool

	Now func() time.Duration // a monotonic clock, to time the proposers; nil = the system's
}

// Speculator is what the step loop holds: proposers, cheapest first, and the
// depth controller between them and the step.
type Speculator struct {
	cfg   Config
	chain []*guarded
	depth *Depth
	pass  []time.Duration // by proposer: what a pass takes, smoothed
	seqs  map[int64]*state
	stats Stats

	// Of the step in the making, reused.
	all       []*state
	open      []*batch.Sequence // without a draft so far
	index     []int             // of open in all
	k, ask    []int
	cands     []Candidate
	proposing time.Duration
}

// state is what is kept of a sequence.
type state struct {
	own     []History // by proposer
	source  int       // whose draft it has; -1 = none
	class   int
	dists   []sampler.Dist
	step    uint64 // Speculator's count when it was drafted
	outcome outcome
}

// outcome is what verification found, until Done.
type outcome struct {
	set               bool
	drafted, accepted int
	rejected, bonus   bool
}

// Stats count since the start.
type Stats struct {
	Steps     uint64 // with and without drafts
	Plain     uint64 // without
	Drafted   uint64 // draft tokens that had a row
	Accepted  uint64
	Recovered uint64
	Bonus     uint64
	Proposers []ProposerStats // cheapest first
}

// ProposerStats are one proposer's.
type ProposerStats struct {
	Name     string
	Drafted  uint64
	Accepted uint64
	Faults   uint64           // panics, errors, nonsense: drafts that were done without
	Benched  bool             // too many faults in a row: not asked any more
	At       [MaxDraft]uint64 // accepted by position
	TriedAt  [MaxDraft]uint64 // verified by position: had a row, and all before it were accepted
	LastErr  string
}

// New makes a Speculator of proposers, cheapest first; each is asked for the
// sequences that those before it had no idea for.
func New(cfg Config, proposers ...Proposer) *Speculator {
	if cfg.MaxDraft == 0 {
		cfg.MaxDraft = DefaultDraft
	}
	cfg.MaxDraft = min(cfg.MaxDraft, MaxDraft)
	if cfg.Fixed > 0 {
		cfg.Fixed = min(cfg.Fixed, MaxDraft)
		cfg.MaxDraft = cfg.Fixed
	}
	if cfg.Curve == nil {
		cfg.Curve = NewCurve(nil)
	}
	if cfg.Now == nil {
		began := time.Now()
		cfg.Now = func() time.Duration { return time.Since(began) }
	}
	s := &Speculator{cfg: cfg, seqs: map[int64]*state{}, pass: make([]time.Duration, len(proposers))}
	var first [][Classes]float64
	for _, p := range proposers {
		g := guard(p, cfg.Vocab)
		s.chain, first = append(s.chain, g), append(first, g.grades())
	}
	s.depth = NewDepth(cfg.Curve, first...)
	s.stats.Proposers = make([]ProposerStats, len(proposers))
	return s
}

// Draft sets Drafts of seqs before the scheduler fills the next step: all
// running sequences that miss exactly their last token. rows is how many rows
// the step is expected to have without drafts, prompts included.
func (s *Speculator) Draft(seqs []*batch.Sequence, rows int) {
	s.stats.Steps++
	s.proposing = 0
	s.collect(seqs)
	rows = max(rows, len(seqs))
	for i, g := range s.chain {
		s.ask = s.ask[:0]
		s.open, s.index = s.open[:0], s.index[:0]
		for j, seq := range seqs {
			if s.all[j].source < 0 {
				s.open, s.index, s.ask = append(s.open, seq), append(s.index, j), append(s.ask, s.most(seq))
			}
		}
		if !g.benched() {
			s.propose(i, seqs, rows)
		}
	}
	s.allot(rows)
	for j, seq := range seqs {
		st := s.all[j]
		seq.Drafts = seq.Drafts[:min(s.k[j], len(seq.Drafts))]
		if st.dists != nil {
			st.dists = st.dists[:len(seq.Drafts)]
		}
	}
}

// most is the longest draft that seq could use: a verifying step commits one
// token more than it accepts.
func (s *Speculator) most(seq *batch.Sequence) int {
	return max(0, min(s.cfg.MaxDraft, seq.MaxTokens-seq.NumOutput()-1))
}

// collect finds or makes the states and makes every sequence a candidate
// without drafts.
func (s *Speculator) collect(seqs []*batch.Sequence) {
	s.all, s.cands = s.all[:0], s.cands[:0]
	for _, seq := range seqs {
		st := s.seqs[seq.ID]
		if st == nil {
			st = &state{own: make([]History, len(s.chain))}
			s.seqs[seq.ID] = st
			s.depth.worth.joins()
		}
		st.source, st.class, st.dists, st.step, st.outcome = -1, 0, nil, s.stats.Steps, outcome{}
		seq.Drafts = seq.Drafts[:0]
		s.all = append(s.all, st)
		s.cands = append(s.cands, Candidate{})
	}
	for len(s.k) < len(seqs) {
		s.k = append(s.k, 0)
	}
	s.k = s.k[:len(seqs)]
}

// propose asks proposer i for the open sequences. One that takes passes is asked
// for what the plan would take; the others for all that could be used.
func (s *Speculator) propose(i int, seqs []*batch.Sequence, rows int) {
	g := s.chain[i]
	if g.serial && s.cfg.Fixed == 0 {
		for _, j := range s.index {
			s.cands[j] = Candidate{Own: &s.all[j].own[i], Source: i, Max: s.most(seqs[j])}
		}
		s.depth.Plan(rows, s.cands, max(1, s.pass[i]), s.k)
		for n, j := range s.index {
			s.ask[n] = s.k[j]
			s.cands[j] = Candidate{}
		}
	}
	s.open, s.index, s.ask = wanted(s.open, s.index, s.ask)
	if len(s.open) == 0 {
		return
	}
	began := s.cfg.Now()
	drafts := g.Propose(s.open, s.ask)
	if took := s.cfg.Now() - began; g.serial {
		s.proposing += took
		s.learnPass(i, took)
	}
	for n := range drafts {
		if d := &drafts[n]; len(d.Tokens) > 0 {
			j := s.index[n]
			st := s.all[j]
			seqs[j].Drafts = append(seqs[j].Drafts[:0], d.Tokens...)
			st.source, st.class, st.dists = i, d.Class, d.Dists
			s.cands[j] = Candidate{Own: &st.own[i], Source: i, Class: d.Class, Max: len(d.Tokens)}
			if g.serial {
				s.cands[j].Min = len(d.Tokens) // planned and paid for
			}
		}
	}
}

func wanted(open []*batch.Sequence, index, ask []int) ([]*batch.Sequence, []int, []int) {
	n := 0
	for i, k := range ask {
		if k > 0 {
			open[n], index[n], ask[n] = open[i], index[i], k
			n++
		}
	}
	return open[:n], index[:n], ask[:n]
}

// learnPass smooths what one pass of a serial proposer takes. The first call
// warms up, so it counts as any other but is corrected fast.
func (s *Speculator) learnPass(i int, took time.Duration) {
	deepest := 1
	for _, k := range s.ask {
		deepest = max(deepest, k)
	}
	each := took / time.Duration(deepest)
	if s.pass[i] == 0 {
		s.pass[i] = each
		return
	}
	s.pass[i] += (min(each, 4*s.pass[i]) - s.pass[i]) / 4
}

// allot decides how much of the drafts gets rows.
func (s *Speculator) allot(rows int) {
	if s.cfg.Fixed > 0 {
		for j := range s.k {
			s.k[j] = s.cfg.Fixed
		}
		return
	}
	s.depth.Plan(rows, s.cands, 0, s.k)
}

// Verify fills v with what the target commits of seq, whose Drafts are those
// that had rows, and keeps the outcome for Done. logprobs says that the request
// wants log probabilities. Errors as [Verification.Verify].
func (s *Speculator) Verify(v *Verification, seq *batch.Sequence, t *Target) error {
	drafts := seq.Drafts
	st := s.seqs[seq.ID]
	var dists []sampler.Dist
	if s.cfg.RejectionSampling && st != nil && st.dists != nil && len(drafts) > 0 && seq.Params.Logprobs < 0 {
		dists = st.dists[:len(drafts)]
	}
	if err := v.Verify(t, drafts, dists); err != nil {
		return err
	}
	if st != nil {
		st.outcome = outcome{set: true, drafted: len(drafts), accepted: v.Accepted,
			rejected: v.Recovered(), bonus: v.Bonus() && len(drafts) > 0}
	}
	return nil
}

// Done tells of a step after the scheduler's Update: results as given to it, and
// how long the step took, proposing apart.
func (s *Speculator) Done(step *batch.Step, results []batch.Result, took time.Duration) {
	drafts, seqs, accepted := 0, 0, 0
	for i := range step.Seqs {
		sch := &step.Seqs[i]
		drafts += sch.NumDrafts
		if len(results[i].Tokens) == 0 {
			continue
		}
		seqs++
		accepted += s.note(sch, &results[i])
	}
	if drafts == 0 {
		s.stats.Plain++
	}
	s.depth.Done(step.NumTokens()-drafts, drafts, seqs, accepted, s.proposing, took)
}

// note books one sequence's outcome and tells the proposers.
func (s *Speculator) note(sch *batch.Scheduled, r *batch.Result) (accepted int) {
	st := s.seqs[sch.Seq.ID]
	source := -1
	if st != nil && st.outcome.set && st.outcome.drafted > 0 && st.source >= 0 {
		o := &st.outcome
		accepted, source = o.accepted, st.source
		s.depth.Verified(&Candidate{Own: &st.own[source], Source: source, Class: st.class}, accepted, o.rejected)
		s.count(source, o)
	}
	if st != nil {
		st.outcome = outcome{}
	}
	for i, g := range s.chain {
		if n := accepted; i == source {
			g.Committed(sch.Seq, r.Tokens, n)
		} else {
			g.Committed(sch.Seq, r.Tokens, 0)
		}
	}
	return accepted
}

func (s *Speculator) count(source int, o *outcome) {
	p := &s.stats.Proposers[source]
	s.stats.Drafted += uint64(o.drafted)
	s.stats.Accepted += uint64(o.accepted)
	p.Drafted += uint64(o.drafted)
	p.Accepted += uint64(o.accepted)
	tried := o.accepted
	if o.rejected {
		s.stats.Recovered++
		tried++
	}
	if o.bonus {
		s.stats.Bonus++
	}
	for j := range tried {
		p.TriedAt[j]++
		if j < o.accepted {
			p.At[j]++
		}
	}
}

// Release forgets a sequence that has ended, for whatever reason.
func (s *Speculator) Release(seq *batch.Sequence) {
	if s.seqs[seq.ID] != nil {
		delete(s.seqs, seq.ID)
		s.depth.worth.leaves(len(s.seqs))
	}
	for _, g := range s.chain {
		g.Release(seq)
	}
}

// Stats returns a copy of the counts.
func (s *Speculator) Stats() Stats {
	out := s.stats
	out.Proposers = make([]ProposerStats, len(s.chain))
	for i, g := range s.chain {
		p := s.stats.Proposers[i]
		p.Name, p.Faults, p.Benched = g.Name(), g.faults, g.benched()
		if g.last != nil {
			p.LastErr = g.last.Error()
		}
		out.Proposers[i] = p
	}
	return out
}

// Curve is the cost curve, which learns as the engine runs.
func (s *Speculator) Curve() *Curve { return s.cfg.Curve }
