// Package engine is the step loop: token ids in, token ids out. It knows no
// text, no HTTP and no policy; those are the façade's, the server's and the
// scheduler's.
//
// One goroutine owns the scheduler, the runner and every sequence. Callers talk
// to it through two doors: an inbox of submissions and cancellations, read
// between steps, and one [Handle] per request that collects what was committed.
// The loop never waits for a reader, so a slow client costs a few bytes per
// token and nothing else. Everything that can be refused is refused in
// [Engine.Submit], on the caller's goroutine, without waiting for a step.
//
//	Submit → inbox → Schedule → run → sample → Update → handles → Next
//
// # What can go wrong, and what then
//
//   - A row of NaNs, an error or a panic while sampling ends that sequence.
//   - A panic or error of a whole step: the step is computed again one sequence
//     at a time (kernels are row-wise and the slots are the same, so doing it
//     twice changes no bit), and those that fail alone end.
//   - A panic inside the scheduler: its books are rebuilt and everything that
//     runs is computed again from its tokens; answers do not change.
//   - A step that does not return: [Engine.Ready] fails after StepTimeout and
//     the state is logged once; after ten times that the engine is dead.
//   - A dead engine answers every client with a terminal event.
//
// Every request gets exactly one terminal event per choice, or one for all.
// Tests: company_test.go (answers alone = answers in company, whatever happens
// to the neighbours), fault_test.go, lifecycle_test.go.
package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sestina/batch"
	"sestina/kvcache"
	"sestina/runner"
	"sestina/scheduler"
)

// Engine runs requests on one model.
type Engine struct {
	opt    Options
	log    *slog.Logger
	runner *runner.ModelRunner
	start  time.Time
	limit  int // longest prompt + output

	// The step goroutine's.
	sched    *scheduler.Scheduler
	blocks   *kvcache.BlockManager
	tap      tap
	live     map[int64]*stream // unfinished sequences by id
	unseen   []*Handle         // not scheduled yet, by arrival
	result   []batch.Result    // of the step, reused
	streams  []*stream         // of the step, reused
	lengths  []int             // of its sequences before it, reused
	began    time.Time         // when the step was begun
	lapped   time.Time         // until when the loop's time is booked in stats.Spent
	drafted  []*batch.Sequence // scratch of draft
	decoding int               // sequences that the last step left with one token to compute
	pace     pace
	setbacks int // rebuilds without a completed step between them
	stats    Stats
	observer *Observer
	fail     failpoints

	mu       sync.Mutex
	wake     *sync.Cond
	inbox    []command
	closing  bool
	draining bool
	queue    queue
	nextID   int64

	pulse    pulse
	trace    recorder
	arriving atomic.Int64 // sequences in the inbox
	refused  [numRefusals]atomic.Uint64
	shown    atomic.Pointer[Stats]
	drained  chan struct{} // closed when draining and idle
	stopped  chan struct{} // closed when the loop has ended
	gone     chan struct{} // closed when no more outputs will come
	dying    sync.Once
	cause    error // why; set before gone is closed
}

// command is one entry of the inbox: a submission, or the end of a request.
type command struct {
	submit *Handle
	end    *Handle
	why    Output
	all    bool // end every request
}

// New starts the step loop on a runner. The engine owns the runner from then on.
func New(r *runner.ModelRunner, blocks int, opt Options) (*Engine, error) {
	e, err := prepare(r, blocks, opt)
	if err != nil {
		return nil, err
	}
	go e.loop()
	return e, nil
}

