package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"sestina/batch"
)

// stopAt is a stop string's checker without text: it ends the answer when a
// pair of tokens appears, so it depends on all that was committed, in order.
type stopAt struct {
	sum  uint64
	last int32
	in   uint64
}

func (s *stopAt) Commit(token int32) bool {
	s.sum = s.sum*31 + uint64(token)
	s.last = token
	return s.sum%s.in == 0
}

// workload is n requests that use every sampling feature, with shared prefixes
// that part at block edges.
func workload(seed uint64, n int) []Request {
	r := rand.New(rand.NewPCG(seed, 1))
	families := make([][]int32, 3)
	for f := range families {
		for range 64 {
			families[f] = append(families[f], int32(3+r.IntN(vocab-3)))
		}
	}
	reqs := make([]Request, n)
	for i := range reqs {
		family := families[r.IntN(len(families))]
		shared := []int{0, 4, 7, 15, 16, 17, 28, 32}[r.IntN(8)]
		prompt := slices.Clone(family[:shared])
		for range 1 + r.IntN(12) {
			prompt = append(prompt, int32(3+r.IntN(vocab-3)))
		}
		reqs[i] = Request{Prompt: prompt, MaxTokens: 8 + r.IntN(24), Sampling: sampling(r), Salt: fmt.Sprint(r.IntN(2))}
		if r.IntN(5) == 0 {
			reqs[i].N = 2 + r.IntN(3)
		}
		if r.IntN(4) == 0 {
			in := uint64(5 + r.IntN(30))
			reqs[i].Stop = func(choice int) batch.StopChecker { return &stopAt{in: in + uint64(choice)} }
		}
	}
	return reqs
}

func sampling(r *rand.Rand) batch.SamplingParams {
	p := batch.SamplingParams{Logprobs: -1, Seed: r.Uint64()}
	switch r.IntN(4) {
	case 0: // greedy
	case 1:
		p.Temperature, p.TopK, p.TopP = 1.5, 40, 0.9
	case 2:
		p.Temperature, p.MinP = 2, 0.01
		p.RepetitionPenalty, p.PresencePenalty, p.FrequencyPenalty = 1.3, 0.5, 0.5
	case 3:
		p.Temperature = 1
		p.DRY = batch.DRY{Multiplier: 2, Base: 1.75, AllowedLength: 1}
	}
	if r.IntN(3) == 0 {
		p.Logprobs = r.IntN(4)
	}
	if r.IntN(3) == 0 {
		up := r.IntN(vocab)
		down := (up + 1 + r.IntN(vocab-1)) % vocab // one id has one bias
		p.LogitBias = []batch.LogitBias{{ID: int32(up), Bias: 5}, {ID: int32(down), Bias: -100}}
	}
	if r.IntN(3) == 0 {
		p.XTC = batch.XTC{Probability: 0.5, Threshold: 0.1}
	}
	if r.IntN(3) == 0 {
		p.StopIDs, p.MinTokens = []int32{int32(r.IntN(vocab)), int32(r.IntN(vocab))}, r.IntN(6)
	}
	return p
}

// answersAlone computes each request by itself, one sequence a step, without
// the prefix cache: what every other way must equal.
func answersAlone(t testing.TB, reqs []Request, backend string) []answer {
	t.Helper()
	return setup{backend: backend, opt: Options{Techniques: Techniques{Batching: "none", PrefixCaching: "off"}}}.alone(t, reqs)
}

// alone asks one request after the other.
func (s setup) alone(t testing.TB, reqs []Request) []answer {
	t.Helper()
	e := s.open(t)
	out := make([]answer, len(reqs))
	for i, req := range reqs {
		out[i] = ask(t, e, req)
	}
	if st := e.Stats(); st.Preemptions != 0 || st.PrefixHitTokens != 0 {
		t.Fatalf("not alone: %+v", st)
	}
	return out
}

