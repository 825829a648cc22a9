package sim

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sestina/batch"
)

var (
	steps  = flag.Uint64("steps", 1_000_000, "steps to simulate")
	seed   = flag.Uint64("seed", 1, "first seed")
	update = flag.Bool("update", false, "rewrite testdata")
)

const opsPerTrace = 400

// TestSimulate runs random traces until so many steps have been scheduled. A
// failure is shrunk and printed as a trace for testdata/traces.
func TestSimulate(t *testing.T) {
	want := *steps
	if testing.Short() {
		want = min(want, 50_000)
	}
	start := time.Now()
	var total Report
	var mu sync.Mutex
	var group sync.WaitGroup
	var done, failed atomic.Uint64
	first := *seed
	var used atomic.Uint64
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for done.Load() < want && failed.Load() == 0 {
				n := first + used.Add(1) - 1
				trace := Generate(n, opsPerTrace)
				report, v := Run(trace, Options{})
				if v != nil {
					if failed.Add(1) == 1 {
						fail(t, trace, v)
					}
					return
				}
				if n%16 == 0 {
					if again, _ := Run(Generate(n, opsPerTrace), Options{}); again.PlanHash != report.PlanHash {
						t.Errorf("I12: seed %d gives two plans", n)
					}
				}
				done.Add(report.Steps)
				mu.Lock()
				total.Add(report)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	took := time.Since(start).Seconds()
	t.Logf("T01 simulated %d steps, %d seeds, %d operations, %d violations, %.0f steps/s", total.Steps, used.Load(), total.Ops, failed.Load(), float64(total.Steps)/took)
	t.Logf("%+v", total)
	if failed.Load() == 0 {
		mustReach(t, total)
	}
}

func fail(t *testing.T, trace *Trace, v *Violation) {
	small := Shrink(trace, Options{})
	text, err := json.Marshal(small)
	if err != nil {
		t.Fatal(err)
	}
	_, again := Run(small, Options{})
	t.Errorf("seed %d: %v\nshrunk from %d to %d operations: %v\n%s", trace.Seed, v, len(trace.Ops), len(small.Ops), again, text)
}

// mustReach fails if the traces never got to what they are there to try.
func mustReach(t *testing.T, r Report) {
	for name, n := range map[string]uint64{
		"tokens": r.Tokens, "preemptions": r.Preemptions, "aborts": r.Aborts, "aborts in flight": r.AbortsInFlight,
		"cached tokens": r.CachedTokens, "copies": r.Copies, "evictions": r.Evictions, "errors": r.Errors, "dead steps": r.Dead,
		"drafts": r.Drafts, "accepted drafts": r.Accepted, "rejected drafts": r.Drafts - r.Accepted,
		"refused": r.Refused, "expired": r.Expired, "never fits": r.NeverFits, "overlapped steps": r.Overlapped,
		"steps over several block groups": r.Grouped, "cached tokens over several block groups": r.GroupedHits,
		"blocks behind a window": r.Pruned, "waits for a run of blocks": r.Fragmented, "turns among keys": r.Turns, "tokens from the tier": r.TierTokens, "faults of the tier": r.TierFaults, "tokens computed without a cache": r.Recomputed,
		"matches that end at a block edge": r.Stops[batch.StopBlockEdge], "matches that part": r.Stops[batch.StopDiverged],
		"matches that end in evicted blocks": r.Stops[batch.StopEvicted], "matches that a window ends": r.Stops[batch.StopWindow], "matches that a salt ends": r.Stops[batch.StopSalt],
	} {
		if n < 10 {
			t.Errorf("only %d %s", n, name)
		}
	}
}

// TestReplay runs the traces of bugs that were found once.
func TestReplay(t *testing.T) {
	files, err := filepath.Glob("testdata/traces/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no traces: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var trace Trace
		if err := json.Unmarshal(text, &trace); err != nil || trace.Version != 1 {
			t.Fatalf("%s: version %d, %v", file, trace.Version, err)
		}
		if _, v := Run(&trace, Options{}); v != nil {
			t.Errorf("%s: %v", file, v)
		}
	}
	t.Logf("T29 traces of past bugs run again %d", len(files))
}

// TestShrink spoils the device and requires that a failing trace shrinks to a
// few operations, which survive a round trip through JSON.
func TestShrink(t *testing.T) {
	for n := uint64(1); n < 500; n++ {
		trace := Generate(n, opsPerTrace)
		if _, v := Run(trace, Options{IgnoreCopies: true}); v == nil {
			continue
		}
		small := Shrink(trace, Options{IgnoreCopies: true})
		text, err := json.Marshal(small)
		if err != nil {
			t.Fatal(err)
		}
		var again Trace
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatal(err)
		}
		_, v := Run(&again, Options{IgnoreCopies: true})
		if v == nil || v.Invariant != small.Violation {
			t.Fatalf("the shrunk trace shows %v, not %s", v, small.Violation)
		}
		t.Logf("seed %d: %d operations shrunk to %d: %v", n, len(trace.Ops), len(small.Ops), v)
		if len(small.Ops) > 12 {
			t.Errorf("%d operations are left", len(small.Ops))
		}
		return
	}
	t.Fatal("a device that does not copy was never noticed")
}
