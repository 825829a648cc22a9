// Package techniques measures what each technique buys on a real model, alone
// and together: all on; each off in turn; and the ladder from naive, adding one
// at a time. Every row answers the same prompts through the same engine; only
// switches differ, so the greedy tokens must not, and that is checked.
//
// # Workload
//
// Users arrive at once, more of them than there are Seats. Their prompts begin
// with the same SharedLen tokens (a system prompt) and go on with their own;
// answers end after OutputLen and LongLen tokens in turn, so that seats fall free
// at different times, but no request says so beforehand: whoever reserves must
// reserve the whole context, as with clients that name no max_tokens. All rows
// have the same memory for K and V: what paged attention needs for all seats, and
// at least one whole context.
//
// A row without a KV cache, or with one request at a time and no prefix to share,
// takes SerialUsers users only: its tokens per second do not grow with more, its
// time would.
//
// # Gains
//
// A single gain is tokens per second with all on over tokens per second with one
// off. Where a switch cannot be off without another (a contiguous layout shares
// no prefixes), both sides have that other one off. The product of single gains
// stands beside the total, all on over naive. They differ: techniques overlap
// (two that save the same read) and depend on each other (batching without paging
// has no seats).
package techniques

import (
	"fmt"
	"slices"

	"sestina/engine"
)

// Schema names the document's format.
const Schema = "sestina.bench-techniques/1"

// Config is the workload.
type Config struct {
	Users       int `json:"users"`                  // requests at once
	SerialUsers int `json:"serial_users"`           // of them, in rows that would take too long
	PromptLen   int `json:"prompt_len"`             // tokens
	SharedLen   int `json:"shared_len"`             // of the prompt, the same for all
	OutputLen   int `json:"output_len"`             // tokens of every second answer
	LongLen     int `json:"long_output_len"`        // tokens of the others; 0 = the same
	Seats       int `json:"max_num_seqs"`           // sequences in a step; 0 = as many as users
	MaxModelLen int `json:"max_model_len"`          // what a contiguous layout reserves; 0 = 2,048, or the model's context
	BatchTokens int `json:"max_num_batched_tokens"` // rows of a step; 0 = auto, which holds prompts back to keep running answers smooth
	Reps        int `json:"reps"`                   // runs of each row; the fastest counts
}

// Defaults finish in a few minutes with a 135M model on two cores.
func Defaults() Config {
	return Config{Users: 32, SerialUsers: 2, Seats: engine.DefaultMaxNumSeqs, PromptLen: 512, SharedLen: 384, OutputLen: 16, LongLen: 64,
		BatchTokens: engine.DefaultMaxNumBatchedTokens, Reps: 3}
}

// Check refuses what cannot be measured.
func (c *Config) Check() error {
	switch {
	case c.Users < 1 || c.Reps < 1:
		return fmt.Errorf("--users %d and --reps %d must be at least 1", c.Users, c.Reps)
	case c.SerialUsers < 1 || c.SerialUsers > c.Users:
		return fmt.Errorf("--serial-users is %d; it must be 1 to --users %d", c.SerialUsers, c.Users)
	case c.PromptLen < 1 || c.OutputLen < 2:
		return fmt.Errorf("--prompt-len %d must be at least 1 and --output-len %d at least 2", c.PromptLen, c.OutputLen)
	case c.LongLen != 0 && c.LongLen < c.OutputLen:
		return fmt.Errorf("--long-output-len is %d; it must be at least --output-len %d, or 0 for the same", c.LongLen, c.OutputLen)
	case c.Seats < 0:
		return fmt.Errorf("--max-num-seqs is %d; it must be at least 1, or 0 for as many as users", c.Seats)
	case c.BatchTokens < 0:
		return fmt.Errorf("--max-num-batched-tokens is %d; it must be at least 1, or 0 for auto", c.BatchTokens)
	case c.SharedLen < 0 || c.SharedLen > c.PromptLen:
		return fmt.Errorf("--shared-len is %d; it must be 0 to --prompt-len %d", c.SharedLen, c.PromptLen)
	}
	return nil
}

// output is how many tokens a user's answer has.
func (c *Config) output(user int) int {
	if user%2 == 1 && c.LongLen > 0 {
		return c.LongLen
	}
	return c.OutputLen
}

// longest is the most tokens that a user comes to.
func (c *Config) longest() int { return c.PromptLen + max(c.OutputLen, c.LongLen) }

// seats is how many sequences are in a step at most.
func (c *Config) seats() int {
	if c.Seats == 0 {
		return c.Users
	}
	return min(c.Seats, c.Users)
}

