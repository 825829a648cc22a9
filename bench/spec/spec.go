// Package spec measures what speculative decoding buys: the same requests through
// two engines on one model, one as configured (speculation on by default), one
// with it off, taking turns.
//
// # Method
//
// A cell is a prompt set at a number of streams and a temperature. It opens two
// fresh engines, so that no cell profits from what another's depth controller has
// learnt. A repetition answers every prompt of the set on one engine, in waves of
// so many streams, and the repetitions of the two engines alternate, each going
// first every other time. The first repetition is reported apart as cold: pages
// are touched, the cost curve is a guess. Every request has a salt of its own, the
// same on both sides: neither the prefix cache nor the pool of earlier answers may
// tell what comes, so what is drafted comes from the request's own prompt and answer.
//
// Speed is decoding's: in each wave, the tokens after the last stream's first
// token, over the time from there to the wave's end. Answers end where the model
// ends them. Token ids of the two sides are compared one by one; they must be equal.
//
// # Synthetic acceptance
//
// A step of 1 + k rows that verifies k drafts, each accepted with probability P if
// those before it were, commits (1 − P^(k+1)) / (1 − P) tokens on average
// (Leviathan et al. 2023, eq. 1). With c(r) the time of a step of r rows and d the
// cost of proposing a token, in plain steps, the gain is
//
//	S(P, k) = (1 − P^(k+1)) / (1 − P) / (c(1+k) / c(1) + d·k)
//
// c is measured here (curve.go), S is the formula: synthetic.go.
package spec

import (
	"fmt"
	"slices"

	"sestina/batch"
	"sestina/bench"
	"sestina/bench/prompts"
	"sestina/spec"
)

// Schema names the document's format.
const Schema = "sestina.bench-spec/1"

// Config is the workload.
type Config struct {
	Sets         []string  `json:"sets"`    // of sestina/bench/prompts; none: the cost curve alone
	Streams      []int     `json:"streams"` // requests at once, one cell each
	Temperatures []float32 `json:"temperatures"`
	Prompts      int       `json:"prompts"`    // of each set, at most; mixed has so many of each
	OutputLen    int       `json:"output_len"` // longest answer in tokens
	Reps         int       `json:"reps"`       // of each side, after the cold one
	Acceptance   float64   `json:"synthetic_acceptance,omitempty"`
}

// Defaults are the README's.
func Defaults() Config {
	return Config{Sets: prompts.Names(), Streams: []int{1, 2, 4, 8, 16, 32}, Temperatures: []float32{0, 1}, Prompts: 6, OutputLen: 128, Reps: 3}
}

// Check refuses what cannot be measured.
func (c *Config) Check() error {
	for _, s := range c.Sets {
		if s != prompts.Mixed && !slices.Contains(prompts.Names(), s) {
			return fmt.Errorf("--sets: there is no prompt set %q; there are all, none, %s, %v", s, prompts.Mixed, prompts.Names())
		}
	}
	for _, n := range c.Streams {
		if n < 1 || n > 1024 {
			return fmt.Errorf("--streams %d is out of range; choose 1 to 1024", n)
		}
	}
	for _, t := range c.Temperatures {
		if p := (batch.SamplingParams{Temperature: t}); !(p.Temperature >= 0 && p.Temperature <= 2) {
			return fmt.Errorf("--temperatures %v is out of range; choose 0 to 2", t)
		}
	}
	switch {
	case len(c.Sets) > 0 && (len(c.Streams) == 0 || len(c.Temperatures) == 0):
		return fmt.Errorf("--streams and --temperatures need a value each")
	case c.Prompts < 1 || c.Reps < 1 || c.OutputLen < 8:
		return fmt.Errorf("--prompts %d and --reps %d must be at least 1, --output-len %d at least 8", c.Prompts, c.Reps, c.OutputLen)
	case !(c.Acceptance >= 0 && c.Acceptance <= 1):
		return fmt.Errorf("--synthetic-acceptance is %v; it is a probability, 0 to 1", c.Acceptance)
	case len(c.Sets) == 0 && c.Acceptance == 0:
		return fmt.Errorf("--sets none leaves nothing to measure without --synthetic-acceptance")
	}
	return nil
}

// Report is the document `sestina bench spec` prints.
type Report struct {
	Schema    string        `json:"schema"`
	Machine   bench.Machine `json:"machine"`
	Load      string        `json:"load_average,omitempty"` // before and after: what else the machine did
	Model     bench.Model   `json:"model"`
	Method    string        `json:"speculative_config"` // "" = the default
	Config    Config        `json:"config"`
	Cells     []Cell        `json:"cells"`
	Synthetic *Synthetic    `json:"synthetic,omitempty"`
}

// Cell is one set at one number of streams and one temperature.
type Cell struct {
	Set         string  `json:"set"`
	Streams     int     `json:"streams"`
	Temperature float32 `json:"temperature"`
	Requests    int     `json:"requests"` // per repetition and side
	On          Speed   `json:"on"`
	Off         Speed   `json:"off"`
	Ratio       Ratio   `json:"ratio"`
	Cold        float64 `json:"cold_ratio"` // of the first repetition

	TokensPerPass float64   `json:"tokens_per_target_pass"` // per sequence, after its first token
	DraftsPerPass float64   `json:"drafts_per_step"`        // per sequence
	Drafted       int       `json:"drafted"`
	Accepted      int       `json:"accepted"`
	ByPosition    []float64 `json:"acceptance_by_position"` // of the drafts verified there
	Tried         []uint64  `json:"verified_by_position"`
	OverTime      []float64 `json:"depth_over_time"`   // draft rows a sequence and step, in equal parts of all steps, the cold ones first
	Differing     int       `json:"differing_answers"` // between on and off, over all repetitions
}

// Speed is decoding's, in tokens per second over all streams.
type Speed struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// Ratio is on over off: of the medians, and the least and largest of the repetitions' own.
type Ratio struct {
	OfMedians float64 `json:"of_medians"`
	Min       float64 `json:"min"`
	Max       float64 `json:"max"`
}

// Differing counts the answers of all cells that speculation changed; 0 is the only right number.
func (r *Report) Differing() int {
	n := 0
	for _, c := range r.Cells {
		n += c.Differing
	}
	return n
}

// positions sums the proposers' counts, cut after the last position that was verified.
func positions(before, after *spec.Stats) (tried []uint64, share []float64) {
	var hit [spec.MaxDraft]uint64
	tried = make([]uint64, spec.MaxDraft)
	for i := range after.Proposers {
		a, b := &after.Proposers[i], &before.Proposers[i]
		for j := range tried {
			tried[j] += a.TriedAt[j] - b.TriedAt[j]
			hit[j] += a.At[j] - b.At[j]
		}
	}
	for len(tried) > 0 && tried[len(tried)-1] == 0 {
		tried = tried[:len(tried)-1]
	}
	for j, n := range tried {
		share = append(share, float64(hit[j])/float64(n))
	}
	return tried, share
}
