package engine

import (
	"errors"
	"time"

	"sestina/batch"
	"sestina/runner/tier"
	"sestina/sampler"
	"sestina/scheduler"
	"sestina/spec"
)

// Stats is a snapshot of the engine after a step. Counters run from the start;
// sequences are choices: a request of n counts n times.
type Stats struct {
	Running, Waiting int // sequences; the preempted wait too
	WaitingTokens    int
	QueueWait        time.Duration // from submission to first step, moving average

	Blocks  BlockStats
	KVUsage float64 // blocks in use / blocks, 0…1; cached ones that nobody uses are not in use

	PrefixQueryTokens uint64 // looked up in the prefix cache by first admissions
	PrefixHitTokens   uint64
	PrefixStops       [batch.NumMatchStops]uint64 // requests by why the cache had no more of the prompt
	Preemptions       uint64
	Steps, StepTokens uint64
	PromptTokens      uint64 // of requests that have begun, cached ones included
	OutputTokens      uint64
	ComputedTokens    uint64                           // rows whose K/V was computed and kept
	RecomputedTokens  uint64                           // of these, computed before: after preemption, or without a KV cache
	Finished          [batch.FinishRejected + 1]uint64 // sequences by reason
	Refused           [numRefusals]uint64              // requests by reason

	Speculation *spec.Stats // nil when it is off

	TierTokens uint64      // K/V brought back from the tier; prefix hits among them count as such too
	Tier       *tier.Stats // nil when there is none

	FailedSteps uint64 // device errors and panics
	FailedInRow int    // sequences that failed with their step since the last one that did not
	Rebuilds    uint64 // times that the scheduler's books were started anew

	Spent        Spent
	LastStep     time.Time // when it ended
	LastDuration time.Duration
	Uptime       time.Duration
}

// Spent is where the step goroutine's time has gone since the start: all of it, up to the last look at the clock. What
// comes after a snapshot is taken, delivery above all, is in the next one.
type Spent struct {
	Waiting  time.Duration // for requests, and reading them
	Draft    time.Duration // proposing tokens
	Schedule time.Duration
	Model    time.Duration // computing logits
	Sample   time.Duration // drawing tokens and verifying drafts
	Deliver  time.Duration // committing, counting and handing over
}

// Since is what was spent after an earlier look.
func (s Spent) Since(t Spent) Spent {
	return Spent{s.Waiting - t.Waiting, s.Draft - t.Draft, s.Schedule - t.Schedule, s.Model - t.Model, s.Sample - t.Sample, s.Deliver - t.Deliver}
}

// lap books the time since the last lap.
func (e *Engine) lap(on *time.Duration) {
	now := time.Now()
	*on += now.Sub(e.lapped)
	e.lapped = now
}

// BlockStats counts the KV pool's blocks by state; the four sum to Total.
type BlockStats struct{ Total, Free, Idle, Referenced, Fenced, Size int }

// Refusal is why a request was not served.
type Refusal uint8

const (
	RefusedInvalid   Refusal = iota // malformed (400)
	RefusedNeverFits                // larger than the context or the pool (400)
	RefusedQueueFull                // (429)
	RefusedShare                    // its key's share of the queue is full (429)
	RefusedTimeout                  // waited too long (503)
	RefusedDown                     // draining, stuck, dead or closed (503)
	numRefusals
)

func (r Refusal) String() string {
	return [...]string{"invalid", "never_fits", "queue_full", "queue_share", "queue_timeout", "unavailable"}[r]
}

// RefusalOf sorts an error of Submit, or of an Output with FinishRejected; ok
// is false for others (a cancelled context).
func RefusalOf(err error) (r Refusal, ok bool) {
	var never *scheduler.NeverFitsError
	var param *sampler.ParamError
	var malformed *InvalidError
	switch {
	case errors.As(err, &never):
		return RefusedNeverFits, true
	case errors.As(err, &param), errors.As(err, &malformed):
		return RefusedInvalid, true
	case errors.Is(err, ErrQueueFull):
		return RefusedQueueFull, true
	case errors.Is(err, ErrQueueShare):
		return RefusedShare, true
	case errors.Is(err, ErrQueueTimeout):
		return RefusedTimeout, true
	case errors.Is(err, ErrDraining), errors.Is(err, ErrStuck), errors.Is(err, ErrDead), errors.Is(err, ErrClosed), errors.Is(err, ErrShutdown):
		return RefusedDown, true
	}
	return 0, false
}

