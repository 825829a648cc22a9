package explain

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"sestina"
	"sestina/batch"
	"sestina/bench/spec"
)

// speculation lets the same model go on with a text that repeats itself, token
// by token and with drafts: the case that n-gram lookup is for. Other texts gain
// less, down to nothing.
func (m *measurement) speculation(s *Section) error {
	opt := m.opt
	opt.Techniques.Speculation = "auto"
	if err := opt.Check(); err != nil {
		s.Notes = append(s.Notes, "not measured: "+err.Error())
		return nil
	}
	drafting, err := sestina.Open(m.ctx, m.llm.Path, opt)
	if err != nil {
		return err
	}
	defer drafting.Close()
	plain, slow, err := m.repeat(m.llm)
	if err != nil {
		return err
	}
	drafted, fast, err := m.repeat(drafting)
	if err != nil {
		return err
	}
	s.measured("token by token", slow, "tok/s", fmt.Sprintf("one stream, %d tokens after a text that repeats itself", repeatLen))
	s.measured("with drafts from the text", fast, "tok/s", "n-gram lookup, depth chosen by measured cost")
	s.measured("faster", fast/slow, "x", "")
	if st := drafting.Engine.Stats().Speculation; st != nil && st.Drafted > 0 {
		s.measured("drafts accepted", 100*float64(st.Accepted)/float64(st.Drafted), "%", fmt.Sprintf("%d of %d", st.Accepted, st.Drafted))
	}
	if !slices.Equal(plain, drafted) {
		s.Notes = append(s.Notes, "the answers with and without drafts differ, which must not be: please report it")
	}
	return nil
}

// mtp holds the published claims against what verification costs on this model now.
func (m *measurement) mtp(s *Section) error {
	const drafts, reps = 4, 11
	opt := m.opt
	opt.Techniques.Speculation = "auto"
	if err := opt.Check(); err != nil {
		s.Notes = append(s.Notes, "not measured: "+err.Error())
		return nil
	}
	curve, err := spec.Verification(m.ctx, m.llm.Path, m.opt, drafts, reps)
	if err != nil {
		return err
	}
	for _, k := range []int{1, drafts} {
		s.measured(fmt.Sprintf("a pass of %d tokens", 1+k), curve[k].MS/curve[0].MS, "x", fmt.Sprintf("of the time of one of 1: what verifying %d drafts costs this model now", k))
	}
	for _, c := range spec.Claims(curve) {
		if c.Gain > 0 {
			s.measured(c.Name+": gain here", c.Gain, "x", fmt.Sprintf("its %s %% of drafts accepted, on this model's cost of a pass and with a head of 1/61 of it", Number(100*c.Acceptance)))
		} else {
			s.measured(c.Name+fmt.Sprintf(" %v x: the most here", c.Published), c.Bound, "x", fmt.Sprintf("with at most %d drafts, all accepted, on this model's cost of a pass", drafts))
		}
	}
	return nil
}

const repeatLen = 96 // tokens generated

// repeat generates greedily after eight repetitions of some random ids and
// returns the answer and the decoding speed of the faster of two runs.
func (m *measurement) repeat(llm *sestina.LLM) (ids []int32, speed float64, err error) {
	rng := rand.New(rand.NewPCG(5, 8))
	phrase := make([]int32, 24)
	for i := range phrase {
		phrase[i] = int32(rng.IntN(llm.Info.Vocab))
	}
	p := batch.Greedy()
	p.IgnoreEOS = true
	for range 2 {
		ids = ids[:0]
		for d, err := range llm.GenerateIDs(m.ctx, slices.Repeat(phrase, 8), sestina.GenerateOptions{Sampling: &p, MaxTokens: repeatLen}) {
			if err != nil {
				return nil, 0, err
			}
			for _, t := range d.Tokens {
				ids = append(ids, t.Token)
			}
			if d.Result != nil {
				speed = max(speed, float64(repeatLen-1)/d.Result.OutputTime.Seconds())
			}
		}
	}
	return ids, speed, nil
}
