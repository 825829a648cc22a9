package main

import (
	"context"
	"strings"
	"testing"

	"sestina"
	"sestina/batch"
	"sestina/sampler"
)

// A real answer, drafted at fixed depth: without its colours it is the plain
// text, also where runes and a stop string hold text back, and accepted and
// recovered tokens are coloured, nothing else.
func TestPaintedAnswerIsThePlainOne(t *testing.T) {
	o := sestina.Options{SpeculativeConfig: `{"num_speculative_tokens":4,"depth":"fixed"}`}
	llm, err := sestina.Open(context.Background(), "../../testdata/tiny.gguf", o)
	if err != nil {
		t.Fatal(err)
	}
	defer llm.Close()
	strip := strings.NewReplacer(green, "", yellow, "", reset, "")
	seen := map[sampler.Origin]int{}
	colour := map[string]int{}
	for seed := range uint64(6) {
		p := batch.Greedy()
		p.IgnoreEOS, p.Seed, p.Temperature = true, seed, float32(seed%3)
		paint := newPainter(llm, true)
		var plain, painted strings.Builder
		for d, err := range llm.Generate(context.Background(), strings.Repeat("the blue sky ", 12), sestina.GenerateOptions{Sampling: &p, MaxTokens: 80, Stop: []string{"zzzz", "the the the"}, Special: true}) {
			if err != nil {
				t.Fatal(err)
			}
			for _, tok := range d.Tokens {
				seen[tok.Origin]++
			}
			plain.WriteString(d.Text)
			painted.WriteString(paint.paint(&d))
		}
		if strip.Replace(painted.String()) != plain.String() {
			t.Errorf("%q\nis not %q", painted.String(), plain.String())
		}
		for _, c := range []string{green, yellow} {
			colour[c] += strings.Count(painted.String(), c)
		}
	}
	if seen[sampler.Accepted] == 0 || seen[sampler.Recovered] == 0 || seen[sampler.Plain] == 0 || seen[sampler.Bonus] == 0 {
		t.Errorf("origins %v: not all were seen", seen)
	}
	if g := colour[green]; g == 0 || g > seen[sampler.Accepted] {
		t.Errorf("%d green pieces of %d accepted tokens", g, seen[sampler.Accepted])
	}
	if y := colour[yellow]; y == 0 || y > seen[sampler.Recovered] {
		t.Errorf("%d yellow pieces of %d recovered tokens", y, seen[sampler.Recovered])
	}
}

// A rune of three tokens has the colour of the one that completes it, and text
// that was held back keeps its tokens' colours.
func TestPaintWaitsForTheText(t *testing.T) {
	p := &painter{shares: []share{{2, sampler.Plain}, {3, sampler.Accepted}, {1, sampler.Recovered}}}
	got := p.paint(&sestina.Delta{Text: "abc"}) + p.paint(&sestina.Delta{}) + p.paint(&sestina.Delta{Text: "def!"})
	if want := "ab" + green + "c" + reset + green + "de" + reset + yellow + "f" + reset + "!"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := (*painter)(nil).paint(&sestina.Delta{Text: "plain"}); got != "plain" {
		t.Errorf("%q", got)
	}
}
