package sampler

import (
	"fmt"
	"math"

	"sestina/batch"
)

// Caps on the lists of a request: what one client may make every token cost.
const (
	MaxLogitBias   = 1024
	MaxStopIDs     = 256
	MaxDRYBreakers = 8192 // a breaker string is every id whose text holds it
	MaxLogprobs    = 20
)

// banBias is the logit bias from which an id is banned outright.
const banBias = -100

// ParamError is one field out of its range: the client's fault, HTTP 400.
type ParamError struct {
	Param   string // the field's name in the API
	Message string // its value and the allowed range
}

func (e *ParamError) Error() string { return e.Param + " " + e.Message }

// Validate checks every field of the parameters against its range; the error
// is a [*ParamError]. Zero values, which mean "off", always pass.
//
//	temperature          float  [0, 100]
//	top_k                int    [0, 2³¹)
//	top_p, min_p,
//	typical_p            float  [0, 1]
//	repetition_penalty   float  0 or [0.01, 100]
//	presence_penalty,
//	frequency_penalty    float  [-2, 2]
//	dry_multiplier       float  [0, 100]
//	  when it is not 0:
//	dry_base             float  [1, 100]
//	dry_allowed_length   int    [1, 2³¹)
//	dry_penalty_last_n   int    [0, 2³¹)
//	dry_sequence_breakers       ids in [0, vocab), at most MaxDRYBreakers
//	xtc_probability,
//	xtc_threshold        float  [0, 1]
//	logit_bias                  ids in [0, vocab), once each, at most MaxLogitBias; values in [-100, 100]
//	top_logprobs         int    [-1, MaxLogprobs]
//	min_tokens           int    [0, 2³¹)
//	stop_token_ids              ids in [0, vocab), at most MaxStopIDs
func Validate(p *batch.SamplingParams, vocab int) error {
	for _, f := range [...]struct {
		name  string
		value float32
		lo    float32
		hi    float32
	}{
		{"temperature", p.Temperature, 0, 100},
		{"top_p", p.TopP, 0, 1},
		{"min_p", p.MinP, 0, 1},
		{"typical_p", p.TypicalP, 0, 1},
		{"presence_penalty", p.PresencePenalty, -2, 2},
		{"frequency_penalty", p.FrequencyPenalty, -2, 2},
		{"dry_multiplier", p.DRY.Multiplier, 0, 100},
		{"xtc_probability", p.XTC.Probability, 0, 1},
		{"xtc_threshold", p.XTC.Threshold, 0, 1},
	} {
		if err := floatIn(f.name, f.value, f.lo, f.hi); err != nil {
			return err
		}
	}
	for _, f := range [...]struct {
		name  string
		value int
		lo    int
		hi    int
	}{
		{"top_k", p.TopK, 0, math.MaxInt32},
		{"top_logprobs", p.Logprobs, -1, MaxLogprobs},
		{"min_tokens", p.MinTokens, 0, math.MaxInt32},
	} {
		if err := intIn(f.name, f.value, f.lo, f.hi); err != nil {
			return err
		}
	}
	if p.RepetitionPenalty != 0 {
		if err := floatIn("repetition_penalty", p.RepetitionPenalty, 0.01, 100); err != nil {
			return err
		}
	}
	if err := validateDRY(&p.DRY, vocab); err != nil {
		return err
	}
	if err := idList("stop_token_ids", p.StopIDs, MaxStopIDs, vocab); err != nil {
		return err
	}
	return validateBias(p.LogitBias, vocab)
}

func validateDRY(d *batch.DRY, vocab int) error {
	if d.Multiplier == 0 {
		return nil
	}
	if err := floatIn("dry_base", d.Base, 1, 100); err != nil {
		return err
	}
	if err := intIn("dry_allowed_length", d.AllowedLength, 1, math.MaxInt32); err != nil {
		return err
	}
	if err := intIn("dry_penalty_last_n", d.LastN, 0, math.MaxInt32); err != nil {
		return err
	}
	return idList("dry_sequence_breakers", d.Breakers, MaxDRYBreakers, vocab)
}

func validateBias(bias []batch.LogitBias, vocab int) error {
	const name = "logit_bias"
	if len(bias) > MaxLogitBias {
		return tooMany(name, len(bias), MaxLogitBias)
	}
	seen := make(map[int32]bool, len(bias))
	for _, b := range bias {
		if err := idIn(name, b.ID, vocab); err != nil {
			return err
		}
		if !(b.Bias >= banBias && b.Bias <= 100) {
			return &ParamError{name, fmt.Sprintf("of token id %d is %v, must be between %v and 100", b.ID, b.Bias, banBias)}
		}
		if seen[b.ID] {
			return &ParamError{name, fmt.Sprintf("token id %d appears twice; give it one bias", b.ID)}
		}
		seen[b.ID] = true
	}
	return nil
}

// floatIn compares so that a NaN fails too.
func floatIn(name string, v, lo, hi float32) error {
	if !(v >= lo && v <= hi) {
		return &ParamError{name, fmt.Sprintf("is %v, must be between %v and %v", v, lo, hi)}
	}
	return nil
}

func intIn(name string, v, lo, hi int) error {
	if v < lo || v > hi {
		return &ParamError{name, fmt.Sprintf("is %d, must be between %d and %d", v, lo, hi)}
	}
	return nil
}

func idIn(name string, id int32, vocab int) error {
	if id < 0 || int(id) >= vocab {
		return &ParamError{name, fmt.Sprintf("token id %d, must be between 0 and %d (the vocabulary)", id, vocab-1)}
	}
	return nil
}

func inVocab(name string, ids []int32, vocab int) error {
	for _, id := range ids {
		if err := idIn(name, id, vocab); err != nil {
			return err
		}
	}
	return nil
}

func idList(name string, ids []int32, most, vocab int) error {
	if len(ids) > most {
		return tooMany(name, len(ids), most)
	}
	return inVocab(name, ids, vocab)
}

func tooMany(name string, n, most int) error {
	return &ParamError{name, fmt.Sprintf("has %d entries, at most %d are allowed", n, most)}
}
