package engine

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Thousands of requests, a fifth of them cut off, leave nothing behind: no
// memory, no goroutine, no entry in any table.
func TestSoak(t *testing.T) {
	before := runtime.NumGoroutine()
	e := setup{blocks: 64, blockSize: 4, opt: Options{MaxQueuedSeqs: 1 << 20, QueueTimeout: time.Hour}}.open(t)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	round := func(seed uint64) {
		together(t, e, workload(seed, 400), seed, func(i int, h *Handle) answer {
			if i%5 == 0 {
				return leave(h, i/5%8)
			}
			return read(h)
		})
	}
	round(0) // fills the flight recorder and the pools
	start := heap()
	const rounds = 4
	for seed := uint64(1); seed <= rounds; seed++ {
		round(seed)
	}
	grown := int64(heap()) - int64(start)
	if grown > 1<<20 {
		t.Errorf("the heap grew by %d bytes in %d requests", grown, rounds*400)
	}
	st := e.Stats()
	closeChecked(t, e)
	settled(t, before)
	t.Logf("T15 in small: %d requests, %d steps: the heap grew by %d bytes", rounds*400, st.Steps, grown)
}

// The observer and the counters agree with what the clients saw; snapshots are
// consistent while the engine runs.
func TestStatsAndObserverCountWhatHappened(t *testing.T) {
	var mu sync.Mutex
	var infos []RequestInfo
	var first, gaps, rows, steps int
	obs := &Observer{
		Step:       func(s StepInfo) { rows += s.Rows; steps++ },
		FirstToken: func(d time.Duration) { first++ },
		TokenGap:   func(d time.Duration) { gaps++ },
		Finished:   func(i RequestInfo) { mu.Lock(); infos = append(infos, i); mu.Unlock() },
	}
	reqs := workload(31, 80)
	e := setup{blocks: 60, blockSize: 4, opt: Options{Observer: obs}}.open(t)
	var stop atomic.Bool
	var watch sync.WaitGroup
	snapshots := 0
	watch.Go(func() {
		for !stop.Load() {
			s := e.Stats()
			b := s.Blocks
			if b.Free+b.Idle+b.Referenced+b.Fenced != b.Total || s.KVUsage < 0 || s.KVUsage > 1 {
				t.Errorf("inconsistent snapshot %+v", s)
			}
			snapshots++
			runtime.Gosched()
		}
	})
	got := together(t, e, reqs, 4, func(i int, h *Handle) answer {
		if i%10 == 9 {
			h.Cancel()
		}
		return read(h)
	})
	stop.Store(true)
	watch.Wait()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	st := e.Stats()
	var want Stats
	begun, tokens, spaced := 0, 0, 0
	for _, info := range infos {
		sum, preempted := 0, 0
		for _, c := range info.Choices {
			sum += c.OutputTokens
			preempted += c.Preemptions
			spaced += max(0, c.OutputTokens-1)
			want.Finished[c.Finish]++
		}
		if sum != info.OutputTokens || preempted != info.Preemptions || info.Total() <= 0 {
			t.Errorf("inconsistent %+v", info)
		}
		if sum > 0 {
			begun++
			if info.Queue() < 0 || info.Prefill() < 0 || info.TTFT() != info.Queue()+info.Prefill() || info.Decode() < 0 {
				t.Errorf("times %+v", info.Timings)
			}
		}
		tokens += sum
	}
	seen := 0
	for i := range got {
		for _, ids := range got[i].tokens {
			seen += len(ids)
		}
	}
	if len(infos) != len(reqs) || st.Finished != want.Finished || st.OutputTokens != uint64(tokens) || seen != tokens {
		t.Errorf("%d of %d requests, finished %v want %v, tokens %d, %d observed, %d seen", len(infos), len(reqs), st.Finished, want.Finished, st.OutputTokens, tokens, seen)
	}
	if first != begun || uint64(rows) != st.StepTokens || uint64(steps) != st.Steps || gaps != spaced {
		t.Errorf("%d first tokens of %d, %d rows of %d, %d steps of %d, %d gaps of %d", first, begun, rows, st.StepTokens, steps, st.Steps, gaps, spaced)
	}
	t.Logf("%d requests, %d steps, %d tokens, %d preemptions, %d snapshots", len(infos), steps, tokens, st.Preemptions, snapshots)
}

// What waits for a slow reader is one output a choice and 32 bytes a token.
func TestSlowReadersCostFewBytes(t *testing.T) {
	const tokens = 3000
	e := setup{blocks: 4096 / 16}.open(t)
	h := submit(t, e, Request{Prompt: []int32{5}, MaxTokens: tokens, Sampling: endless()})
	for h.Timings().OutputTokens < tokens {
		time.Sleep(time.Millisecond)
	}
	h.mu.Lock()
	waiting, held := len(h.queue), cap(h.queue[0].Tokens)*32
	h.mu.Unlock()
	if waiting != 1 || held > 64*1024*2 {
		t.Errorf("%d outputs wait, with %d bytes", waiting, held)
	}
	a := read(h)
	if len(a.tokens[0]) != tokens || a.events != 1 {
		t.Errorf("%d tokens, %d events", len(a.tokens[0]), a.events)
	}
	t.Logf("%.1f bytes per waiting token", float64(held)/tokens)
}

