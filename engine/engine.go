// Package engine is the step loop: token ids in, token ids out. It knows no
// text, no HTTP and no policy; those are the façade's, the server's and the
// scheduler's.
//
// One goroutine owns the scheduler, the runner and every sequence. Callers talk
// to it through two doors: an inbox of submissions and cancellations, read
// between steps, and one [Handle] per request that collects what was committed.
// The loop never waits for a reader, so a slow client costs a few bytes per
// token and nothing else.
//
//	inbox → Add/Abort → Schedule → Run → sample → Update → handles
//
// What can go wrong in a step goes wrong for its sequences only: a panic, an
// error or a NaN ends the sequences it concerns with their reason, and the
// scheduler takes their blocks back through the same Update as always.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"sestina/batch"
	"sestina/kvcache"
	"sestina/runner"
	"sestina/sampler"
	"sestina/scheduler"
)

// ErrClosed is returned for requests to a closed engine.
var ErrClosed = errors.New("the engine is closed")

// Engine runs requests on one model.
type Engine struct {
	opt    Options
	runner *runner.ModelRunner
	sched  *scheduler.Scheduler
	blocks *kvcache.BlockManager
	start  time.Time
	limit  int               // longest prompt + output
	live   map[int64]*stream // by sequence id; the step goroutine's
	result []batch.Result    // reused
	nextID int64

	mu      sync.Mutex
	wake    *sync.Cond
	inbox   []command
	closing bool
	stopped chan struct{}
}

// stream is a running sequence with what the engine adds to it.
type stream struct {
	seq     *batch.Sequence
	sampler *sampler.Sampler
	handle  *Handle
}

// command is one entry of the inbox: a submission or a cancellation.
type command struct {
	submit *Handle
	cancel *Handle
}

// New starts the step loop on a runner. The engine owns the runner from then on.
func New(r *runner.ModelRunner, blocks int, opt Options) (*Engine, error) {
	if err := opt.fill(r.Info().MaxContext); err != nil {
		return nil, err
	}
	e := &Engine{opt: opt, runner: r, start: time.Now(), live: map[int64]*stream{}, stopped: make(chan struct{})}
	e.wake = sync.NewCond(&e.mu)
	var err error
	e.blocks, err = kvcache.New(kvcache.Config{NumBlocks: blocks, BlockSize: opt.BlockSize,
		PrefixCaching: opt.Techniques.PrefixCaching == "on", Model: r.Info().Arch})
	if err != nil {
		return nil, err
	}
	e.sched = scheduler.New(opt.scheduler(), e.blocks)
	e.limit = e.sched.MaxLen()
	go e.loop()
	return e, nil
}

// Options are the engine's, with defaults filled in.
func (e *Engine) Options() Options { return e.opt }

// MaxLen is the longest prompt + output that a request may have: the context, or
// what the KV pool holds.
func (e *Engine) MaxLen() int { return e.limit }

// loop is the engine: one iteration is one step.
func (e *Engine) loop() {
	runtime.LockOSThread() // worker 0 of the CPU team
	defer close(e.stopped)
	for e.intake() {
		step := e.sched.Schedule(e.now())
		if step == nil {
			continue
		}
		out, err := e.run(step)
		e.postprocess(step, out, err)
		e.sched.Update(step, e.result)
		e.deliver(step)
	}
	e.abandon()
}

// now is the scheduler's clock: monotonic, since the engine started.
func (e *Engine) now() time.Duration { return time.Since(e.start) }

// intake reads the inbox; with nothing to run it sleeps until something comes.
// It is false when the engine closes.
func (e *Engine) intake() bool {
	e.mu.Lock()
	for len(e.inbox) == 0 && !e.closing && len(e.live) == 0 {
		e.wake.Wait()
	}
	inbox, closing := e.inbox, e.closing
	e.inbox = nil
	e.mu.Unlock()
	for _, c := range inbox {
		if c.cancel != nil {
			e.cancel(c.cancel)
		} else {
			c.submit.admitted <- e.admit(c.submit)
		}
	}
	return !closing
}

// admit hands a request's sequences to the scheduler.
func (e *Engine) admit(h *Handle) error {
	seqs := make([]*batch.Sequence, h.req.N)
	for i := range seqs {
		e.nextID++
		seqs[i] = &batch.Sequence{
			ID: e.nextID, Salt: h.req.Salt, Choice: i, Tokens: slices.Clone(h.req.Prompt), PromptLen: len(h.req.Prompt),
			MaxTokens: h.req.MaxTokens, Priority: h.req.Priority, Params: h.req.Sampling,
		}
		if h.req.Stop != nil {
			seqs[i].Stop = h.req.Stop(i)
		}
	}
	streams := make([]*stream, len(seqs))
	for i, s := range seqs {
		draw, err := sampler.New(&s.Params, s.Choice, e.runner.Info().Vocab, h.req.Prompt, e.opt.EOG)
		if err != nil {
			return err
		}
		streams[i] = &stream{seq: s, sampler: draw, handle: h}
	}
	if err := e.sched.Add(e.now(), seqs...); err != nil {
		return err
	}
	h.seqs = seqs
	for _, st := range streams {
		e.live[st.seq.ID] = st
	}
	return nil
}

