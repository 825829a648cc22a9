package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sestina/batch"
	"sestina/sampler"
	"sestina/scheduler"
)

// MaxChoices bounds n.
const MaxChoices = 8

// Request is one prompt with what is wanted of it.
type Request struct {
	Prompt    []int32
	N         int // choices; 0 = 1
	MaxTokens int // outputs per choice; 0 = what the context has left
	Sampling  batch.SamplingParams
	Stop      func(choice int) batch.StopChecker // nil: no stop strings
	Tenant    string                             // who asks: owns a share of the queue and takes turns; "" = Salt
	Salt      string                             // isolates the prefix cache: blocks are shared under one salt only
	Priority  int                                // lower runs first
}

// Errors of Submit, besides [*scheduler.NeverFitsError], [*sampler.ParamError]
// and those that name a malformed field. See [RefusalOf].
var (
	ErrClosed    = errors.New("the engine is closed")
	ErrDead      = errors.New("the engine is dead; restart the server")
	ErrStuck     = errors.New("the engine is stuck in a step; retry elsewhere")
	ErrQueueFull = scheduler.ErrQueueFull
	ErrDraining  = scheduler.ErrDraining
	// ErrQueueShare refuses a key that holds its share of the queue while others wait (HTTP 429).
	ErrQueueShare = errors.New("this key has its share of the queue waiting; retry later")
	// ErrQueueTimeout ends a request that waited too long for its first step (HTTP 429).
	ErrQueueTimeout = errors.New("waited too long for a place; retry later")
)

// Admits says whether the smallest request of a tenant would find a place in
// the queue now: nil, or why not. It costs a lock, so whoever has a prompt still
// to read, render and tokenise asks first; under overload that work would be for
// requests that are refused. Submit decides again.
func (e *Engine) Admits(tenant string) error {
	e.mu.Lock()
	err := e.queue.room(tenant, 1, 1, time.Now())
	e.mu.Unlock()
	if r, ok := RefusalOf(err); ok {
		e.refused[r].Add(1)
	}
	return err
}

// Submit checks a request and queues it, or says at once why not. It never
// waits for the step loop.
func (e *Engine) Submit(ctx context.Context, req Request) (*Handle, error) {
	h, err := e.submit(ctx, req)
	if err != nil {
		if r, ok := RefusalOf(err); ok {
			e.refused[r].Add(1)
		}
	}
	return h, err
}

func (e *Engine) submit(ctx context.Context, req Request) (*Handle, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := e.check(&req); err != nil {
		return nil, err
	}
	h, err := e.newHandle(req)
	if err != nil {
		return nil, err
	}
	e.lookAhead(&req)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.Dead() != nil:
		return nil, e.Dead()
	case e.closing:
		return nil, ErrClosed
	case e.draining:
		return nil, ErrDraining
	case e.pulse.stuck():
		return nil, ErrStuck
	}
	if err := e.queue.enter(h); err != nil {
		return nil, err
	}
	for _, st := range h.streams {
		e.nextID++
		st.seq.ID = e.nextID
	}
	h.ID = h.streams[0].seq.ID
	e.arriving.Add(int64(req.N))
	e.inbox = append(e.inbox, command{submit: h})
	e.wake.Signal()
	return h, nil
}

// check validates a request and fills its defaults; sampler.New, in newHandle,
// checks the sampling parameters. Every id is inside the vocabulary afterwards.
func (e *Engine) check(r *Request) error {
	limit := e.limit
	if r.Tenant == "" {
		r.Tenant = r.Salt
	}
	if r.N == 0 {
		r.N = 1
	}
	switch {
	case len(r.Prompt) == 0:
		return invalid("the prompt is empty: it must have at least one token")
	case r.N < 1 || r.N > MaxChoices:
		return invalid("n is %d, want 1…%d", r.N, MaxChoices)
	case r.MaxTokens < 0:
		return invalid("max_tokens is %d, want at least 1", r.MaxTokens)
	case max(r.MaxTokens, 1) > limit-len(r.Prompt):
		return &scheduler.NeverFitsError{Prompt: len(r.Prompt), MaxTokens: max(r.MaxTokens, 1), Limit: limit, What: e.limitedBy()}
	}
	for i, id := range r.Prompt {
		if vocab := e.runner.Info().Vocab; id < 0 || int(id) >= vocab {
			return invalid("token id %d at position %d is outside the vocabulary [0, %d)", id, i, vocab)
		}
	}
	if r.MaxTokens == 0 {
		r.MaxTokens = limit - len(r.Prompt)
	}
	return nil
}

// InvalidError is a malformed request (HTTP 400).
type InvalidError struct{ Message string }

func (e *InvalidError) Error() string { return e.Message }

func invalid(format string, args ...any) error { return &InvalidError{fmt.Sprintf(format, args...)} }

// limitedBy names what sets the longest sequence.
func (e *Engine) limitedBy() string {
	if e.limit < e.opt.MaxModelLen {
		return "KV cache"
	}
	return "context"
}

// newHandle makes the sequences of a request, without their ids.
func (e *Engine) newHandle(req Request) (*Handle, error) {
	h := &Handle{engine: e, req: req, open: req.N, left: req.N, ready: make(chan struct{}, 1)}
	h.timings.Submitted = time.Now()
	h.timings.PromptTokens = len(req.Prompt)
	for i := range req.N {
		seq := &batch.Sequence{
			Salt: req.Salt, Tenant: req.Tenant, Choice: i, Tokens: slices.Clone(req.Prompt), PromptLen: len(req.Prompt),
			MaxTokens: req.MaxTokens, Priority: req.Priority, Params: req.Sampling,
		}
		if req.Stop != nil {
			seq.Stop = req.Stop(i)
		}
		draw, err := sampler.New(&seq.Params, i, e.runner.Info().Vocab, req.Prompt, e.opt.EOG)
		if err != nil {
			return nil, err
		}
		h.streams = append(h.streams, &stream{seq: seq, sampler: draw, handle: h})
	}
	return h, nil
}
