package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var inf = Rate(math.Inf(1))

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) {
		t.Errorf("%s = %v, want %v ± %v", what, got, want, tolerance)
	}
}

// Planted delays come back exactly: the bubble's clock moves only by them.
func TestLatenciesAreThePlantedOnes(t *testing.T) {
	for _, endpoint := range []string{Completions, Chat} {
		c := testConfig()
		c.Endpoint, c.MaxConcurrency = endpoint, 4
		f := &fakeServer{ttft: 120 * time.Millisecond, itl: 30 * time.Millisecond}
		measure(t, f, c, func(t *testing.T, r *Report) {
			run := r.Runs[0]
			if run.Completed != 20 || run.Failed != 0 {
				t.Fatalf("%d completed, failures %v", run.Completed, run.Failures)
			}
			for name, want := range map[string]float64{"ttft": 120, "tpot": 30, "itl": 30, "e2el": 240} {
				m := run.Metrics[name]
				near(t, name+" p0", m.Percentiles["p0"], want, 1e-6)
				near(t, name+" p100", m.Percentiles["p100"], want, 1e-6)
				near(t, name+" mean", m.Mean, want, 1e-6)
				if n := map[bool]int{true: 20 * 4, false: 20}[name == "itl"]; m.N != n {
					t.Errorf("%s has %d values, want %d", name, m.N, n)
				}
			}
			near(t, "duration", run.Duration, 5*0.240, 1e-6)
			near(t, "requests/s", run.RequestThroughput, 20/1.2, 1e-6)
			near(t, "output tok/s", run.OutputThroughput, 100/1.2, 1e-6)
			near(t, "total tok/s", run.TotalThroughput, (100+20*8)/1.2, 1e-6)
			if run.FinishReasons["length"] != 20 || run.Estimated != 0 || run.ConnectionsOpened != 4 || run.PeakConcurrency != 4 {
				t.Errorf("finish %v, estimated %d, connections %d, peak %d", run.FinishReasons, run.Estimated, run.ConnectionsOpened, run.PeakConcurrency)
			}
		})
		if f.requests[0].path != endpoint || f.requests[0].Model != "fake" || f.requests[0].MaxTokens != 5 || f.requests[0].Seed != nil {
			t.Errorf("the server saw %+v", f.requests[0])
		}
	}
}

func TestClosedLoopNeverExceedsItsLimit(t *testing.T) {
	for _, limit := range []int{1, 3, 16} {
		c := testConfig()
		c.NumPrompts, c.MaxConcurrency, c.RangeRatio, c.OutputLen = 60, limit, 0.9, 10
		f := &fakeServer{ttft: 10 * time.Millisecond, itl: 3 * time.Millisecond}
		measure(t, f, c, func(t *testing.T, r *Report) {
			if r.Runs[0].Completed != 60 || f.peak != limit || r.Runs[0].PeakConcurrency != limit {
				t.Errorf("limit %d: %d completed, the server saw %d at once, the client %d", limit, r.Runs[0].Completed, f.peak, r.Runs[0].PeakConcurrency)
			}
		})
	}
}

// An open loop keeps sending on time while nothing is answered.
func TestOpenLoopDoesNotWaitForAnswers(t *testing.T) {
	c := testConfig()
	c.NumPrompts, c.RequestRate = 50, 100
	f := &fakeServer{ttft: 10 * time.Second}
	measure(t, f, c, func(t *testing.T, r *Report) {
		plan := c.arrivals(0, 50)
		for i, q := range r.Runs[0].Requests {
			near(t, fmt.Sprintf("request %d sent", i), q.Sent, millis(plan[i]), 1e-6)
			near(t, "lag", q.Lag, 0, 1e-6)
		}
		if f.peak != 50 {
			t.Errorf("%d requests at once, want all 50", f.peak)
		}
		near(t, "last arrival", millis(plan[49]), 500, 1e-3)
	})
	c.MaxConcurrency = 5 // capped: the lag shows it
	measure(t, &fakeServer{ttft: 10 * time.Second}, c, func(t *testing.T, r *Report) {
		if r.Runs[0].PeakConcurrency != 5 || r.Runs[0].SendLagP99 < 80_000 {
			t.Errorf("peak %d, send lag %v ms", r.Runs[0].PeakConcurrency, r.Runs[0].SendLagP99)
		}
	})
}

