package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sestina/batch"
	"sestina/scheduler"
)

// submit must succeed.
func submit(t testing.TB, e *Engine, req Request) *Handle {
	t.Helper()
	h, err := e.Submit(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// What can never be served is refused at once and by numbers, also while the
// engine computes and the queue is full; nothing hangs.
func TestWhatCannotBeServedIsRefusedAtOnce(t *testing.T) {
	const slow = 50 * time.Millisecond
	e := setup{blocks: 4, opt: Options{MaxModelLen: 2000, MaxQueuedSeqs: 3}, // a pool of 64 tokens
		delay: func(int) time.Duration { return slow }}.open(t)
	submit(t, e, Request{Prompt: []int32{5}, MaxTokens: 63, Sampling: endless()})
	for e.Stats().Running == 0 {
		time.Sleep(time.Millisecond)
	}
	var took []time.Duration
	refused := func(want Refusal, req Request) error {
		t.Helper()
		start := time.Now()
		_, err := e.Submit(context.Background(), req)
		took = append(took, time.Since(start))
		if r, ok := RefusalOf(err); !ok || r != want {
			t.Errorf("refused with %v, want %v", err, want)
		}
		return err
	}
	for _, c := range []struct{ prompt, max int }{{64, 1}, {65, 0}, {1, 64}, {60, 1 << 62}, {3000, 5}} {
		err := refused(RefusedNeverFits, Request{Prompt: make([]int32, c.prompt), MaxTokens: c.max})
		var never *scheduler.NeverFitsError
		if errors.As(err, &never) && (never.Prompt != c.prompt || never.MaxTokens != max(1, c.max) || never.Limit != 64 || never.What != "KV cache") {
			t.Errorf("%d + %d: %+v", c.prompt, c.max, never)
		}
	}
	bad := batch.Greedy()
	bad.TopP = 2
	refused(RefusedInvalid, Request{})
	if err := refused(RefusedInvalid, Request{Prompt: []int32{1, vocab}}); err == nil || !strings.Contains(err.Error(), "token id 224 at position 1") {
		t.Errorf("an id outside the vocabulary: %v", err)
	}
	refused(RefusedInvalid, Request{Prompt: []int32{-1}})
	refused(RefusedInvalid, Request{Prompt: []int32{1}, N: MaxChoices + 1})
	refused(RefusedInvalid, Request{Prompt: []int32{1}, MaxTokens: -1})
	refused(RefusedInvalid, Request{Prompt: []int32{1}, Sampling: bad})
	for range 3 {
		submit(t, e, Request{Prompt: make([]int32, 60), MaxTokens: 4})
	}
	refused(RefusedQueueFull, Request{Prompt: []int32{1}, MaxTokens: 1})
	st := e.Stats()
	if st.Refused[RefusedNeverFits] != 5 || st.Refused[RefusedInvalid] != 6 || st.Refused[RefusedQueueFull] != 1 {
		t.Errorf("counted %v", st.Refused)
	}
	slices.Sort(took)
	if p50 := took[len(took)/2]; p50 > slow/2 { // the worst one is a matter of who else uses the machine
		t.Errorf("half of the refusals take more than %v, a step %v", p50, slow)
	}
	t.Logf("T08 engine: %d refusals beside steps of %v: median %v, worst %v", len(took), slow, took[len(took)/2], took[len(took)-1])
}

// The blocks of a cancelled request are free within a step.
func TestCancelFreesBlocksWithinAStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const step = 20 * time.Millisecond
		e := setup{delay: func(int) time.Duration { return step }}.open(t)
		h := submit(t, e, Request{Prompt: make([]int32, 100), MaxTokens: 300, N: 3, Sampling: endless()})
		time.Sleep(10*step + step/2)
		if st := e.Stats(); st.Running != 3 || st.Blocks.Referenced < 7 {
			t.Fatalf("stats before %+v", st)
		}
		h.Cancel()
		start := time.Now()
		for e.Stats().Blocks.Referenced > 0 {
			time.Sleep(time.Millisecond)
		}
		if d := time.Since(start); d > step+time.Millisecond {
			t.Errorf("blocks were free after %v, a step takes %v", d, step)
		}
		if a := read(h); a.whole != 1 || a.why.Finish != batch.FinishAbort || a.why.Err != nil {
			t.Errorf("%+v", a)
		}
		e.Close()
	})
}

// Drain refuses new requests, lets the others finish, and cuts off those that
// are not done in time; each hears of it exactly once.
func TestDrain(t *testing.T) {
	for _, c := range []struct {
		name   string
		within time.Duration
		cut    bool
	}{{"in time", time.Minute, false}, {"too late", 105 * time.Millisecond, true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := setup{opt: Options{MaxNumSeqs: 2}, delay: func(int) time.Duration { return 10 * time.Millisecond }}.open(t)
				var hs []*Handle
				for range 5 {
					hs = append(hs, submit(t, e, Request{Prompt: []int32{5}, MaxTokens: 10, Sampling: endless()}))
				}
				time.Sleep(time.Millisecond)
				ctx, cancel := context.WithTimeout(context.Background(), c.within)
				defer cancel()
				start := time.Now()
				done := make(chan error, 1)
				go func() { done <- e.Drain(ctx) }()
				synctest.Wait()
				if _, err := e.Submit(context.Background(), Request{Prompt: []int32{5}}); !errors.Is(err, ErrDraining) || !errors.Is(e.Ready(), ErrDraining) {
					t.Errorf("while draining: submit %v, ready %v", err, e.Ready())
				}
				err := <-done
				if (err != nil) != c.cut {
					t.Errorf("drain says %v", err)
				}
				whole, finished := 0, 0
				for _, h := range hs {
					a := read(h)
					if a.whole+a.events != 1 || a.whole == 1 && !errors.Is(a.why.Err, ErrShutdown) {
						t.Errorf("%d + %d terminal events, %v", a.whole, a.events, a.why.Err)
					}
					whole, finished = whole+a.whole, finished+a.events
				}
				if c.cut && (whole != 3 || finished != 2) || !c.cut && finished != 5 {
					t.Errorf("%d finished, %d cut off", finished, whole)
				}
				t.Logf("after %v: %d finished, %d cut off, %v", time.Since(start), finished, whole, err)
				e.Close()
			})
		})
	}
}

