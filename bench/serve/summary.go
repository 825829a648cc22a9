package serve

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// Schema names the report's format and its version.
const Schema = "sestina.bench-serve/1"

var metricNames = []string{"ttft", "tpot", "itl", "e2el"}

// Report is the document `sestina bench serve` prints.
type Report struct {
	Schema string       `json:"schema"`
	Config Config       `json:"config"`
	Rows   []Row        `json:"rows"` // over the repetitions
	Runs   []Repetition `json:"runs"`
	Verify *Verify      `json:"verify,omitempty"`

	PromptsRepeated int `json:"prompts_repeated"` // prompts of the file sent more than once: a prefix cache knows them
}

// Row is one figure over the repetitions that have it.
type Row struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"`
}

// Repetition is the figures of one repetition.
type Repetition struct {
	Duration          float64           `json:"duration_s"`
	Completed         int               `json:"completed"`
	Failed            int               `json:"failed"`
	Failures          []FailureCount    `json:"failures"`
	FinishReasons     map[string]int    `json:"finish_reasons"`
	InputTokens       int               `json:"input_tokens"` // of completed requests, as are all below
	OutputTokens      int               `json:"output_tokens"`
	Estimated         int               `json:"tokens_estimated"` // answers without usage
	RequestThroughput float64           `json:"request_throughput"`
	RequestGoodput    *float64          `json:"request_goodput,omitempty"`
	GoodRequests      *int              `json:"good_requests,omitempty"`
	OutputThroughput  float64           `json:"output_throughput"` // tokens a second
	TotalThroughput   float64           `json:"total_throughput"`  // input and output tokens a second
	PeakConcurrency   int               `json:"peak_concurrency"`
	ConnectionsOpened int               `json:"connections_opened"`
	SendLagP99        float64           `json:"send_lag_p99_ms"` // planned → sent; large = the load was not the planned one
	Metrics           map[string]Metric `json:"metrics"`
	Requests          []Result          `json:"requests,omitempty"` // only in a saved result
}

// FailureCount is how many requests failed for one reason, with one message.
type FailureCount struct {
	Reason  string `json:"reason"`
	Count   int    `json:"count"`
	Example string `json:"example"`
}

// Metric is the distribution of one latency, in milliseconds.
type Metric struct {
	N           int                `json:"n"`
	Mean        float64            `json:"mean"`
	Max         float64            `json:"max"`
	Percentiles map[string]float64 `json:"percentiles"` // "p99"
}

func newReport(c Config, loads []load) *Report {
	r := &Report{Schema: Schema, Config: c}
	if c.Prompts != nil {
		r.PromptsRepeated = max(c.Reps*c.total()-len(c.Prompts), 0)
	}
	for _, l := range loads {
		r.Runs = append(r.Runs, summarise(&c, l))
	}
	r.addRows()
	return r
}

// summarise turns one repetition's results into its figures.
func summarise(c *Config, l load) Repetition {
	run := Repetition{Duration: l.elapsed.Seconds(), Failures: []FailureCount{}, FinishReasons: map[string]int{},
		PeakConcurrency: l.peak, ConnectionsOpened: l.connections, Metrics: map[string]Metric{}, Requests: l.results}
	values := map[string][]float64{}
	var lags []float64
	good := 0
	for i := range l.results {
		r := &l.results[i]
		lags = append(lags, r.Lag)
		if r.Failure != nil {
			run.countFailure(r.Failure)
			continue
		}
		run.Completed++
		run.FinishReasons[cmp.Or(r.FinishReason, "none")]++
		run.InputTokens += r.InputTokens
		run.OutputTokens += r.OutputTokens
		if r.Estimated {
			run.Estimated++
		}
		if c.Goodput.met(r) {
			good++
		}
		for _, name := range sloNames {
			if v, ok := r.metric(name); ok {
				values[name] = append(values[name], v)
			}
		}
		values["itl"] = append(values["itl"], r.ITL...)
	}
	slices.SortStableFunc(run.Failures, func(a, b FailureCount) int {
		return cmp.Or(b.Count-a.Count, cmp.Compare(a.Reason, b.Reason))
	})
	run.SendLagP99 = percentile(sorted(lags), 99)
	perSecond := func(n int) float64 { return float64(n) / max(run.Duration, 1e-9) }
	run.RequestThroughput = perSecond(run.Completed)
	run.OutputThroughput = perSecond(run.OutputTokens)
	run.TotalThroughput = perSecond(run.InputTokens + run.OutputTokens)
	if len(c.Goodput) > 0 {
		rate := perSecond(good)
		run.RequestGoodput, run.GoodRequests = &rate, &good
	}
	for _, name := range c.PercentileMetrics {
		if len(values[name]) > 0 {
			run.Metrics[name] = newMetric(values[name], c.MetricPercentiles)
		}
	}
	return run
}