func TestFailuresAreCountedByReason(t *testing.T) {
	faults := []string{"", "http 500", "http 429", "no response", "json", "no output", "cut", "short", "malformed", "error event", "named error", "stall"}
	want := map[string]int{"http 500": 2, "http 429": 2, "no response": 2, "no output": 2, "cut": 4, "malformed": 4, "error event": 4, "timeout": 2}
	c := testConfig()
	c.NumPrompts, c.MaxConcurrency, c.Timeout = 2*len(faults), 1, 5*time.Second
	f := &fakeServer{ttft: time.Millisecond, itl: time.Millisecond, fault: func(n int, _ fakeRequest) string { return faults[n%len(faults)] }}
	measure(t, f, c, func(t *testing.T, r *Report) {
		run := r.Runs[0]
		got := map[string]int{}
		for _, f := range run.Failures {
			got[f.Reason] = f.Count
			if f.Example == "" {
				t.Errorf("%s has no example", f.Reason)
			}
		}
		if !maps.Equal(got, want) || run.Completed != 2 || run.Failed != 22 {
			t.Errorf("completed %d, failed %d: %v\nwant %v", run.Completed, run.Failed, got, want)
		}
		if run.Metrics["ttft"].N != 2 || run.OutputTokens != 10 {
			t.Errorf("failed requests count in the figures: %d TTFT, %d tokens", run.Metrics["ttft"].N, run.OutputTokens)
		}
		var table bytes.Buffer
		r.Print(&table)
		for reason, n := range want {
			if !strings.Contains(table.String(), fmt.Sprintf("%d × %s (", n, reason)) {
				t.Errorf("the table hides %s:\n%s", reason, &table)
			}
		}
	})
}

func TestNoServerIsAConnectFailure(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	c := testConfig()
	c.BaseURL = s.URL
	s.Close()
	r, err := Run(t.Context(), c, nil)
	if err != nil || r.Completed() != 0 || r.Runs[0].Failures[0].Reason != reasonConnect || r.Runs[0].Failures[0].Count != 20 {
		t.Fatalf("%v, %+v", err, r)
	}
}

func TestWarmUpFailureIsAnError(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	c := testConfig()
	c.BaseURL, c.NumWarmups = s.URL, 2
	if _, err := Run(t.Context(), c, nil); err == nil || !strings.Contains(err.Error(), "http 404") {
		t.Fatalf("got %v", err)
	}
}

// Over real sockets: all that goes to the server, and the pool of connections.
func TestOverSockets(t *testing.T) {
	f := &fakeServer{ttft: time.Millisecond}
	s := httptest.NewServer(f)
	defer s.Close()
	c := testConfig()
	c.BaseURL, c.Model, c.APIKey, c.IgnoreEOS, c.Temperature = s.URL+"/", "", "secret", true, 0.5
	c.MaxConcurrency, c.NumWarmups, c.Reps, c.VocabSize = 3, 2, 2, 100
	c.ExtraBody = map[string]json.RawMessage{"top_k": json.RawMessage("40"), "seed": json.RawMessage("null")}
	calls := 0
	r, err := Run(t.Context(), c, func(rep, done, total int) { calls++ })
	if err != nil {
		t.Fatal(err)
	}
	if r.Completed() != 40 || calls != 40 || len(f.requests) != 42 || r.Config.Model != "fake" {
		t.Errorf("%d completed, %d calls, %d requests, model %q", r.Completed(), calls, len(f.requests), r.Config.Model)
	}
	for _, q := range f.requests {
		if ids, ok := q.Prompt.([]any); !ok || len(ids) != 8 || q.auth != "Bearer secret" || !q.IgnoreEOS || q.TopK != 40 || q.Seed != nil || q.Temperature != 0.5 {
			t.Fatalf("the server saw %+v", q)
		}
	}
	if n := r.Runs[0].ConnectionsOpened + r.Runs[1].ConnectionsOpened; n > 3 {
		t.Errorf("%d connections opened for 3 at once", n)
	}
	document, err := json.Marshal(r.Summary())
	if err != nil || bytes.Contains(document, []byte("secret")) || bytes.Contains(document, []byte("itl_ms")) {
		t.Errorf("%v: %s", err, document)
	}
	c.DisableKeepAlive, c.Reps = true, 1
	if r, err = Run(t.Context(), c, nil); err != nil || r.Runs[0].ConnectionsOpened != 20 {
		t.Errorf("%v, %d connections for 20 requests without keep-alive", err, r.Runs[0].ConnectionsOpened)
	}
}

func TestStoppedByContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var sent atomic.Int64
		f := drive(ctx, []time.Duration{0, 0, time.Hour, time.Hour}, 0, func(i int) Result { sent.Add(1); time.Sleep(time.Minute); return Result{} })
		if sent.Load() != 2 || f.results[2].Failure == nil || f.results[3].Failure.Reason != reasonInterrupted || f.elapsed != time.Minute {
			t.Errorf("%d sent, %+v", sent.Load(), f)
		}
	})
}

// plant returns an answer that differs at token 2 for request number bad of n,
// the first time it is asked; textToo says whether the text differs or only the ids.
func plant(bad int, textToo bool) func(n int, r fakeRequest) ([]string, []int32) {
	return func(n int, r fakeRequest) ([]string, []int32) {
		texts, ids := (&fakeServer{}).texts(n, r)
		if n == bad {
			ids[2]++
			if textToo {
				texts[2] = " WRONG"
			}
		}
		return texts, ids
	}
}

func TestVerifyAloneFindsAPlantedDifference(t *testing.T) {
	for _, tt := range []struct {
		bad     int
		textToo bool
		want    int
	}{{-1, false, 0}, {11, true, 1}, {11, false, 1}} {
		c := testConfig()
		c.VerifyAlone, c.MaxConcurrency, c.Temperature = true, 4, 0.7
		f := &fakeServer{answer: plant(tt.bad, tt.textToo), ttft: time.Millisecond}
		measure(t, f, c, func(t *testing.T, r *Report) {
			v := r.Verify
			if v.Compared != 20 || v.IDsCompared != 20 || v.Differing != tt.want || v.OK() != (tt.want == 0) {
				t.Fatalf("%+v: %+v", tt, v)
			}
			if tt.want > 0 && (v.Differences[0].Token != 2 || (v.Differences[0].Byte >= 0) != tt.textToo) {
				t.Errorf("%+v: %+v", tt, v.Differences)
			}
			var table bytes.Buffer
			if r.Print(&table); !strings.HasSuffix(table.String(), fmt.Sprintf("differing answers: %d of 20\n", tt.want)) {
				t.Error(table.String())
			}
		})
		// Alone means the same bodies again, one at a time.
		loaded, alone := map[string]uint64{}, map[string]uint64{}
		for i, q := range f.requests {
			map[bool]map[string]uint64{true: loaded, false: alone}[i < 20][q.text()] = *q.Seed
		}
		seeds := slices.Compact(slices.Sorted(maps.Values(loaded)))
		if len(f.requests) != 40 || !maps.Equal(loaded, alone) || len(loaded) != 20 || len(seeds) != 20 {
			t.Errorf("%d requests; %d and %d different prompts, %d seeds", len(f.requests), len(loaded), len(alone), len(seeds))
		}
	}
}

func TestVerifyAloneCountsWhatItCouldNotCompare(t *testing.T) {
	c := testConfig()
	c.VerifyAlone = true
	f := &fakeServer{fault: func(n int, _ fakeRequest) string {
		return map[int]string{3: "http 500", 25: "cut"}[n]
	}}
	measure(t, f, c, func(t *testing.T, r *Report) {
		if v := r.Verify; v.Compared != 18 || v.Differing != 0 || v.OK() || len(v.Failures) != 1 || v.Failures[0].Reason != "cut" {
			t.Errorf("%+v", v)
		}
	})
}

func TestGoodputCountsAnswersThatMeetEveryObjective(t *testing.T) {
	slo, err := ParseSLO([]string{"ttft:200", "tpot:50", "e2el:3000"})
	if err != nil {
		t.Fatal(err)
	}
	answers := []struct {
		r    Result
		good bool
	}{
		{Result{TTFT: 200, E2EL: 200 + 4*50, OutputTokens: 5}, true},  // at the limit
		{Result{TTFT: 200.1, E2EL: 300, OutputTokens: 5}, false},      // TTFT
		{Result{TTFT: 10, E2EL: 10 + 4*50.1, OutputTokens: 5}, false}, // TPOT
		{Result{TTFT: 10, E2EL: 3001, OutputTokens: 500}, false},      // E2EL
		{Result{TTFT: 10, E2EL: 150, OutputTokens: 1}, true},          // no TPOT to miss
		{Result{Failure: failf("cut", "x")}, false},
	}
	l := load{}
	for _, a := range answers {
		l.results = append(l.results, a.r)
		if a.r.Failure == nil && slo.met(&a.r) != a.good {
			t.Errorf("%+v: good is %v", a.r, !a.good)
		}
	}
	l.elapsed = 4 * time.Second
	c := testConfig()
	c.Goodput = slo
	run := summarise(&c, l)
	if *run.GoodRequests != 2 || *run.RequestGoodput != 0.5 || run.Completed != 5 || run.RequestThroughput != 1.25 {
		t.Errorf("good %d, goodput %v, completed %d", *run.GoodRequests, *run.RequestGoodput, run.Completed)
	}
	if run.Metrics["tpot"].N != 4 {
		t.Errorf("%d TPOT values; one-token answers have none", run.Metrics["tpot"].N)
	}
}

