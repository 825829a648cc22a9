package spec

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"sestina/batch"
	"sestina/sampler"
)

// fake is a proposer by function.
type fake struct {
	name      string
	propose   func(seqs []*batch.Sequence, k []int) ([]Draft, error)
	committed func(seq *batch.Sequence, tokens []int32, accepted int)
	released  map[int64]int
}

func (f *fake) Name() string { return f.name }
func (f *fake) Propose(seqs []*batch.Sequence, k []int) ([]Draft, error) {
	return f.propose(seqs, k)
}
func (f *fake) Committed(seq *batch.Sequence, tokens []int32, accepted int) {
	if f.committed != nil {
		f.committed(seq, tokens, accepted)
	}
}
func (f *fake) Release(seq *batch.Sequence) {
	if f.released != nil {
		f.released[seq.ID]++
	}
}

// serial is a fake that takes passes.
type serial struct{ *fake }

func (serial) Serial() {}

const toyVocab = 30

// loop is an engine without scheduler and machine: all sequences step together.
type loop struct {
	t    *testing.T
	spec *Speculator // nil: plain decoding
	seqs []*batch.Sequence
	drop func(n int) int // what the scheduler leaves of n drafts
	rows int
}

func newLoop(t *testing.T, s *Speculator, params batch.SamplingParams, seqs int) (*loop, []*sampler.Sampler) {
	l := &loop{t: t, spec: s, drop: func(n int) int { return n }}
	var samplers []*sampler.Sampler
	for i := range seqs {
		p := params
		p.Seed += uint64(i)
		prompt := []int32{int32(i), 4, 5}
		l.seqs = append(l.seqs, &batch.Sequence{ID: int64(i + 1), Tokens: prompt, PromptLen: 3, MaxTokens: 40 + i, Params: p})
		samplers = append(samplers, newSampler(t, p, toyVocab, prompt, nil))
	}
	return l, samplers
}

// run decodes all sequences to their end and returns their tokens.
func (l *loop) run(samplers []*sampler.Sampler) [][]int32 {
	m := toy{vocab: toyVocab}
	live := slices.Clone(l.seqs)
	var v Verification
	for step := uint64(1); len(live) > 0; step++ {
		if l.spec != nil {
			l.spec.Draft(live, len(live))
		}
		st := &batch.Step{ID: step}
		results := []batch.Result{}
		for _, seq := range live {
			seq.Drafts = seq.Drafts[:l.drop(len(seq.Drafts))]
			if room := seq.MaxTokens - seq.NumOutput() - 1; len(seq.Drafts) > room {
				l.t.Fatalf("%d drafts where %d more tokens are wanted", len(seq.Drafts), room+1)
			}
			st.Seqs = append(st.Seqs, batch.Scheduled{Seq: seq, NumTokens: 1 + len(seq.Drafts), NumDrafts: len(seq.Drafts)})
			target := Target{Sampler: samplers[seq.ID-1], Output: seq.NumOutput(),
				Row: func(i int) []float32 { return m.after(seq.Tokens, seq.Drafts, i) },
				Ends: func(output int, _ int32) batch.FinishReason {
					if output+1 >= seq.MaxTokens {
						return batch.FinishLength
					}
					return batch.NotFinished
				}}
			var err error
			if l.spec != nil {
				err = l.spec.Verify(&v, seq, &target)
			} else {
				err = v.Verify(&target, nil, nil)
			}
			if err != nil {
				l.t.Fatal(err)
			}
			results = append(results, batch.Result{Tokens: slices.Clone(v.Tokens), Finish: v.Finish})
		}
		l.rows += st.NumTokens()
		for i, seq := range live {
			seq.Tokens = append(seq.Tokens, results[i].Tokens...)
		}
		if l.spec != nil {
			l.spec.Done(st, results, time.Millisecond)
		}
		live = slices.DeleteFunc(live, func(seq *batch.Sequence) bool {
			done := seq.NumOutput() >= seq.MaxTokens
			if done && l.spec != nil {
				l.spec.Release(seq)
			}
			return done
		})
	}
	var out [][]int32
	for _, seq := range l.seqs {
		out = append(out, seq.Tokens)
	}
	return out
}

// oracle proposes the true continuation, spoilt with some probability.
func oracle(name string, truth [][]int32, wrong float64) *fake {
	r := rand.New(rand.NewPCG(1, 1))
	return &fake{name: name, released: map[int64]int{}, propose: func(seqs []*batch.Sequence, k []int) (out []Draft, _ error) {
		for i, seq := range seqs {
			var d Draft
			for _, id := range truth[seq.ID-1][len(seq.Tokens):] {
				if len(d.Tokens) < k[i] {
					if r.Float64() < wrong {
						id = (id + 1) % toyVocab
					}
					d.Tokens = append(d.Tokens, id)
				}
			}
			out = append(out, d)
		}
		return out, nil
	}}
}

