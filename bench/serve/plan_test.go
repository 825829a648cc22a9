package serve

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func gaps(plan []time.Duration) []float64 {
	out := make([]float64, len(plan))
	last := time.Duration(0)
	for i, at := range plan {
		out[i], last = (at - last).Seconds(), at
	}
	return out
}

func moments(v []float64) (mean, variance float64) {
	for _, x := range v {
		mean += x / float64(len(v))
	}
	for _, x := range v {
		variance += (x - mean) * (x - mean) / float64(len(v))
	}
	return mean, variance
}

// Gamma intervals of shape k and rate r have mean 1/r and variance 1/(k·r²).
func TestArrivalMoments(t *testing.T) {
	const n, rate = 100_000, 40.0
	for _, shape := range []float64{0.3, 0.5, 1, 2, 8, math.Inf(1)} {
		c := testConfig()
		c.RequestRate, c.Burstiness = rate, Rate(shape)
		plan := c.arrivals(0, n)
		mean, variance := moments(gaps(plan))
		near(t, fmt.Sprintf("mean at shape %v", shape), mean*rate, 1, 1e-6)
		near(t, fmt.Sprintf("variance at shape %v", shape), variance*rate*rate, 1/shape, 0.05/min(shape, 1e3))
		near(t, "last arrival", plan[n-1].Seconds(), n/rate, 1e-6)
		if !slices.IsSorted(plan) {
			t.Errorf("shape %v: arrivals go back in time", shape)
		}
	}
}

// The variate before scaling has the right mean too, and twice a variate of shape 0.5 is χ²₁, so below 1 with P = erf(√½).
func TestGammaDistribution(t *testing.T) {
	const n = 200_000
	c := testConfig()
	rng := c.rng(streamArrivals, 0)
	for _, shape := range []float64{0.5, 1.5, 9} {
		v := make([]float64, n)
		below := 0
		for i := range v {
			if v[i] = gamma(rng, shape); 2*v[i] < 1 {
				below++
			}
		}
		mean, variance := moments(v)
		near(t, "gamma mean", mean/shape, 1, 5/math.Sqrt(n*shape))
		near(t, "gamma variance", variance/shape, 1, 0.04)
		if shape == 0.5 {
			near(t, "P(χ²₁ < 1)", float64(below)/n, math.Erf(math.Sqrt(0.5)), 0.005)
		}
	}
}

// χ² test: Poisson intervals fall evenly into 50 equally likely bins, and the
// test itself rejects even and bursty arrivals.
func TestPoissonChiSquare(t *testing.T) {
	const n, bins = 50_000, 50
	statistic := func(shape Rate) float64 {
		c := testConfig()
		c.RequestRate, c.Burstiness = 1, shape
		var count [bins]float64
		for _, g := range gaps(c.arrivals(3, n)) {
			count[min(int(-math.Expm1(-g)*bins), bins-1)]++
		}
		x := 0.0
		for _, k := range count {
			x += (k - n/bins) * (k - n/bins) / (n / bins)
		}
		return x
	}
	const critical = 85.35 // χ²₄₉ at 0.1 %
	if x := statistic(1); x > critical {
		t.Errorf("Poisson: χ² = %.1f > %v", x, critical)
	}
	for _, shape := range []Rate{0.9, 1.1} {
		if x := statistic(shape); x <= critical {
			t.Errorf("shape %v passes for Poisson: χ² = %.1f", shape, x)
		}
	}
}

func TestRampUp(t *testing.T) {
	const n = 10_001
	for strategy, middle := range map[string]float64{"linear": 50.5, "exponential": 10} {
		c := testConfig()
		c.RampUp, c.RampStart, c.RampEnd, c.Burstiness = strategy, 1, 100, inf
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		g := gaps(c.arrivals(0, n))
		near(t, strategy+" start", 1/g[0], 1, 1e-3)
		near(t, strategy+" middle", 1/g[n/2], middle, 1e-3)
		near(t, strategy+" end", 1/g[n-1], 100, 1e-3)
	}
}

// A ramp is not scaled to its length: bursty intervals keep the rate's mean by themselves.
func TestRampUpKeepsTheMean(t *testing.T) {
	const n = 100_000
	for _, shape := range []Rate{0.5, 1, 4} {
		c := testConfig()
		c.RampUp, c.RampStart, c.RampEnd, c.Burstiness = "linear", 10, 10, shape
		near(t, fmt.Sprintf("shape %v, last arrival", shape), c.arrivals(0, n)[n-1].Seconds(), n/10, n/10*0.02)
	}
}

func TestAllAtOnce(t *testing.T) {
	c := testConfig()
	if plan := c.arrivals(0, 5); !slices.Equal(plan, make([]time.Duration, 5)) {
		t.Errorf("got %v", plan)
	}
}

