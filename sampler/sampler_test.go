package sampler

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"sestina/batch"
)

func mustNew(t testing.TB, p batch.SamplingParams, vocab int, prompt, output, eog []int32) *Sampler {
	t.Helper()
	s, err := New(&p, 0, vocab, prompt, eog)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range output {
		s.Commit(id)
	}
	return s
}

// Every processor alone, against the oracle, over vocabularies that are smaller
// than, equal to and no multiple of a block.
func TestProcessorsAgainstReference(t *testing.T) {
	type params = batch.SamplingParams
	tests := []struct {
		name string
		p    params
	}{
		{"plain", params{Temperature: 1}},
		{"greedy", params{}},
		{"cold", params{Temperature: 0.3}},
		{"hot", params{Temperature: 1.7}},
		{"nearly greedy", params{Temperature: 0.01}},
		{"bias", params{Temperature: 1, LogitBias: []batch.LogitBias{{ID: 3, Bias: 5}, {ID: 0, Bias: -100}, {ID: 9, Bias: -2.5}}}},
		{"repetition", params{Temperature: 1, RepetitionPenalty: 1.3}},
		{"repetition below one", params{Temperature: 1, RepetitionPenalty: 0.8}},
		{"frequency", params{Temperature: 1, FrequencyPenalty: 0.7}},
		{"presence", params{Temperature: 1, PresencePenalty: 1.1}},
		{"negative penalties", params{Temperature: 1, PresencePenalty: -0.5, FrequencyPenalty: -0.25}},
		{"all penalties", params{Temperature: 0.8, RepetitionPenalty: 1.1, PresencePenalty: 0.4, FrequencyPenalty: 0.2}},
		{"top-k 1", params{Temperature: 1, TopK: 1}},
		{"top-k 40", params{Temperature: 1, TopK: 40}},
		{"top-k over vocabulary", params{Temperature: 1, TopK: 1 << 20}},
		{"top-k large", params{Temperature: 2, TopK: 900}},
		{"typical", params{Temperature: 1, TypicalP: 0.9}},
		{"typical low", params{Temperature: 1.5, TypicalP: 0.2}},
		{"top-p", params{Temperature: 1, TopP: 0.9}},
		{"top-p flat", params{Temperature: 50, TopP: 0.95}},
		{"top-p tiny", params{Temperature: 1, TopP: 1e-6}},
		{"min-p", params{Temperature: 1, MinP: 0.05}},
		{"min-p one", params{Temperature: 1, MinP: 1}},
		{"xtc", params{Temperature: 1, XTC: batch.XTC{Probability: 1, Threshold: 0.05}}},
		{"xtc of one", params{Temperature: 0.2, XTC: batch.XTC{Probability: 1, Threshold: 0.4}}},
		{"xtc of all", params{Temperature: 1, XTC: batch.XTC{Probability: 1}}},
		{"xtc after top-k", params{Temperature: 1, TopK: 30, XTC: batch.XTC{Probability: 1, Threshold: 0.02}}},
		{"typical after top-k", params{Temperature: 1, TopK: 25, TypicalP: 0.5}},
		{"typical after top-k, most flushed to 0", params{Temperature: 0.02, TopK: 40, TypicalP: 0.9}},
		{"min-p after typical", params{Temperature: 1.5, TypicalP: 0.5, MinP: 0.3}},
		{"dry", params{Temperature: 1, DRY: batch.DRY{Multiplier: 0.8, Base: 1.75, AllowedLength: 2}}},
		{"everything", params{
			Temperature: 0.9, TopK: 200, TopP: 0.97, MinP: 0.001, TypicalP: 0.99, RepetitionPenalty: 1.2,
			PresencePenalty: 0.3, FrequencyPenalty: 0.1, DRY: batch.DRY{Multiplier: 1, Base: 1.5, AllowedLength: 1, LastN: 50},
			XTC: batch.XTC{Probability: 1, Threshold: 0.05}, LogitBias: []batch.LogitBias{{ID: 5, Bias: 3}},
			MinTokens: 1000, StopIDs: []int32{2},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 1))
			for _, vocab := range []int{11, 64, 1000, 4999} {
				tt.p.Logprobs = -1
				prompt, output := randomTokens(r, 30, min(vocab, 20)), randomTokens(r, 60, min(vocab, 10))
				logits, eog := logitsLike(r, vocab), []int32{1}
				want := referenceDistribution(&tt.p, logits, prompt, output, eog, tt.p.XTC.Probability == 1)
				s := mustNew(t, tt.p, vocab, prompt, output, eog)
				var got Dist
				if err := s.Distribution(&got, slices.Clone(logits), len(output)); err != nil {
					t.Fatal(err)
				}
				compareDist(t, &got, want)
			}
		})
	}
}

