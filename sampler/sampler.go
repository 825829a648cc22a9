package sampler

import (
	"errors"
	"fmt"
	"math"

	"sestina/batch"
	"sestina/internal/simd"
)

// ErrNaN ends a request whose logits say nothing: a NaN or +Inf among them, or
// none above -Inf. No token is ever made up for such a row.
var ErrNaN = errors.New("sampler: the logits hold a NaN or an infinity; the model's arithmetic failed (check the weights, or try --activation-dtype f32)")

// errNoToken is the row of -Inf alone; errors.Is(errNoToken, ErrNaN).
var errNoToken error = &noToken{}

type noToken struct{}

func (*noToken) Error() string {
	return "sampler: every token is masked or -Inf; relax logit_bias, min_tokens, stop_token_ids or the grammar"
}
func (*noToken) Is(target error) bool { return target == ErrNaN }

// greedyBelow is the temperature under which the largest logit is taken: a
// division by less only overflows.
const greedyBelow = 1e-5

// Sampler draws the tokens of one sequence. It holds what the processors need
// of the past (counts, and DRY's history), which only [Sampler.Commit] changes;
// randomness is a function of (seed, choice, output index, lane). So drawing
// twice at one index gives one token, and a verification pass is a plain loop:
// Sample the row, Commit while the token equals the draft.
//
// A Sampler is used by one goroutine at a time; different ones run in parallel.
type Sampler struct {
	params  batch.SamplingParams
	choice  int
	vocab   int
	masked  []int32 // end-of-generation and stop ids, for MinTokens
	counts  counts
	history history
	top     []TokenLogprob
}

// TokenLogprob is a token and ln p(token) in the model's own distribution.
type TokenLogprob struct {
	Token   int32
	Logprob float32
}

// Sample is a drawn token. With SamplingParams.Logprobs ≥ 0 it carries log
// probabilities of the log-softmax of the raw logits: before bias, penalties,
// temperature and truncation, so comparable between requests (vLLM's
// raw_logprobs, its default).
type Sample struct {
	Token   int32
	Logprob float32        // of Token; 0 without Logprobs
	Top     []TokenLogprob // the most likely, descending, ties by id; valid until the next Sample
	Origin  Origin         // set by whoever verifies drafts
}

// Origin is what speculation had to do with a token.
type Origin uint8

// The origins. A pass with drafts commits accepted ones, then a recovered or a bonus token.
const (
	Plain     Origin = iota // no draft had its place
	Accepted                // it was drafted, and the target drew it
	Recovered               // drawn in place of a rejected draft
	Bonus                   // drawn after the last of the drafts, all accepted
)

// New returns the sampler of one choice of a request. vocab is the length of
// every logits row, prompt the tokens that the output follows (counted by the
// repetition penalty and DRY), eog the model's end-of-generation ids. The
// parameters are validated: the error is a [*ParamError] when one is at fault.
func New(params *batch.SamplingParams, choice, vocab int, prompt, eog []int32) (*Sampler, error) {
	if err := Validate(params, vocab); err != nil {
		return nil, err
	}
	if err := inVocab("prompt", prompt, vocab); err != nil {
		return nil, err
	}
	if err := inVocab("eog", eog, vocab); err != nil {
		return nil, fmt.Errorf("sampler: the model's end-of-generation ids: %v", err) // not the client's fault
	}
	s := &Sampler{params: *params, choice: choice, vocab: vocab}
	if params.MinTokens > 0 {
		s.masked = append(append(s.masked, eog...), params.StopIDs...)
	}
	s.counts.init(params, prompt, vocab)
	s.history.init(&params.DRY, prompt)
	s.top = make([]TokenLogprob, 0, max(params.Logprobs, 0))
	return s, nil
}

// Commit appends an output token, one that Sample returned, to what the
// processors know. Tokens of rejected drafts are never committed, so nothing is
// ever rolled back.
func (s *Sampler) Commit(token int32) {
	s.counts.commit(token)
	s.history.commit(token)
}

// Uniform returns the sequence's random number at an output index and lane.
func (s *Sampler) Uniform(output int, lane Lane) float64 {
	return Uniform(s.params.Seed, s.choice, output, lane)
}

// Sample draws output token number output (from 0) from a row of logits, which
// it may overwrite. The same arguments after the same commits give the same
// token. Errors: [ErrNaN], or a row of the wrong length.
func (s *Sampler) Sample(logits []float32, output int) (Sample, error) {
	sc := scratches.Get().(*scratch)
	defer scratches.Put(sc)
	return s.sample(sc, logits, output)
}

func (s *Sampler) sample(sc *scratch, logits []float32, output int) (Sample, error) {
	if s.params.Logprobs >= 0 {
		return s.sampleLogprobs(sc, logits, output)
	}
	d, err := s.distribution(sc, logits, output)
	if err != nil {
		return Sample{}, err
	}
	return Sample{Token: s.draw(sc, d, output)}, nil
}

// Distribution fills dist with what Sample would draw from, reusing dist's
// memory. It may overwrite the logits. XTC's coin is the one of this output index.
func (s *Sampler) Distribution(dist *Dist, logits []float32, output int) error {
	sc := scratches.Get().(*scratch)
	defer scratches.Put(sc)
	d, err := s.distribution(sc, logits, output)
	if err != nil {
		return err
	}
	dist.set(d)
	return nil
}

func (s *Sampler) draw(sc *scratch, d weights, output int) int32 {
	if len(d.ids) == 1 {
		return d.ids[0]
	}
	return sc.draw(d, s.Uniform(output, LaneDraw))
}

// distribution runs the processors in their order.
func (s *Sampler) distribution(sc *scratch, logits []float32, output int) (weights, error) {
	if len(logits) != s.vocab {
		return weights{}, fmt.Errorf("sampler: a row of %d logits for a vocabulary of %d", len(logits), s.vocab)
	}
	s.bias(logits, output)
	s.counts.penalize(logits)
	s.history.penalize(sc, logits)

	best, top := simd.ArgMax(logits)
	if err := checkTop(best, top); err != nil {
		return weights{}, err
	}
	p := &s.params
	if p.Temperature < greedyBelow {
		return sc.point(int32(best)), nil
	}
	var d weights
	if scale := 1 / p.Temperature; p.TopK > 0 && p.TopK < s.vocab {
		d = sc.softmaxOf(sc.topK(logits, p.TopK), logits, top, scale)
	} else {
		d = sc.softmax(logits, top, scale)
	}
	return s.truncate(sc, d, output), nil
}

// checkTop refuses a row by its argmax: -1 is a NaN somewhere.
func checkTop(best int, top float32) error {
	switch {
	case best < 0 || math.IsInf(float64(top), 1):
		return ErrNaN
	case math.IsInf(float64(top), -1):
		return errNoToken
	}
	return nil
}

// bias bans what may not come yet and adds the request's own biases. A ban
// leaves a NaN alone, so that it is found.
func (s *Sampler) bias(logits []float32, output int) {
	if output < s.params.MinTokens {
		for _, id := range s.masked {
			ban(logits, id)
		}
	}
	for _, b := range s.params.LogitBias {
		if b.Bias <= banBias {
			ban(logits, b.ID)
		} else {
			logits[b.ID] += b.Bias
		}
	}
}

func ban(logits []float32, id int32) {
	if logits[id] == logits[id] {
		logits[id] = float32(math.Inf(-1))
	}
}