func TestPromptsAreFreshAndReproducible(t *testing.T) {
	for _, vocab := range []int{0, 5000} {
		c := testConfig()
		c.NumPrompts, c.NumWarmups, c.Reps, c.RangeRatio, c.VocabSize, c.InputLen = 50, 20, 3, 0.5, vocab, 20
		seen := map[string]bool{}
		all := c.warmups()
		for rep := range c.Reps {
			all = append(all, c.requests(rep)...)
		}
		for _, r := range all {
			n := max(len(strings.Fields(r.Prompt)), len(r.PromptIDs))
			if n < 10 || n > 30 {
				t.Errorf("a prompt of %d words; asked 20 ± 50 %%", n)
			}
			seen[r.Prompt+fmt.Sprint(r.PromptIDs)] = true
		}
		if len(seen) != 170 {
			t.Errorf("%d different prompts of 170", len(seen))
		}
		if a, b := c.requests(1), c.requests(1); fmt.Sprint(a) != fmt.Sprint(b) {
			t.Error("the same seed gives other prompts")
		}
		if a, b := c.requests(1), c.requests(2); fmt.Sprint(a) == fmt.Sprint(b) {
			t.Error("repetitions share their prompts")
		}
	}
}

func TestPromptFileGoesOnAcrossRepetitions(t *testing.T) {
	c := testConfig()
	c.NumPrompts, c.Reps, c.Prompts = 3, 2, []string{"a", "b", "c", "d"}
	var got string
	for rep := range 2 {
		for _, r := range c.requests(rep) {
			got += r.Prompt
		}
	}
	if got != "abcdab" {
		t.Errorf("prompts %s", got)
	}
	if r := newReport(c, nil); r.PromptsRepeated != 2 {
		t.Errorf("%d repeated, want 2", r.PromptsRepeated)
	}
}

func TestMix(t *testing.T) {
	mix, err := ParseMix("50x20, 30x200")
	if err != nil {
		t.Fatal(err)
	}
	c := testConfig()
	c.Mix, c.RangeRatio = mix, 0.5
	count := map[int]int{}
	lens := c.outputLens(0)
	for _, n := range lens {
		count[n]++
	}
	if count[20] != 50 || count[200] != 30 || c.total() != 80 || slices.IsSorted(lens) {
		t.Errorf("%v, sorted %v", count, slices.IsSorted(lens))
	}
	for _, bad := range []string{"", "50", "x20", "50x", "a x b", "1x2,"} {
		if _, err := ParseMix(bad); err == nil {
			t.Errorf("%q is a mix", bad)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	for what, spoil := range map[string]func(*Config){
		"--base-url":           func(c *Config) { c.BaseURL = "127.0.0.1:8000" },
		"--endpoint":           func(c *Config) { c.Endpoint = "/v1/embeddings" },
		"0 requests":           func(c *Config) { c.NumPrompts = 0 },
		"repetitions":          func(c *Config) { c.Reps = math.MaxInt },
		"--max-concurrency":    func(c *Config) { c.MaxConcurrency = -1 },
		"--random-input-len":   func(c *Config) { c.InputLen = math.MaxInt },
		"memory":               func(c *Config) { c.InputLen, c.NumPrompts = 1<<20, 1<<20 },
		"--random-range-ratio": func(c *Config) { c.RangeRatio = math.NaN() },
		"--vocab-size":         func(c *Config) { c.VocabSize, c.Endpoint = 9, Chat },
		"--temperature":        func(c *Config) { c.Temperature = -1 },
		"--timeout":            func(c *Config) { c.Timeout = 0 },
		"--mix":                func(c *Config) { c.Mix = []MixPart{{5, 0}} },
		"--percentile-metrics": func(c *Config) { c.PercentileMetrics = []string{"tps"} },
		"--metric-percentiles": func(c *Config) { c.MetricPercentiles = []float64{101} },
		"--goodput":            func(c *Config) { c.Goodput = SLO{"itl": 5} },
		"--extra-body":         func(c *Config) { c.ExtraBody = map[string]json.RawMessage{"stream": nil} },
		"--request-rate":       func(c *Config) { c.RequestRate = 0 },
		"--burstiness":         func(c *Config) { c.Burstiness = Rate(math.NaN()) },
		"--ramp-up-strategy":   func(c *Config) { c.RampUp = "square" },
		"--ramp-up-start-rps":  func(c *Config) { c.RampUp, c.RampEnd = "linear", 5 },
	} {
		c := testConfig()
		spoil(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	for _, bad := range []string{"ttft", "ttft:x", "itl:5", "ttft:-1", "ttft:inf"} {
		if _, err := ParseSLO([]string{bad}); err == nil {
			t.Errorf("%q is an objective", bad)
		}
	}
}
