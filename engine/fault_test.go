package engine

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sestina/batch"
	"sestina/runner"
	"sestina/sampler"
)

// victim marks the requests that something happens to: by their priority, which
// changes no answer.
const victim = 1

// A panic, an error, a NaN or a broken stop check ends the request that it
// concerns, with its reason; every other answer is what it would have been.
func TestFaultsEndTheirRequestOnly(t *testing.T) {
	reqs := workload(21, 60)
	want := answersAlone(t, reqs, "")
	hits := func(step *batch.Step) (at []int) {
		for i, s := range step.Seqs {
			if s.Seq.Priority == victim && s.Seq.NumOutput() >= 2 && s.NeedsLogits() {
				at = append(at, i)
			}
		}
		return at
	}
	for name, c := range map[string]struct {
		fail failpoints
		err  error
	}{
		"panic in a step": {failpoints{onRun: func(step *batch.Step) error {
			if len(hits(step)) > 0 {
				panic("injected")
			}
			return nil
		}}, errInternal},
		"error of a step": {failpoints{onRun: func(step *batch.Step) error {
			if len(hits(step)) > 0 {
				return errors.New("injected")
			}
			return nil
		}}, errInternal},
		"panic after the kernels": {failpoints{onLogits: func(step *batch.Step, _ runner.Output) {
			if len(hits(step)) > 0 {
				panic("injected")
			}
		}}, errInternal},
		"NaN": {failpoints{onLogits: func(step *batch.Step, out runner.Output) {
			for _, i := range hits(step) {
				out.Logits.Row(out.Shares[i].First)[7] = float32(math.NaN())
			}
		}}, sampler.ErrNaN},
		"panic while sampling": {failpoints{onSample: func(seq *batch.Sequence) {
			if seq.Priority == victim && seq.NumOutput() >= 2 {
				panic("injected")
			}
		}}, errInternal},
	} {
		t.Run(name, func(t *testing.T) {
			reqs := workload(21, 60)
			for i := range reqs {
				if i%6 == 0 {
					reqs[i].Priority = victim
				}
			}
			e := setup{blocks: 200, blockSize: 4, fail: c.fail}.open(t)
			got := together(t, e, reqs, 9, nil)
			failed := 0
			for i := range reqs {
				if reqs[i].Priority != victim {
					compare(t, reqs[i:i+1], got[i:i+1], want[i:i+1])
					continue
				}
				for ch := range max(1, reqs[i].N) {
					if len(want[i].tokens[ch]) > 2 {
						failed++
						if got[i].finish[ch] != batch.FinishError || !errors.Is(got[i].errs[ch], c.err) || len(got[i].tokens[ch]) != 2 {
							t.Errorf("victim %d: %v, %v after %d tokens", i, got[i].finish[ch], got[i].errs[ch], len(got[i].tokens[ch]))
						}
					}
				}
				if got[i].events != max(1, reqs[i].N) {
					t.Errorf("victim %d: %d terminal events", i, got[i].events)
				}
			}
			if st := e.Stats(); st.Finished[batch.FinishError] != uint64(failed) || failed == 0 || st.Rebuilds != 0 {
				t.Errorf("%d failed, stats %+v", failed, st)
			}
			if err := e.Ready(); err != nil && !errors.Is(err, ErrStuck) {
				t.Error(err)
			}
			t.Logf("T09 %s: %d choices ended with %q, %d requests unchanged", name, failed, c.err, 50)
		})
	}
}