// cancel ends what is left of a request.
func (e *Engine) cancel(h *Handle) {
	for _, s := range h.seqs {
		if e.live[s.ID] != nil {
			e.sched.Abort(s.ID)
			delete(e.live, s.ID)
		}
	}
	h.push(Output{Choice: -1, Finish: batch.FinishAbort})
}

// run computes a step; a panic in a kernel or the model becomes its error.
func (e *Engine) run(step *batch.Step) (out runner.Output, err error) {
	defer func() {
		if p := recover(); p != nil {
			slog.Error("step failed", "step", step.ID, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("internal error in step %d", step.ID)
		}
	}()
	return e.runner.Run(step), nil
}

// postprocess draws a token for every sequence whose last token was computed
// and decides whether that ended it.
func (e *Engine) postprocess(step *batch.Step, out runner.Output, err error) {
	e.result = e.result[:0]
	for i := range step.Seqs {
		st := e.live[step.Seqs[i].Seq.ID]
		switch {
		case err != nil:
			e.result = append(e.result, batch.Result{Finish: batch.FinishError, Err: err})
		case out.Shares[i].Len == 0 || st == nil:
			e.result = append(e.result, batch.Result{})
		default:
			e.result = append(e.result, e.sample(st, out.Logits.Row(out.Shares[i].First)))
		}
	}
}

// sample draws one sequence's next token. A panic here is that sequence's alone.
func (e *Engine) sample(st *stream, logits []float32) (res batch.Result) {
	defer func() {
		if p := recover(); p != nil {
			slog.Error("sampling failed", "sequence", st.seq.ID, "panic", p, "stack", string(debug.Stack()))
			res = batch.Result{Finish: batch.FinishError, Err: fmt.Errorf("internal error while sampling")}
		}
	}()
	drawn, err := st.sampler.Sample(logits, st.seq.NumOutput())
	if err != nil {
		return batch.Result{Finish: batch.FinishError, Err: err}
	}
	st.sampler.Commit(drawn.Token)
	drawn.Top = slices.Clone(drawn.Top)
	st.handle.note(st.seq.Choice, drawn)
	return batch.Result{Tokens: []int32{drawn.Token}, Finish: e.ends(st.seq, drawn.Token)}
}

// ends says whether committing token ends the sequence. Exactly one of the
// reasons holds: what the model or the client asked for comes before the budget.
func (e *Engine) ends(s *batch.Sequence, token int32) batch.FinishReason {
	output := s.NumOutput() + 1
	if output >= s.Params.MinTokens {
		if !s.Params.IgnoreEOS && slices.Contains(e.opt.EOG, token) || slices.Contains(s.Params.StopIDs, token) {
			return batch.FinishStop
		}
	}
	if s.Stop != nil && s.Stop.Commit(token) {
		return batch.FinishStop
	}
	if output >= s.MaxTokens {
		return batch.FinishLength
	}
	return batch.NotFinished
}

// deliver hands what was committed to the handles and forgets what ended.
func (e *Engine) deliver(step *batch.Step) {
	for i := range step.Seqs {
		seq, res := step.Seqs[i].Seq, &e.result[i]
		st := e.live[seq.ID]
		if st == nil || len(res.Tokens) == 0 && res.Finish == batch.NotFinished {
			continue
		}
		st.handle.commit(seq, res)
		if res.Finish != batch.NotFinished {
			delete(e.live, seq.ID)
		}
	}
}

// Submit queues a request and returns once it is admitted or refused.
func (e *Engine) Submit(ctx context.Context, req Request) (*Handle, error) {
	if err := e.check(&req); err != nil {
		return nil, err
	}
	h := newHandle(e, req)
	if !e.post(command{submit: h}) {
		return nil, ErrClosed
	}
	select {
	case err := <-h.admitted:
		if err != nil {
			return nil, err
		}
		return h, nil
	case <-ctx.Done():
		e.post(command{cancel: h})
		return nil, ctx.Err()
	case <-e.stopped:
		return nil, ErrClosed
	}
}

func (e *Engine) post(c command) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return false
	}
	e.inbox = append(e.inbox, c)
	e.wake.Signal()
	return true
}

// Close ends every request with an abort and stops the loop.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closing = true
	e.wake.Signal()
	e.mu.Unlock()
	<-e.stopped
	return e.runner.Close()
}

// abandon tells every open handle that the engine is gone.
func (e *Engine) abandon() {
	for _, st := range e.live {
		st.handle.push(Output{Choice: -1, Finish: batch.FinishAbort, Err: ErrClosed})
	}
	clear(e.live)
}
