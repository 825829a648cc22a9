package engine

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sestina/runner/tier"
)

// Models some of whose layers see everything and others a window: their blocks are
// in groups, and those behind a window go back to the pool.

// hybrid is a tiny qwen3 whose first and last layers have a window of 16.
func hybrid(t testing.TB) string {
	t.Helper()
	from, to := "../model/testdata/hf/qwen3", t.TempDir()
	config, err := os.ReadFile(filepath.Join(from, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(`"use_sliding_window": false`, `"use_sliding_window": true`, `"sliding_window": null`,
		`"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]`).Replace(string(config))
	weights, err := os.ReadFile(filepath.Join(from, "model.safetensors"))
	if err == nil {
		err = os.WriteFile(filepath.Join(to, "model.safetensors"), weights, 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(to, "config.json"), []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// openHybrid is a company's engine whose pool holds as many longest sequences.
func (c *company) openHybrid(t *testing.T, s setup, reqs []Request) *Engine {
	longest := 0
	for _, r := range reqs {
		longest = max(longest, len(r.Prompt)+r.MaxTokens)
	}
	s.blockSize, s.opt, s.blocks = c.blockSize, c.opt, 1
	e, err := s.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	windows := e.runner.Windows()
	if len(windows) < 2 {
		t.Fatalf("%d block groups: the model is no hybrid", len(windows))
	}
	s.opt.BlockSize = s.blockSize
	s.blocks = int(c.pool * float64(s.opt.KVNeed(windows, longest)))
	if n := 0; c.every > 0 {
		s.fail.onSchedule = func() {
			if n++; n%c.every == 0 {
				panic("injected")
			}
		}
	}
	return s.open(t)
}

// TestHybridAnswersAreThoseOfOneGroup: however many requests share the pool, answers
// of a hybrid are those of a request alone whose layers all keep everything.
func TestHybridAnswersAreThoseOfOneGroup(t *testing.T) {
	for _, s := range []setup{{windows: []int{0, 24, 24}}, {windows: []int{9, 0, 30}}, {backend: "cpu hybrid"}} {
		n, ways := 80, companies
		if s.backend != "" {
			n, ways = 30, []company{companies[0], companies[1], companies[6], {"preempted", 4, 3, Options{}, 4}}
		}
		reqs := workload(17, n)
		alone := s
		alone.opt.Techniques = Techniques{Batching: "none", PrefixCaching: "off", KVLayout: "contiguous"}
		want := alone.alone(t, reqs)
		preempted, hits := uint64(0), uint64(0)
		for _, c := range ways {
			t.Run(fmt.Sprint(s.backend, s.windows, "/", c.name), func(t *testing.T) {
				e := c.openHybrid(t, s, reqs)
				tokens := compare(t, reqs, together(t, e, reqs, 3, nil), want)
				st := e.Stats()
				preempted, hits = preempted+st.Preemptions, hits+st.PrefixHitTokens
				t.Logf("%d tokens equal in %d block groups; %d preemptions, %d tokens from the cache", tokens, len(e.runner.Windows()), st.Preemptions, st.PrefixHitTokens)
			})
		}
		if preempted == 0 || hits == 0 {
			t.Errorf("%d preemptions, %d tokens from the cache: the test shows nothing", preempted, hits)
		}
	}
}

// TestHybridThroughTheTier: blocks of both kinds come back from the tier, through
// restarts and with spoiled records.
func TestHybridThroughTheTier(t *testing.T) {
	reqs, s := workload(19, 60), setup{windows: []int{0, 12, 12}}
	alone := s
	alone.opt.Techniques = Techniques{Batching: "none", PrefixCaching: "off", KVLayout: "contiguous"}
	want := alone.alone(t, reqs)
	dir := t.TempDir()
	for start := range 3 {
		with := s
		with.blocks, with.blockSize, with.tier = 60, 4, onDisk(dir)
		with.opt = Options{MaxNumSeqs: 6, TraceEvents: 1 << 16, TraceTokens: true}
		e, err := with.unchecked(t)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, reqs, together(t, e, reqs, uint64(start), nil), want)
		st := e.Stats()
		if st.TierTokens == 0 || start > 0 && (st.Tier.Faults == 0 || st.Tier.DiskReads == 0) {
			t.Errorf("nothing came back: %+v", st.Tier)
		}
		if steps, err := e.Trace().Replay(); err != nil || steps == 0 {
			t.Errorf("the trace does not replay: %d steps, %v", steps, err)
		}
		t.Logf("start %d: %d tokens from the tier", start, st.TierTokens)
		closeChecked(t, e)
		spoil(t, dir)
	}
}

// TestHybridRestartKnowsThePrefix: of a known prompt the last block alone is computed.
func TestHybridRestartKnowsThePrefix(t *testing.T) {
	dir := t.TempDir()
	req := Request{Prompt: randomIDs(rand.New(rand.NewPCG(8, 8)), 1000), MaxTokens: 8}
	req.Sampling.IgnoreEOS = true
	var want answer
	for start := range 2 {
		e, err := setup{windows: []int{0, 40}, blocks: 160, tier: &tier.Config{HostBytes: 1 << 20, Dir: dir, DiskBytes: 1 << 30, Identity: onDisk(dir).Identity}}.unchecked(t)
		if err != nil {
			t.Fatal(err)
		}
		got := ask(t, e, req)
		switch st := e.Stats(); {
		case start == 0 && st.ComputedTokens != 1007:
			t.Errorf("%d tokens computed at first", st.ComputedTokens)
		case start == 0:
			want = got
		case st.ComputedTokens != 1007-62*16 || st.Tier.DiskReads != 2*62:
			t.Errorf("%d tokens computed, %d blocks read", st.ComputedTokens, st.Tier.DiskReads)
		case !got.equal(&want):
			t.Errorf("another answer: %v, want %v", got.tokens[0], want.tokens[0])
		}
		closeChecked(t, e)
	}
}

// TestHybridPoolIsBounded: a long request of a hybrid runs in a pool of just the
// blocks that KVNeed says, far fewer than one group would take, and uses all of them.
func TestHybridPoolIsBounded(t *testing.T) {
	const prompt, output = 3000, 100
	for _, chunk := range []int{1, 7, 64, 512} {
		opt := Options{BlockSize: 16, MaxNumBatchedTokens: chunk}
		windows := []int{0, 100, 100, 100, 100, 100}
		need := opt.KVNeed(windows, prompt+output)
		s := setup{windows: windows, blocks: need, opt: opt}
		most, e := 0, (*Engine)(nil)
		s.fail.onSchedule = func() { most = max(most, e.blocks.Stats().Referenced) }
		e = s.openPaused(t)
		go e.loop()
		req := Request{Prompt: randomIDs(rand.New(rand.NewPCG(3, 3)), prompt), MaxTokens: output}
		req.Sampling.IgnoreEOS = true
		if a := ask(t, e, req); len(a.tokens[0]) != output {
			t.Fatalf("%d tokens: %v", len(a.tokens[0]), a.why)
		}
		full := (prompt + output + 15) / 16
		window := (100 + min(chunk, prompt) + 2*16 - 3) / 16 // at the worst moment
		if want := full + 5*window; need != want || most > need || most < need*9/10 {
			t.Errorf("chunks of %d: a pool of %d blocks, want %d; at most %d in use", chunk, need, want, most)
		}
		if over := e.MaxLen(); over < prompt+output || over > prompt+output+16 {
			t.Errorf("chunks of %d: the longest request is %d tokens", chunk, over)
		}
		t.Logf("chunks of %d: %d blocks for %d tokens in 6 groups, %d if all kept everything", chunk, need, prompt+output, 6*full)
	}
}
