package sestina_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"sestina"
	"sestina/batch"
	"sestina/engine"
)

// requests use every sampling feature; prompts share beginnings that part at
// block edges, and repeat themselves so that drafts are found.
func requests(seed uint64, vocab int) []engine.Request {
	r := rand.New(rand.NewPCG(seed, 21))
	ids := func(n int) []int32 {
		out := make([]int32, n)
		for i := range out {
			out[i] = int32(3 + r.IntN(vocab-3))
		}
		return out
	}
	families := [][]int32{ids(40), slices.Repeat(ids(5), 8)}
	out := make([]engine.Request, 14)
	for i := range out {
		shared := []int{0, 1, 7, 8, 15, 16, 17, 28, 31, 32, 33}[r.IntN(11)]
		prompt := append(slices.Clone(families[i%2][:shared]), ids(1+r.IntN(8))...)
		out[i] = engine.Request{Prompt: prompt, MaxTokens: 8 + r.IntN(20), Sampling: sampling(r, vocab), Salt: fmt.Sprint(i % 3), Priority: r.IntN(3)}
		if i%5 == 0 {
			out[i].N = 3
		}
		if r.IntN(3) == 0 {
			out[i].Stop = func(choice int) batch.StopChecker { return &oddSum{in: 9 + choice} }
		}
	}
	out[1] = engine.Request{Prompt: slices.Repeat(ids(7), 12), MaxTokens: longest - 84, Sampling: *greedy()} // the longest there is
	return out
}

func sampling(r *rand.Rand, vocab int) batch.SamplingParams {
	p := batch.SamplingParams{Logprobs: -1, Seed: r.Uint64()}
	switch r.IntN(5) {
	case 0, 1: // greedy
	case 2:
		p.Temperature, p.TopK, p.TopP = 1.5, 40, 0.9
	case 3:
		p.Temperature, p.MinP, p.RepetitionPenalty, p.PresencePenalty, p.FrequencyPenalty = 2, 0.01, 1.3, 0.5, 0.5
	case 4:
		p.Temperature, p.DRY = 1, batch.DRY{Multiplier: 2, Base: 1.75, AllowedLength: 1}
	}
	if r.IntN(2) == 0 {
		p.Logprobs = r.IntN(6)
	}
	if r.IntN(3) == 0 {
		p.StopIDs, p.MinTokens = []int32{int32(r.IntN(vocab)), int32(r.IntN(vocab))}, r.IntN(6)
	}
	return p
}

// oddSum is a stop string's checker without text: what it says depends on all
// that was committed, in order.
type oddSum struct{ sum, in int }

func (s *oddSum) Commit(token int32) bool {
	s.sum = s.sum*31 + int(token)
	return s.sum&0xffff%s.in == 0
}

// reply is what a client saw, by choice.
type reply struct {
	tokens, probs [3]string
	finish        [3]batch.FinishReason
	count         int
	cut           bool // the client left
	err           error
}

// ask submits a request and reads it; leave, if any, says after how many tokens the client goes.
func ask(llm *sestina.LLM, req engine.Request, leave func(count int) bool) (a reply) {
	h, err := llm.Engine.Submit(context.Background(), req)
	if err != nil {
		return reply{err: err}
	}
	for outs, ok := h.Next(context.Background()); ok; outs, ok = h.Next(context.Background()) {
		for _, o := range outs {
			if o.Choice < 0 {
				a.cut, a.err = o.Finish == batch.FinishAbort, o.Err
				continue
			}
			for _, s := range o.Tokens {
				a.tokens[o.Choice] += fmt.Sprintf("%d ", s.Token)
				a.probs[o.Choice] += fmt.Sprintf("%x %v ", s.Logprob, s.Top)
				a.count++
			}
			if o.Finish != batch.NotFinished {
				a.finish[o.Choice] = o.Finish
				a.err = o.Err
			}
		}
		if leave != nil && leave(a.count) {
			h.Cancel()
		}
	}
	return a
}

// differs compares with the reference: a whole answer, or the beginning of one.
func (a *reply) differs(want *reply) error {
	for c := range a.tokens {
		switch {
		case a.err != nil:
			return a.err
		case a.cut && strings.HasPrefix(want.tokens[c], a.tokens[c]) && strings.HasPrefix(want.probs[c], a.probs[c]):
		case a.cut || a.tokens[c] != want.tokens[c] || a.probs[c] != want.probs[c] || a.finish[c] != want.finish[c]:
			return fmt.Errorf("choice %d: %v(%v), want %v(%v)", c, a.tokens[c], a.finish[c], want.tokens[c], want.finish[c])
		}
	}
	return nil
}