// together submits all requests at random moments and reads them concurrently.
// act, if any, does something with a handle instead of only reading it.
func together(t testing.TB, e *Engine, reqs []Request, seed uint64, act func(i int, h *Handle) answer) []answer {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 2))
	out := make([]answer, len(reqs))
	var wg sync.WaitGroup
	for _, i := range r.Perm(len(reqs)) {
		h, err := e.Submit(context.Background(), reqs[i])
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		wg.Go(func() {
			if act != nil {
				out[i] = act(i, h)
			} else {
				out[i] = read(h)
			}
		})
		if r.IntN(3) == 0 {
			time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond)
		}
	}
	wg.Wait()
	return out
}

// compare reports the answers that differ, and wrong numbers of terminal events.
func compare(t testing.TB, reqs []Request, got, want []answer) (tokens int) {
	t.Helper()
	for i := range want {
		if n := max(1, reqs[i].N); got[i].events != n || got[i].whole != 0 {
			t.Errorf("request %d: %d terminal events for %d choices, %d for the whole", i, got[i].events, n, got[i].whole)
		}
		if !got[i].equal(&want[i]) {
			t.Errorf("request %d differs:\n got %v %v\nwant %v %v", i, got[i].tokens[:2], got[i].finish, want[i].tokens[:2], want[i].finish)
		}
		for _, ids := range got[i].tokens {
			tokens += len(ids)
		}
	}
	return tokens
}

// company is one way of computing many requests at once.
type company struct {
	name      string
	blockSize int
	pool      float64 // longest sequences that fit
	opt       Options
	every     int // break the scheduler at every so manieth step: all that runs is preempted
}

var companies = []company{
	{"default", 16, 16, Options{}, 0},
	{"small steps", 4, 16, Options{MaxNumBatchedTokens: 16, MaxNumSeqs: 8}, 0},
	{"one row a step", 7, 4, Options{MaxNumBatchedTokens: 1}, 0},
	{"static, no cache", 16, 8, Options{Techniques: Techniques{Batching: "static", PrefixCaching: "off"}}, 0},
	{"whole prompts", 16, 8, Options{Techniques: Techniques{ChunkedPrefill: "off"}, MaxNumBatchedTokens: 4096}, 0},
	{"no KV cache", 4, 8, Options{Techniques: Techniques{KVCache: "off"}}, 0},
	{"starved", 1, 1, Options{MaxNumSeqs: 32}, 0},
	{"starved, no cache", 3, 1, Options{MaxNumSeqs: 32, MaxNumBatchedTokens: 24, Techniques: Techniques{PrefixCaching: "off"}}, 0},
	{"preempted", 4, 2, Options{MaxNumSeqs: 16}, 5},
	{"preempted, no cache", 16, 4, Options{MaxNumSeqs: 16, Techniques: Techniques{PrefixCaching: "off"}}, 3},
}

func (c *company) open(t testing.TB, reqs []Request, backend, kv string) *Engine {
	longest := 0
	for _, r := range reqs {
		longest = max(longest, len(r.Prompt)+r.MaxTokens)
	}
	s := setup{backend: backend, kv: kv, blocks: (int(c.pool*float64(longest)) + c.blockSize - 1) / c.blockSize, blockSize: c.blockSize, opt: c.opt}
	if n := 0; c.every > 0 {
		s.fail.onSchedule = func() {
			if n++; n%c.every == 0 {
				panic("injected")
			}
		}
	}
	return s.open(t)
}

// Answers, log probabilities and reasons are bitwise those of a request alone,
// whatever the block size, the chunks, the pool, the cache and the neighbours.
// Preemption loses, repeats and changes nothing: penalties, seeds, stop checks
// and log probabilities included.
func TestAnswersInCompanyEqualAnswersAlone(t *testing.T) {
	reqs := workload(7, 120)
	want := answersAlone(t, reqs, "")
	for _, c := range companies {
		t.Run(c.name, func(t *testing.T) { c.test(t, reqs, want, "") })
	}
}

// The same with real arithmetic: float and integer weights, and a sliding window
// of 16 behind which blocks go back to the pool.
func TestRealModelInCompanyEqualsItselfAlone(t *testing.T) {
	reqs := workload(8, 40)
	for _, name := range []string{"cpu", "cpu q8_0", "cpu mistral"} {
		want := answersAlone(t, reqs, name)
		for _, c := range []company{companies[0], companies[1], companies[2], companies[6], {"preempted", 4, 3, Options{}, 4}} {
			t.Run(name+"/"+c.name, func(t *testing.T) { c.test(t, reqs, want, name) })
		}
	}
}

