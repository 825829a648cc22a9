package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sestina/batch"
)

// ErrShutdown ends the requests that Drain could not wait for.
var ErrShutdown = errors.New("the server is shutting down; retry elsewhere")

// Drain refuses new requests from now on and waits for the others to finish.
// When ctx ends first, the rest is aborted with ErrShutdown and the error says
// how many choices that were. The engine is then idle; Close still has to be called.
func (e *Engine) Drain(ctx context.Context) error {
	e.mu.Lock()
	e.draining = true
	e.wake.Signal()
	e.mu.Unlock()
	select {
	case <-e.drained:
		return nil
	case <-e.gone:
		return e.cause
	case <-ctx.Done():
	}
	st := e.Stats()
	e.post(command{all: true, why: last(ErrShutdown)})
	select {
	case <-e.drained:
	case <-e.gone:
	case <-time.After(time.Second): // the loop hangs: nobody waits for it
		e.die(fmt.Errorf("%w: it did not stop when asked to", ErrDead))
	}
	return fmt.Errorf("%d choices were cut off while draining: %w", st.Running+st.Waiting, context.Cause(ctx))
}

// Ready says whether the engine can serve: nil, or why not. It looks at the
// clock, not at the loop, so it answers although the loop hangs.
func (e *Engine) Ready() error {
	if err := e.Dead(); err != nil {
		return err
	}
	e.mu.Lock()
	draining := e.draining || e.closing
	e.mu.Unlock()
	switch {
	case draining:
		return ErrDraining
	case e.pulse.stuck():
		return ErrStuck
	case e.shown.Load().FailedInRow >= 8:
		return fmt.Errorf("%w: the last 8 sequences all failed with the step that computed them", ErrStuck)
	}
	return nil
}

// Dead is nil while the step loop lives, and then why it ended: ErrClosed, or
// an error that wraps ErrDead. Every open request gets it as its terminal event.
func (e *Engine) Dead() error {
	select {
	case <-e.gone:
		return e.cause
	default:
		return nil
	}
}

// Done is closed when the engine will do nothing more; see Dead.
func (e *Engine) Done() <-chan struct{} { return e.gone }

func (e *Engine) post(c command) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closing && !isClosed(e.gone) {
		e.inbox = append(e.inbox, c)
		e.wake.Signal()
	}
}

// finish ends what is left of a request. The client hears of it even if the
// scheduler's books turn out to be broken.
func (e *Engine) finish(h *Handle, why Output) {
	if h.left == 0 {
		return
	}
	h.left = 0
	err := guard(func() {
		for _, st := range h.streams {
			if e.live[st.seq.ID] == nil {
				continue
			}
			e.forget(st)
			e.stats.Finished[why.Finish]++
			e.trace.end(st.seq.ID, why.Finish)
			e.sched.Abort(st.seq.ID)
		}
	})
	h.noteEnd(time.Now(), why.Finish)
	e.settle(h)
	e.publish()
	h.push(why)
	if err != nil {
		e.rebuild(err)
	}
}

// endAll ends every request.
func (e *Engine) endAll(why Output) {
	for len(e.live) > 0 {
		for _, st := range e.live {
			e.finish(st.handle, why)
			break // it deleted from the map, perhaps several
		}
	}
}

// expire ends what has waited longer than QueueTimeout for its first step.
func (e *Engine) expire() {
	for e.opt.QueueTimeout > 0 && len(e.unseen) > 0 && time.Since(e.unseen[0].timings.Submitted) > e.opt.QueueTimeout {
		e.refused[RefusedTimeout].Add(1)
		e.finish(e.unseen[0], Output{Choice: -1, Finish: batch.FinishRejected, Err: ErrQueueTimeout})
	}
}

// unqueue takes a request out of the queue's books, once.
func (e *Engine) unqueue(h *Handle) {
	if !h.queued {
		return
	}
	h.queued = false
	e.mu.Lock()
	e.queue.leave(h)
	e.mu.Unlock()
	if i := slices.Index(e.unseen, h); i >= 0 {
		e.unseen = slices.Delete(e.unseen, i, i+1)
	}
}

// begin notes a request's first step.
func (e *Engine) begin(h *Handle) {
	if !h.queued {
		return
	}
	e.unqueue(h)
	h.mu.Lock()
	h.timings.Scheduled = e.began
	wait := h.timings.Queue()
	h.mu.Unlock()
	e.stats.PromptTokens += uint64(len(h.req.Prompt))
	e.stats.PrefixStops[h.streams[0].seq.Match.Stop]++
	e.stats.QueueWait += (wait - e.stats.QueueWait) / 8
}

// count keeps the books of one sequence's result and tells the observer of its
// token.
func (e *Engine) count(at time.Time, st *stream, res *batch.Result) {
	e.stats.OutputTokens += uint64(len(res.Tokens))
	if res.Finish != batch.NotFinished {
		e.stats.Finished[res.Finish]++
	}
	ttft, gap := st.handle.note(at, st.seq, res)
	o := e.observer
	if o == nil || ttft+gap == 0 {
		return
	}
	e.tell(func() {
		if ttft > 0 && o.FirstToken != nil {
			o.FirstToken(ttft)
		}
		for n := len(res.Tokens); gap > 0 && o.TokenGap != nil && n > 0; n-- {
			o.TokenGap(gap / time.Duration(len(res.Tokens)))
		}
	})
}

// settle tells the observer of a request that has ended.
func (e *Engine) settle(h *Handle) {
	e.unqueue(h)
	if e.observer == nil || e.observer.Finished == nil {
		return
	}
	h.mu.Lock()
	info := RequestInfo{ID: h.ID, Timings: h.timings, Priority: h.req.Priority, MaxTokens: h.req.MaxTokens,
		Choices: slices.Clone(h.choices[:h.req.N])}
	h.mu.Unlock()
	e.tell(func() { e.observer.Finished(info) })
}

// tell runs an observer; one that panics is not asked again.
func (e *Engine) tell(f func()) {
	if err := guard(f); err != nil {
		e.observer = nil
		e.log.Error("the observer panicked and is off now", "err", err)
	}
}