func (run *Repetition) countFailure(f *Failure) {
	run.Failed++
	for i := range run.Failures {
		if run.Failures[i].Reason == f.Reason {
			run.Failures[i].Count++
			return
		}
	}
	run.Failures = append(run.Failures, FailureCount{f.Reason, 1, f.Message})
}

// newMetric summarises a non-empty list.
func newMetric(v []float64, percentiles []float64) Metric {
	v = sorted(v)
	m := Metric{N: len(v), Max: v[len(v)-1], Percentiles: map[string]float64{}}
	for _, x := range v {
		m.Mean += x / float64(len(v))
	}
	for _, p := range percentiles {
		m.Percentiles[percentileName(p)] = percentile(v, p)
	}
	return m
}

func percentileName(p float64) string { return "p" + strconv.FormatFloat(p, 'f', -1, 64) }

func sorted(v []float64) []float64 { return slices.Sorted(slices.Values(v)) }

// percentile interpolates linearly between the two nearest of a sorted,
// non-empty list, as numpy's default does: rank p/100·(n−1), counted from 0.
func percentile(v []float64, p float64) float64 {
	rank := p / 100 * float64(len(v)-1)
	low := math.Floor(rank)
	i := int(low)
	j := min(i+1, len(v)-1)
	return v[i] + float64((rank-low)*(v[j]-v[i]))
}

// addRows gathers the runs' figures; a figure that a run lacks is not in its row.
func (r *Report) addRows() {
	add := func(name, unit string, get func(*Repetition) (float64, bool)) {
		var v []float64
		for i := range r.Runs {
			if x, ok := get(&r.Runs[i]); ok {
				v = append(v, x)
			}
		}
		if len(v) > 0 {
			v = sorted(v)
			r.Rows = append(r.Rows, Row{name, unit, percentile(v, 50), v[0], v[len(v)-1], len(v)})
		}
	}
	always := func(get func(*Repetition) float64) func(*Repetition) (float64, bool) {
		return func(x *Repetition) (float64, bool) { return get(x), true }
	}
	add("completed", "requests", always(func(x *Repetition) float64 { return float64(x.Completed) }))
	add("failed", "requests", always(func(x *Repetition) float64 { return float64(x.Failed) }))
	add("duration", "s", always(func(x *Repetition) float64 { return x.Duration }))
	add("input_tokens", "tok", always(func(x *Repetition) float64 { return float64(x.InputTokens) }))
	add("output_tokens", "tok", always(func(x *Repetition) float64 { return float64(x.OutputTokens) }))
	add("request_throughput", "req/s", always(func(x *Repetition) float64 { return x.RequestThroughput }))
	add("request_goodput", "req/s", func(x *Repetition) (float64, bool) {
		if x.RequestGoodput == nil {
			return 0, false
		}
		return *x.RequestGoodput, true
	})
	add("output_throughput", "tok/s", always(func(x *Repetition) float64 { return x.OutputThroughput }))
	add("total_throughput", "tok/s", always(func(x *Repetition) float64 { return x.TotalThroughput }))
	add("peak_concurrency", "requests", always(func(x *Repetition) float64 { return float64(x.PeakConcurrency) }))
	add("connections_opened", "", always(func(x *Repetition) float64 { return float64(x.ConnectionsOpened) }))
	if r.Config.planned() {
		add("send_lag_p99", "ms", always(func(x *Repetition) float64 { return x.SendLagP99 }))
	}
	for _, name := range r.Config.PercentileMetrics {
		for _, p := range r.Config.MetricPercentiles {
			add(fmt.Sprintf("%s_%s", name, percentileName(p)), "ms", func(x *Repetition) (float64, bool) {
				v, ok := x.Metrics[name].Percentiles[percentileName(p)]
				return v, ok
			})
		}
	}
}

// Summary is the report without the single requests.
func (r *Report) Summary() *Report {
	short := *r
	short.Runs = slices.Clone(r.Runs)
	for i := range short.Runs {
		short.Runs[i].Requests = nil
	}
	return &short
}

// Completed is the number of answers in all repetitions.
func (r *Report) Completed() int {
	n := 0
	for i := range r.Runs {
		n += r.Runs[i].Completed
	}
	return n
}
