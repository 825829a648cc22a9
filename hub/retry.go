package hub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// permanent wraps an error that another attempt cannot cure.
type permanent struct{ error }

func (e permanent) Unwrap() error { return e.error }

// busy wraps a refusal that names a pause.
type busy struct {
	error
	after time.Duration
}

func (e busy) Unwrap() error { return e.error }

// retry calls step until it succeeds, fails for good, or fails c.attempts times in a row without moving progressFloor
// bytes. Pauses double from 500 ms to 8 s. A step that moves bytes for ever is bounded by the file's size.
func (c *client) retry(ctx context.Context, step func() (moved int64, err error)) error {
	for failed := 0; ; {
		moved, err := step()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		_, final := errors.AsType[permanent](err)
		if final || errors.Is(err, errRefused) || errors.Is(err, ErrNoSpace) {
			return err
		}
		if failed++; moved >= c.progressFloor {
			failed = 1
		}
		if failed >= c.attempts {
			return fmt.Errorf("%w (given up after %d attempts)", err, failed)
		}
		pause := min(500*time.Millisecond<<(failed-1), 8*time.Second)
		if b, ok := errors.AsType[busy](err); ok {
			pause = max(pause, b.after)
		}
		if err := c.sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// watchdog cancels a request whose next event does not come in time.
type watchdog struct {
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
	done  bool
}

// expect replaces what is awaited.
func (w *watchdog) expect(what string, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
	if !w.done {
		w.timer = time.AfterFunc(d, func() { w.cancel(timeout(fmt.Sprintf("%s %v", what, d))) })
	}
}

func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = true
	if w.timer != nil {
		w.timer.Stop()
	}
	w.cancel(nil)
}

// explain replaces "context canceled" by what was awaited.
func (w *watchdog) explain(err error) error {
	if t, ok := errors.AsType[timeout](context.Cause(w.ctx)); ok {
		return t
	}
	return err
}

type timeout string

func (t timeout) Error() string { return string(t) }
