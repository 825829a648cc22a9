package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sestina/engine"
)

// TestTimingTellsNoTenant is T32 by a stopwatch: whoever guesses another's prompt
// learns nothing from the time to first token; whoever guesses its own learns all.
// Each secret is another from its first block on. A row costs half a millisecond here, so that a hit is plain to see; the figure is
// the area under the ROC curve, 0.5 for a guesser who learns nothing.
func TestTimingTellsNoTenant(t *testing.T) {
	if testing.Short() {
		t.Skip("it measures times")
	}
	const guesses = 24
	costly := &engine.Observer{Step: func(s engine.StepInfo) { time.Sleep(time.Duration(s.Rows) * time.Millisecond / 2) }}
	h := start(t, open(t, randomModel(t), engine.Options{Observer: costly}), Config{APIKeys: []string{"victim", "attacker"}})
	ask := func(key, secret string) (ttft time.Duration, cached int) {
		h.key = key
		began := time.Now()
		a := h.post("/v1/completions", fmt.Sprintf(`{"prompt":"%s","max_tokens":1,"ignore_eos":true}`, strings.Repeat(secret, 5)))
		return time.Since(began), a.Usage.PromptDetails.CachedTokens
	}
	auc := func(guesser string) float64 {
		var right, wrong []time.Duration
		for i := range guesses {
			secret := fmt.Sprintf("%03d knows %s ", i, guesser)
			ask("victim", secret)
			d, cached := ask(guesser, secret)
			right = append(right, d)
			if (cached > 0) != (guesser == "victim") {
				t.Errorf("%s: %d tokens from the cache", guesser, cached)
			}
			d, _ = ask(guesser, strings.Replace(secret, "knows", "hopes", 1))
			wrong = append(wrong, d)
		}
		wins := 0.0
		for _, r := range right {
			for _, w := range wrong {
				switch {
				case r < w:
					wins++
				case r == w:
					wins += 0.5
				}
			}
		}
		return wins / (guesses * guesses)
	}
	var across, within float64
	for range 3 { // a busy machine blurs times
		across, within = auc("attacker"), auc("victim")
		if across > 0.25 && across < 0.75 && within > 0.9 {
			break
		}
	}
	if across < 0.25 || across > 0.75 || within < 0.9 { // of 24 guesses; the promise is 0.5 ± 0.03 of many
		t.Errorf("AUC across tenants %.2f, within one %.2f", across, within)
	}
	t.Logf("T32 guesses timed %d, AUC across tenants %.2f, within a tenant %.2f; tokens of another tenant's cache 0", 4*guesses, across, within)
}