// Proposers that are right, wrong, broken and hostile, one after the other and
// together, at any depth: the tokens are those of plain decoding, and what is
// broken is counted.
func TestSpeculatorChangesNoToken(t *testing.T) {
	bad := map[string]*fake{
		"panics":    {propose: func([]*batch.Sequence, []int) ([]Draft, error) { panic("boom") }},
		"errs":      {propose: func([]*batch.Sequence, []int) ([]Draft, error) { return make([]Draft, 3), errors.New("no") }},
		"too few":   {propose: func([]*batch.Sequence, []int) ([]Draft, error) { return nil, nil }},
		"too long":  {propose: func(s []*batch.Sequence, k []int) ([]Draft, error) { return drafts(len(s), make([]int32, 99), 0), nil }},
		"outside":   {propose: func(s []*batch.Sequence, k []int) ([]Draft, error) { return drafts(len(s), []int32{toyVocab}, 0), nil }},
		"negative":  {propose: func(s []*batch.Sequence, k []int) ([]Draft, error) { return drafts(len(s), []int32{-1}, 0), nil }},
		"bad class": {propose: func(s []*batch.Sequence, k []int) ([]Draft, error) { return drafts(len(s), []int32{1}, 7), nil }},
		"bad dists": {propose: func(s []*batch.Sequence, k []int) ([]Draft, error) { return withDists(len(s)), nil }},
		"breaks later": {propose: func(s []*batch.Sequence, k []int) ([]Draft, error) { return drafts(len(s), []int32{1}, 0), nil },
			committed: func(*batch.Sequence, []int32, int) { panic("boom") }},
	}
	for pname, params := range everything {
		plain, samplers := newLoop(t, nil, params, 4)
		want := plain.run(samplers)
		try := func(name string, cfg Config, proposers ...Proposer) Stats {
			cfg.Vocab = toyVocab
			s := New(cfg, proposers...)
			l, samplers := newLoop(t, s, params, 4)
			r := rand.New(rand.NewPCG(2, 2))
			l.drop = func(n int) int { return n - r.IntN(n+1)/3 }
			if got := l.run(samplers); !slices.EqualFunc(got, want, slices.Equal) {
				t.Fatalf("%s, %s: %v\nwithout %v", pname, name, got, want)
			}
			return s.Stats()
		}
		for _, fixed := range []int{0, 1, 5, MaxDraft} {
			cfg := Config{Fixed: fixed}
			try("right", cfg, oracle("o", want, 0))
			stats := try("half right", cfg, oracle("o", want, 0.3))
			if fixed > 0 && (stats.Accepted == 0 || stats.Recovered == 0 || stats.Bonus == 0) {
				t.Errorf("fixed %d: %+v", fixed, stats)
			}
			try("serial", cfg, serial{oracle("o", want, 0.2)})
			try("sampled", cfg, sampled())
			for kind, f := range bad {
				f.name = kind
				stats := try(kind, cfg, f, oracle("good", want, 0.1))
				if stats.Proposers[0].Faults == 0 {
					t.Errorf("%s: no fault was counted", kind)
				}
				if kind == "panics" && fixed == 1 && !stats.Proposers[0].Benched {
					t.Errorf("%s: still asked", kind)
				}
				if fixed > 0 && kind != "bad class" && stats.Proposers[1].Accepted == 0 && kind != "too long" && kind != "breaks later" {
					t.Errorf("%s: the proposer behind it was not asked", kind)
				}
			}
		}
	}
}

func drafts(n int, tokens []int32, class int) []Draft {
	out := make([]Draft, n)
	for i := range out {
		out[i] = Draft{Tokens: tokens, Class: class}
	}
	return out
}

func withDists(n int) []Draft {
	out := drafts(n, []int32{1, 2}, 0)
	for i := range out {
		out[i].Dists = []sampler.Dist{{IDs: []int32{3}, Probs: []float32{1}}, {IDs: []int32{2}, Probs: []float32{1}}}
		if i%2 == 0 {
			out[i].Dists = out[i].Dists[:1]
		}
	}
	return out
}

