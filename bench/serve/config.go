package serve

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Endpoints that can be loaded.
const (
	Completions = "/v1/completions"
	Chat        = "/v1/chat/completions"
)

// Limits on one measurement: what is planned is held in memory.
const (
	maxRequests    = 10_000_000
	maxPromptWords = 4 << 20
	maxPlanWords   = 1 << 30 // prompts of one repetition, together
)

// Config is one measurement. Names and meanings follow vLLM's `bench serve`.
type Config struct {
	BaseURL  string `json:"base_url"`
	Endpoint string `json:"endpoint"`
	Model    string `json:"model"` // "" = the first that /v1/models lists
	APIKey   string `json:"-"`

	NumPrompts     int     `json:"num_prompts"` // requests of one repetition
	NumWarmups     int     `json:"num_warmups"` // sent before, not counted
	Reps           int     `json:"reps"`
	MaxConcurrency int     `json:"max_concurrency"` // 0 = no limit
	RequestRate    Rate    `json:"request_rate"`    // requests a second; +Inf = all at once
	Burstiness     Rate    `json:"burstiness"`      // gamma shape of the intervals: 1 = Poisson, <1 bursts, +Inf = even
	RampUp         string  `json:"ramp_up_strategy,omitempty"`
	RampStart      float64 `json:"ramp_up_start_rps,omitempty"`
	RampEnd        float64 `json:"ramp_up_end_rps,omitempty"`

	InputLen   int       `json:"random_input_len"`     // words, or ids with VocabSize
	OutputLen  int       `json:"random_output_len"`    // max_tokens
	RangeRatio float64   `json:"random_range_ratio"`   // lengths are uniform in ±this share
	VocabSize  int       `json:"vocab_size,omitempty"` // > 0: prompts are random token ids below it
	Prompts    []string  `json:"-"`                    // used in order instead of random ones, again from the start when they run out
	PromptFile string    `json:"prompt_file,omitempty"`
	Mix        []MixPart `json:"mix,omitempty"` // replaces NumPrompts and OutputLen

	IgnoreEOS   bool                       `json:"ignore_eos"`
	Temperature float64                    `json:"temperature"`
	Seed        uint64                     `json:"seed"`
	ExtraBody   map[string]json.RawMessage `json:"extra_body,omitempty"` // overlays each body; null removes a field

	PercentileMetrics []string      `json:"percentile_metrics"`
	MetricPercentiles []float64     `json:"metric_percentiles"`
	Goodput           SLO           `json:"goodput,omitempty"`
	Timeout           time.Duration `json:"timeout_ns"` // of one request
	DisableKeepAlive  bool          `json:"disable_keepalive"`
	VerifyAlone       bool          `json:"verify_alone"`
}

// Check refuses what cannot be measured.
func (c *Config) Check() error {
	u, err := url.Parse(c.BaseURL)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return fmt.Errorf("--base-url %q is not a URL like http://127.0.0.1:8000", c.BaseURL)
	case c.Endpoint != Completions && c.Endpoint != Chat:
		return fmt.Errorf("--endpoint %q: choose %s or %s", c.Endpoint, Completions, Chat)
	case c.total() < 1 || c.total() > maxRequests || c.Reps < 1 || c.Reps > maxRequests/c.total():
		return fmt.Errorf("%d requests × %d repetitions: choose between 1 and %d in all", c.total(), c.Reps, maxRequests)
	case c.NumWarmups < 0 || c.NumWarmups > maxRequests || c.MaxConcurrency < 0:
		return fmt.Errorf("--num-warmups %d and --max-concurrency %d must not be negative", c.NumWarmups, c.MaxConcurrency)
	case c.InputLen < 1 || c.InputLen > maxPromptWords || c.OutputLen < 1 || c.OutputLen > math.MaxInt32:
		return fmt.Errorf("--random-input-len %d and --random-output-len %d must be at least 1 (prompts at most %d)", c.InputLen, c.OutputLen, maxPromptWords)
	case c.Prompts == nil && max(c.total(), c.NumWarmups) > maxPlanWords/c.InputLen:
		return fmt.Errorf("%d prompts of %d words do not fit in memory: take fewer or shorter ones", max(c.total(), c.NumWarmups), c.InputLen)
	case !(c.RangeRatio >= 0 && c.RangeRatio < 1):
		return fmt.Errorf("--random-range-ratio %v must be at least 0 and below 1", c.RangeRatio)
	case c.VocabSize < 0 || c.VocabSize > math.MaxInt32:
		return fmt.Errorf("--vocab-size %d is not a vocabulary's size", c.VocabSize)
	case c.VocabSize > 0 && (c.Endpoint == Chat || c.Prompts != nil):
		return fmt.Errorf("--vocab-size makes token-id prompts; it goes with --endpoint %s and without --prompt-file", Completions)
	case !(c.Temperature >= 0) || math.IsInf(c.Temperature, 1):
		return fmt.Errorf("--temperature %v must be 0 or more", c.Temperature)
	case c.Timeout <= 0:
		return fmt.Errorf("--timeout %v must be positive", c.Timeout)
	}
	return c.checkRest()
}

