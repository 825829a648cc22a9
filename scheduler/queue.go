package scheduler

import (
	"cmp"
	"slices"

	"sestina/batch"
)

// before is the order in which the running are served and, read from the other
// end, preempted: by priority, then by first admission. It is total, and changes
// for a sequence once, when it is admitted. (By arrival instead, a key whose turn
// came early would be the first victim of those whose turn came late.) The
// waiting are kept in it too, those that never ran last and by arrival; which of
// them is admitted next also depends on whose they are, see head.
func (s *Scheduler) before(a, b *entry) int {
	if s.cfg.Order == PriorityOrder && a.seq.Priority != b.seq.Priority {
		if a.seq.Priority < b.seq.Priority {
			return -1
		}
		return 1
	}
	if c := cmp.Compare(a.turn-1, b.turn-1); c != 0 { // 0, not admitted yet, becomes the largest
		return c
	}
	return cmp.Compare(a.seq.ID, b.seq.ID)
}

func (s *Scheduler) insert(queue []*entry, e *entry) []*entry {
	at, _ := slices.BinarySearchFunc(queue, e, s.before)
	return slices.Insert(queue, at, e)
}

func (s *Scheduler) remove(queue []*entry, e *entry) []*entry {
	at, ok := slices.BinarySearchFunc(queue, e, s.before)
	if !ok {
		panic("scheduler: a sequence is in the wrong queue")
	}
	return slices.Delete(queue, at, at+1)
}

// enqueue makes e wait. It owns nothing then.
func (s *Scheduler) enqueue(e *entry) {
	e.seq.Status = batch.Waiting
	s.waiting = s.insert(s.waiting, e)
	s.waitingTokens += len(e.seq.Tokens)
	s.queued(e.tenant, 1)
}

// dequeue undoes enqueue.
func (s *Scheduler) dequeue(e *entry) {
	s.waiting = s.remove(s.waiting, e)
	s.waitingTokens -= len(e.seq.Tokens)
	s.queued(e.tenant, -1)
}

// start moves e, which has its blocks, from the waiting to the running.
func (s *Scheduler) start(e *entry) {
	if !e.admitted {
		e.tenant.served += uint64(missing(e)) // a recomputation is not the client's doing
	}
	s.dequeue(e)
	if !e.admitted { // after the queue that is in the order of turns was left
		s.admissions++
		e.turn = s.admissions
	}
	s.running = s.insert(s.running, e)
	e.seq.Status = batch.Running
	e.admitted = true
	e.chain, e.chained = e.chain[:0], false // its tokens will be others when it waits again
}

// preempt takes the blocks of a running sequence, which is in no step, and makes
// it wait. Prompt and output stay what they were.
func (s *Scheduler) preempt(e *entry) {
	s.running = s.remove(s.running, e)
	s.blocks.Free(e.seq, e.inFlight)
	e.seq.NumComputed = 0
	e.seq.Drafts = e.seq.Drafts[:0]
	e.seq.Preemptions++
	s.stats.Preemptions++
	s.enqueue(e)
	s.stalled = WaitBlocks
}

// finish ends a sequence in any phase.
func (s *Scheduler) finish(e *entry, reason batch.FinishReason, err error) {
	seq := e.seq
	if seq.Status == batch.Waiting {
		s.dequeue(e)
	} else {
		s.running = s.remove(s.running, e)
		s.blocks.Free(seq, e.inFlight)
	}
	seq.Status, seq.Finish, seq.Err = batch.Finished, reason, err
	seq.Drafts = seq.Drafts[:0]
	delete(s.byID, seq.ID)
	s.leave(seq.Key(), e.tenant)
	e.group.members = slices.DeleteFunc(e.group.members, func(m *entry) bool { return m == e })
	s.stats.Finished++
}

// blockedBy is the sibling whose prompt e waits for, if any. Static batches are
// closed once formed, so there each choice computes its prompt itself.
func (s *Scheduler) blockedBy(e *entry) *entry {
	first := e.group.members[0]
	if e.group.prompted || first == e || s.cfg.Policy == Static || s.cfg.NoKVCache || s.blocks.Config().Contiguous {
		return nil
	}
	return first
}

// forkSource is a running sibling that has computed the prompt in a completed
// step. (One that has itself just forked has a tail that is yet to be copied.)
func (s *Scheduler) forkSource(e *entry) *entry {
	if e.seq.NumOutput() > 0 || s.cfg.NoKVCache {
		return nil // a recomputed choice has its own output to compute too
	}
	for _, m := range e.group.members {
		if m != e && m.seq.Status == batch.Running && m.seq.NumComputed >= e.seq.PromptLen && s.blocks.CanFork(m.seq, e.seq.PromptLen-1) {
			return m
		}
	}
	return nil
}
