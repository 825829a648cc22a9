package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"sestina/batch"
	"sestina/kvcache"
	"sestina/scheduler"
	"sestina/spec"
)

// ParseTrace reads a trace that [Trace.JSON] wrote.
func ParseTrace(data []byte) (*Trace, error) {
	var t Trace
	if err := json.Unmarshal(data, &t); err != nil {
		return nil, fmt.Errorf("engine trace: %w", err)
	}
	if t.Version != 1 {
		return nil, fmt.Errorf("engine trace of version %d; this build reads version 1", t.Version)
	}
	for i, ev := range t.Events {
		if ev.N < 0 || ev.N > MaxChoices || ev.Prompt < 0 || ev.Prompt > t.Config.MaxModelLen || len(ev.Tokens) > ev.Prompt {
			return nil, fmt.Errorf("engine trace: event %d has %d choices and a prompt of %d tokens", i, ev.N, ev.Prompt)
		}
	}
	return &t, nil
}

// Replay drives a fresh scheduler and block manager with the trace, without a
// model, and compares every step with the recorded one. It begins at the first
// request that arrived while nothing else was unfinished and returns how many
// steps were equal. With prefix caching the ids decide what is shared: such a
// trace replays if it was recorded with TraceTokens and nothing was dropped.
func (t *Trace) Replay() (steps int, err error) {
	defer func() {
		if p := recover(); p != nil { // the scheduler's own checks: no engine recorded this
			err = fmt.Errorf("after step %d: %v", steps, p)
		}
	}()
	first := slices.IndexFunc(t.Events, func(ev Event) bool { return ev.Kind == "add" && ev.Idle })
	if first < 0 {
		return 0, fmt.Errorf("the trace holds no request that arrived at an idle engine: record more (TraceEvents)")
	}
	r, err := newReplay(&t.Config)
	if err != nil {
		return 0, err
	}
	for i, ev := range t.Events[first:] {
		if err := r.apply(&ev); err != nil {
			return r.steps, fmt.Errorf("event %d (%s %d): %w", first+i, ev.Kind, ev.ID, err)
		}
	}
	return r.steps, r.sched.Check()
}

type replay struct {
	sched *scheduler.Scheduler
	seqs  map[int64]*batch.Sequence
	tier  shelf
	steps int
}

func newReplay(c *TraceConfig) (*replay, error) {
	r := &replay{seqs: map[int64]*batch.Sequence{}}
	layout := kvcache.Config{NumBlocks: c.Blocks, BlockSize: c.BlockSize, PrefixCaching: c.PrefixCaching, Contiguous: c.Contiguous, Windows: c.Windows}
	if c.Tier {
		layout.Tier = &r.tier
	}
	blocks, err := kvcache.New(layout)
	if err != nil {
		return nil, err
	}
	cfg := scheduler.Config{MaxNumSeqs: c.MaxNumSeqs, MaxNumBatchedTokens: c.MaxTokens, MaxModelLen: c.MaxModelLen,
		Policy: scheduler.Policy(c.Policy), Order: scheduler.PriorityOrder, ChunkedPrefill: c.Chunked, NoKVCache: c.NoKVCache, RecallBlocks: c.RecallBlocks}
	r.sched = scheduler.New(cfg, blocks)
	return r, nil
}

func (r *replay) apply(ev *Event) error {
	switch ev.Kind {
	case "add":
		return r.add(ev)
	case "end":
		r.sched.Abort(ev.ID)
	case "rebuild":
		r.sched.Rebuild()
	case "draft":
		for _, s := range ev.Seqs {
			if seq := r.seqs[s.ID]; seq != nil && s.Tokens >= 0 && s.Tokens <= spec.MaxDraft {
				seq.Drafts = make([]int32, s.Tokens)
			}
		}
	case "step", "lost":
		return r.step(ev)
	default:
		return fmt.Errorf("unknown kind of event")
	}
	return nil
}

func (r *replay) add(ev *Event) error {
	seqs := make([]*batch.Sequence, ev.N)
	for i := range seqs {
		s := &batch.Sequence{ID: ev.ID + int64(i), Choice: i, Salt: fmt.Sprint(ev.Salt), Tenant: fmt.Sprint(ev.Tenant), PromptLen: ev.Prompt,
			MaxTokens: ev.Max, Priority: ev.Priority, Tokens: slices.Clone(ev.Tokens)}
		for p := len(s.Tokens); p < ev.Prompt; p++ {
			s.Tokens = append(s.Tokens, stand(ev.ID, p))
		}
		seqs[i], r.seqs[s.ID] = s, s
	}
	return r.sched.Add(time.Duration(ev.At), seqs...)
}

// stand is a token where none was recorded: different for each request.
func stand(id int64, pos int) int32 { return int32(id*7919 + int64(pos)) }

func (r *replay) step(ev *Event) error {
	r.sched.SetStepBudget(func(n int) time.Duration { return time.Duration(n) }, time.Duration(ev.Rows))
	r.tier.answers = ev.Loads
	step := r.sched.Schedule(time.Duration(ev.At))
	if step == nil {
		return fmt.Errorf("the scheduler has no step")
	}
	var got []TraceSeq
	for i, s := range step.Seqs {
		got = append(got, TraceSeq{ID: s.Seq.ID, Tokens: s.NumTokens})
		if i >= len(ev.Seqs) || ev.Seqs[i].ID != s.Seq.ID || ev.Seqs[i].Tokens != s.NumTokens {
			return fmt.Errorf("the scheduler computes %v, the trace %v", got, ev.Seqs)
		}
	}
	if len(got) != len(ev.Seqs) {
		return fmt.Errorf("the scheduler computes %d sequences, the trace %d", len(got), len(ev.Seqs))
	}
	if ev.Kind == "lost" {
		return nil
	}
	results := make([]batch.Result, len(ev.Seqs))
	for i, s := range ev.Seqs {
		results[i] = s.result(r.seqs[s.ID])
	}
	r.sched.Update(step, results)
	r.steps++
	return nil
}

// result is what the device once answered.
func (s *TraceSeq) result(seq *batch.Sequence) (res batch.Result) {
	for reason := batch.FinishStop; reason <= batch.FinishRejected; reason++ {
		if s.Finish == reason.String() {
			res.Finish = reason
		}
	}
	if res.Finish == batch.FinishError {
		res.Err = errInternal
		return res
	}
	for i := range s.Committed {
		token := stand(seq.ID, len(seq.Tokens)+i)
		if i < len(s.Drawn) {
			token = s.Drawn[i]
		}
		res.Tokens = append(res.Tokens, token)
	}
	return res
}
