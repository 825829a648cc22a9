package sampler

import (
	"errors"
	"math"
	"strings"
	"testing"

	"sestina/batch"
)

func TestValidate(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	ids := func(n int) []int32 { return make([]int32, n) }
	bias := func(n int) []batch.LogitBias {
		b := make([]batch.LogitBias, n)
		for i := range b {
			b[i].ID = int32(i)
		}
		return b
	}
	type P = batch.SamplingParams
	type floatField struct {
		param  string
		set    func(p *P, v float32)
		ok     []float32
		refuse []float32
	}
	for _, f := range []floatField{
		{"temperature", func(p *P, v float32) { p.Temperature = v }, []float32{0, 1e-9, 1, 100}, []float32{-1e-9, -1, 100.1, nan, inf, -inf}},
		{"top_p", func(p *P, v float32) { p.TopP = v }, []float32{0, 0.5, 1}, []float32{-0.1, 1.01, nan, inf}},
		{"min_p", func(p *P, v float32) { p.MinP = v }, []float32{0, 0.5, 1}, []float32{-0.1, 1.01, nan, inf}},
		{"typical_p", func(p *P, v float32) { p.TypicalP = v }, []float32{0, 0.5, 1}, []float32{-0.1, 1.01, nan, inf}},
		{"repetition_penalty", func(p *P, v float32) { p.RepetitionPenalty = v }, []float32{0, 0.01, 1, 100}, []float32{-1, 0.009, 101, nan, inf}},
		{"presence_penalty", func(p *P, v float32) { p.PresencePenalty = v }, []float32{-2, 0, 2}, []float32{-2.01, 2.01, nan, inf}},
		{"frequency_penalty", func(p *P, v float32) { p.FrequencyPenalty = v }, []float32{-2, 0, 2}, []float32{-2.01, 2.01, nan, -inf}},
		{"dry_multiplier", func(p *P, v float32) { p.DRY = batch.DRY{Multiplier: v, Base: 1, AllowedLength: 1} }, []float32{0, 0.8, 100}, []float32{-1, 101, nan, inf}},
		{"dry_base", func(p *P, v float32) { p.DRY = batch.DRY{Multiplier: 1, Base: v, AllowedLength: 1} }, []float32{1, 1.75, 100}, []float32{0, 0.9, 101, nan, inf}},
		{"xtc_probability", func(p *P, v float32) { p.XTC.Probability = v }, []float32{0, 0.5, 1}, []float32{-0.1, 1.1, nan}},
		{"xtc_threshold", func(p *P, v float32) { p.XTC.Threshold = v }, []float32{0, 0.1, 1}, []float32{-0.1, 1.1, nan}},
		{"logit_bias", func(p *P, v float32) { p.LogitBias = []batch.LogitBias{{ID: 1, Bias: v}} }, []float32{-100, 0, 100}, []float32{-101, 100.5, nan, inf}},
	} {
		for _, v := range f.ok {
			p := batch.DefaultSampling()
			f.set(&p, v)
			if err := Validate(&p, 3000); err != nil {
				t.Errorf("%s = %v refused: %v", f.param, v, err)
			}
		}
		for _, v := range f.refuse {
			p := batch.DefaultSampling()
			f.set(&p, v)
			refused(t, f.param, Validate(&p, 3000))
		}
	}

	dry := batch.DRY{Multiplier: 1, Base: 2, AllowedLength: 1}
	for _, tt := range []struct {
		param string // "" = fine
		set   func(p *P)
	}{
		{"", func(p *P) {}},
		{"", func(p *P) { *p = batch.Greedy() }},
		{"", func(p *P) { p.TopK = math.MaxInt32 }},
		{"top_k", func(p *P) { p.TopK = -1 }},
		{"top_k", func(p *P) { p.TopK = math.MaxInt32 + 1 }},
		{"", func(p *P) { p.Logprobs = MaxLogprobs }},
		{"top_logprobs", func(p *P) { p.Logprobs = MaxLogprobs + 1 }},
		{"top_logprobs", func(p *P) { p.Logprobs = -2 }},
		{"min_tokens", func(p *P) { p.MinTokens = -1 }},
		{"", func(p *P) { p.StopIDs = ids(MaxStopIDs) }},
		{"stop_token_ids", func(p *P) { p.StopIDs = ids(MaxStopIDs + 1) }},
		{"stop_token_ids", func(p *P) { p.StopIDs = []int32{3000} }},
		{"stop_token_ids", func(p *P) { p.StopIDs = []int32{-1} }},
		{"", func(p *P) { p.LogitBias = bias(MaxLogitBias) }},
		{"logit_bias", func(p *P) { p.LogitBias = bias(MaxLogitBias + 1) }},
		{"logit_bias", func(p *P) { p.LogitBias = []batch.LogitBias{{ID: 3000}} }},
		{"logit_bias", func(p *P) { p.LogitBias = []batch.LogitBias{{ID: -1}} }},
		{"logit_bias", func(p *P) { p.LogitBias = []batch.LogitBias{{ID: 4}, {ID: 4}} }},
		{"", func(p *P) { p.DRY = dry; p.DRY.Breakers = ids(MaxDRYBreakers) }},
		{"dry_sequence_breakers", func(p *P) { p.DRY = dry; p.DRY.Breakers = ids(MaxDRYBreakers + 1) }},
		{"dry_sequence_breakers", func(p *P) { p.DRY = dry; p.DRY.Breakers = []int32{3000} }},
		{"dry_allowed_length", func(p *P) { p.DRY = dry; p.DRY.AllowedLength = 0 }},
		{"dry_penalty_last_n", func(p *P) { p.DRY = dry; p.DRY.LastN = -1 }},
		{"", func(p *P) { p.DRY.Base = -5 }}, // DRY is off
	} {
		p := batch.DefaultSampling()
		tt.set(&p)
		if err := Validate(&p, 3000); tt.param != "" {
			refused(t, tt.param, err)
		} else if err != nil {
			t.Errorf("refused: %v", err)
		}
	}
}

