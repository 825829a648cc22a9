package spec

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"sestina"
	"sestina/engine"
)

const tiny = "../../testdata/tiny.gguf"

// A run on the tiny model: two engines, greedy and drawn, alone and together, and
// the cost curve. The figures mean nothing; counts and ids do.
func TestRun(t *testing.T) {
	cfg := Config{Sets: []string{"mixed", "poetry"}, Streams: []int{1, 2}, Temperatures: []float32{0, 1}, Prompts: 2, OutputLen: 48, Reps: 2, Acceptance: 0.8}
	r, err := Run(t.Context(), tiny, sestina.Options{}, cfg, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Cells) != 8 || r.Differing() != 0 || r.Schema != Schema {
		t.Fatalf("%d cells, %d answers differ, schema %s", len(r.Cells), r.Differing(), r.Schema)
	}
	drafted := 0
	for _, c := range r.Cells {
		drafted += c.Drafted
		if c.On.Median <= 0 || c.Off.Median <= 0 || c.Cold <= 0 || c.Ratio.Min > c.Ratio.Max || c.Requests != map[string]int{"mixed": 10, "poetry": 2}[c.Set] {
			t.Errorf("%+v", c)
		}
		if c.Accepted > c.Drafted || c.TokensPerPass < 1 || c.TokensPerPass > 1+c.DraftsPerPass {
			t.Errorf("%d of %d accepted, %v tokens and %v drafts a pass", c.Accepted, c.Drafted, c.TokensPerPass, c.DraftsPerPass)
		}
		if sum := 0.; len(c.OverTime) != timeParts {
			t.Errorf("depth over time %v", c.OverTime)
		} else {
			for _, d := range c.OverTime {
				sum += d
			}
			if (sum > 0) != (c.Drafted > 0) {
				t.Errorf("depth over time %v, %d drafted", c.OverTime, c.Drafted)
			}
		}
		var hits float64
		for j, n := range c.Tried {
			hits += float64(n) * c.ByPosition[j]
		}
		if math.Abs(hits-float64(c.Accepted)) > 17 { // the last step's books may be open
			t.Errorf("by position %v were accepted, by request %d", hits, c.Accepted)
		}
	}
	if drafted == 0 {
		t.Error("nothing was drafted at all")
	}
	if s := r.Synthetic; len(s.Curve) != 17 || len(s.Depths) != 16 || s.Curve[16].Rows != 17 {
		t.Errorf("curve %v", s.Curve)
	}
	var text, table, doc bytes.Buffer
	r.Print(&text)
	r.Markdown(&table)
	if err := json.NewEncoder(&doc).Encode(r); err != nil {
		t.Error(err)
	}
	if n := strings.Count(table.String(), "\n| "); n != 1+len(r.Cells) {
		t.Errorf("%d rows:\n%s", n, &table)
	}
	for _, want := range []string{"poetry", "on/off", "DeepSeek-V3", "measured", "formula"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing:\n%s", want, &text)
		}
	}
}

// Answers that differ are found and counted.
func TestDifferingAnswersAreCounted(t *testing.T) {
	s := &suite{ctx: t.Context(), cfg: Config{OutputLen: 8}, longest: 8, path: tiny}
	llm, err := s.open(1, "auto", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer llm.Close()
	on := side{llm: llm, depth: &timeline{depth: []float64{0, 0, 1, 2, 3, 3, 3, 3, 1, 2}}, speed: []float64{1, 3, 2, 4}, answers: [][]int32{{1, 2}, {3}, {4}}, tokens: 100, drafted: 60, hit: 50}
	off := side{speed: []float64{2, 2, 2, 2}, answers: [][]int32{{1, 2}, {3, 3}, {5}}}
	var c Cell
	c.fill(&on, &off)
	if c.Differing != 2 || c.Cold != 0.5 || c.Ratio != (Ratio{1.5, 1, 2}) || c.On != (Speed{3, 2, 4}) {
		t.Errorf("%+v", c)
	}
	if want := []float64{0, 1.5, 3, 3, 1.5}; !slices.Equal(c.OverTime, want) {
		t.Errorf("over time %v, want %v", c.OverTime, want)
	}
	if c.TokensPerPass != 2 || c.DraftsPerPass != 1.2 {
		t.Errorf("%v tokens, %v drafts a pass", c.TokensPerPass, c.DraftsPerPass)
	}
}

// The formula, where it can be done by hand.
func TestEvaluate(t *testing.T) {
	flat, steep := make([]Point, 17), make([]Point, 17)
	for i := range flat {
		flat[i], steep[i] = Point{Rows: i + 1, MS: 50}, Point{Rows: i + 1, MS: 50 * float64(i+1)}
	}
	near := func(a, b float64) bool { return math.Abs(a-b) < 1e-4 }
	s := evaluate(0.5, flat) // rows are free: 1 + ½ + ¼ + …
	if d := s.Depths[1]; !near(d.Tokens, 1.75) || !near(d.Gain, 1.75) || !near(d.Even, 0) {
		t.Errorf("%+v", d)
	}
	if s.Best.Drafts != 16 || !near(s.Best.Gain, 2-1./65536) {
		t.Errorf("best %+v", s.Best)
	}
	// DeepSeek-V3: 1.875 tokens over 1 + 1/61 steps; 1.8 needs 0.8295.
	if c := s.Claims[0]; !near(c.Gain, 1.875/(1+1./61)) || !near(c.Needed, 1.8*(1+1./61)-1) || !near(c.Bound, 2/(1+1./61)) {
		t.Errorf("%+v", c)
	}
	s = evaluate(0.9, steep) // a row costs a step: nothing pays
	if s.Best.Drafts != 0 || s.Best.Gain != 1 || !near(s.Depths[3].Even, 1) {
		t.Errorf("best %+v, even %v", s.Best, s.Depths[3].Even)
	}
	for _, c := range s.Claims {
		if c.Needed != 2 || c.Bound > 1 {
			t.Errorf("%+v", c)
		}
	}
	if g := gain([]Point{{MS: 50}, {}, {}, {}, {MS: 50}}, 1, 4, 0.1); !near(g, 5/1.4) { // the article's: 50 ms, 4 drafts of 5 ms
		t.Errorf("3.57 expected, got %v", g)
	}
}

func TestCheckAndErrors(t *testing.T) {
	for what, change := range map[string]func(*Config){
		"--sets":                 func(c *Config) { c.Sets = []string{"opera"} },
		"--streams":              func(c *Config) { c.Streams = []int{0} },
		"--temperatures":         func(c *Config) { c.Temperatures = []float32{-1} },
		"need a value":           func(c *Config) { c.Streams = nil },
		"--reps":                 func(c *Config) { c.Reps = 0 },
		"--synthetic-acceptance": func(c *Config) { c.Acceptance = 1.5 },
		"nothing to measure":     func(c *Config) { c.Sets = nil },
	} {
		c := Defaults()
		change(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	c := Defaults()
	c.Sets, c.OutputLen = []string{"chat"}, 2040
	_, err := Run(t.Context(), tiny, sestina.Options{}, c, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "room") {
		t.Errorf("a prompt too long for the context: %v", err)
	}
	var b side
	if _, _, err := b.book([]answer{{err: engine.ErrClosed}}); err != engine.ErrClosed {
		t.Errorf("a failed request: %v", err)
	}
}