// A request that waits too long for its first step is ended with its reason;
// one that was scheduled is not, and time in which nothing happens (a
// suspended machine) ends only what truly waited.
func TestQueueTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := setup{opt: Options{MaxNumSeqs: 1, QueueTimeout: 100 * time.Millisecond},
			delay: func(int) time.Duration { return 10 * time.Millisecond }}.open(t)
		first := submit(t, e, Request{Prompt: []int32{5}, MaxTokens: 15, N: 2, Sampling: endless()}) // 150 ms a choice
		late := submit(t, e, Request{Prompt: []int32{6}, MaxTokens: 1, Sampling: endless()})
		start := time.Now()
		a := read(late)
		if d := time.Since(start); a.whole != 1 || a.why.Finish != batch.FinishRejected || !errors.Is(a.why.Err, ErrQueueTimeout) || d < 100*time.Millisecond || d > 120*time.Millisecond {
			t.Errorf("after %v: %+v", d, a.why)
		}
		if a := read(first); a.events != 2 || a.whole != 0 {
			t.Errorf("the running request: %d choices ended, %d whole", a.events, a.whole)
		}
		time.Sleep(1000 * time.Hour) // nothing runs, nothing breaks
		if a := ask(t, e, Request{Prompt: []int32{7}, MaxTokens: 1, Sampling: endless()}); a.events != 1 || e.Ready() != nil {
			t.Errorf("after a long sleep: %+v, %v", a, e.Ready())
		}
		if st := e.Stats(); st.Refused[RefusedTimeout] != 1 {
			t.Errorf("counted %v", st.Refused)
		}
		e.Close()
	})
}

// A key that fills the queue keeps no other out for long, and may fill it when
// it is alone.
func TestQueueShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := setup{opt: Options{MaxNumSeqs: 1, MaxQueuedSeqs: 10}, delay: func(int) time.Duration { return 10 * time.Millisecond }}.open(t)
		try := func(key string) error {
			_, err := e.Submit(context.Background(), Request{Prompt: []int32{5}, MaxTokens: 1, Salt: key, Sampling: endless()})
			return err
		}
		for range 10 {
			if err := try("greedy"); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.Admits("modest"); !errors.Is(err, ErrQueueFull) || e.Stats().Refused[RefusedQueueFull] != 1 {
			t.Errorf("a full queue is open: %v, counted %v", err, e.Stats().Refused)
		}
		if err := try("modest"); !errors.Is(err, ErrQueueFull) {
			t.Errorf("a full queue answers %v", err)
		}
		admitted := map[string]int{}
		for range 20 { // both ask after each step, the greedy one first and more often
			time.Sleep(10 * time.Millisecond)
			for _, key := range []string{"greedy", "greedy", "greedy", "modest"} {
				if e.Admits(key) == nil && try(key) == nil {
					admitted[key]++
				}
			}
		}
		if admitted["modest"] < 8 || admitted["greedy"] < 5 {
			t.Errorf("admitted %v", admitted)
		}
		time.Sleep(2 * time.Minute)
		for range 10 {
			if err := try("greedy"); err != nil {
				t.Errorf("alone again: %v", err)
			}
		}
		t.Logf("of 20 places: %v; refusals %v", admitted, e.Stats().Refused)
		e.Close()
	})
}

// Lower priorities run first.
func TestPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := setup{opt: Options{MaxNumSeqs: 1}, delay: func(int) time.Duration { return 10 * time.Millisecond }}.open(t)
		submit(t, e, Request{Prompt: []int32{5}, MaxTokens: 2, Sampling: endless()})
		low := submit(t, e, Request{Prompt: []int32{5}, MaxTokens: 2, Priority: 5, Sampling: endless()})
		high := submit(t, e, Request{Prompt: []int32{5}, MaxTokens: 2, Priority: -5, Sampling: endless()})
		read(low)
		read(high)
		if a, b := high.Timings(), low.Timings(); !a.Scheduled.Before(b.Scheduled) || a.Queue() >= b.Queue() {
			t.Errorf("high waited %v, low %v", a.Queue(), b.Queue())
		}
		e.Close()
	})
}

// Close ends what is open, exactly once, and refuses the rest.
func TestClose(t *testing.T) {
	e := setup{}.open(t)
	var wg sync.WaitGroup
	got := make([]answer, 30)
	for i := range got {
		h := submit(t, e, Request{Prompt: []int32{5}, MaxTokens: 900, Sampling: endless()})
		wg.Go(func() { got[i] = read(h) })
	}
	closeChecked(t, e)
	wg.Wait()
	for i, a := range got {
		if a.whole+a.events != 1 || a.whole == 1 && !errors.Is(a.why.Err, ErrClosed) {
			t.Errorf("request %d: %d and %d terminal events, %v", i, a.whole, a.events, a.why.Err)
		}
	}
	if _, err := e.Submit(context.Background(), Request{Prompt: []int32{5}}); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed engine answers %v", err)
	}
}