// Observer is told what happens, on the step goroutine: its functions must be
// quick and must not call the engine except for Stats. Nil ones are skipped.
// TokenGap comes once for every token of a choice after its first; the tokens
// that one step committed share the time since the last step evenly.
type Observer struct {
	Step       func(StepInfo)
	FirstToken func(ttft time.Duration)
	TokenGap   func(gap time.Duration) // inter-token latency, see below
	Finished   func(RequestInfo)
}

// StepInfo is one step.
type StepInfo struct {
	ID               uint64
	Duration         time.Duration // from scheduling to delivery
	Rows, Seqs       int
	Drafts           int // of Rows
	Running, Waiting int
}

// RequestInfo is a request that has ended.
type RequestInfo struct {
	ID int64
	Timings
	Priority, MaxTokens int
	Choices             []Choice
}

// Choice is how one choice ended.
type Choice struct {
	OutputTokens int
	Preemptions  int
	Finish       batch.FinishReason
}

// Stats returns the latest snapshot. It never waits for the step loop.
func (e *Engine) Stats() Stats {
	s := *e.shown.Load()
	for i := range s.Refused {
		s.Refused[i] = e.refused[i].Load()
	}
	s.Waiting += int(max(0, e.arriving.Load()))
	s.Uptime = e.now()
	return s
}

// publish shows the state to readers.
func (e *Engine) publish() {
	s := e.stats
	sched, blocks := e.sched.Stats(), e.blocks.Stats()
	s.Running, s.Waiting, s.WaitingTokens = sched.Running, sched.Waiting, sched.WaitingTokens
	s.Preemptions, s.Steps, s.StepTokens = sched.Preemptions, sched.Steps, sched.StepTokens
	s.ComputedTokens, s.RecomputedTokens = sched.ComputedTokens, sched.RecomputedTokens
	s.Blocks = BlockStats{blocks.Total, blocks.Free, blocks.Idle, blocks.Referenced, blocks.Fenced, e.opt.BlockSize}
	s.KVUsage = float64(blocks.Referenced+blocks.Fenced) / float64(blocks.Total)
	s.PrefixQueryTokens, s.PrefixHitTokens = blocks.QueryTokens, blocks.HitTokens
	s.TierTokens = blocks.TierTokens
	if t := e.opt.Tier; t != nil {
		st := t.Stats()
		s.Tier = &st
	}
	if sp := e.opt.Speculator; sp != nil {
		drafts := sp.Stats()
		s.Speculation = &drafts
	}
	e.shown.Store(&s)
}

// decoding counts the sequences of a step that compute one token and its drafts, and their rows.
func decoding(step *batch.Step) (streams, rows int) {
	for i := range step.Seqs {
		if s := &step.Seqs[i]; s.NumTokens-s.NumDrafts == 1 {
			streams++
			rows += s.NumTokens
		}
	}
	return streams, rows
}

// measure records how long a step took that is about to be delivered.
func (e *Engine) measure(step *batch.Step, at time.Time) {
	s, rows := &e.stats, step.NumTokens()
	s.LastStep, s.LastDuration = at, at.Sub(e.began)
	streams, own := decoding(step)
	e.pace.observe(streams, own, rows, s.LastDuration)
	e.trace.done(e.result, s.LastDuration)
	if o := e.observer; o != nil && o.Step != nil {
		st, drafts := e.sched.Stats(), 0
		for i := range step.Seqs {
			drafts += step.Seqs[i].NumDrafts
		}
		e.tell(func() {
			o.Step(StepInfo{ID: step.ID, Duration: s.LastDuration, Rows: rows, Seqs: len(step.Seqs), Drafts: drafts, Running: st.Running, Waiting: st.Waiting})
		})
	}
}