// A technique is one switch.
type technique struct {
	id, name string
	on, off  string
	field    func(*engine.Techniques) *string
	needs    []string // what cannot be on while this one is off
}

// all techniques, in the order in which the ladder adds them.
var all = []technique{
	{"kv-cache", "KV cache", "on", "off", func(t *engine.Techniques) *string { return &t.KVCache }, []string{"enable-prefix-caching"}},
	{"kv-layout", "paged attention", "paged", "contiguous", func(t *engine.Techniques) *string { return &t.KVLayout }, []string{"enable-prefix-caching"}},
	{"attention", "flash attention", "flash", "full", func(t *engine.Techniques) *string { return &t.Attention }, nil},
	{"gqa", "grouped-query attention", "grouped", "expanded", func(t *engine.Techniques) *string { return &t.GQA }, nil},
	{"batching", "continuous batching", "continuous", "none", func(t *engine.Techniques) *string { return &t.Batching }, nil},
	{"enable-chunked-prefill", "chunked prefill", "on", "off", func(t *engine.Techniques) *string { return &t.ChunkedPrefill }, nil},
	{"enable-prefix-caching", "prefix caching", "on", "off", func(t *engine.Techniques) *string { return &t.PrefixCaching }, nil},
	{"speculation", "speculative decoding", "auto", "off", func(t *engine.Techniques) *string { return &t.Speculation }, nil},
}

// setting says which techniques are on, by index of all.
type setting []bool

func everything(on bool) setting {
	s := make(setting, len(all))
	for i := range s {
		s[i] = on
	}
	return s
}

// with is the setting with technique i switched, and what that needs off with it.
func (s setting) with(i int, on bool) setting {
	s = slices.Clone(s)
	s[i] = on
	if !on {
		for j := range all {
			if slices.Contains(all[i].needs, all[j].id) {
				s[j] = false
			}
		}
	}
	return s
}

// switches spells the setting for the engine; what is not built stays as it is
// without being asked for.
func (s setting) switches(built []error) engine.Techniques {
	var t engine.Techniques
	for i, on := range s {
		v := all[i].off
		if on {
			v = all[i].on
		}
		if built[i] == nil {
			*all[i].field(&t) = v
		}
	}
	return t
}

// serial says whether the setting takes the smaller number of users.
func (s setting) serial(built []error) bool {
	off := func(id string) bool {
		i := slices.IndexFunc(all, func(t technique) bool { return t.id == id })
		return !s[i] && built[i] == nil
	}
	return off("kv-cache") || off("batching") && off("enable-prefix-caching")
}

// unbuilt asks the engine which techniques cannot be switched on or off yet:
// its refusal, or nil, for each.
func unbuilt() []error {
	refusals := make([]error, len(all))
	for i, t := range all {
		for _, v := range []string{t.on, t.off} {
			var s engine.Techniques
			*t.field(&s) = v
			if err := s.Check(); err != nil {
				refusals[i] = err
			}
		}
	}
	return refusals
}

// Report is the document that `sestina bench techniques` prints.
type Report struct {
	Schema  string  `json:"schema"`
	Machine string  `json:"machine"`
	Model   string  `json:"model"`
	Config  Config  `json:"config"`
	KVBytes uint64  `json:"kv_memory_bytes"` // the same for every row
	Rows    []Row   `json:"rows"`
	Product float64 `json:"product_of_single_gains"`
	Total   float64 `json:"all_on_over_naive"`
}

// The groups of rows.
const (
	AllOn  = "all on"
	Off    = "off"    // one technique off
	Ladder = "ladder" // naive, then one technique more at a time
)

// Row is one setting, measured, or the engine's refusal.
type Row struct {
	Group    string             `json:"group"`
	Name     string             `json:"name"`
	NotBuilt string             `json:"not_built,omitempty"`
	Switches *engine.Techniques `json:"switches,omitempty"`
	Users    int                `json:"users,omitempty"`

	TTFT      float64 `json:"ttft_ms,omitempty"` // median over users
	TPOT      float64 `json:"tpot_ms,omitempty"` // median over users
	Speed     float64 `json:"tokens_per_second,omitempty"`
	Slowest   float64 `json:"slowest_tokens_per_second,omitempty"` // of the runs: how far the machine's other work reaches
	Runs      int     `json:"runs,omitempty"`
	PeakKV    uint64  `json:"peak_kv_bytes,omitempty"`
	Fitting   int     `json:"users_that_fit,omitempty"`
	Differing int     `json:"differing_answers"`      // from all on, of Users
	Gain      float64 `json:"gain,omitempty"`         // off: reference over this; ladder: this over the rung before
	Against   string  `json:"gain_against,omitempty"` // the reference, where it is not all on or the rung before
}