func (c *company) test(t *testing.T, reqs []Request, want []answer, backend string) {
	e := c.open(t, reqs, backend, "")
	tokens := compare(t, reqs, together(t, e, reqs, 3, nil), want)
	st := e.Stats()
	per := float64(st.Preemptions) / float64(len(reqs))
	t.Logf("T03 requests %d, tokens equal to those alone %d; %d steps, %.1f preemptions a request, %d of %d prompt tokens from the cache",
		len(reqs), tokens, st.Steps, per, st.PrefixHitTokens, st.PrefixQueryTokens)
	if c.every > 0 && per < 3 {
		t.Errorf("%.1f preemptions a request, want at least 3 for the test to mean something", per)
	}
	if c.pool <= 1 && st.Preemptions == 0 && e.runner.Windows()[0] == 0 {
		t.Error("no preemption: the pool is too large for the test to mean something")
	}
}

// Clients that leave at any phase (waiting, in the prompt, between tokens, at
// the end, twice) end exactly once, what they had is a prefix of the answer,
// and their neighbours do not notice.
func TestLeavingClientsChangeNobody(t *testing.T) {
	reqs := workload(11, 160)
	want := answersAlone(t, reqs, "")
	before := runtime.NumGoroutine()
	e := setup{blocks: 90, blockSize: 4, opt: Options{MaxNumSeqs: 6, MaxNumBatchedTokens: 20}}.open(t)
	leaves := func(i int) bool { return i%2 == 1 }
	got := together(t, e, reqs, 5, func(i int, h *Handle) answer {
		if !leaves(i) {
			return read(h)
		}
		return leave(h, i/2%8)
	})
	stayed, cut := 0, 0
	for i := range reqs {
		if !leaves(i) {
			compare(t, reqs[i:i+1], got[i:i+1], want[i:i+1])
			stayed++
			continue
		}
		a, n := &got[i], max(1, reqs[i].N)
		if a.whole > 1 || a.whole == 0 && a.events != n || a.whole == 1 && a.events == n {
			t.Errorf("request %d: %d terminal events of %d choices and %d of the whole", i, a.events, n, a.whole)
		}
		for c, ids := range a.tokens {
			if full := want[i].tokens[c]; len(ids) > len(full) || !slices.Equal(ids, full[:len(ids)]) {
				t.Errorf("request %d: %v is no prefix of %v", i, ids, full)
			}
		}
		cut += a.whole
	}
	if cut == 0 || stayed == 0 {
		t.Fatalf("%d cut off, %d stayed: the test shows nothing", cut, stayed)
	}
	t.Logf("T10 engine: %d answers equal beside %d that were cut off", stayed, cut)
	closeChecked(t, e)
	settled(t, before)
}

// leave cancels a request in one of eight phases and reads what still comes.
func leave(h *Handle, phase int) (a answer) {
	ctx := context.Background()
	switch phase {
	case 0: // at once
	case 1, 2: // while waiting or in the prompt
		time.Sleep(time.Duration(phase) * 300 * time.Microsecond)
	case 7: // the reader's context ends
		short, stop := context.WithTimeout(ctx, 2*time.Millisecond)
		defer stop()
		for outs, ok := h.Next(short); ok; outs, ok = h.Next(short) {
			for _, o := range outs {
				a.add(o)
			}
		}
	default: // after some tokens
		for len(a.tokens[0]) < phase*2-4 {
			outs, ok := h.Next(ctx)
			if !ok {
				return a
			}
			for _, o := range outs {
				a.add(o)
			}
		}
	}
	h.Cancel()
	h.Cancel()
	rest := read(h)
	for c := range rest.tokens {
		a.tokens[c] = append(a.tokens[c], rest.tokens[c]...)
	}
	a.events, a.whole = a.events+rest.events, a.whole+rest.whole
	return a
}

// settled waits for the goroutines of a test to be gone.
func settled(t testing.TB, before int) {
	t.Helper()
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}
