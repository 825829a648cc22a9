package engine

import (
	"fmt"
	"runtime"
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
	told   atomic.Bool
	timer  *time.Timer
}

// deadAfter times the limit without a beat: no one waits any longer.
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

// overdue is by how many limits the next beat is late; below 1 it is not.
func (p *pulse) overdue() float64 {
	last := p.last.Load()
	if last == 0 {
		return 0
	}
	return float64(int64(p.engine.now())-last) / float64(p.limit.Load())
}

func (p *pulse) stuck() bool { return p.overdue() >= 1 }

// alarm is the timer's: it says what the loop is doing, once, and gives the
// engine up when nothing has moved for long.
func (p *pulse) alarm() {
	late := p.overdue()
	if late < 1 {
		return // a beat came while the timer fired
	}
	e, limit := p.engine, time.Duration(p.limit.Load())
	if late >= deadAfter {
		e.log.Error("engine given up", "silent_for", time.Duration(late*float64(limit)))
		e.die(fmt.Errorf("%w: no step ended for %v", ErrDead, time.Duration(late*float64(limit)).Round(time.Millisecond)))
		return
	}
	if p.told.CompareAndSwap(false, true) {
		e.log.Error("engine stuck", "limit", limit, "stats", e.Stats(), "trace", string(e.Trace().JSON()), "goroutines", stack(true))
	}
	p.timer.Reset(limit)
}

// patience is how long a step of so many rows may take: StepTimeout, or four
// times what such steps took so far on a slow machine.
func (e *Engine) patience(rows int) time.Duration {
	return max(e.opt.StepTimeout, 4*e.curve.expect(rows))
}

// stack is a dump of this goroutine or of all, cut at 1 MiB.
func stack(all bool) string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, all)])
}
