package scheduler

import (
	"fmt"

	"sestina/batch"
)

// Update takes back a step that the device has completed, with one result per
// sequence of step.Seqs: it appends the committed tokens, advances NumComputed,
// lets go of rejected drafts' slots, publishes the blocks that became full and
// ends what has ended. Steps come back in the order they were handed out.
func (s *Scheduler) Update(step *batch.Step, results []batch.Result) {
	if step.ID != s.lastDone+1 || len(results) != len(step.Seqs) {
		panic(fmt.Sprintf("scheduler: step %d with %d results for %d sequences, after step %d", step.ID, len(results), len(step.Seqs), s.lastDone))
	}
	s.lastDone = step.ID
	s.blocks.Complete(step.ID)
	for i := range step.Seqs {
		e := s.byID[step.Seqs[i].Seq.ID]
		if e == nil || e.inFlight != step.ID {
			continue // aborted while the step was in flight
		}
		e.inFlight = 0
		s.commit(e, step.Seqs[i], &results[i])
	}
	s.free = append(s.free, step)
}

// commit applies one result. Of the drafts d₁ d₂ … the step accepted the first
// len(Tokens)−1; the last committed token is the recovered or bonus one and has
// no K/V yet:
//
//	computed before │ missing │ d₁ d₂ │ d₃ d₄
//	computed after  │◀───────────────▶│ slots of d₃ d₄ are let go
//	tokens after    │◀───────────────▶│ t
func (s *Scheduler) commit(e *entry, sch batch.Scheduled, r *batch.Result) {
	seq := e.seq
	seq.Drafts = seq.Drafts[:0]
	if r.Err != nil {
		s.finish(e, batch.FinishError, r.Err) // its K/V is of no known worth: nothing is published
		return
	}
	known := sch.NumTokens - sch.NumDrafts
	accepted := max(0, len(r.Tokens)-1)
	complete := seq.NumComputed+known == len(seq.Tokens)
	silent := len(r.Tokens) == 0
	if accepted > sch.NumDrafts || !complete && !silent || complete && silent && r.Finish == batch.NotFinished {
		panic(fmt.Sprintf("scheduler: sequence %d: %d tokens from a step of %d tokens with %d drafts (reaches the last token: %v)",
			seq.ID, len(r.Tokens), sch.NumTokens, sch.NumDrafts, complete))
	}
	from := seq.NumComputed
	s.stats.ComputedTokens += uint64(sch.NumTokens)
	s.stats.RecomputedTokens += uint64(max(0, min(from+known, e.most)-from))
	seq.NumComputed += known + accepted
	e.most = max(e.most, seq.NumComputed)
	seq.Tokens = append(seq.Tokens, r.Tokens...)
	s.stats.AcceptedTokens += uint64(accepted)
	s.stats.CommittedTokens += uint64(len(r.Tokens))
	e.tenant.served += uint64(len(r.Tokens))
	e.group.prompted = e.group.prompted || seq.NumComputed >= seq.PromptLen
	if !s.cfg.NoKVCache {
		s.blocks.Publish(seq, from, seq.NumComputed)
	}

	finish := r.Finish
	if finish == batch.NotFinished && seq.NumOutput() >= seq.MaxTokens {
		finish = batch.FinishLength
	}
	if finish != batch.NotFinished {
		s.finish(e, finish, nil)
		return
	}
	if sch.NumDrafts > accepted {
		s.blocks.Truncate(seq, len(seq.Tokens), e.inFlight)
	}
	switch {
	case !s.cfg.NoKVCache:
		s.blocks.Prune(seq, e.inFlight)
	case !silent:
		seq.NumComputed = 0
	}
}

// Rebuild recovers from a step that died half way: all K/V is held to be lost,
// the pool's books start anew and every running sequence is computed again. The
// device must be idle; steps that were in flight are forgotten and must not be
// given to Update.
func (s *Scheduler) Rebuild() {
	s.lastDone = s.lastStep
	for len(s.running) > 0 {
		e := s.running[len(s.running)-1]
		e.inFlight = 0
		s.preempt(e)
	}
	s.blocks.Complete(s.lastStep)
	s.blocks.Reset()
}
