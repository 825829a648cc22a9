package engine

import (
	"math/rand/v2"
	"sync"
	"testing"

	"sestina/batch"
)

// A full pool is graceful. Thirty requests of three priorities share pools from
// 0.3 of what they need at once up to all of it: whoever must give way is the least
// urgent that runs, the most urgent ones lose nothing, nobody is aborted, and every
// answer, log probability and finish reason is that of the request alone.
func TestFullPoolPreemptsTheLeastUrgent(t *testing.T) {
	reqs := workload(21, 30)
	total, urgent := 0, 0
	for i := range reqs {
		reqs[i].N, reqs[i].Priority, reqs[i].MaxTokens = 1, 2, 30+reqs[i].MaxTokens
		n := len(reqs[i].Prompt) + reqs[i].MaxTokens
		switch {
		case i%8 == 0:
			reqs[i].Priority = 0
			urgent += n
		case i%3 == 0:
			reqs[i].Priority = 1
		}
		total += n
	}
	want := answersAlone(t, reqs, "")
	baseline := 0.0
	for _, share := range []float64{1, 0.7, 0.5, 0.3} {
		var mu sync.Mutex
		var lost [3]int
		s := setup{blocks: int(share*float64(total)) / 4, blockSize: 4, opt: Options{MaxNumSeqs: 32, Techniques: Techniques{PrefixCaching: "off"}}}
		if s.blocks*4 < urgent+8*8 {
			t.Fatalf("%d slots do not even hold the urgent ones", s.blocks*4)
		}
		s.opt.Observer = &Observer{Finished: func(r RequestInfo) {
			mu.Lock()
			defer mu.Unlock()
			lost[r.Priority] += r.Choices[0].Preemptions
		}}
		e := s.openPaused(t)
		compare(t, reqs, atOnce(t, e, reqs), want)
		st := e.Stats()
		perRow := float64(st.OutputTokens) / float64(st.StepTokens)
		if share == 1 {
			baseline = perRow
		}
		if lost[0] > 0 || lost[1] > lost[2] || share <= 0.5 && lost[2] == 0 {
			t.Errorf("pool %.1f: %v preemptions by priority", share, lost)
		}
		if n := st.Finished[batch.FinishStop] + st.Finished[batch.FinishLength]; n != uint64(len(reqs)) {
			t.Errorf("pool %.1f: %d of %d finished: %v", share, n, len(reqs), st.Finished)
		}
		t.Logf("T03 pool %.1f of the need: %d answers equal, 0 aborted; preemptions by priority %v; %.0f %% of the output per computed row with all of it",
			share, len(reqs), lost, 100*perRow/baseline)
	}
}

// atOnce submits all requests before the loop starts.
func atOnce(t testing.TB, e *Engine, reqs []Request) []answer {
	t.Helper()
	out := make([]answer, len(reqs))
	var all sync.WaitGroup
	for i, req := range reqs {
		h, err := e.Submit(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() { out[i] = read(h) })
	}
	go e.loop()
	all.Wait()
	return out
}

// Preemption again and again, at any moment: what runs is taken its blocks every
// third step, and no token is lost, repeated or changed.
func TestForcedPreemptionChangesNothing(t *testing.T) {
	reqs := workload(22, 60)
	want := answersAlone(t, reqs, "")
	c := company{"", 7, 3, Options{MaxNumSeqs: 16}, 3}
	e := c.open(t, reqs, "", "")
	tokens := compare(t, reqs, together(t, e, reqs, 3, nil), want)
	per := float64(e.Stats().Preemptions) / float64(len(reqs))
	if per < 3 {
		t.Errorf("%.1f preemptions a request, want 3 at least", per)
	}
	t.Logf("T03 %.1f preemptions a request: %d answers, %d tokens compared, 0 lost, repeated or changed", per, len(reqs), tokens)
}

// A key that floods the engine shares a full pool with one that does not: places
// go in turns, so the modest key's requests are not behind all of the other's.
func TestKeysTakeTurnsInAFullPool(t *testing.T) {
	const greedy, modest, length = 60, 10, 24
	e := setup{blocks: 40, blockSize: 4, opt: Options{MaxNumSeqs: 32, Techniques: Techniques{PrefixCaching: "off"}}}.openPaused(t)
	var mu sync.Mutex
	var order []string
	var all sync.WaitGroup
	r := rand.New(rand.NewPCG(5, 5))
	send := func(key string) {
		p := batch.Greedy()
		p.IgnoreEOS = true
		h, err := e.Submit(t.Context(), Request{Prompt: []int32{int32(3 + r.IntN(vocab-3)), 4, 5, 6, 7, 8, 9, 10}, MaxTokens: length, Sampling: p, Tenant: key})
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			a := read(h)
			mu.Lock()
			defer mu.Unlock()
			if len(a.tokens[0]) != length {
				t.Errorf("%s: %d tokens, %v", key, len(a.tokens[0]), a.why)
			}
			order = append(order, key)
		})
	}
	for range greedy {
		send("greedy")
	}
	for range modest {
		send("modest")
	}
	go e.loop()
	all.Wait()
	last := 0
	for i, key := range order {
		if key == "modest" {
			last = i + 1
		}
	}
	if last > 3*modest {
		t.Errorf("the last of %d modest requests was served as number %d of %d: %v", modest, last, greedy+modest, order)
	}
	t.Logf("T03 %d requests of one key before %d of another in a full pool: the last of these ended as number %d (first come, first served: %d); %d preemptions",
		greedy, modest, last, greedy+modest, e.Stats().Preemptions)
	if e.Stats().Preemptions == 0 {
		t.Error("the pool was not full")
	}
}
