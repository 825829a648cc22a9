package engine

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sestina/runner/tier"
)

// onDisk is a tier of a folder.
func onDisk(dir string) *tier.Config {
	return &tier.Config{HostBytes: 1 << 20, Dir: dir, DiskBytes: 1 << 30, Identity: tier.Identity{Model: "test", Contents: "test"}}
}

func randomIDs(r *rand.Rand, n int) (ids []int32) {
	for range n {
		ids = append(ids, int32(3+r.IntN(vocab-3)))
	}
	return ids
}

// TestSessionsBeyondThePool: eight sessions whose contexts are together four times
// the pool are continued in turn. With the tier no old token is computed again,
// and every answer is the one of an engine that computes everything.
func TestSessionsBeyondThePool(t *testing.T) {
	for _, c := range []struct {
		name    string
		backend string
		block   int
		tier    *tier.Config
	}{
		{"host memory", "", 4, &tier.Config{HostBytes: 1 << 20}},
		{"little host memory, then disk", "", 4, &tier.Config{HostBytes: 4 << 10, DiskBytes: 1 << 30}},
		{"tiny model", "cpu q8_0", 16, &tier.Config{HostBytes: 16 << 20}},
		{"tiny model with a window", "cpu mistral", 16, &tier.Config{HostBytes: 16 << 20}},
	} {
		t.Run(c.name, func(t *testing.T) {
			const pool, sessions = 256, 8
			if c.tier.DiskBytes > 0 {
				c.tier.Dir = t.TempDir()
			}
			with := setup{backend: c.backend, blocks: pool / c.block, blockSize: c.block, tier: c.tier}.open(t)
			without := setup{backend: c.backend, opt: Options{Techniques: Techniques{PrefixCaching: "off"}}}.open(t)
			r := rand.New(rand.NewPCG(7, 7))
			history := make([][]int32, sessions)
			for i := range history {
				history[i] = randomIDs(r, pool*4/sessions)
			}
			cached, old := 0, 0
			for round := range 3 {
				for i := range history {
					req := Request{Prompt: append(slices.Clone(history[i]), randomIDs(r, 5)...), MaxTokens: 4, Salt: fmt.Sprint(i % 3)}
					req.Sampling.IgnoreEOS = true
					for with.opt.Tier.Stats().Pending > 0 { // steps of microseconds outrun any disk
						time.Sleep(time.Millisecond)
					}
					before := with.Stats()
					got, want := ask(t, with, req), ask(t, without, req)
					if !got.equal(&want) {
						t.Fatalf("round %d, session %d: %v, want %v", round, i, got.tokens[0], want.tokens[0])
					}
					after := with.Stats()
					known := 0 // tokens whose K/V was computed before, in whole blocks
					if round > 0 {
						known = (len(history[i]) - 1) / c.block * c.block
					}
					if n, most := int(after.ComputedTokens-before.ComputedTokens), len(req.Prompt)-known+3; n != most {
						t.Errorf("round %d, session %d: %d tokens computed, want %d of %d", round, i, n, most, len(req.Prompt))
					}
					old += known
					cached += int(after.TierTokens - before.TierTokens)
					history[i] = append(req.Prompt, got.tokens[0]...)
				}
			}
			st := with.Stats().Tier
			if cached < old*3/4 {
				t.Errorf("%d of %d old tokens came from the tier: the pool was not too small", cached, old)
			}
			t.Logf("T05 %d old tokens of sessions of 4x the pool, none computed again, answers equal; %d brought back in %d blocks, %d of them read from the disk", old, cached, st.Loaded, st.DiskReads)
		})
	}
}

// TestRestartKnowsThePrefix: another engine on the same folder answers a known
// prompt of 2,000 tokens by computing its last block alone.
func TestRestartKnowsThePrefix(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(8, 8))
	req := Request{Prompt: randomIDs(r, 2000), MaxTokens: 8, Salt: "alice"}
	req.Sampling.IgnoreEOS = true
	var want answer
	for start := range 3 {
		e, err := setup{blocks: 160, tier: onDisk(dir)}.unchecked(t)
		if err != nil {
			t.Fatal(err)
		}
		got := ask(t, e, req)
		st := e.Stats()
		switch computed := int(st.ComputedTokens); {
		case start == 0 && computed != 2007:
			t.Errorf("%d tokens computed at first", computed)
		case start == 0:
			want = got
		case computed != 16+7 || st.Tier.DiskReads != 124:
			t.Errorf("start %d: %d tokens computed, %d blocks read", start, computed, st.Tier.DiskReads)
		case !got.equal(&want):
			t.Errorf("start %d: another answer: %v, want %v", start, got.tokens[0], want.tokens[0])
		}
		h, err := e.Submit(t.Context(), Request{Prompt: req.Prompt, MaxTokens: 1, Salt: "bob"})
		if err != nil {
			t.Fatal(err)
		}
		read(h)
		if h.Timings().Cached != 0 && start == 0 {
			t.Error("one key's prefix was found by another")
		}
		closeChecked(t, e)
	}
	t.Logf("T05 a known prompt of 2,000 tokens after a restart: 23 tokens computed with the answer of 8, 2,007 at first")
}

// TestTierChangesNoAnswer: random requests on a pool that is always full, through
// restarts and with records that are spoiled between them, equal the answers alone.
func TestTierChangesNoAnswer(t *testing.T) {
	seeds := 4
	if testing.Short() {
		seeds = 1
	}
	for seed := range uint64(seeds) {
		reqs := workload(seed, 60)
		want := answersAlone(t, reqs, "")
		dir := t.TempDir()
		var log strings.Builder
		for start := range 3 {
			e, err := setup{blocks: 24, blockSize: 4, tier: onDisk(dir), opt: Options{MaxNumSeqs: 6, TraceEvents: 1 << 16, TraceTokens: true}}.unchecked(t)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, reqs, together(t, e, reqs, seed+uint64(start), nil), want)
			st := e.Stats()
			if st.TierTokens == 0 || start > 0 && st.Tier.Faults == 0 {
				t.Errorf("nothing came back: %+v", st.Tier)
			}
			fmt.Fprintf(&log, " %d", st.TierTokens)
			if steps, err := e.Trace().Replay(); err != nil || steps == 0 {
				t.Errorf("the trace does not replay: %d steps, %v", steps, err)
			}
			closeChecked(t, e)
			spoil(t, dir)
		}
		t.Logf("seed %d: tokens from the tier at each start:%s", seed, log.String())
	}
	t.Logf("T24 %d answers through %d starts with every third record spoiled between them, none changed", 3*60*seeds, 3*seeds)
}

// spoil flips a byte in every third record.
func spoil(t *testing.T, dir string) {
	n := 0
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if !strings.HasSuffix(path, ".kv") || err != nil {
			return err
		}
		if n++; n%3 != 0 {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data[len(data)*(n%10)/10] ^= 0x10
		return os.WriteFile(path, data, 0o600)
	})
	if err != nil || n == 0 {
		t.Errorf("%d records, %v", n, err)
	}
}

func TestTierNeedsPrefixCaching(t *testing.T) {
	_, err := setup{tier: onDisk(t.TempDir()), opt: Options{Techniques: Techniques{PrefixCaching: "off"}}}.unchecked(t)
	if err == nil || !strings.Contains(err.Error(), "prefix caching") {
		t.Errorf("%v", err)
	}
}