// prepare makes an engine whose loop is not running yet.
func prepare(r *runner.ModelRunner, blocks int, opt Options) (*Engine, error) {
	if err := opt.fill(r.Info().MaxContext); err != nil {
		return nil, err
	}
	e := &Engine{opt: opt, log: opt.Log, runner: r, start: time.Now(), live: map[int64]*stream{}, observer: opt.Observer,
		drained: make(chan struct{}), stopped: make(chan struct{}), gone: make(chan struct{})}
	if e.log == nil {
		e.log = slog.Default()
	}
	e.lapped = e.start
	e.wake = sync.NewCond(&e.mu)
	e.queue.init(&opt)
	var err error
	e.blocks, err = kvcache.New(kvcache.Config{NumBlocks: blocks, BlockSize: opt.BlockSize,
		PrefixCaching: opt.Techniques.PrefixCaching == "on", Contiguous: opt.Techniques.KVLayout == "contiguous",
		Windows: r.Windows(), Tier: e.below(), Model: e.identity()})
	if err != nil {
		return nil, err
	}
	e.sched = scheduler.New(opt.scheduler(), e.blocks)
	e.limit = e.sched.MaxLen()
	e.pulse.init(e)
	e.trace.init(e)
	e.publish()
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
	defer e.end()
	spent := &e.stats.Spent
	for e.intake() {
		e.lap(&spent.Waiting)
		step := e.schedule()
		e.lap(&spent.Schedule)
		if step == nil {
			continue
		}
		e.compute(step)
		e.update(step)
		e.account(step)
		e.publish()
		e.deliver()
		e.lap(&spent.Deliver)
	}
}

// now is the scheduler's clock: monotonic, since the engine started.
func (e *Engine) now() time.Duration { return time.Since(e.start) }

// intake reads the inbox; with nothing to run it sleeps until something comes,
// without a timer. It is false when the engine closes.
func (e *Engine) intake() bool {
	e.mu.Lock()
	for len(e.inbox) == 0 && !e.closing && len(e.live) == 0 {
		if e.draining && !isClosed(e.drained) {
			close(e.drained)
		}
		e.pulse.rest()
		e.wake.Wait()
	}
	inbox, closing := e.inbox, e.closing
	e.inbox = nil
	e.mu.Unlock()
	e.pulse.beat(e.patience(0))
	for i := range inbox {
		e.obey(&inbox[i])
	}
	e.expire()
	if len(inbox) > 0 && len(e.live) == 0 {
		e.publish() // the loop may sleep now
	}
	return !closing && !isClosed(e.gone)
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (e *Engine) obey(c *command) {
	switch {
	case c.submit != nil:
		e.admit(c.submit)
	case c.all:
		e.endAll(c.why)
	default:
		e.finish(c.end, c.why)
	}
}

// admit hands a request's sequences to the scheduler.
func (e *Engine) admit(h *Handle) {
	e.arriving.Add(-int64(h.req.N))
	seqs := make([]*batch.Sequence, len(h.streams))
	for i, st := range h.streams {
		seqs[i] = st.seq
	}
	if err := e.sched.Add(e.now(), seqs...); err != nil { // checked in Submit: not expected
		e.finish(h, Output{Choice: -1, Finish: batch.FinishRejected, Err: err})
		return
	}
	e.trace.add(h, len(e.live) == 0)
	for _, st := range h.streams {
		e.live[st.seq.ID] = st
	}
	e.unseen = append(e.unseen, h)
}

// schedule decides the next step; nil when there is none.
func (e *Engine) schedule() (step *batch.Step) {
	if len(e.live) == 0 {
		return nil
	}
	rows := 0
	if e.opt.timed {
		rows = e.pace.rows(e.decoding, e.opt.MaxNumBatchedTokens)
		e.sched.SetStepBudget(func(n int) time.Duration { return time.Duration(n) }, time.Duration(rows))
	}
	e.draft()
	e.lap(&e.stats.Spent.Draft)
	e.began = e.lapped
	e.tap.loads = ""
	err := guard(func() {
		step = e.sched.Schedule(e.now())
		e.fail.schedule()
	})
	if err == nil && step == nil {
		err = fmt.Errorf("no step although %d sequences are unfinished", len(e.live))
	}
	if err != nil {
		if step != nil {
			e.trace.step("lost", step, rows, e.tap.loads)
		}
		e.rebuild(err)
		return nil
	}
	e.lengths, e.streams = e.lengths[:0], e.streams[:0]
	for i := range step.Seqs {
		seq := step.Seqs[i].Seq
		e.lengths = append(e.lengths, len(seq.Tokens))
		e.streams = append(e.streams, e.live[seq.ID])
	}
	e.trace.step("step", step, rows, e.tap.loads)
	e.pulse.beat(e.patience(step.NumTokens()))
	return step
}

// update commits the step. If the scheduler's books break while it does, what
// was committed stands, the sequence that it broke at ends with an error, and the
// others are computed again; what was drawn for them is kept, as drawing has told
// samplers and stop checks.
func (e *Engine) update(step *batch.Step) {
	err := guard(func() {
		e.fail.update(step, e.result)
		e.sched.Update(step, e.result)
	})
	if err == nil {
		e.setbacks = 0
		if s := e.opt.Speculator; s != nil {
			s.Done(step, e.result, time.Since(e.began))
		}
		return
	}
	culprit := true
	for i := range step.Seqs {
		seq, res := step.Seqs[i].Seq, &e.result[i]
		switch committed := len(seq.Tokens) == e.lengths[i]+len(res.Tokens); {
		case !committed && culprit:
			*res = batch.Result{Finish: batch.FinishError, Err: errInternal}
			culprit = false
		case !committed:
			e.streams[i].again = &batch.Result{Tokens: slices.Clone(res.Tokens), Finish: res.Finish}
			*res = batch.Result{}
		}
		if res.Finish != batch.NotFinished {
			e.sched.Abort(seq.ID)
		}
	}
	e.rebuild(err)
}

// account keeps the books of a step: counters, times and what ended. Nothing is
// delivered before that, so whoever has an answer finds it counted.
func (e *Engine) account(step *batch.Step) {
	at := time.Now()
	e.decoding = 0
	for i, st := range e.streams {
		res := &e.result[i]
		e.begin(st.handle)
		e.count(at, st, res)
		st.handle.noteDrafts(step.Seqs[i].NumDrafts, len(res.Tokens)-1)
		switch {
		case res.Finish != batch.NotFinished:
			e.forget(st)
			if st.handle.left--; st.handle.left == 0 {
				e.settle(st.handle)
			}
		case len(res.Tokens) > 0:
			e.decoding++
		}
	}
	e.measure(step, at)
}

// deliver hands what was committed to the handles.
func (e *Engine) deliver() {
	for i, st := range e.streams {
		res := &e.result[i]
		if len(res.Tokens) == 0 && res.Finish == batch.NotFinished {
			continue
		}
		out := Output{Choice: st.seq.Choice, Finish: res.Finish, Err: res.Err}
		if len(res.Tokens) > 0 {
			out.Tokens = st.take(len(res.Tokens))
		}
		st.handle.push(out)
	}
}

// Close ends every request with an abort and stops the loop.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closing = true
	e.wake.Signal()
	e.mu.Unlock()
	select {
	case <-e.stopped:
	case <-e.gone:
		select {
		case <-e.stopped:
		case <-time.After(time.Second): // the loop hangs inside a step: its memory stays
			return e.Dead()
		}
	}
	return errors.Join(e.putAway(), e.runner.Close())
}

