package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"sestina/batch"
	"sestina/sampler"
	"sestina/scheduler"
)

// Request is one prompt with what is wanted of it.
type Request struct {
	Prompt    []int32
	N         int // choices; 0 = 1
	MaxTokens int // outputs per choice; 0 = what the context has left
	Sampling  batch.SamplingParams
	Stop      func(choice int) batch.StopChecker // nil: no stop strings
	Salt      string                             // tenant, for prefix-cache isolation
	Priority  int                                // lower runs first
}

// check validates a request and fills its defaults. It is the only way a
// request reaches the engine: every id is inside the vocabulary afterwards.
func (e *Engine) check(r *Request) error {
	vocab, limit := e.runner.Info().Vocab, e.limit
	if r.N == 0 {
		r.N = 1
	}
	switch {
	case len(r.Prompt) == 0:
		return fmt.Errorf("the prompt is empty: it must have at least one token")
	case r.N < 1 || r.N > MaxChoices:
		return fmt.Errorf("n is %d, want 1…%d", r.N, MaxChoices)
	case r.MaxTokens < 0:
		return fmt.Errorf("max_tokens is %d, want at least 1", r.MaxTokens)
	case len(r.Prompt)+max(r.MaxTokens, 1) > limit:
		return &scheduler.NeverFitsError{Prompt: len(r.Prompt), MaxTokens: max(r.MaxTokens, 1), Limit: limit, What: e.limitedBy()}
	}
	for i, id := range r.Prompt {
		if id < 0 || int(id) >= vocab {
			return fmt.Errorf("token id %d at position %d is outside the vocabulary [0, %d)", id, i, vocab)
		}
	}
	if err := sampler.Validate(&r.Sampling, vocab); err != nil {
		return err
	}
	if r.MaxTokens == 0 {
		r.MaxTokens = limit - len(r.Prompt)
	}
	return nil
}

// limitedBy names what sets the longest sequence.
func (e *Engine) limitedBy() string {
	if e.limit < e.opt.MaxModelLen {
		return "KV cache"
	}
	return "context"
}

// MaxChoices bounds n.
const MaxChoices = 8

// Output is a piece of one choice: the tokens committed since the last piece
// and, in its last one, why it ended.
type Output struct {
	Choice int // -1: the request as a whole ended (aborted)
	Tokens []sampler.Sample
	Finish batch.FinishReason
	Err    error
}

// Timings of a request. Zero times have not happened yet.
type Timings struct {
	Submitted, FirstToken, Last time.Time
	Cached                      int // prompt tokens taken from the prefix cache
	Preemptions                 int
}

// Handle collects a request's outputs. Next is called by one goroutine.
type Handle struct {
	engine   *Engine
	req      Request
	seqs     []*batch.Sequence // the step goroutine's
	drawn    []sampler.Sample  // per choice, between note and commit; the step goroutine's
	admitted chan error

	mu      sync.Mutex
	queue   []Output
	open    int // choices that have not ended
	timings Timings
	ready   chan struct{} // holds one item while queue is not empty
}

func newHandle(e *Engine, req Request) *Handle {
	return &Handle{engine: e, req: req, drawn: make([]sampler.Sample, req.N), open: req.N,
		admitted: make(chan error, 1), ready: make(chan struct{}, 1), timings: Timings{Submitted: time.Now()}}
}

// Next returns what was committed since the last call, waiting for it. Once
// every choice has ended, or the context is done, ok is false; a context that
// is done cancels the request.
func (h *Handle) Next(ctx context.Context) (out []Output, ok bool) {
	for {
		h.mu.Lock()
		out, h.queue = h.queue, nil
		done := len(out) == 0 && h.open == 0
		h.mu.Unlock()
		switch {
		case len(out) > 0:
			return out, true
		case done:
			return nil, false
		}
		select {
		case <-h.ready:
		case <-h.engine.stopped:
			// What the loop pushed before it stopped is read by one more turn.
			h.mu.Lock()
			h.open = 0
			h.mu.Unlock()
		case <-ctx.Done():
			h.Cancel()
			return nil, false
		}
	}
}

// Cancel ends the request; its blocks are free before the next step.
func (h *Handle) Cancel() { h.engine.post(command{cancel: h}) }

// Timings of the request so far.
func (h *Handle) Timings() Timings {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.timings
}

// note keeps what was drawn for a choice until the step is committed.
func (h *Handle) note(choice int, s sampler.Sample) { h.drawn[choice] = s }

// commit turns a step's result for one choice into an output.
func (h *Handle) commit(seq *batch.Sequence, res *batch.Result) {
	out := Output{Choice: seq.Choice, Finish: res.Finish, Err: res.Err}
	if len(res.Tokens) > 0 {
		out.Tokens = []sampler.Sample{h.drawn[seq.Choice]}
	}
	h.mu.Lock()
	h.timings.Cached, h.timings.Preemptions = seq.NumCached, seq.Preemptions
	h.mu.Unlock()
	h.push(out)
}

// push appends an output and wakes the reader.
func (h *Handle) push(out Output) {
	now := time.Now()
	h.mu.Lock()
	switch {
	case out.Choice < 0:
		h.open = 0
	case out.Finish != batch.NotFinished:
		h.open--
	}
	if len(out.Tokens) > 0 && h.timings.FirstToken.IsZero() {
		h.timings.FirstToken = now
	}
	h.timings.Last = now
	h.queue = append(h.queue, out)
	h.mu.Unlock()
	select {
	case h.ready <- struct{}{}:
	default:
	}
}
