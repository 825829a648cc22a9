package scheduler

import (
	"sort"
	"time"

	"sestina/batch"
)

// Schedule fills the next step, or returns nil when there is nothing to do now.
// Before it, the engine may set Drafts of running sequences that no step computes;
// Schedule cuts them to those it took. Copies of a step are to be carried out, in
// order, before the step computes. The step belongs to the caller until it gives it to [Scheduler.Update], after
// which its memory is used again.
func (s *Scheduler) Schedule(now time.Duration) *batch.Step {
	if len(s.byID) == 0 {
		return nil
	}
	step := s.newStep()
	step.ID = s.lastStep + 1
	p := plan{s: s, step: step, tokens: s.cfg.MaxNumBatchedTokens, recall: s.cfg.RecallBlocks}
	p.single()
	p.limitByTime()
	p.prefill()
	p.others = len(step.Seqs) > 0
	s.stalled = WaitBlocks
	if !p.preempted {
		s.stalled = p.admit(now)
	}
	if !p.prompts {
		p.tokens += p.withheld
	}
	p.drafts()
	if len(step.Seqs) == 0 {
		s.free = append(s.free, step)
		return nil
	}
	s.lastStep = step.ID
	s.stats.Steps++
	s.stats.StepTokens += uint64(step.NumTokens())
	return step
}

func (s *Scheduler) newStep() *batch.Step {
	if n := len(s.free); n > 0 {
		step := s.free[n-1]
		s.free = s.free[:n-1]
		step.Seqs, step.Copies = step.Seqs[:0], step.Copies[:0]
		return step
	}
	return &batch.Step{}
}

// plan is a step being filled.
type plan struct {
	s         *Scheduler
	step      *batch.Step
	tokens    int  // rows left
	withheld  int  // rows that the time limit keeps from prompts
	prompts   bool // some of the step's rows are prompts'
	others    bool // the step has rows of sequences that were running
	recall    int  // blocks that may come back from the tier while they wait
	preempted bool
}

// missing is the number of committed tokens of e without K/V.
func missing(e *entry) int { return len(e.seq.Tokens) - e.seq.NumComputed }

func (p *plan) add(e *entry, n int) {
	p.step.Seqs = append(p.step.Seqs, batch.Scheduled{Seq: e.seq, NumTokens: n})
	e.inFlight = p.step.ID
	p.tokens -= n
	p.prompts = p.prompts || n > 1
}

// single serves the running sequences that miss one token. Those that miss more get
// the slots of their next chunk here, so that all blocks are given in one order.
func (p *plan) single() {
	if p.s.cfg.NoKVCache {
		return
	}
	for i := 0; i < len(p.s.running) && p.tokens > 0; i++ {
		e := p.s.running[i]
		switch n := missing(e); {
		case e.inFlight != 0:
		case n > 1:
			p.grow(i, min(n, max(1, p.s.cfg.Chunk())))
		case p.grow(i, 1):
			p.add(e, 1)
		}
	}
}

// grow gets slots for the next n tokens of running[i], preempting from the end of
// the order if it must. Blocks that a step in flight will release are waited for.
func (p *plan) grow(i, n int) bool {
	s, e := p.s, p.s.running[i]
	for !s.blocks.Grow(p.step, e.seq, e.seq.NumComputed, e.seq.NumComputed+n) {
		victim := s.victim(i)
		if victim == nil || s.blocks.Stats().Fenced > 0 {
			return false
		}
		s.preempt(victim)
		p.preempted = true
		if victim == e {
			return false
		}
	}
	return true
}

// victim is the last in order of running[i:] that no step computes. It is never
// the first of all: the oldest keeps what it has.
func (s *Scheduler) victim(i int) *entry {
	for j := len(s.running) - 1; j >= max(i, 1); j-- {
		if s.running[j].inFlight == 0 {
			return s.running[j]
		}
	}
	return nil
}

// limitByTime lowers the rows left to what the cost curve allows. A prompt
// advances however slow the machine is: by a block in a step of its own, and by a
// row for every four of others', which cannot slow these down much. Where no
// prompt has rows, drafts get what is withheld here: their proposer weighs costs.
// A budget below 0 lets prompts wait for one step, if there is anything else in it.
func (p *plan) limitByTime() {
	cfg := &p.s.cfg
	used := p.step.NumTokens()
	if cfg.StepCost == nil || cfg.StepBudget == 0 || !cfg.ChunkedPrefill || cfg.StepBudget < 0 && used == 0 {
		return
	}
	if cfg.StepBudget < 0 {
		p.withheld, p.tokens = p.tokens, 0
		return
	}
	most := sort.Search(used+p.tokens, func(n int) bool { return cfg.StepCost(n+1) > cfg.StepBudget })
	least := p.s.blocks.Config().BlockSize
	if used > 0 {
		least = max(1, min(used/4, least))
	}
	left := min(p.tokens, max(most-used, least))
	p.withheld = p.tokens - left
	p.tokens = left
}

// chunk is how many of the missing tokens of a sequence go into this step.
func (p *plan) chunk(missing int) int {
	n := min(missing, p.tokens)
	if most := p.s.cfg.LongPrefillThreshold; most > 0 {
		n = min(n, most)
	}
	if !p.s.cfg.ChunkedPrefill && n < missing {
		return 0
	}
	return n
}