// While long prompts are computed, the tokens of running streams come at most
// twice as slowly as without them; without a time budget they stall.
func TestPromptsDoNotStallRunningStreams(t *testing.T) {
	cost := func(rows int) time.Duration { // memory-bound up to 8 rows, then 1 ms a row
		return 20*time.Millisecond + time.Duration(max(0, rows-8))*time.Millisecond
	}
	run := func(t *testing.T, most int) (p99 float64, ttft time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			var gaps []time.Duration
			var measuring atomic.Bool
			obs := &Observer{TokenGap: func(d time.Duration) {
				if measuring.Load() {
					gaps = append(gaps, d)
				}
			}}
			e := setup{blocks: 4096, opt: Options{MaxNumBatchedTokens: most, Observer: obs}, delay: cost}.open(t)
			var streams []*Handle
			for range 4 {
				streams = append(streams, submit(t, e, Request{Prompt: []int32{5}, MaxTokens: 2000, Sampling: endless()}))
			}
			time.Sleep(time.Second)
			measuring.Store(true)
			for range 3 {
				prompt := make([]int32, 1500)
				for i := range prompt {
					prompt[i] = int32(rand.IntN(vocab))
				}
				h := submit(t, e, Request{Prompt: prompt, MaxTokens: 1, Sampling: endless()})
				read(h)
				tm := h.Timings()
				ttft += tm.TTFT() / 3
			}
			for _, h := range streams {
				h.Cancel()
			}
			e.Close()
			slices.Sort(gaps)
			p99 = float64(gaps[len(gaps)*99/100]) / float64(cost(4))
		})
		return p99, ttft
	}
	auto, ttft := run(t, 0)
	plain, ttftPlain := run(t, 512)
	t.Logf("p99 gap: %.2f of a step without prompts (TTFT of 1,500 tokens %v); with 512 rows a step %.1f (TTFT %v)",
		auto, ttft.Round(time.Millisecond), plain, ttftPlain.Round(time.Millisecond))
	if auto > 2 || plain < 10 {
		t.Errorf("p99 gap is %.2f with a time budget and %.2f without, want at most 2 and at least 10", auto, plain)
	}
}

// The curve never falls, goes through what was measured and is cautious beyond.
func TestCostCurve(t *testing.T) {
	var c costCurve
	if n := new(pace).rows(0, 512); n != 16 {
		t.Errorf("%d rows in the first step, want 16", n)
	}
	r := rand.New(rand.NewPCG(1, 2))
	truth := func(n int) float64 { return 3e6 + 2e5*float64(n) }
	for range 4000 {
		n := 1 + r.IntN(300)
		noise := 1 + 0.1*r.NormFloat64()
		if r.IntN(100) == 0 {
			noise = 50 // the machine was busy
		}
		c.observe(n, time.Duration(truth(n)*max(0.5, noise)))
	}
	last, worst := time.Duration(0), 0.0
	for n := 1; n <= 512; n++ {
		got := c.cost(n)
		if got < last {
			t.Fatalf("cost(%d) = %v < cost(%d) = %v", n, got, n-1, last)
		}
		last = got
		if n >= 2 && n <= 200 {
			worst = max(worst, math.Abs(float64(got)/truth(n)-1))
		}
	}
	if worst > 0.6 || float64(c.cost(512)) < truth(512)*0.9 {
		t.Errorf("off by %.0f %%; cost(512) = %v, true %v", 100*worst, c.cost(512), time.Duration(truth(512)))
	}
	t.Logf("worst deviation %.0f %% with 1 %% of outliers 50 times as long", 100*worst)
	c.observe(0, time.Second)
	c.observe(1<<30, 0)
}

// The watchdog waits as long as the machine has shown that it needs, and is
// patient with the first step of a large model.
func TestPatience(t *testing.T) {
	e := &Engine{opt: Options{StepTimeout: 10 * time.Second}}
	if a, b := e.patience(16), e.patience(512); a != 10*time.Second || b != 90*time.Second {
		t.Errorf("before the first step: %v for 16 rows, %v for 512", a, b)
	}
	e.pace.all.observe(16, 2*time.Second)
	if a, b, c := e.patience(1), e.patience(16), e.patience(512); a != 10*time.Second || b != 10*time.Second || c != 4*64*time.Second {
		t.Errorf("after 16 rows in 2 s: %v for 1 row, %v for 16, %v for 512", a, b, c)
	}
}

