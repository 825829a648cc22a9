package engine

import (
	"slices"
	"strings"
	"testing"

	"sestina/batch"
)

// Each answer ends where and why it should: at the first end-of-generation or
// stop id that counts, at a stop check, at the budget; what the model or the
// client asked for comes before the budget.
func TestFinishReasons(t *testing.T) {
	prompt := []int32{9, 8, 7}
	full := ask(t, setup{}.open(t), Request{Prompt: prompt, MaxTokens: 30, Sampling: endless()}).tokens[0]
	at := func(id int32, from int) int { return from + slices.Index(full[from:], id) + 1 }
	const n = 7
	id := full[n-1]
	stopAfter := func(k int) func(int) batch.StopChecker {
		return func(int) batch.StopChecker { return &countdown{k} }
	}
	for _, c := range []struct {
		name  string
		eog   []int32
		edit  func(*Request)
		want  int
		cause batch.FinishReason
	}{
		{"budget", nil, func(r *Request) {}, 30, batch.FinishLength},
		{"end of generation", []int32{id}, func(r *Request) {}, at(id, 0), batch.FinishStop},
		{"ignored end", []int32{id}, func(r *Request) { r.Sampling.IgnoreEOS = true }, 30, batch.FinishLength},
		{"stop id", nil, func(r *Request) { r.Sampling.StopIDs = []int32{id} }, at(id, 0), batch.FinishStop},
		{"stop id with ignored end", []int32{id}, func(r *Request) { r.Sampling.StopIDs = []int32{id}; r.Sampling.IgnoreEOS = true }, at(id, 0), batch.FinishStop},
		{"stop check", nil, func(r *Request) { r.Stop = stopAfter(11) }, 11, batch.FinishStop},
		{"stop check at the budget", nil, func(r *Request) { r.Stop = stopAfter(30) }, 30, batch.FinishStop},
		{"end at the budget", []int32{id}, func(r *Request) { r.MaxTokens = at(id, 0) }, at(id, 0), batch.FinishStop},
		{"budget before the end", []int32{id}, func(r *Request) { r.MaxTokens = at(id, 0) - 1 }, at(id, 0) - 1, batch.FinishLength},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := Request{Prompt: prompt, MaxTokens: 30, Sampling: batch.Greedy()}
			c.edit(&req)
			a := ask(t, setup{opt: Options{EOG: c.eog}}.open(t), req)
			if !slices.Equal(a.tokens[0], full[:c.want]) || a.finish[0] != c.cause || a.events != 1 {
				t.Errorf("%d tokens, %v; want %d, %v", len(a.tokens[0]), a.finish[0], c.want, c.cause)
			}
		})
	}
	t.Run("not before min_tokens", func(t *testing.T) {
		req := Request{Prompt: prompt, MaxTokens: 30, Sampling: batch.Greedy()}
		req.Sampling.MinTokens = n + 2
		a := ask(t, setup{opt: Options{EOG: []int32{id}}}.open(t), req)
		if len(a.tokens[0]) < n+2 || slices.Contains(a.tokens[0][:n+1], id) {
			t.Errorf("%v", a.tokens[0])
		}
	})
}

// What the sampler needs of the past and of the choice reaches it.
func TestSamplersSeeOutputAndChoice(t *testing.T) {
	e := setup{}.open(t)
	p := endless()
	p.RepetitionPenalty = 100 // divides a logit of [0, 4): what was said is never likelier than the rest
	seen := map[int32]int{}
	for _, id := range ask(t, e, Request{Prompt: []int32{9}, MaxTokens: 180, Sampling: p}).tokens[0] {
		if seen[id]++; seen[id] > 1 {
			t.Fatalf("token %d came twice", id)
		}
	}
	p = batch.SamplingParams{Temperature: 1, Seed: 5, Logprobs: -1, IgnoreEOS: true}
	a := ask(t, e, Request{Prompt: []int32{9}, N: 3, MaxTokens: 20, Sampling: p})
	if slices.Equal(a.tokens[0], a.tokens[1]) || slices.Equal(a.tokens[1], a.tokens[2]) || len(a.tokens[2]) != 20 {
		t.Error("choices are alike")
	}
	if b := ask(t, e, Request{Prompt: []int32{9}, MaxTokens: 20, Sampling: p}); !slices.Equal(a.tokens[0], b.tokens[0]) {
		t.Error("the first of several choices is not the only one of one")
	}
}

// The prefix cache serves the key that filled it and no other.
func TestKeysDoNotShareTheCache(t *testing.T) {
	e := setup{}.open(t)
	cached := func(key string) int {
		h := submit(t, e, Request{Prompt: make([]int32, 100), MaxTokens: 1, Salt: key, Sampling: endless()})
		read(h)
		tm := h.Timings()
		return tm.Cached
	}
	if a, b, c, d := cached("a"), cached("b"), cached("a"), cached("b"); a != 0 || b != 0 || c != 96 || d != 96 {
		t.Errorf("cached tokens: %d, %d for other keys and %d, %d for the same", a, b, c, d)
	}
}

// Switches that exclude each other are refused by name; what is left open follows.
func TestTechniquesThatExcludeEachOther(t *testing.T) {
	off := Techniques{KVCache: "off"}
	if err := off.Check(); err != nil || off.PrefixCaching != "off" || off.Batching != "continuous" {
		t.Errorf("%v, %+v", err, off)
	}
	both := Techniques{KVCache: "off", PrefixCaching: "on"}
	if err := both.Check(); err == nil || !strings.Contains(err.Error(), "--no-enable-prefix-caching") {
		t.Errorf("got %v", err)
	}
}

// countdown stops after n tokens.
type countdown struct{ n int }

func (c *countdown) Commit(int32) bool { c.n--; return c.n == 0 }