// expanded reads percentile p off the list with 100 interpolated steps between
// neighbours: element p·(n−1) of it.
func expanded(v []float64, p int) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	var all []float64
	for i := range len(v) - 1 {
		for s := range 100 {
			all = append(all, v[i]*float64(100-s)/100+v[i+1]*float64(s)/100)
		}
	}
	return append(all, v[len(v)-1])[p*(len(v)-1)]
}

func TestPercentileAgainstTheSlowReference(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := 1; n < 60; n++ {
		v := make([]float64, n)
		for i := range v {
			v[i] = math.Floor(rng.ExpFloat64() * 20) // with ties
		}
		for p := 0; p <= 100; p++ {
			near(t, fmt.Sprintf("p%d of %v", p, v), percentile(sorted(v), float64(p)), expanded(v, p), 1e-9)
		}
	}
	near(t, "p99.9", percentile([]float64{0, 1000}, 99.9), 999, 1e-9)
}

func TestFieldsOfTheStream(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }
	type step struct {
		ms   int
		data string
	}
	for _, tt := range []struct {
		name  string
		steps []step
		want  Result
	}{
		{"role first, tool call, reasoning, late usage", []step{
			{5, `{"choices":[{"delta":{"role":"assistant","content":null}}]}`},
			{10, `{"choices":[{"delta":{"reasoning_content":"hm "}}]}`},
			{30, `{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{}"}}]}}]}`},
			{40, `{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}`},
			{90, `{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":7}}`}},
			Result{TTFT: 10, E2EL: 40, ITL: []float64{20}, InputTokens: 3, OutputTokens: 7, FinishReason: "tool_calls", Text: "hm f{}"}},
		{"empty text is a token before the finish", []step{
			{10, `{"choices":[{"text":"","token_ids":[9]}]}`}, {20, `{"choices":[{"text":""}]}`}, {25, `{"choices":[{"text":"","finish_reason":"stop"}]}`}},
			Result{TTFT: 10, E2EL: 25, ITL: []float64{10}, OutputTokens: 2, Estimated: true, FinishReason: "stop", IDs: []int32{9}}},
		{"hidden tokens only", []step{{15, `{"choices":[{"text":"","finish_reason":"length"}],"usage":{"completion_tokens":1}}`}},
			Result{TTFT: 15, E2EL: 15, OutputTokens: 1, FinishReason: "length"}},
		{"several tokens in a chunk", []step{
			{10, `{"choices":[{"text":"a b","token_ids":[1,2]}]}`}, {20, `{"choices":[{"text":"c d e","token_ids":[3,4,5],"finish_reason":"stop"}]}`}},
			Result{TTFT: 10, E2EL: 20, ITL: []float64{10}, OutputTokens: 5, Estimated: true, FinishReason: "stop", Text: "a bc d e", IDs: []int32{1, 2, 3, 4, 5}}},
	} {
		a := answer{start: at(0)}
		for _, s := range tt.steps {
			if f := a.take(event{data: []byte(s.data)}, at(s.ms)); f != nil {
				t.Fatalf("%s: %v", tt.name, f)
			}
		}
		if got := a.result(); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", tt.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", tt.name, got, tt.want)
		}
	}
}

func TestTokensAreEstimatedOnlyWithoutUsage(t *testing.T) {
	measure(t, &fakeServer{noUsage: true}, testConfig(), func(t *testing.T, r *Report) {
		if r.Runs[0].Estimated != 20 || r.Runs[0].OutputTokens != 100 {
			t.Errorf("%d estimated, %d tokens", r.Runs[0].Estimated, r.Runs[0].OutputTokens)
		}
	})
}