func TestTiesGoToTheLowestID(t *testing.T) {
	for _, tt := range []struct {
		name string
		p    batch.SamplingParams
		want []int32
	}{
		{"greedy", batch.SamplingParams{}, []int32{100}},
		{"top-k", batch.SamplingParams{Temperature: 1, TopK: 3}, []int32{100, 101, 102}},
		{"top-p", batch.SamplingParams{Temperature: 1, TopP: 0.045}, []int32{100, 101, 102, 103, 104}}, // 4.5 of 100 equals
		{"typical", batch.SamplingParams{Temperature: 1, TypicalP: 0.011}, []int32{100, 101}},
		{"min-p keeps all", batch.SamplingParams{Temperature: 1, MinP: 1, TopK: 2}, []int32{100, 101}},
		{"xtc keeps the last of few", batch.SamplingParams{Temperature: 1, TopK: 7, XTC: batch.XTC{Probability: 1, Threshold: 0.01}}, []int32{106}},
		{"xtc keeps the last", batch.SamplingParams{Temperature: 1, XTC: batch.XTC{Probability: 1, Threshold: 0.01}}, []int32{199}},
	} {
		logits := make([]float32, 3000)
		for i := range logits {
			logits[i] = -1000
		}
		for i := 100; i < 200; i++ {
			logits[i] = 4
		}
		tt.p.Logprobs = -1
		var d Dist
		if err := mustNew(t, tt.p, len(logits), nil, nil, nil).Distribution(&d, logits, 0); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(d.IDs, tt.want) {
			t.Errorf("%s: %v survive, want %v", tt.name, d.IDs, tt.want)
		}
	}
}

// Temperatures that would overflow as divisors are greedy.
func TestTinyTemperaturesAreGreedy(t *testing.T) {
	for _, temperature := range []float32{0, 1e-45, 1e-38, 9e-6} {
		p := batch.SamplingParams{Temperature: temperature, Logprobs: -1}
		var d Dist
		if err := mustNew(t, p, 4, nil, nil, nil).Distribution(&d, []float32{1, 3, 3, 2.9999}, 0); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(d.IDs, []int32{1}) || d.Probs[0] != 1 {
			t.Errorf("temperature %g: %v", temperature, d)
		}
	}
}

// Typical may drop the likeliest token; min-p then measures by the likeliest
// survivor. Here p = 0.3 for id 0, which carries far less than the mean
// information, and 0.001 for 700 others.
func TestMinPAfterTypicalDropsTheTop(t *testing.T) {
	row := make([]float32, 701)
	fill(row, float32(math.Log(0.001)))
	row[0] = float32(math.Log(0.3))
	p := batch.SamplingParams{Temperature: 1, TypicalP: 0.5, MinP: 0.9, Logprobs: -1}
	var d Dist
	if err := mustNew(t, p, len(row), nil, nil, nil).Distribution(&d, row, 0); err != nil {
		t.Fatal(err)
	}
	if n := len(d.IDs); n < 499 || n > 501 || d.IDs[0] != 1 {
		t.Errorf("%d survivors from id %d, want 500 from 1", n, d.IDs[0])
	}
}

func TestRowsThatSayNothing(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	settings := map[string]batch.SamplingParams{
		"greedy":   batch.Greedy(),
		"sampled":  batch.DefaultSampling(),
		"top-k":    {Temperature: 1, TopK: 5, Logprobs: -1},
		"logprobs": {Temperature: 1, Logprobs: 5},
		"banned":   {Temperature: 1, Logprobs: -1, LogitBias: []batch.LogitBias{{ID: 77, Bias: -100}}},
	}
	rows := map[string]func(x []float32){
		"a NaN":       func(x []float32) { x[77] = nan },
		"NaN first":   func(x []float32) { x[0] = nan },
		"all NaN":     func(x []float32) { fill(x, nan) },
		"+Inf":        func(x []float32) { x[50] = inf },
		"all -Inf":    func(x []float32) { fill(x, -inf) },
		"-Inf or NaN": func(x []float32) { fill(x, -inf); x[99] = nan },
	}
	for how, p := range settings {
		for what, spoil := range rows {
			x := make([]float32, 100)
			spoil(x)
			s := mustNew(t, p, len(x), nil, nil, nil)
			if got, err := s.Sample(slices.Clone(x), 0); !errors.Is(err, ErrNaN) {
				t.Errorf("%s, %s: Sample = %v, %v; want ErrNaN", how, what, got, err)
			}
			if err := s.Distribution(new(Dist), x, 0); !errors.Is(err, ErrNaN) {
				t.Errorf("%s, %s: Distribution: %v; want ErrNaN", how, what, err)
			}
		}
	}
	s := mustNew(t, batch.Greedy(), 100, nil, nil, nil)
	if _, err := s.Sample(make([]float32, 128), 0); err == nil || errors.Is(err, ErrNaN) {
		t.Errorf("a row of the wrong length: %v", err)
	}
	all := batch.SamplingParams{MinTokens: 1, Logprobs: -1, StopIDs: []int32{0}}
	if _, err := mustNew(t, all, 2, nil, nil, []int32{1}).Sample(make([]float32, 2), 0); !errors.Is(err, ErrNaN) {
		t.Errorf("everything masked: %v", err)
	}
}

