//go:build real

package sestina_test

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"sestina"
)

// TestRealTierTTFT prints what a prefix of 2,000 tokens costs until the first
// token: computed, from the pool, from host memory, and from the disk after a
// restart. The answers are equal.
//
//	go test -tags real -run TestRealTierTTFT -v .
func TestRealTierTTFT(t *testing.T) {
	const tokens = 2000
	dir := t.TempDir()
	opt := sestina.Options{KVDiskTier: dir, KVCacheMemoryBytes: 2300 * 23040}
	opt.MaxModelLen = 2200
	known, other := prefix(tokens, 1), prefix(tokens, 2)
	var want []int32
	ask := func(llm *sestina.LLM, ids []int32, cached int) time.Duration {
		t.Helper()
		_, got, res := collect(t, llm.GenerateIDs(context.Background(), ids, sestina.GenerateOptions{Sampling: greedy(), MaxTokens: 16}))
		if res == nil || cached >= 0 && res.CachedTokens != cached {
			t.Fatalf("%+v, want %d tokens cached", res, cached)
		}
		if &ids[0] == &known[0] {
			if want == nil {
				want = got
			}
			if !slices.Equal(got, want) {
				t.Fatalf("the answer is %v, it was %v", got, want)
			}
		}
		return res.PromptTime
	}
	open := func() *sestina.LLM {
		t.Helper()
		llm, err := sestina.Open(context.Background(), os.Getenv("SESTINA_TEST_MODEL"), opt)
		if err != nil {
			t.Fatal(err)
		}
		ask(llm, prefix(100, 3), -1) // the first step of a process is slower
		return llm
	}
	llm := open()
	miss := ask(llm, known, 0)
	pool := ask(llm, known, 1984)
	ask(llm, other, 0)
	host := ask(llm, known, 1984)
	if st := llm.Engine.Stats().Tier; st.Loaded == 0 || st.DiskReads != 0 {
		t.Errorf("not from host memory: %+v", st)
	}
	began := time.Now()
	if err := llm.Close(); err != nil {
		t.Fatal(err)
	}
	put := time.Since(began)
	opt.KVCacheMemoryBytes = 2600 * 23040
	llm = open()
	disk := ask(llm, known, 1984)
	st := llm.Engine.Stats().Tier
	if st.DiskReads < 124 {
		t.Errorf("not from the disk: %+v", st)
	}
	llm.Close()
	t.Logf("T05 TTFT of %d tokens: computed %v, from the pool %v, from host memory %v, from the disk after a restart %v (1/%.0f of computed); putting the pool away took %v",
		tokens, miss.Round(time.Millisecond), pool.Round(time.Millisecond), host.Round(time.Millisecond), disk.Round(time.Millisecond), miss.Seconds()/disk.Seconds(), put.Round(time.Millisecond))
}

// TestRealTierStall prints the longest gap between tokens of a running stream,
// alone and while a prompt of 2,000 tokens comes from the disk into a full pool.
//
//	go test -tags real -run TestRealTierStall -v .
func TestRealTierStall(t *testing.T) {
	opt := sestina.Options{KVDiskTier: t.TempDir(), KVCacheMemoryBytes: 2600 * 23040}
	opt.MaxModelLen = 2200
	opt.Techniques.Speculation = "off"
	known, other := prefix(2000, 1), prefix(2000, 2)
	open := func() *sestina.LLM {
		t.Helper()
		llm, err := sestina.Open(context.Background(), os.Getenv("SESTINA_TEST_MODEL"), opt)
		if err != nil {
			t.Fatal(err)
		}
		return llm
	}
	once := func(llm *sestina.LLM, ids []int32) int {
		_, _, res := collect(t, llm.GenerateIDs(context.Background(), ids, sestina.GenerateOptions{Sampling: greedy(), MaxTokens: 1}))
		if res == nil {
			return -1
		}
		return res.CachedTokens
	}
	llm := open()
	once(llm, known)
	llm.Close()
	llm = open()
	defer llm.Close()
	once(llm, other) // fills the pool, so that what comes has to push it out

	const tokens, at = 120, 60
	var gaps [2]time.Duration // before and after the other prompt comes
	var last time.Time
	n, cached := 0, make(chan int, 1)
	for d, err := range llm.GenerateIDs(context.Background(), prefix(40, 9), sestina.GenerateOptions{Sampling: greedy(), MaxTokens: tokens}) {
		if err != nil {
			t.Fatal(err)
		}
		phase := min(1, n/at)
		for range d.Tokens {
			if n++; n == at {
				go func() { cached <- once(llm, known) }()
			}
		}
		if n > 2 {
			gaps[phase] = max(gaps[phase], time.Since(last))
		}
		last = time.Now()
	}
	if got := <-cached; got != 1984 {
		t.Errorf("%d tokens of the prefix came from the disk", got)
	}
	t.Logf("T05 longest gap between tokens of a running stream: alone %v, while a prefix of 2,000 tokens comes from the disk and pushes another out %v",
		gaps[0].Round(100*time.Microsecond), gaps[1].Round(100*time.Microsecond))
}
