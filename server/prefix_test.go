package server

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"sestina/engine"
)

// Every reply, log line and metric says why the prefix cache had no more of a
// prompt: it was never seen, it parts from a cached one at token N, it was
// evicted. Whether another key has sent it is for the operator to know: the
// client hears "unseen" of a text that another key has cached and of one that
// nobody has, the log and the metric say "salt".
func TestPrefixCacheExplainsItself(t *testing.T) {
	m := NewMetrics()
	llm := openPool(t, randomModel(t), engine.Options{Observer: m.Observer()}, 64<<10)
	h := start(t, llm, Config{Metrics: m, APIKeys: []string{"one", "two"}})
	pool := llm.Pool.Tokens()
	text := func(c string, n int) string { return strings.Repeat(c, n) }
	shared := text("a", 40)
	want := map[string]float64{}
	var lines []string
	for i, c := range []struct {
		key, prompt  string
		cached       int
		stop, logged string
		at           int
	}{
		{"one", shared, 0, "unseen", "unseen", 0},
		{"one", shared, 32, "block edge", "block edge", 32},
		{"one", text("a", 20) + text("b", 20), 16, "diverged", "diverged", 20},
		{"two", shared, 0, "unseen", "salt", 0},
		{"two", text("z", 40), 0, "unseen", "unseen", 0},
		{"two", shared, 32, "block edge", "block edge", 32},
		{"one", text("q", pool-1), 0, "unseen", "unseen", 0}, // takes every block there is
		{"two", shared, 0, "evicted", "evicted", 0},
	} {
		h.key = c.key
		a := h.post("/v1/completions", fmt.Sprintf(`{"prompt":%q,"max_tokens":1}`, c.prompt))
		d := a.Usage.PromptDetails
		if d.CachedTokens != c.cached || d.Stop != c.stop || d.StopAt != c.at {
			t.Errorf("request %d: %+v; want %d cached, %s at %d", i, d, c.cached, c.stop, c.at)
		}
		lines = append(lines, fmt.Sprintf("cached_tokens=%d cache_stop=%s cache_stop_at=%d", c.cached, quoted(c.logged), c.at))
		want[c.logged]++
	}
	h.until("logged", func(engine.Stats) bool { return strings.Count(h.log.String(), "cache_stop=") == len(lines) })
	rest := h.log.String()
	for i, line := range lines {
		_, after, ok := strings.Cut(rest, line)
		if !ok {
			t.Fatalf("request %d: the log lacks %s:\n%s", i, line, rest)
		}
		rest = after
	}
	got := h.scrape()
	for reason, n := range want {
		if name := fmt.Sprintf(`sestina_prefix_cache_stops_total{engine="0",model_name=%q,reason=%q}`, h.s.names[0], reason); got[name] != n {
			t.Errorf("%s is %v, want %v", name, got[name], n)
		}
	}
}

// quoted is a value as the text log writes it.
func quoted(s string) string {
	if strings.Contains(s, " ") {
		return strconv.Quote(s)
	}
	return s
}

// With the cache off a request says so, and nothing else changes.
func TestPrefixCacheOffIsSaid(t *testing.T) {
	var opt engine.Options
	opt.Techniques.PrefixCaching = "off"
	h := start(t, open(t, randomModel(t), opt), Config{})
	for range 2 {
		if d := h.post("/v1/completions", `{"prompt":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","max_tokens":1}`).Usage.PromptDetails; d.CachedTokens != 0 || d.Stop != "disabled" {
			t.Errorf("%+v", d)
		}
	}
}
