package engine

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// pulse is the watchdog of the step loop. The loop beats before each step and
// rests when there is nothing to do; whoever wants to know compares the last
// beat with the clock, so no goroutine runs for it and an idle engine costs
// nothing. A timer that every beat puts off reports the one that is missed.
type pulse struct {
	engine *Engine
	last   atomic.Int64 // nanoseconds since the engine started; 0 = at rest
	limit  atomic.Int64 // nanoseconds until the next beat is overdue
	timer  *time.Timer

	mu     sync.Mutex // one alarm at a time
	told   bool
	missed int64 // the beat that the next one is missed after
	alarms int   // about it
}

// deadAfter alarms about one beat: no one waits any longer.
const deadAfter = 10

func (p *pulse) init(e *Engine) {
	p.engine = e
	p.timer = time.AfterFunc(time.Hour, func() { guard(p.alarm) })
	p.timer.Stop()
}

func (p *pulse) beat(limit time.Duration) {
	p.limit.Store(int64(limit))
	p.last.Store(max(1, int64(p.engine.now())))
	p.timer.Reset(limit)
}

func (p *pulse) rest() {
	p.last.Store(0)
	p.timer.Stop()
}

// stuck reports whether the next beat is overdue.
func (p *pulse) stuck() bool {
	last := p.last.Load()
	return last != 0 && int64(p.engine.now())-last >= p.limit.Load()
}

// alarm is the timer's: it says what the loop is doing, once, and gives the
// engine up after deadAfter alarms about the same beat. They are counted, not
// computed from the clock, so that a suspended machine is one alarm.
func (p *pulse) alarm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stuck() {
		return // a beat came while the timer fired
	}
	e, limit := p.engine, time.Duration(p.limit.Load())
	if beat := p.last.Load(); beat != p.missed {
		p.missed, p.alarms = beat, 0
	}
	if p.alarms++; p.alarms >= deadAfter {
		silent := (e.now() - time.Duration(p.missed)).Round(time.Millisecond)
		e.log.Error("engine given up", "silent_for", silent)
		e.die(fmt.Errorf("%w: no step ended for %v", ErrDead, silent))
		return
	}
	if !p.told {
		p.told = true
		e.log.Error("engine stuck", "limit", limit, "stats", e.Stats(), "trace", string(e.Trace().JSON()), "goroutines", stack(true))
	}
	p.timer.Reset(limit)
}

// patience is how long a step of so many rows may take: StepTimeout, or four
// times what such steps took so far on a slow machine. Before anything was
// measured it grows with the rows, so that a large model's first step is no hang.
func (e *Engine) patience(rows int) time.Duration {
	if expected := e.pace.all.expect(rows); expected > 0 {
		return max(e.opt.StepTimeout, 4*expected)
	}
	return e.opt.StepTimeout * time.Duration(1+rows/64)
}

// stack is a dump of this goroutine or of all, cut at 1 MiB.
func stack(all bool) string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, all)])
}