// A step that fails once harms nobody: its sequences are computed again alone.
func TestAStepThatFailsOnceHarmsNobody(t *testing.T) {
	reqs := workload(22, 40)
	want := answersAlone(t, reqs, "")
	n, copies := 0, 0
	s := setup{blockSize: 4}
	s.fail.onRun = func(step *batch.Step) error {
		if len(step.Copies) > 0 && len(step.Seqs) > 1 { // before they are made
			copies++
			return errors.New("injected")
		}
		return nil
	}
	s.fail.onLogits = func(step *batch.Step, out runner.Output) {
		if n++; n%5 == 0 && len(step.Seqs) > 1 { // after the slots and copies were written
			panic("injected")
		}
	}
	e := s.open(t)
	compare(t, reqs, together(t, e, reqs, 1, nil), want)
	if st := e.Stats(); st.FailedSteps <= uint64(copies) || copies == 0 || st.Finished[batch.FinishError] != 0 {
		t.Errorf("%d steps with copies failed, stats %+v", copies, st)
	} else {
		t.Logf("%d steps failed once, %d of them with copies to make", st.FailedSteps, copies)
	}
}

// When the scheduler panics half way through a commit, the sequence it panics at
// ends with an error; what was committed before it stands, and what was drawn
// and not committed is neither lost nor drawn twice.
func TestABrokenCommitIsRepaired(t *testing.T) {
	reqs := workload(23, 40)
	want := answersAlone(t, reqs, "")
	n, broken := 0, 0
	s := setup{blockSize: 4}
	s.fail.onUpdate = func(step *batch.Step, res []batch.Result) {
		if n++; n%10 != 0 {
			return
		}
		for i := range res {
			if i > 0 && len(res[i].Tokens) == 1 {
				res[i].Tokens = append(res[i].Tokens, 1, 2) // more than can be: Update panics here
				broken++
				return
			}
		}
	}
	e := s.open(t)
	got := together(t, e, reqs, 1, nil)
	failed := 0
	for i := range reqs {
		for ch := range max(1, reqs[i].N) {
			ids, full := got[i].tokens[ch], want[i].tokens[ch]
			switch got[i].finish[ch] {
			case want[i].finish[ch]:
				if !slices.Equal(ids, full) {
					t.Errorf("request %d: %v, want %v", i, ids, full)
				}
			case batch.FinishError:
				failed++
				if !slices.Equal(ids, full[:len(ids)]) {
					t.Errorf("request %d: %v is no prefix of %v", i, ids, full)
				}
			default:
				t.Errorf("request %d ended with %v, want %v", i, got[i].finish[ch], want[i].finish[ch])
			}
		}
		if got[i].events != max(1, reqs[i].N) {
			t.Errorf("request %d: %d terminal events", i, got[i].events)
		}
	}
	if st := e.Stats(); broken == 0 || int(st.Rebuilds) != broken || failed != broken {
		t.Errorf("%d commits broken, %d choices failed, stats %+v", broken, failed, st)
	}
	t.Logf("%d commits broken: as many choices ended with an error, all others are whole", broken)
}

// A scheduler that fails every time is the engine's end: every client is told,
// new ones are refused, readiness says so, Close returns.
func TestADeadEngineAnswersEveryone(t *testing.T) {
	var armed atomic.Bool
	s := setup{}
	s.fail.onSchedule = func() {
		if armed.Load() {
			panic("injected")
		}
	}
	e, err := s.unchecked(t)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	got := make([]answer, 20)
	for i := range got {
		h, err := e.Submit(context.Background(), Request{Prompt: []int32{5, 6}, MaxTokens: 500, Sampling: endless()})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { got[i] = read(h) })
	}
	armed.Store(true)
	wg.Wait()
	for i, a := range got {
		if a.whole != 1 || a.events != 0 || a.why.Finish != batch.FinishError || !errors.Is(a.why.Err, ErrDead) {
			t.Errorf("client %d: %d events, %d for the whole, %v %v", i, a.events, a.whole, a.why.Finish, a.why.Err)
		}
	}
	<-e.Done()
	_, err = e.Submit(context.Background(), Request{Prompt: []int32{1}})
	if !errors.Is(err, ErrDead) || !errors.Is(e.Ready(), ErrDead) || !errors.Is(e.Dead(), ErrDead) {
		t.Errorf("submit %v, ready %v, dead %v", err, e.Ready(), e.Dead())
	}
	e.Close()
}

