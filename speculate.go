package sestina

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"sestina/model"
	"sestina/spec"
)

// speculation is --speculative-config: which proposer drafts, and how deep.
//
//	{"method": "ngram", "num_speculative_tokens": 8, "depth": "auto", "options": {"prompt_lookup_min": 2}}
type speculation struct {
	Method  string          `json:"method"`                 // a registered proposer; "" = ngram
	Model   string          `json:"model"`                  // of a draft model
	Tokens  int             `json:"num_speculative_tokens"` // longest draft; 0 = 8
	Depth   string          `json:"depth"`                  // auto: as pays, none included; fixed: always that many
	Options json.RawMessage `json:"options"`                // the method's own
}

// speculation reads and checks the configuration, without a model.
func (o *Options) speculation() (speculation, error) {
	s := speculation{Method: "ngram", Depth: "auto"}
	if o.SpeculativeConfig != "" {
		d := json.NewDecoder(bytes.NewReader([]byte(o.SpeculativeConfig)))
		d.DisallowUnknownFields()
		if err := d.Decode(&s); err != nil {
			return s, fmt.Errorf("--speculative-config: %w", err)
		}
		if o.Techniques.Speculation == "off" {
			return s, fmt.Errorf("--speculative-config and --speculation off contradict each other: leave one out")
		}
	}
	known := false
	for _, m := range spec.Methods() {
		known = known || m == s.Method
	}
	switch {
	case !known:
		return s, fmt.Errorf("--speculative-config: method %q is not built; built: %v", s.Method, spec.Methods())
	case s.Model != "" && s.Method != "draft_model":
		return s, fmt.Errorf("--speculative-config: method %q takes no model", s.Method)
	case s.Tokens < 0 || s.Tokens > spec.MaxDraft:
		return s, fmt.Errorf("--speculative-config: num_speculative_tokens is %d, want 1…%d", s.Tokens, spec.MaxDraft)
	case s.Depth != "auto" && s.Depth != "fixed":
		return s, fmt.Errorf("--speculative-config: depth %q is unknown; choose auto or fixed", s.Depth)
	}
	if s.Tokens == 0 {
		s.Tokens = 8
	}
	return s, nil
}

// newSpeculator builds what drafts for the loaded model; nil when it is off.
func (l *LLM) newSpeculator(o *Options) (*spec.Speculator, error) {
	if o.Techniques.Speculation == "off" {
		return nil, nil
	}
	s, err := o.speculation()
	if err != nil {
		return nil, err
	}
	p, err := spec.Build(s.Method, spec.Resources{Vocab: l.Info.Vocab, MaxDraft: s.Tokens, MaxSeqs: max(o.MaxNumSeqs, 1),
		MaxLen: l.Info.MaxContext, Options: s.Options})
	if err != nil {
		return nil, err
	}
	cfg := spec.Config{Vocab: l.Info.Vocab, MaxDraft: s.Tokens, Curve: spec.NewCurve(prior(l.Info))}
	if s.Depth == "fixed" {
		cfg.Fixed = s.Tokens
	}
	return spec.New(cfg, p), nil
}

// prior is what a step should cost before any was measured: two memory-bound
// cores reading the weights once, 30 GB/s, and 0.6 Tops of int8 arithmetic.
func prior(info model.Info) func(rows int) time.Duration {
	return spec.Roofline(float64(info.StepBytes), 30e9, 2*float64(info.Params), 6e11)
}