// prefill serves the running sequences that miss several tokens, as far as they
// have slots: those of layers with a window are taken chunk by chunk, the others
// were reserved at admission. Without a cache everyone is served here, in order:
// all tokens are missing, and the newest may need a block.
func (p *plan) prefill() {
	whole := p.s.cfg.NoKVCache
	for i := 0; i < len(p.s.running) && p.tokens > 0; i++ {
		e := p.s.running[i]
		if e.inFlight != 0 || missing(e) < 2 && !whole {
			continue
		}
		n := p.chunk(missing(e))
		if !whole {
			n = min(n, p.s.blocks.Room(e.seq)-e.seq.NumComputed)
		}
		if n > 0 && (!whole || p.grow(i, n)) {
			p.add(e, n)
		}
	}
}

// admit takes waiting sequences in order until one does not fit, and says why.
func (p *plan) admit(now time.Duration) Wait {
	s := p.s
	static := s.cfg.Policy == Static
	if static && len(s.running) > 0 {
		return WaitSeat
	}
	for len(s.waiting) > 0 {
		switch {
		case len(s.running) >= s.cfg.MaxNumSeqs:
			return WaitSeat
		case p.tokens == 0 && !static:
			return WaitBudget
		}
		e := s.head()
		if e == nil {
			return WaitSibling
		}
		if wait := p.place(e); wait != WaitNothing {
			return wait
		}
		s.start(e)
		s.stats.observeWait(now - e.arrived)
		if n := p.chunk(missing(e)); n > 0 {
			p.add(e, n)
		}
	}
	return WaitTurn
}

// place gives e its blocks and its computed tokens, or says what is missing.
func (p *plan) place(e *entry) Wait {
	s, seq := p.s, e.seq
	reserve := 0
	if len(s.running) > 0 {
		reserve = s.cfg.Watermark // an empty scheduler takes whatever fits
	}
	// A fork's tail is copied by this step, so the fork has to be in it: a static
	// batch may admit sequences for which the step has no row left.
	if parent := s.forkSource(e); parent != nil && p.tokens > 0 {
		n := seq.PromptLen - 1
		if !s.blocks.Fork(p.step, parent.seq, seq, n, reserve) {
			return WaitBlocks
		}
		seq.NumComputed = n
		if !e.admitted {
			seq.NumCached, seq.Match = parent.seq.NumCached, parent.seq.Match
		}
		return WaitNothing
	}
	if !e.chained && !s.cfg.NoKVCache {
		e.chain, e.chained = s.blocks.Chain(e.chain[:0], seq.Salt, seq.Tokens), true
	}
	if !s.cfg.ChunkedPrefill && s.cfg.Policy != Static && len(seq.Tokens)-s.blocks.Match(e.chain, seq.Tokens) > p.tokens {
		return WaitBudget
	}
	if p.others && s.cfg.RecallBlocks > 0 { // they would wait for all of it
		n, more := s.blocks.Warm(seq, e.chain, reserve, p.recall)
		if p.recall -= n; more {
			return WaitTier
		}
	}
	fragmented := s.blocks.Stats().Fragmented
	cached, ok := s.blocks.Admit(seq, e.chain, reserve)
	if !ok {
		if s.blocks.Stats().Fragmented == fragmented {
			return WaitBlocks
		}
		if !e.split {
			e.split = true
			s.stats.Fragmented++
		}
		return WaitRun
	}
	seq.NumComputed = cached
	if !e.admitted {
		seq.NumCached = min(cached, seq.PromptLen)
	}
	if s.cfg.NoKVCache {
		seq.Match = batch.PrefixMatch{Stop: batch.StopDisabled} // whatever the pool could do
	}
	return WaitNothing
}

// drafts appends guesses to the sequences of the step that reach their last
// committed token, and drops those for which there is no room.
func (p *plan) drafts() {
	s := p.s
	for i := range p.step.Seqs {
		sch := &p.step.Seqs[i]
		seq := sch.Seq
		if len(seq.Drafts) == 0 {
			continue
		}
		n := 0
		if sch.NeedsLogits() {
			// The verifying step commits one token more than it accepts.
			n = min(len(seq.Drafts), p.tokens, seq.MaxTokens-seq.NumOutput()-1)
		}
		n = max(0, p.room(seq, n))
		if n > 0 && !s.blocks.Grow(p.step, seq, seq.NumComputed, len(seq.Tokens)+n) {
			panic("scheduler: room for drafts was counted wrongly")
		}
		seq.Drafts = seq.Drafts[:n]
		sch.NumDrafts = n
		sch.NumTokens += n
		p.tokens -= n
		s.stats.DraftTokens += uint64(n)
	}
}

// room cuts n drafts to the slots that seq owns, unless the pool has so many
// blocks that every running sequence could still take its next one.
func (p *plan) room(seq *batch.Sequence, n int) int {
	blocks := p.s.blocks
	next := len(p.s.running) * len(blocks.Config().Windows)
	if blocks.Lacks(seq, len(seq.Tokens)+n) <= blocks.Available()-next {
		return n
	}
	return min(n, blocks.Room(seq)-len(seq.Tokens))
}