func (c *Config) checkRest() error {
	for _, p := range c.Mix {
		if p.OutputLen < 1 || p.OutputLen > math.MaxInt32 || p.Count < 1 {
			return fmt.Errorf("--mix part %v: count and output length must be at least 1", p)
		}
	}
	for _, m := range c.PercentileMetrics {
		if !slices.Contains(metricNames, m) {
			return fmt.Errorf("--percentile-metrics %q: choose from %s", m, strings.Join(metricNames, ","))
		}
	}
	for _, p := range c.MetricPercentiles {
		if !(p >= 0 && p <= 100) {
			return fmt.Errorf("--metric-percentiles %v must be between 0 and 100", p)
		}
	}
	if err := c.Goodput.check(); err != nil {
		return err
	}
	for _, f := range []string{"stream", "stream_options", "n"} {
		if _, ok := c.ExtraBody[f]; ok {
			return fmt.Errorf("--extra-body must not set %q: the measurement depends on it", f)
		}
	}
	return c.checkArrivals()
}

func (c *Config) checkArrivals() error {
	finite := func(v float64) bool { return v > 0 && !math.IsInf(v, 1) }
	switch {
	case !(c.RequestRate > 0):
		return fmt.Errorf("--request-rate %v must be positive, or inf", float64(c.RequestRate))
	case !(c.Burstiness > 0):
		return fmt.Errorf("--burstiness %v must be positive", float64(c.Burstiness))
	case c.RampUp == "" && (c.RampStart != 0 || c.RampEnd != 0):
		return fmt.Errorf("--ramp-up-start-rps and --ramp-up-end-rps need --ramp-up-strategy linear or exponential")
	case c.RampUp == "":
		return nil
	case c.RampUp != "linear" && c.RampUp != "exponential":
		return fmt.Errorf("--ramp-up-strategy %q: choose linear or exponential", c.RampUp)
	case !finite(c.RampStart) || !finite(c.RampEnd):
		return fmt.Errorf("--ramp-up-start-rps %v and --ramp-up-end-rps %v must be positive", c.RampStart, c.RampEnd)
	case !math.IsInf(float64(c.RequestRate), 1):
		return fmt.Errorf("--request-rate and --ramp-up-strategy exclude each other: leave --request-rate out")
	}
	return nil
}

// planned reports whether requests leave at planned instants, not all at once.
func (c *Config) planned() bool { return c.RampUp != "" || !math.IsInf(float64(c.RequestRate), 1) }

// total is the number of requests of one repetition.
func (c *Config) total() int {
	if len(c.Mix) == 0 {
		return c.NumPrompts
	}
	n := 0
	for _, p := range c.Mix {
		n += min(max(p.Count, 0), maxRequests+1) // parts are few: no overflow
	}
	return n
}

// MixPart is Count requests of exactly OutputLen tokens.
type MixPart struct {
	Count     int `json:"count"`
	OutputLen int `json:"output_len"`
}

// ParseMix reads "50x20,50x200": count × output length.
func ParseMix(text string) ([]MixPart, error) {
	var mix []MixPart
	for part := range strings.SplitSeq(text, ",") {
		count, length, ok := strings.Cut(strings.TrimSpace(part), "x")
		n, err := strconv.ParseInt(count, 10, 32)
		l, err2 := strconv.ParseInt(length, 10, 32)
		if !ok || err != nil || err2 != nil || len(mix) == 1000 {
			return nil, fmt.Errorf("--mix %q: write COUNTxOUTPUT_LEN parts, like 50x20,50x200", text)
		}
		mix = append(mix, MixPart{int(n), int(l)})
	}
	return mix, nil
}

// SLO is the objectives a good answer meets: metric name → most milliseconds.
type SLO map[string]float64

// ParseSLO reads "ttft:200", "tpot:50", "e2el:3000" (milliseconds).
func ParseSLO(parts []string) (SLO, error) {
	slo := SLO{}
	for _, p := range parts {
		name, value, ok := strings.Cut(p, ":")
		v, err := strconv.ParseFloat(value, 64)
		if _, twice := slo[name]; !ok || err != nil || twice {
			return nil, fmt.Errorf("--goodput %q: write NAME:MILLISECONDS once for each of %s", p, strings.Join(sloNames, ", "))
		}
		slo[name] = v
	}
	return slo, slo.check()
}

var sloNames = []string{"ttft", "tpot", "e2el"}

func (s SLO) check() error {
	for name, v := range s {
		if !slices.Contains(sloNames, name) || !(v >= 0) || math.IsInf(v, 1) {
			return fmt.Errorf("--goodput %s:%v: write NAME:MILLISECONDS with a name of %s", name, v, strings.Join(sloNames, ", "))
		}
	}
	return nil
}

// met reports whether a completed answer keeps every objective. An answer of
// one token has no TPOT and cannot miss it.
func (s SLO) met(r *Result) bool {
	for name, most := range s {
		v, ok := r.metric(name)
		if ok && v > most {
			return false
		}
	}
	return true
}

// Rate is a positive number that may be infinite; JSON has it as the string "inf" then.
type Rate float64

// MarshalJSON writes a number, or "inf".
func (r Rate) MarshalJSON() ([]byte, error) {
	if math.IsInf(float64(r), 1) {
		return []byte(`"inf"`), nil
	}
	return json.Marshal(float64(r))
}
