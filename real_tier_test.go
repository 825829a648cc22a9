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