// The first proposer with an idea drafts; the next is asked for the rest. Both
// hear of what was committed, and of the end.
func TestChain(t *testing.T) {
	plain, samplers := newLoop(t, nil, batch.Greedy(), 4)
	want := plain.run(samplers)
	told := map[int64]int{}
	first, second := oracle("first", want, 0), oracle("second", want, 0)
	inner := first.propose
	first.propose = func(seqs []*batch.Sequence, k []int) ([]Draft, error) {
		out, err := inner(seqs, k)
		for i, seq := range seqs {
			if seq.ID%2 == 0 {
				out[i] = Draft{}
			}
		}
		return out, err
	}
	second.propose = func(inner func([]*batch.Sequence, []int) ([]Draft, error)) func([]*batch.Sequence, []int) ([]Draft, error) {
		return func(seqs []*batch.Sequence, k []int) ([]Draft, error) {
			for _, seq := range seqs {
				if seq.ID%2 != 0 {
					return nil, fmt.Errorf("asked for sequence %d, which has a draft", seq.ID)
				}
			}
			return inner(seqs, k)
		}
	}(second.propose)
	second.committed = func(seq *batch.Sequence, tokens []int32, accepted int) {
		told[seq.ID] += len(tokens)
		if seq.ID%2 != 0 && accepted != 0 {
			t.Errorf("sequence %d: %d accepted drafts of another proposer", seq.ID, accepted)
		}
	}
	s := New(Config{Vocab: toyVocab, Fixed: 3}, first, second)
	l, samplers := newLoop(t, s, batch.Greedy(), 4)
	l.run(samplers)
	stats := s.Stats()
	for i, p := range stats.Proposers {
		if p.Accepted == 0 || p.Accepted != p.Drafted || p.Faults != 0 || p.At[0] != p.TriedAt[0] {
			t.Errorf("proposer %d: %+v", i, p)
		}
	}
	for _, seq := range l.seqs {
		if told[seq.ID] != seq.NumOutput() || first.released[seq.ID] != 1 || second.released[seq.ID] != 1 {
			t.Errorf("sequence %d: told of %d tokens of %d", seq.ID, told[seq.ID], seq.NumOutput())
		}
	}
	if len(s.seqs) != 0 {
		t.Errorf("%d sequences are still kept", len(s.seqs))
	}
}

// sampled draws its drafts from the uniform distribution.
func sampled() *fake {
	r := rand.New(rand.NewPCG(8, 8))
	uniform := sampler.Dist{}
	for id := range int32(toyVocab) {
		uniform.IDs, uniform.Probs = append(uniform.IDs, id), append(uniform.Probs, 1./toyVocab)
	}
	return &fake{name: "uniform", propose: func(seqs []*batch.Sequence, k []int) (out []Draft, _ error) {
		for i := range seqs {
			var d Draft
			for range k[i] {
				d.Tokens, d.Dists = append(d.Tokens, uniform.Draw(r.Float64())), append(d.Dists, uniform)
			}
			out = append(out, d)
		}
		return out, nil
	}}
}

// Sampled drafts with distributions are verified by rejection sampling, unless
// the request wants log probabilities; then the output is that of plain decoding.
func TestSampledDrafts(t *testing.T) {
	params := batch.SamplingParams{Temperature: 1, Seed: 5, Logprobs: 1}
	plain, samplers := newLoop(t, nil, params, 2)
	want := plain.run(samplers)
	f := sampled()
	s := New(Config{Vocab: toyVocab, Fixed: 4, RejectionSampling: true}, f)
	l, samplers := newLoop(t, s, params, 2)
	if got := l.run(samplers); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("with logprobs: %v\nwithout drafts %v", got, want)
	}
	exact := s.Stats().Accepted
	params.Logprobs = -1
	s = New(Config{Vocab: toyVocab, Fixed: 4, RejectionSampling: true}, f)
	l, samplers = newLoop(t, s, params, 2)
	l.run(samplers)
	if st := s.Stats(); st.Accepted <= exact || st.Proposers[0].Faults != 0 {
		t.Errorf("rejection sampling accepted %d, one-hot %d, %+v", st.Accepted, exact, st)
	}
}

// A step without proposals allocates nothing and costs next to nothing.
func BenchmarkPlainStep(b *testing.B) {
	none := &fake{name: "none", propose: func(s []*batch.Sequence, _ []int) ([]Draft, error) { return make([]Draft, len(s)), nil }}
	benchStep(b, none)
}

// A step in which every sequence has a draft of 8 to be weighed.
func BenchmarkDraftedStep(b *testing.B) {
	all := drafts(32, make([]int32, 8), 0)
	benchStep(b, &fake{name: "all", propose: func(s []*batch.Sequence, k []int) ([]Draft, error) { return all[:len(s)], nil }})
}

func benchStep(b *testing.B, p Proposer) {
	s := New(Config{Vocab: 100, Now: func() time.Duration { return 0 }}, p)
	var seqs []*batch.Sequence
	step := &batch.Step{}
	results := make([]batch.Result, 32)
	for i := range results {
		seqs = append(seqs, &batch.Sequence{ID: int64(i), Tokens: []int32{1}, MaxTokens: 100})
		step.Seqs = append(step.Seqs, batch.Scheduled{Seq: seqs[i], NumTokens: 1})
		results[i].Tokens = []int32{1}
	}
	b.ReportAllocs()
	for b.Loop() {
		s.Draft(seqs, 32)
		s.Done(step, results, time.Millisecond)
	}
}