func refused(t *testing.T, param string, err error) {
	t.Helper()
	var e *ParamError
	if !errors.As(err, &e) || e.Param != param || !strings.HasPrefix(err.Error(), param+" ") {
		t.Errorf("%s: got error %v", param, err)
	}
}

func TestValidateNamesValueAndRange(t *testing.T) {
	for want, p := range map[string]batch.SamplingParams{
		"temperature is -1, must be between 0 and 100":                           {Temperature: -1},
		"top_p is NaN, must be between 0 and 1":                                  {TopP: float32(math.NaN())},
		"top_k is -5, must be between 0 and 2147483647":                          {TopK: -5},
		"stop_token_ids token id 700, must be between 0 and 99 (the vocabulary)": {StopIDs: []int32{700}},
		"logit_bias of token id 7 is 250, must be between -100 and 100":          {LogitBias: []batch.LogitBias{{ID: 7, Bias: 250}}},
		"logit_bias token id 7 appears twice; give it one bias":                  {LogitBias: []batch.LogitBias{{ID: 7}, {ID: 7}}},
		"logit_bias has 1025 entries, at most 1024 are allowed":                  {LogitBias: make([]batch.LogitBias, 1025)},
		"repetition_penalty is 1000, must be between 0.01 and 100":               {RepetitionPenalty: 1000},
		"dry_allowed_length is 0, must be between 1 and 2147483647":              {DRY: batch.DRY{Multiplier: 1, Base: 1}},
	} {
		if err := Validate(&p, 100); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	good := batch.DefaultSampling()
	for name, f := range map[string]func() (*Sampler, error){
		"params": func() (*Sampler, error) { return New(&batch.SamplingParams{TopP: 2}, 0, 10, nil, nil) },
		"prompt": func() (*Sampler, error) { return New(&good, 0, 10, []int32{1, 10}, nil) },
		"eog":    func() (*Sampler, error) { return New(&good, 0, 10, nil, []int32{-1}) },
	} {
		if s, err := f(); s != nil || err == nil {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}
