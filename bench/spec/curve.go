package spec

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"sestina"
	"sestina/batch"
	"sestina/engine"
	"sestina/spec"
)

// Point is one place of the cost curve.
type Point struct {
	Rows int     `json:"rows"` // of the step: one, and its drafts
	MS   float64 `json:"ms"`   // median
	Min  float64 `json:"min_ms"`
	Max  float64 `json:"max_ms"`
}

const (
	curveReps   = 31 // steps of each size
	curvePrompt = 65 // tokens
)

// Verification times steps of 1 to 1 + drafts rows of one sequence of a model:
// what its speculation pays. reps is how many of each; medians and bounds come back.
func Verification(ctx context.Context, path string, opt sestina.Options, drafts, reps int) ([]Point, error) {
	s := &suite{ctx: ctx, path: path, opt: opt, nowhere: noStore(), progress: func(string) {}}
	return s.curve(drafts, reps)
}

// noStore is a folder that does not exist, so that no cost curve is kept.
func noStore() string { return filepath.Join(os.TempDir(), "sestina-bench-"+rand.Text()) }

// curve times verification steps of 1 to 1 + most rows of one sequence, sizes
// taking turns. A logit bias makes the model say one token for ever and the prompt
// is full of it, so prompt lookup at fixed depth drafts as many tokens as are still
// wanted, and all are accepted: a request of k + 2 tokens is its prompt, one step
// of 1 + k rows, and the end. Short context: what is timed is the weights.
func (s *suite) curve(most, reps int) ([]Point, error) {
	var mu sync.Mutex
	var last engine.StepInfo
	opt := s.opt
	opt.MaxNumSeqs, opt.MaxModelLen, opt.StoreDir = 1, 2*curvePrompt, s.nowhere
	opt.Techniques.Speculation = "auto"
	opt.SpeculativeConfig = fmt.Sprintf(`{"method":"ngram","num_speculative_tokens":%d,"depth":"fixed","options":{"pool_tokens":-1}}`, spec.MaxDraft)
	opt.Observer = &engine.Observer{Step: func(i engine.StepInfo) { mu.Lock(); last = i; mu.Unlock() }}
	llm, err := sestina.Open(s.ctx, s.path, opt)
	if err != nil {
		return nil, err
	}
	defer llm.Close()
	took := make([][]float64, most+1)
	for rep := range reps + 1 {
		s.progress(fmt.Sprintf("cost curve: round %d of %d", rep, reps))
		for drafts := range took {
			a := ask(s.ctx, llm.Engine, forced(llm.Info.Vocab, drafts))
			if a.err != nil {
				return nil, a.err
			}
			mu.Lock()
			step := last
			mu.Unlock()
			if step.Rows != 1+drafts {
				return nil, fmt.Errorf("a step to verify %d drafts had %d rows", drafts, step.Rows)
			}
			if rep > 0 { // the first touches pages
				took[drafts] = append(took[drafts], float64(step.Duration)/float64(time.Millisecond))
			}
		}
	}
	var points []Point
	for drafts, v := range took {
		m := speed(v)
		points = append(points, Point{1 + drafts, m.Median, m.Min, m.Max})
	}
	return points, nil
}

// forced is a request whose second step has exactly that many drafts.
func forced(vocab, drafts int) engine.Request {
	token := int32(vocab / 2)
	p := batch.Greedy()
	p.IgnoreEOS, p.LogitBias = true, []batch.LogitBias{{ID: token, Bias: 100}}
	req := engine.Request{Prompt: make([]int32, curvePrompt), MaxTokens: drafts + 2, Sampling: p}
	for i := range req.Prompt {
		req.Prompt[i] = token
	}
	return req
}
