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
	WaitTurn                // those before it in the queue
	WaitSeat                // one of MaxNumSeqs places, or the end of a static batch
	WaitBudget              // rows of a step
	WaitBlocks              // blocks of the pool
	WaitSibling             // the prompt, which another choice of its request computes
)

func (w Wait) String() string {
	return [...]string{"nothing", "turn", "seat", "budget", "blocks", "sibling"}[w]
}

// WaitsFor says what the sequence waits for, as of the last Schedule, and the id
// of the sequence that has to move first (0: any running one).
func (s *Scheduler) WaitsFor(id int64) (Wait, int64) {
	e := s.byID[id]
	if e == nil || e.seq.Status != batch.Waiting {
		return WaitNothing, 0
	}
	if first := s.blockedBy(e); first != nil {
		return WaitSibling, first.seq.ID
	}
	for _, head := range s.waiting {
		if head == e {
			break
		}
		if s.blockedBy(head) == nil {
			return WaitTurn, head.seq.ID
		}
	}
	return e.waitsFor, 0
}

func (s *Scheduler) allWaitFor(w Wait) {
	for _, e := range s.waiting {
		e.waitsFor = w
	}
}

// Stats are the queues' lengths and the counters since the start.
type Stats struct {
	Running, Waiting, WaitingTokens int
	InFlight                        int // steps handed out and not updated

	Steps           uint64
	StepTokens      uint64 // rows of all steps, drafts included
	DraftTokens     uint64 // drafts scheduled
	AcceptedTokens  uint64 // drafts accepted
	CommittedTokens uint64 // output tokens
	Preemptions     uint64
	Refused         uint64 // sequences refused because the queue was full
	Finished        uint64
	Admissions      uint64        // recomputed sequences count again
	QueueTime       time.Duration // sum over admissions, from arrival
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
	for i, e := range s.waiting {
		tokens += len(e.seq.Tokens)
		if i > 0 && s.before(s.waiting[i-1], e) >= 0 {
			return fmt.Errorf("scheduler: sequence %d waits out of order", e.seq.ID)
		}
		if e.seq.Status != batch.Waiting || len(e.seq.BlockTable) != 0 || e.seq.NumComputed != 0 || e.inFlight != 0 {
			return fmt.Errorf("scheduler: sequence %d waits with %d blocks and %d computed tokens", e.seq.ID, len(e.seq.BlockTable), e.seq.NumComputed)
		}
	}
	if tokens != s.waitingTokens {
		return fmt.Errorf("scheduler: %d tokens wait, counted %d", tokens, s.waitingTokens)
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
