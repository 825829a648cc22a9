package spec

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"sestina/batch"
	"sestina/sampler"
)

// toy is a language model: logits are a function of the last two tokens.
type toy struct{ vocab int }

func (m toy) row(a, b int32) []float32 {
	r := rand.New(rand.NewPCG(uint64(a)+1, uint64(b)+1))
	row := make([]float32, m.vocab)
	for i := range row {
		row[i] = float32(2.5 * r.NormFloat64())
	}
	return row
}

// after is the row behind context and the first i drafts.
func (m toy) after(context, drafts []int32, i int) []float32 {
	all := append(slices.Clone(context), drafts[:i]...)
	return m.row(all[len(all)-2], all[len(all)-1])
}

func newSampler(t testing.TB, p batch.SamplingParams, vocab int, prompt, eog []int32) *sampler.Sampler {
	t.Helper()
	s, err := sampler.New(&p, 0, vocab, prompt, eog)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ender ends at any of some ids, at two of them in a row (a stop string), or at
// the budget, as the engine does.
type ender struct {
	eog    []int32
	string [2]int32
	last   int32
	budget int
}

func (e *ender) ends(output int, token int32) batch.FinishReason {
	hit := e.last == e.string[0] && token == e.string[1]
	e.last = token
	switch {
	case slices.Contains(e.eog, token) || hit:
		return batch.FinishStop
	case output+1 >= e.budget:
		return batch.FinishLength
	}
	return batch.NotFinished
}

// decode runs one request, asking propose for drafts before each step.
func decode(t *testing.T, m toy, p batch.SamplingParams, e ender, propose func(out []int32) []int32) (samples []sampler.Sample, finish batch.FinishReason, stats Verification) {
	t.Helper()
	prompt := []int32{3, 4, 3, 4, 5}
	e.last = -1
	s := newSampler(t, p, m.vocab, prompt, e.eog)
	out := []int32{}
	var v Verification
	for finish == batch.NotFinished {
		drafts := propose(out)
		context := append(slices.Clone(prompt), out...)
		asked := 0
		target := Target{Sampler: s, Output: len(out), Ends: e.ends, Row: func(i int) []float32 {
			if i != asked {
				t.Fatalf("row %d was asked for, want %d", i, asked)
			}
			asked++
			return m.after(context, drafts, i)
		}}
		if err := v.Verify(&target, drafts, nil); err != nil {
			t.Fatal(err)
		}
		accepted := 0
		for i, token := range v.Tokens {
			if i < len(drafts) && drafts[i] == token {
				accepted++
			} else if i < len(v.Tokens)-1 {
				t.Fatalf("drafts %v gave %v: tokens behind a rejected one", drafts, v.Tokens)
			}
		}
		if v.Drafted != len(drafts) || v.Accepted != accepted || len(v.Samples) != len(v.Tokens) {
			t.Fatalf("drafts %v: %+v", drafts, v)
		}
		if v.Finish == batch.NotFinished && v.Recovered() == v.Bonus() {
			t.Fatalf("drafts %v: %+v is neither recovered nor bonus", drafts, v)
		}
		for i, s := range v.Samples {
			want := sampler.Plain
			switch {
			case i < v.Accepted:
				want = sampler.Accepted
			case v.Recovered():
				want = sampler.Recovered
			case len(drafts) > 0:
				want = sampler.Bonus
			}
			if s.Origin != want {
				t.Fatalf("drafts %v, token %d of %+v: origin %d, want %d", drafts, i, v, s.Origin, want)
			}
		}
		stats.Drafted += v.Drafted
		stats.Accepted += v.Accepted
		out = append(out, v.Tokens...)
		for _, s := range v.Samples {
			s.Top = slices.Clone(s.Top)
			samples = append(samples, s)
		}
		finish = v.Finish
	}
	return samples, finish, stats
}

var everything = map[string]batch.SamplingParams{
	"greedy":    {Logprobs: -1},
	"logprobs":  {Temperature: 1, Seed: 1, Logprobs: 3},
	"plain":     {Temperature: 1.2, Seed: 2, Logprobs: -1},
	"truncated": {Temperature: 0.9, TopK: 20, TopP: 0.9, MinP: 0.02, TypicalP: 0.95, Seed: 3, Logprobs: -1},
	"penalised": {Temperature: 1, RepetitionPenalty: 1.3, PresencePenalty: 0.5, FrequencyPenalty: 0.4, Seed: 4, Logprobs: 0},
	"dry, xtc": {Temperature: 1, DRY: batch.DRY{Multiplier: 2, Base: 2, AllowedLength: 1, Breakers: []int32{9}},
		XTC: batch.XTC{Probability: 0.5, Threshold: 0.1}, Seed: 5, Logprobs: -1},
	"bias, min_tokens": {Temperature: 1, LogitBias: []batch.LogitBias{{ID: 7, Bias: 2}, {ID: 8, Bias: -100}}, MinTokens: 30,
		StopIDs: []int32{11}, Seed: 6, Logprobs: 1},
	"greedy, penalised": {RepetitionPenalty: 1.5, DRY: batch.DRY{Multiplier: 1, Base: 1.5, AllowedLength: 2}, Logprobs: -1},
}

// Whatever is proposed, in whatever lengths, the output is that of plain
// decoding: tokens, log probabilities, and where it ends.
func TestEqualsPlainDecoding(t *testing.T) {
	m := toy{vocab: 40}
	none := func([]int32) []int32 { return nil }
	stops := 0
	for name, p := range everything {
		for trial := range uint64(12) {
			p.Seed += trial
			e := ender{eog: []int32{1}, string: [2]int32{12, 13}, budget: 60}
			want, reason, _ := decode(t, m, p, e, none)
			if reason == batch.FinishStop {
				stops++
			}
			r := rand.New(rand.NewPCG(p.Seed, 9))
			right := func(out []int32, i int) int32 {
				if n := len(out) + i; n < len(want) {
					return want[n].Token
				}
				return 2
			}
			proposers := map[string]func(out []int32) []int32{
				"all wrong": func(out []int32) (d []int32) {
					for i := range 4 {
						d = append(d, (right(out, i)+1)%int32(m.vocab))
					}
					return d
				},
				"all right": func(out []int32) (d []int32) {
					for i := range 8 {
						d = append(d, right(out, i))
					}
					return d
				},
				"random": func(out []int32) (d []int32) {
					for i := range r.IntN(MaxDraft + 1) {
						if d = append(d, right(out, i)); r.IntN(4) == 0 {
							d[i] = int32(r.IntN(m.vocab))
						}
					}
					return d
				},
			}
			for kind, propose := range proposers {
				got, finish, stats := decode(t, m, p, e, propose)
				if finish != reason || !slices.EqualFunc(got, want, sameSample) {
					t.Fatalf("%s, %s: %v %v\nwithout drafts %v %v", name, kind, got, finish, want, reason)
				}
				if kind == "all wrong" && stats.Accepted != 0 || kind == "all right" && stats.Accepted == 0 {
					t.Errorf("%s, %s: accepted %d of %d", name, kind, stats.Accepted, stats.Drafted)
				}
			}
		}
	}
	if stops < 10 {
		t.Errorf("only %d sequences stopped before their budget: ends inside drafts are not tested", stops)
	}
}

func sameSample(a, b sampler.Sample) bool {
	return a.Token == b.Token && a.Logprob == b.Logprob && slices.Equal(a.Top, b.Top)
}

// An end inside an accepted draft cuts there; what is behind is never drawn.
func TestEndsInsideDraft(t *testing.T) {
	point := func(id int32) []float32 {
		row := make([]float32, 20)
		row[id] = 9
		return row
	}
	for _, c := range []struct {
		name     string
		e        ender
		n        int
		accepted int
		finish   batch.FinishReason
	}{
		{"end of generation", ender{eog: []int32{12}, budget: 99}, 3, 3, batch.FinishStop},
		{"stop string", ender{string: [2]int32{10, 11}, budget: 99}, 2, 2, batch.FinishStop},
		{"budget", ender{budget: 101}, 1, 1, batch.FinishLength},
		{"budget at the bonus token", ender{budget: 105}, 5, 4, batch.FinishLength},
	} {
		s := newSampler(t, batch.Greedy(), 20, nil, nil)
		drafts := []int32{10, 11, 12, 13}
		rows := 0
		target := Target{Sampler: s, Output: 100, Row: func(i int) []float32 { rows++; return point(10 + int32(i)) }, Ends: c.e.ends}
		if c.finish != batch.FinishLength {
			c.e.budget = 999
			target.Ends = c.e.ends
		}
		var v Verification
		if err := v.Verify(&target, drafts, nil); err != nil {
			t.Fatal(err)
		}
		if len(v.Tokens) != c.n || rows != c.n || v.Accepted != c.accepted || v.Finish != c.finish || v.Recovered() || v.Bonus() != (c.n == 5) {
			t.Errorf("%s: %d rows, %+v", c.name, rows, v)
		}
	}
}

// A row of NaNs is the error of the step that has it first.
func TestErrorInLaterRow(t *testing.T) {
	nan := []float32{float32(math.NaN()), 0, 0}
	target := Target{
		Sampler: newSampler(t, batch.Greedy(), 3, nil, nil),
		Row: func(i int) []float32 {
			if i == 1 {
				return slices.Clone(nan)
			}
			return []float32{0, 5, 0}
		},
		Ends: func(int, int32) batch.FinishReason { return batch.NotFinished },
	}
	var v Verification
	if err := v.Verify(&target, []int32{1, 1}, nil); err != nil || !slices.Equal(v.Tokens, []int32{1}) || v.Accepted != 1 || v.Bonus() || v.Recovered() {
		t.Errorf("%+v, %v; want the token before the bad row", v, err)
	}
	target.Row = func(int) []float32 { return slices.Clone(nan) }
	if err := v.Verify(&target, []int32{1}, nil); err == nil {
		t.Error("a first row of NaNs is no error")
	}
}