// endless is greedy decoding that nothing stops but the budget.
func endless() batch.SamplingParams {
	p := batch.Greedy()
	p.IgnoreEOS = true
	return p
}

// T09: a step that hangs is seen: readiness fails, the state is logged once, new
// requests are refused, and after ten times as long every client is answered. The
// clock is the bubble's, so the times are the watchdog's own.
func TestAHangIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients = 8
		var armed atomic.Bool
		release := make(chan struct{})
		log := &syncBuffer{}
		s := setup{opt: Options{Log: slog.New(slog.NewTextHandler(log, nil))}, delay: func(int) time.Duration { return time.Millisecond }}
		s.fail.onRun = func(*batch.Step) error {
			if armed.Load() {
				<-release
			}
			return nil
		}
		e, err := s.unchecked(t)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		got, handles := make([]answer, clients), make([]*Handle, clients)
		for i := range got {
			handles[i] = submit(t, e, Request{Prompt: []int32{5}, MaxTokens: 1000, Sampling: endless()})
			wg.Go(func() { got[i] = read(handles[i]) })
		}
		time.Sleep(20 * time.Millisecond)
		armed.Store(true)
		start := time.Now()
		for e.Ready() == nil {
			time.Sleep(time.Millisecond)
		}
		seen, limit := time.Since(start), e.Options().StepTimeout
		if !errors.Is(e.Ready(), ErrStuck) || seen > limit+5*time.Millisecond {
			t.Errorf("ready says %v after %v", e.Ready(), seen)
		}
		if _, err := e.Submit(context.Background(), Request{Prompt: []int32{1}}); !errors.Is(err, ErrStuck) {
			t.Errorf("a stuck engine answers %v", err)
		}
		wg.Wait()
		answered := time.Since(start)
		if answered > deadAfter*limit+time.Second {
			t.Errorf("the clients were answered after %v", answered)
		}
		for i, a := range got {
			if a.whole != 1 || !errors.Is(a.why.Err, ErrDead) {
				t.Errorf("client %d: %d terminal events, %v", i, a.whole, a.why.Err)
			}
		}
		close(release) // the loop comes back, sees that it is dead and ends
		<-e.stopped
		for i, h := range handles {
			if a := read(h); a.whole != 0 || a.events != 0 {
				t.Errorf("client %d heard of the end again", i)
			}
		}
		if n := strings.Count(log.String(), "engine stuck"); n != 1 || !strings.Contains(log.String(), "onRun") && !strings.Contains(log.String(), "fault_test") {
			t.Errorf("the dump was logged %d times: %.300s", n, log.String())
		}
		e.Close()
		t.Logf("T09 a step hangs (limit %v): /readyz fails after %v, %d of %d clients answered after %v", limit, seen, clients, clients, answered)
	})
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// An engine whose device fails every step says that it is not ready.
func TestADeadDeviceIsSeen(t *testing.T) {
	s := setup{}
	s.fail.onRun = func(*batch.Step) error { return errors.New("device lost") }
	e := s.open(t)
	for range 8 {
		if a := ask(t, e, Request{Prompt: []int32{5}, MaxTokens: 3}); a.finish[0] != batch.FinishError {
			t.Fatalf("ended with %v", a.finish[0])
		}
	}
	if err := e.Ready(); err == nil {
		t.Error("ready although nothing works")
	}
}

// An observer that panics is switched off; requests do not notice.
func TestAPanickingObserverHarmsNobody(t *testing.T) {
	e := setup{opt: Options{Observer: &Observer{Step: func(StepInfo) { panic("injected") }}}}.open(t)
	if a := ask(t, e, Request{Prompt: []int32{5}, MaxTokens: 9, Sampling: endless()}); len(a.tokens[0]) != 9 {
		t.Errorf("%d tokens", len(a.tokens[0]))
	}
}
