package sestina

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"sestina/checkpoint"
	"sestina/engine"
	"sestina/model"
	"sestina/runner"
	"sestina/spec"
)

// speculation is --speculative-config: which proposer drafts, and how deep.
//
//	{"method": "ngram", "num_speculative_tokens": 8, "depth": "auto", "options": {"prompt_lookup_min": 2}}
//	{"method": "draft_model", "model": "small.gguf", "rejection_sampling": true}
//	{"method": "mtp", "model": "mtp-folder"}
type speculation struct {
	Method  string          `json:"method"`                 // a registered proposer; "" = mtp where the checkpoint holds a layer, else ngram
	Model   string          `json:"model"`                  // a draft model, or an MTP file
	Tokens  int             `json:"num_speculative_tokens"` // longest draft; 0 = 12
	Depth   string          `json:"depth"`                  // auto: as pays, none included; fixed: always that many
	Options json.RawMessage `json:"options"`                // the method's own

	// Drafts are drawn from the draft model's distribution and verified against it:
	// more are accepted, but seeded output then depends on them.
	Rejection bool `json:"rejection_sampling"`
}

// speculation reads and checks the configuration, without a model.
func (o *Options) speculation() (speculation, error) {
	s := speculation{Depth: "auto"}
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
	known := s.Method == ""
	for _, m := range spec.Methods() {
		known = known || m == s.Method
	}
	switch {
	case !known:
		return s, fmt.Errorf("--speculative-config: method %q is not built; built: %v", s.Method, spec.Methods())
	case s.Method == draftModel && s.Model == "":
		return s, fmt.Errorf("--speculative-config: method %q needs a \"model\": an alias, a path or org/repo[:QUANT]", s.Method)
	case s.Model != "" && s.Method != draftModel && s.Method != mtpLayer:
		return s, fmt.Errorf("--speculative-config: method %q takes no model; %q and %q do", s.Method, draftModel, mtpLayer)
	case s.Rejection && s.Method != draftModel:
		return s, fmt.Errorf("--speculative-config: rejection_sampling needs drafts with a distribution; method %q proposes single tokens", s.Method)
	case s.Tokens < 0 || s.Tokens > spec.MaxDraft:
		return s, fmt.Errorf("--speculative-config: num_speculative_tokens is %d, want 1…%d", s.Tokens, spec.MaxDraft)
	case s.Depth != "auto" && s.Depth != "fixed":
		return s, fmt.Errorf("--speculative-config: depth %q is unknown; choose auto or fixed", s.Depth)
	}
	if s.Tokens == 0 {
		s.Tokens = spec.DefaultDraft
	}
	return s, nil
}

// mtpSource is where the model's MTP layer comes from: its own checkpoint c,
// which need not hold one, or an MTP file; nil when nobody drafts with it.
func mtpSource(ctx context.Context, c *checkpoint.Checkpoint, o *Options) (*checkpoint.Checkpoint, error) {
	if o.Techniques.Speculation == "off" {
		return nil, nil
	}
	s, err := o.speculation()
	switch {
	case err != nil:
		return nil, err
	case s.Method != "" && s.Method != mtpLayer:
		return nil, nil
	case s.Model == "":
		return c, nil
	}
	found, err := Resolve(ctx, s.Model, *o)
	if err != nil {
		return nil, fmt.Errorf("MTP file: %w", err)
	}
	return checkpoint.Open(found.Path)
}

// newSpeculator builds what drafts for the loaded model; nil when it is off.
func (l *LLM) newSpeculator(ctx context.Context, target *runner.ModelRunner, o *Options) (*spec.Speculator, error) {
	if o.Techniques.Speculation == "off" {
		return nil, nil
	}
	s, err := o.speculation()
	if err != nil {
		return nil, err
	}
	res := spec.Resources{Vocab: l.Info.Vocab, MaxDraft: s.Tokens, MaxSeqs: o.seqs(), MaxLen: l.Info.MaxContext, Target: target, Sample: s.Rejection}
	if s.Method == draftModel {
		if err := l.loadDraft(ctx, s.Model, o, &res); err != nil {
			return nil, fmt.Errorf("draft model: %w", err)
		}
	}
	var chain []spec.Proposer
	methods := s.methods(l.Info.MTP)
	for i, method := range methods {
		res.Options = nil
		if method == s.Method || s.Method == "" && i == 0 {
			res.Options = s.Options
		}
		if res.Options == nil && method == lookup && len(methods) > 1 {
			res.Options = json.RawMessage(beforeModel)
		}
		p, err := spec.Build(method, res)
		if err != nil {
			return nil, err
		}
		chain = append(chain, p)
	}
	cfg := spec.Config{Vocab: l.Info.Vocab, MaxDraft: s.Tokens, RejectionSampling: s.Rejection}
	cfg.Curve, l.keepCurve = l.newCurve(o)
	if s.Depth == "fixed" {
		cfg.Fixed = s.Tokens
	}
	return spec.New(cfg, chain...), nil
}

// beforeModel is lookup in front of a model's guesses, which are better than a
// match of a token or two: it takes what looks like a copy.
const beforeModel = `{"prompt_lookup_min": 4}`

// methods are what drafts, cheapest first: a draft model and an MTP layer come
// behind n-gram lookup, which costs nothing where it knows.
func (s *speculation) methods(mtp bool) []string {
	switch {
	case s.Method == "" && mtp:
		return []string{lookup, mtpLayer}
	case s.Method == "":
		return []string{lookup}
	case s.Method == draftModel || s.Method == mtpLayer:
		return []string{lookup, s.Method}
	}
	return []string{s.Method}
}

// loadDraft loads a draft model with a KV pool of its own and checks that it
// speaks the target's vocabulary.
func (l *LLM) loadDraft(ctx context.Context, name string, o *Options, res *spec.Resources) error {
	own := *o
	own.Techniques.Speculation, own.EOG, own.Speculator, own.KVDiskTier = "off", nil, nil, ""
	own.KVCacheDType, _, _ = strings.Cut(own.KVCacheDType, ",") // its layers are others
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

// The methods by name.
const (
	lookup     = "ngram"
	draftModel = "draft_model" // needs a second model
	mtpLayer   = "mtp"         // may need a file
)

// prior is what a step should cost before any was measured: two memory-bound
// cores reading the weights once, 30 GB/s, and 0.6 Tops of int8 arithmetic.
func prior(info model.Info) func(rows int) time.Duration {
	return spec.Roofline(float64(info.StepBytes), 30e9, 2*float64(info.Params), 6e11)
}
