package engine

import (
	"context"
	"sync"
	"time"

	"sestina/batch"
	"sestina/sampler"
)

// Output is a piece of one choice: the tokens committed since the last piece
// and, in its last one, why it ended.
type Output struct {
	Choice int // -1: the request as a whole ended, with all choices still open
	Tokens []sampler.Sample
	Finish batch.FinishReason
	Err    error // with FinishError and FinishRejected, and with an abort that was not the client's
}

// Timings of a request. Zero times have not happened yet.
type Timings struct {
	Submitted  time.Time
	Scheduled  time.Time // its first step began
	FirstToken time.Time
	Last       time.Time // the last token, or the end

	PromptTokens int
	OutputTokens int // over all choices
	Cached       int // prompt tokens taken from the prefix cache
	Preemptions  int // over all choices
	Drafted      int // draft tokens verified, over all choices
	Accepted     int // of them

	// Match says why the prefix cache had no more. Its own client hears Match.Stop.Public() only.
	Match batch.PrefixMatch
}

// Queue is the time from submission to the first step.
func (t *Timings) Queue() time.Duration { return between(t.Submitted, t.Scheduled) }

// Prefill is the time from the first step to the first token.
func (t *Timings) Prefill() time.Duration { return between(t.Scheduled, t.FirstToken) }

// TTFT is the time from submission to the first token.
func (t *Timings) TTFT() time.Duration { return between(t.Submitted, t.FirstToken) }

// Decode is the time from the first token to the last.
func (t *Timings) Decode() time.Duration { return between(t.FirstToken, t.Last) }

// Total is the time from submission to the end.
func (t *Timings) Total() time.Duration { return between(t.Submitted, t.Last) }

// between is 0 until both have happened.
func between(a, b time.Time) time.Duration {
	if a.IsZero() || b.IsZero() {
		return 0
	}
	return b.Sub(a)
}

// Handle collects a request's outputs. Next is called by one goroutine; the
// other methods by any. What waits to be read is at most one Output a choice,
// 32 bytes a token (plus 8 per top log probability), so max_tokens bounds it.
type Handle struct {
	ID      int64 // unique within the engine, ascending
	engine  *Engine
	req     Request
	streams []*stream // the step goroutine's once submitted, as left and queued are
	left    int       // choices that have not ended
	queued  bool      // counted in the engine's queue

	mu        sync.Mutex
	queue     []Output
	open      int // choices without a terminal event
	timings   Timings
	choices   [MaxChoices]Choice
	lastToken [MaxChoices]time.Time
	ready     chan struct{} // holds one item while queue is not empty
}

// Next returns what was committed since the last call, waiting for it. Once
// every choice has ended, or the context is done, ok is false; a context that
// is done cancels the request.
func (h *Handle) Next(ctx context.Context) (out []Output, ok bool) {
	for {
		out, ended := h.take()
		switch {
		case len(out) > 0:
			return out, true
		case ended:
			return nil, false
		}
		select {
		case <-h.ready:
		case <-h.engine.gone:
			h.push(last(h.engine.cause))
		case <-ctx.Done():
			h.Cancel()
			return nil, false
		}
	}
}

func (h *Handle) take() (out []Output, ended bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out, h.queue = h.queue, nil
	return out, h.open == 0
}

// Cancel ends the request; its blocks are free before the next step. A request
// that has ended stays as it is.
func (h *Handle) Cancel() {
	if !h.ended() {
		h.engine.post(command{end: h, why: Output{Choice: -1, Finish: batch.FinishAbort}})
	}
}

// Timings of the request so far.
func (h *Handle) Timings() Timings {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.timings
}

func (h *Handle) ended() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open == 0
}

// note keeps the books of a choice's result. It returns the time to first token
// if this is the request's first one, and the gap if it is not the choice's first.
func (h *Handle) note(at time.Time, seq *batch.Sequence, res *batch.Result) (ttft, gap time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, c := &h.timings, &h.choices[seq.Choice]
	if seq.Choice == 0 {
		t.Cached, t.Match = seq.NumCached, seq.Match
	}
	t.Preemptions += seq.Preemptions - c.Preemptions
	t.OutputTokens += len(res.Tokens)
	c.Preemptions = seq.Preemptions
	c.OutputTokens += len(res.Tokens)
	c.Finish = res.Finish
	if len(res.Tokens) > 0 || res.Finish != batch.NotFinished {
		t.Last = at
	}
	if len(res.Tokens) == 0 {
		return 0, 0
	}
	if t.FirstToken.IsZero() {
		t.FirstToken = at
		ttft = t.TTFT()
	}
	gap = between(h.lastToken[seq.Choice], at)
	h.lastToken[seq.Choice] = at
	return ttft, gap
}

// noteEnd keeps the books of a request that ends as a whole.
func (h *Handle) noteEnd(at time.Time, why batch.FinishReason) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timings.Last = at
	for i := range h.req.N {
		if c := &h.choices[i]; c.Finish == batch.NotFinished {
			c.Finish = why
		}
	}
}

// push adds an output to what waits to be read, and wakes the reader. After the
// terminal event it does nothing.
func (h *Handle) push(out Output) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.open == 0:
		return
	case out.Choice < 0:
		h.open = 0
	case out.Finish != batch.NotFinished:
		h.open--
	}
	h.merge(out)
	select {
	case h.ready <- struct{}{}:
	default:
	}
}

// merge appends to the choice's waiting output, if there is one.
func (h *Handle) merge(out Output) {
	for i := range h.queue {
		if w := &h.queue[i]; w.Choice == out.Choice {
			w.Tokens = append(w.Tokens, out.Tokens...)
			w.Finish, w.Err = out.Finish, out.Err
			return
		}
	}
	h.queue = append(h.queue, out)
}

// noteDrafts books a step's drafts and how many of them were committed.
func (h *Handle) noteDrafts(drafted, accepted int) {
	if drafted == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timings.Drafted += drafted
	h.timings.Accepted += max(0, accepted)
}
