package sestina

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"sestina/engine"
	"sestina/model"
	"sestina/spec"
)

// speculation is --speculative-config: which proposer drafts, and how deep.
//
//	{"method": "ngram", "num_speculative_tokens": 8, "depth": "auto", "options": {"prompt_lookup_min": 2}}
//	{"method": "draft_model", "model": "small.gguf"}
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
	case s.Method == draftModel && s.Model == "":
		return s, fmt.Errorf("--speculative-config: method %q needs a \"model\": an alias, a path or org/repo[:QUANT]", s.Method)
	case s.Model != "" && s.Method != draftModel:
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

// newSpeculator builds what drafts for the loaded model; nil when it is off. A
// draft model comes behind n-gram lookup, which costs nothing where it knows.
func (l *LLM) newSpeculator(ctx context.Context, o *Options) (*spec.Speculator, error) {
	if o.Techniques.Speculation == "off" {
		return nil, nil
	}
	s, err := o.speculation()
	if err != nil {
		return nil, err
	}
	res := spec.Resources{Vocab: l.Info.Vocab, MaxDraft: s.Tokens, MaxSeqs: o.MaxNumSeqs, MaxLen: l.Info.MaxContext, Options: s.Options}
	if res.MaxSeqs == 0 {
		res.MaxSeqs = engine.DefaultMaxNumSeqs
	}
	var chain []spec.Proposer
	if s.Method == draftModel {
		lookup, err := spec.Build("ngram", spec.Resources{Vocab: res.Vocab, MaxDraft: res.MaxDraft, MaxSeqs: res.MaxSeqs, MaxLen: res.MaxLen})
		if err != nil {
			return nil, err
		}
		if err := l.loadDraft(ctx, s.Model, o, &res); err != nil {
			return nil, fmt.Errorf("draft model: %w", err)
		}
		chain = append(chain, lookup)
	}
	p, err := spec.Build(s.Method, res)
	if err != nil {
		return nil, err
	}
	cfg := spec.Config{Vocab: l.Info.Vocab, MaxDraft: s.Tokens, Curve: spec.NewCurve(prior(l.Info))}
	if s.Depth == "fixed" {
		cfg.Fixed = s.Tokens
	}
	return spec.New(cfg, append(chain, p)...), nil
}

// loadDraft loads a draft model with a KV pool of its own and checks that it
// speaks the target's vocabulary.
func (l *LLM) loadDraft(ctx context.Context, name string, o *Options, res *spec.Resources) error {
	own := *o
	own.Techniques.Speculation, own.EOG, own.Speculator = "off", nil, nil
	d, err := load(ctx, name, &own)
	if err != nil {
		return err
	}
	l.draft = d
	if err := l.sameVocabulary(d); err != nil {
		return err
	}
	r, pool, err := d.newRunner(&own)
	if err != nil {
		return err
	}
	d.runner = r
	res.Draft, res.Blocks, res.Block = r, pool.Blocks, pool.BlockSize
	res.Rows = own.MaxNumBatchedTokens
	if res.Rows == 0 {
		res.Rows = engine.DefaultMaxNumBatchedTokens
	}
	res.MaxSeqs = min(res.MaxSeqs, res.Rows) // as in the target's steps
	return nil
}

// sameVocabulary compares the spelling of every id that both models have.
func (l *LLM) sameVocabulary(d *LLM) error {
	if l.Tokenizer == nil || d.Tokenizer == nil {
		return nil // ids only: the proposer compares the sizes
	}
	for id := range int32(min(l.Tokenizer.VocabSize(), d.Tokenizer.VocabSize())) {
		if a, b := l.Tokenizer.Token(id), d.Tokenizer.Token(id); a != b {
			return fmt.Errorf("%s has another vocabulary than %s: token %d is %q there and %q here; take a draft model of the target's family", d.Name, l.Name, id, b, a)
		}
	}
	return nil
}

// draftModel is the method that needs a second model.
const draftModel = "draft_model"

// prior is what a step should cost before any was measured: two memory-bound
// cores reading the weights once, 30 GB/s, and 0.6 Tops of int8 arithmetic.
func prior(info model.Info) func(rows int) time.Duration {
	return spec.Roofline(float64(info.StepBytes), 30e9, 2*float64(info.Params), 6e11)
}