// end is the loop's last act: whatever happened, every client hears of it.
func (e *Engine) end() {
	cause := ErrClosed
	if p := recover(); p != nil {
		cause = fmt.Errorf("%w: %v", ErrDead, p)
		e.log.Error("engine died", "cause", p, "stack", stack(false), "trace", string(e.Trace().JSON()))
	}
	if isClosed(e.gone) {
		cause = e.cause // given up by the watchdog
	}
	e.pulse.rest()
	e.mu.Lock()
	e.closing = true
	inbox := e.inbox
	e.inbox = nil
	e.mu.Unlock()
	for _, c := range inbox {
		if c.submit != nil {
			c.submit.push(last(cause))
		}
	}
	e.endAll(last(cause))
	e.publish()
	close(e.stopped)
	e.die(cause)
}

// die makes cause known to whoever waits; the first one counts.
func (e *Engine) die(cause error) {
	e.dying.Do(func() {
		e.cause = cause
		close(e.gone)
	})
}

// last is the terminal event of a request that the engine cannot go on with.
func last(cause error) Output {
	if errors.Is(cause, ErrDead) {
		return Output{Choice: -1, Finish: batch.FinishError, Err: cause}
	}
	return Output{Choice: -1, Finish: batch.FinishAbort, Err: cause}
}