func fill(x []float32, v float32) {
	for i := range x {
		x[i] = v
	}
}

func TestMinTokensMasksUntilThen(t *testing.T) {
	p := batch.SamplingParams{MinTokens: 3, StopIDs: []int32{7}, Logprobs: -1, LogitBias: []batch.LogitBias{{ID: 5, Bias: 100}}}
	s := mustNew(t, p, 10, nil, nil, []int32{5})
	row := []float32{0, 1, 0, 0, 0, 9, 0, 8, 0, 0}
	for output, want := range []int32{1, 1, 1, 5} {
		got, err := s.Sample(slices.Clone(row), output)
		if err != nil || got.Token != want {
			t.Errorf("output %d: %v, %v; want token %d", output, got, err, want)
		}
	}
}

func TestLogprobsAreOfTheRawLogits(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	logits := logitsLike(r, 2000)
	logits[100], logits[200], logits[300] = 20, 20, 20 // a tie at the top
	p := batch.SamplingParams{
		Temperature: 0.5, TopK: 10, RepetitionPenalty: 1.5, Logprobs: 20,
		LogitBias: []batch.LogitBias{{ID: 4, Bias: 50}},
	}
	s := mustNew(t, p, 2000, []int32{100, 200}, nil, nil)
	raw := slices.Clone(logits)
	got, err := s.Sample(logits, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got.Token != 4 {
		t.Fatalf("token %d, want the biased 4", got.Token)
	}
	sum := 0.0
	for _, v := range raw {
		sum += math.Exp(float64(v))
	}
	want := func(id int32) float64 { return float64(raw[id]) - math.Log(sum) }
	if math.Abs(float64(got.Logprob)-want(4)) > 1e-5 {
		t.Errorf("logprob %g, want %g", got.Logprob, want(4))
	}
	order := make([]int32, len(raw))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		if raw[a] != raw[b] {
			return int(math.Copysign(1, float64(raw[b]-raw[a])))
		}
		return int(a - b)
	})
	if len(got.Top) != 20 {
		t.Fatalf("%d top logprobs, want 20", len(got.Top))
	}
	for i, e := range got.Top {
		if e.Token != order[i] || math.Abs(float64(e.Logprob)-want(order[i])) > 1e-5 {
			t.Errorf("top %d is %v, want %d with %g", i, e, order[i], want(order[i]))
		}
	}

	plain := p
	plain.Logprobs = -1
	same, err := mustNew(t, plain, 2000, []int32{100, 200}, nil, nil).Sample(raw, 0)
	if err != nil || same.Token != got.Token || same.Logprob != 0 || same.Top != nil {
		t.Errorf("without logprobs: %v, %v", same, err)
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	logits := logitsLike(r, 5000)
	row := slices.Clone(logits)
	for name, p := range map[string]batch.SamplingParams{
		"greedy":   batch.Greedy(),
		"plain":    batch.DefaultSampling(),
		"logprobs": {Temperature: 1, TopP: 0.9, Logprobs: 20},
		"all": {
			Temperature: 0.8, TopK: 100, TopP: 0.95, MinP: 0.01, TypicalP: 0.95, RepetitionPenalty: 1.1, FrequencyPenalty: 0.1,
			DRY: batch.DRY{Multiplier: 1, Base: 1.75, AllowedLength: 2, LastN: 64}, XTC: batch.XTC{Probability: 0.5, Threshold: 0.1},
			Logprobs: 5,
		},
	} {
		s := mustNew(t, p, 5000, randomTokens(r, 500, 100), nil, nil)
		sc := newScratch() // the race detector empties pools at random
		i := 0
		if n := testing.AllocsPerRun(50, func() {
			copy(row, logits)
			if _, err := s.sample(sc, row, i); err != nil {
				t.Fatal(err)
			}
			s.Commit(int32(i % 100))
			i++
		}); n != 0 {
			t.Errorf("%s: %v allocations a token", name, n)
		}
	}
}
