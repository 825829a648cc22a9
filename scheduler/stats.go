package scheduler

import (
	"fmt"
	"time"

	"sestina/batch"
)

// Wait names what a sequence that is not running waits for.
type Wait uint8

const (
	WaitNothing Wait = iota // running, or unknown
	WaitTurn                // those before it in the queue, or the next Schedule
	WaitSeat                // one of MaxNumSeqs places, or the end of a static batch
	WaitBudget              // rows of a step
	WaitBlocks              // blocks of the pool
	WaitSibling             // the prompt, which another choice of its request computes
	WaitTier                // blocks on their way from the tier below the pool
	WaitRun                 // neighbouring blocks: enough are free, but apart (contiguous layout)
)

func (w Wait) String() string {
	return [...]string{"nothing", "turn", "seat", "budget", "blocks", "sibling", "tier", "run"}[w]
}

// WaitsFor says what the sequence waits for, as of the last Schedule, and the id
// of the sequence that has to move first (0: any running one). With WaitTurn that
// is the head of the queue: others may come between.
func (s *Scheduler) WaitsFor(id int64) (Wait, int64) {
	e := s.byID[id]
	if e == nil || e.seq.Status != batch.Waiting {
		return WaitNothing, 0
	}
	if first := s.blockedBy(e); first != nil {
		return WaitSibling, first.seq.ID
	}
	if head := s.head(); head != e {
		return WaitTurn, head.seq.ID
	}
	return s.stalled, 0
}

// Stats are the queues' lengths and the counters since the start.
type Stats struct {
	Running, Waiting, WaitingTokens int
	InFlight                        int // steps handed out and not updated

	// Slots of the pool that sequences own, in all groups, and those of them without K/V: the
	// unused rest of last blocks and what is reserved for tokens to come.
	ReservedSlots, WastedSlots int

	Steps            uint64
	StepTokens       uint64 // rows of all steps, drafts included
	ComputedTokens   uint64 // rows whose K/V was computed and not lost to an error or an abort
	RecomputedTokens uint64 // of these, positions that had been computed before: after preemption, or without a cache
	Fragmented       uint64 // sequences that waited though enough blocks were free, for want of a run of them
	DraftTokens      uint64 // drafts scheduled
	AcceptedTokens   uint64 // drafts accepted
	CommittedTokens  uint64 // output tokens
	Preemptions      uint64
	Refused          uint64 // sequences refused because the queue was full
	Finished         uint64
	Admissions       uint64        // recomputed sequences count again
	QueueTime        time.Duration // sum over admissions, from arrival
}

func (st *Stats) observeWait(d time.Duration) {
	st.Admissions++
	st.QueueTime += max(0, d)
}

// Stats returns the current figures.
func (s *Scheduler) Stats() Stats {
	st := s.stats
	st.Running, st.Waiting, st.WaitingTokens = len(s.running), len(s.waiting), s.waitingTokens
	st.InFlight = int(s.lastStep - s.lastDone)
	size := s.blocks.Config().BlockSize
	st.ReservedSlots = s.blocks.Stats().Referenced * size
	for _, e := range s.running { // a shared block is full, so it wastes nothing, however often it is counted
		for _, table := range e.seq.BlockTables {
			st.WastedSlots += len(table)*size - e.seq.NumComputed
		}
	}
	return st
}

// Check walks the queues and the pool and returns the first broken invariant.
// others are sequences outside the scheduler that own blocks of the same pool.
func (s *Scheduler) Check(others ...*batch.Sequence) error {
	if len(s.byID) != len(s.waiting)+len(s.running) {
		return fmt.Errorf("scheduler: %d sequences known, %d waiting and %d running", len(s.byID), len(s.waiting), len(s.running))
	}
	if len(s.running) > s.cfg.MaxNumSeqs {
		return fmt.Errorf("scheduler: %d sequences run, %d may", len(s.running), s.cfg.MaxNumSeqs)
	}
	tokens := 0
	tenants := map[*tenant]tenant{}
	for i, e := range s.waiting {
		tokens += len(e.seq.Tokens)
		count(tenants, e, 1)
		if i > 0 && s.before(s.waiting[i-1], e) >= 0 {
			return fmt.Errorf("scheduler: sequence %d waits out of order", e.seq.ID)
		}
		if e.seq.Status != batch.Waiting || e.seq.HasBlocks() || e.seq.NumComputed != 0 || e.inFlight != 0 {
			return fmt.Errorf("scheduler: sequence %d waits with blocks %v and %d computed tokens", e.seq.ID, e.seq.BlockTables, e.seq.NumComputed)
		}
	}
	if tokens != s.waitingTokens {
		return fmt.Errorf("scheduler: %d tokens wait, counted %d", tokens, s.waitingTokens)
	}
	for _, e := range s.running {
		count(tenants, e, 0)
	}
	for key, t := range s.tenants {
		if n := tenants[t]; n.waiting != t.waiting || n.alive != t.alive || n.alive == 0 {
			return fmt.Errorf("scheduler: key %q counts %d sequences in the queue of %d, there are %d of %d", key, t.waiting, t.alive, n.waiting, n.alive)
		}
	}
	s.live = append(s.live[:0], others...)
	for i, e := range s.running {
		if err := s.checkRunning(i, e); err != nil {
			return err
		}
		s.live = append(s.live, e.seq)
	}
	return s.blocks.Check(s.live)
}

func count(tenants map[*tenant]tenant, e *entry, waiting int) {
	n := tenants[e.tenant]
	n.waiting += waiting
	n.alive++
	tenants[e.tenant] = n
}

func (s *Scheduler) checkRunning(i int, e *entry) error {
	seq := e.seq
	if i > 0 && s.before(s.running[i-1], e) >= 0 {
		return fmt.Errorf("scheduler: sequence %d runs out of order", seq.ID)
	}
	if seq.Status != batch.Running || s.byID[seq.ID] != e {
		return fmt.Errorf("scheduler: sequence %d is among the running with status %d", seq.ID, seq.Status)
	}
	if missing(e) < 1 || seq.NumOutput() > seq.MaxTokens || len(seq.Tokens) > s.cfg.MaxModelLen {
		return fmt.Errorf("scheduler: sequence %d has %d tokens, %d computed, %d of %d output", seq.ID, len(seq.Tokens), seq.NumComputed, seq.NumOutput(), seq.MaxTokens)
	}
	if e.inFlight != 0 && (e.inFlight <= s.lastDone || e.inFlight > s.lastStep) {
		return fmt.Errorf("scheduler: sequence %d is in step %d, of %d to %d in flight", seq.ID, e.inFlight, s.lastDone+1, s.lastStep)
	}
	return nil
}