// A recorded run replays on a fresh scheduler, step by step, also after a round
// trip through JSON; without ids it does if the prefix cache is off.
func TestTraceReplays(t *testing.T) {
	reqs := workload(41, 60)
	for name, opt := range map[string]Options{
		"ids":     {TraceEvents: 20000, TraceTokens: true, MaxNumSeqs: 6},
		"lengths": {TraceEvents: 20000, MaxNumSeqs: 6, Techniques: Techniques{PrefixCaching: "off"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := setup{blocks: 40, blockSize: 4, opt: opt}
			n := 0
			s.fail.onSchedule = func() {
				if n++; n%50 == 0 {
					panic("injected")
				}
			}
			e := s.open(t)
			together(t, e, reqs, 6, func(i int, h *Handle) answer {
				if i%7 == 0 {
					return leave(h, i%8)
				}
				return read(h)
			})
			e.Close()
			trace, err := ParseTrace(e.Trace().JSON())
			if err != nil {
				t.Fatal(err)
			}
			steps, err := trace.Replay()
			if err != nil || steps != int(e.Stats().Steps)-int(e.Stats().Rebuilds) {
				t.Errorf("%d of %d steps replayed: %v", steps, e.Stats().Steps, err)
			}
			for i := range trace.Events { // another plan is noticed
				if ev := &trace.Events[i]; ev.Kind == "step" && len(ev.Seqs) > 1 {
					ev.Seqs[1].Tokens++
					break
				}
			}
			if _, err := trace.Replay(); err == nil {
				t.Error("a falsified trace replays")
			}
			t.Logf("%d events, %d steps replayed, %d bytes of JSON", len(trace.Events), steps, len(trace.JSON()))
		})
	}
}

// The recorder keeps the last events only, and no ids unless asked.
func TestTraceIsBoundedAndHoldsNoText(t *testing.T) {
	e := setup{opt: Options{TraceEvents: 50}}.open(t)
	ask(t, e, Request{Prompt: []int32{123, 124, 125}, MaxTokens: 200, Salt: "secret", Sampling: endless()})
	tr := e.Trace()
	if len(tr.Events) != 50 || tr.Dropped < 150 || tr.Events[49].Kind != "step" || tr.Events[0].ID+49 != tr.Events[49].ID {
		t.Errorf("%d events, %d dropped", len(tr.Events), tr.Dropped)
	}
	for _, ev := range tr.Events {
		if ev.Tokens != nil || len(ev.Seqs) > 0 && ev.Seqs[0].Drawn != nil {
			t.Fatal("ids were recorded")
		}
	}
	if _, err := ParseTrace([]byte(`{"sestina_engine_trace":2}`)); err == nil {
		t.Error("an unknown version was read")
	}
}

// FuzzParseTrace: whatever is read can be replayed without a panic.
func FuzzParseTrace(f *testing.F) {
	e := setup{blocks: 8, blockSize: 4}.open(f)
	read(submit(f, e, Request{Prompt: []int32{1, 2, 3}, MaxTokens: 4, N: 2, Sampling: endless()}))
	f.Add(e.Trace().JSON())
	f.Add([]byte(`{"sestina_engine_trace":1,"config":{"blocks":1},"events":[{"k":"add","n":1,"idle":true},{"k":"step","seqs":[{"id":9,"n":1,"c":3}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if tr, err := ParseTrace(data); err == nil && tr.Config.Blocks < 1000 && tr.Config.BlockSize < 100 && tr.Config.MaxModelLen < 1000 {
			tr.Replay()
		}
	})
}

// All of the loop's time is booked, each part where it belongs.
func TestSpentTimeIsTheWholeTime(t *testing.T) {
	const delay, tokens = 3 * time.Millisecond, 20
	e := setup{blocks: 64, delay: func(int) time.Duration { return delay }}.open(t)
	time.Sleep(20 * time.Millisecond)
	read(submit(t, e, Request{Prompt: []int32{5}, MaxTokens: tokens, Sampling: endless()}))
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	st := e.Stats()
	s := st.Spent
	if s.Model < tokens*delay || s.Waiting < 20*time.Millisecond {
		t.Errorf("%d steps of %v and 20 ms of rest: %+v", tokens, delay, s)
	}
	sum := s.Waiting + s.Draft + s.Schedule + s.Model + s.Sample + s.Deliver
	if s.Schedule <= 0 || s.Sample <= 0 || s.Deliver <= 0 || sum > st.Uptime || sum < tokens*delay+20*time.Millisecond {
		t.Errorf("%+v sums up to %v of %v", s, sum, st.Uptime)
	}
	if d := s.Since(s); d != (Spent{}) {
		t.Errorf("nothing was spent in between, yet %+v", d)
	}
}
