package server

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"sestina"
)

// TestKeysFindTheirPrefixAfterARestart: a server that is started again on the same
// folder has each key's prefixes, for that key alone, and counts what came back.
func TestKeysFindTheirPrefixAfterARestart(t *testing.T) {
	model, dir := randomModel(t), t.TempDir()
	prompt := strings.Repeat("a shared system prompt ", 10)
	serve := func(cached map[string]bool, then func(h *harness)) {
		t.Helper()
		m, names := NewMetrics(), []string{"tiny"}
		o := sestina.Options{Threads: 1, KVCacheMemoryBytes: 64 << 20, KVDiskTier: dir}
		o.Log, o.Observer = slog.New(slog.DiscardHandler), m.Observer()
		llm, err := sestina.Open(t.Context(), model, o)
		if err != nil {
			t.Fatal(err)
		}
		h := start(t, llm, Config{APIKeys: []string{"one", "two"}, Metrics: m, ServedModelNames: names})
		for _, key := range []string{"one", "two"} {
			if _, asked := cached[key]; !asked {
				continue
			}
			h.key = key
			got := h.post("/v1/completions", fmt.Sprintf(`{"prompt":"%s","max_tokens":1}`, prompt)).Usage.PromptDetails.CachedTokens
			if got > 0 != cached[key] {
				t.Errorf("key %s: %d tokens from the cache, want some: %v", key, got, cached[key])
			}
		}
		h.key = "one"
		then(h)
		if err := llm.Close(); err != nil {
			t.Fatal(err)
		}
	}
	serve(map[string]bool{"one": false}, func(*harness) {})
	serve(map[string]bool{"one": true, "two": false}, func(h *harness) {
		got, sum := h.scrape(), 0.0
		for _, way := range []string{"disk_read", "load"} {
			sum += got[fmt.Sprintf(`sestina_kv_tier_bytes_total{engine="0",model_name="tiny",way="%s"}`, way)]
		}
		tokens := got[`sestina_kv_tier_tokens_total{engine="0",model_name="tiny"}`]
		if want := 2 * tokens * float64(h.llm.Pool.TokenBytes); tokens == 0 || sum < want {
			t.Errorf("%v tokens in %v bytes read and loaded, want at least %v", tokens, sum, want)
		}
	})
	serve(map[string]bool{"two": true}, func(*harness) {})
}
