package sampler

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"sestina/batch"
)

// The draw is the documented function of one number: the first id, ascending,
// where the cumulative probability passes it.
func TestDrawUsesItsLane(t *testing.T) {
	p := batch.SamplingParams{Temperature: 1, Seed: 12, Logprobs: -1}
	s := mustNew(t, p, 4, nil, nil, nil)
	for i := range 1000 {
		got, err := s.Sample(make([]float32, 4), i)
		if want := int32(4 * Uniform(12, 0, i, LaneDraw)); err != nil || got.Token != want {
			t.Fatalf("index %d: %d, %v; want %d", i, got.Token, err, want)
		}
	}
}

// Same seed, same draw: in any order of indices, on a fresh sampler, and with
// the tokens verified as drafts.
func TestDrawsDependOnTheIndexAlone(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	p := batch.SamplingParams{Temperature: 1.5, TopP: 0.95, Seed: 99, Logprobs: -1}
	rows := make([][]float32, 32)
	for i := range rows {
		rows[i] = logitsLike(r, 700)
	}
	draw := func(s *Sampler, i int) int32 {
		got, err := s.Sample(slices.Clone(rows[i]), i)
		if err != nil {
			t.Fatal(err)
		}
		return got.Token
	}
	s := mustNew(t, p, 700, nil, nil, nil)
	forward := make([]int32, len(rows))
	for i := range rows {
		forward[i] = draw(s, i)
	}
	for _, i := range r.Perm(len(rows)) {
		if got := draw(s, i); got != forward[i] {
			t.Fatalf("index %d: %d out of order, %d in order", i, got, forward[i])
		}
	}
	p.Seed++
	other, differ := mustNew(t, p, 700, nil, nil, nil), 0
	for i := range rows {
		if draw(other, i) != forward[i] {
			differ++
		}
	}
	if differ == 0 {
		t.Error("another seed gives the same tokens")
	}
}

// Verification by drawing the target's own token: whatever the drafts, the
// output is the one without speculation, with every processor that remembers.
func TestVerificationEqualsPlainDecoding(t *testing.T) {
	const vocab, length = 60, 80
	p := batch.SamplingParams{
		Temperature: 1, TopK: 30, RepetitionPenalty: 1.2, FrequencyPenalty: 0.5, PresencePenalty: 0.5,
		DRY: batch.DRY{Multiplier: 2, Base: 2, AllowedLength: 1}, XTC: batch.XTC{Probability: 0.5, Threshold: 0.1},
		Seed: 4, Logprobs: -1,
	}
	prompt := []int32{1, 2, 3, 1, 2}
	// A model: logits are a function of the last token and the position.
	row := func(last int32, pos int) []float32 {
		return logitsLike(rand.New(rand.NewPCG(uint64(last), uint64(pos))), vocab)
	}
	sample := func(s *Sampler, last int32, pos int) int32 {
		got, err := s.Sample(row(last, pos), pos)
		if err != nil {
			t.Fatal(err)
		}
		s.Commit(got.Token)
		return got.Token
	}
	plain := []int32{2}
	for s := mustNew(t, p, vocab, prompt, nil, nil); len(plain) <= length; {
		plain = append(plain, sample(s, plain[len(plain)-1], len(plain)-1))
	}

	r := rand.New(rand.NewPCG(6, 6))
	out, accepted := []int32{2}, 0
	for s := mustNew(t, p, vocab, prompt, nil, nil); len(out) <= length; {
		last := out[len(out)-1]
		for range 1 + r.IntN(4) { // a row a draft, and the bonus row
			draft := int32(-1)
			if len(out) <= length && r.IntN(4) > 0 {
				draft = plain[len(out)] // a good proposer, wrong one time in four
			}
			token := sample(s, last, len(out)-1)
			out = append(out, token)
			if token != draft {
				break
			}
			accepted++
			last = draft
		}
	}
	if !slices.Equal(out[:length+1], plain) {
		t.Errorf("with drafts %v\nwithout     %v", out, plain)
	}
	if accepted == 0 {
		t.Error("no draft was accepted: nothing was tested")
	}
}

// 2·10^5 draws against the exact distribution; a sampler biased by 10 % fails.
func TestDrawsFollowTheDistribution(t *testing.T) {
	const draws = 200000
	for name, p := range map[string]batch.SamplingParams{
		"dense":  {Temperature: 1, Logprobs: -1},
		"sparse": {Temperature: 0.9, TopK: 50, TopP: 0.98, Logprobs: -1},
	} {
		logits := make([]float32, 2000)
		for i := range logits {
			logits[i] = float32(-3 * math.Log(float64(1+(i*677)%2000))) // Zipf, shuffled
		}
		d := referenceDistribution(&p, logits, nil, nil, nil, false)
		s := mustNew(t, p, len(logits), nil, nil, nil)
		fair, biased := make([]int, len(logits)), make([]int, len(logits))
		likely := d[slices.IndexFunc(d, func(t refToken) bool { return t.id == 0 })].id
		sc := newScratch()
		weights, err := s.distribution(sc, slices.Clone(logits), 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range draws {
			token := int(s.draw(sc, weights, i))
			fair[token]++
			if token == likely && Uniform(1, 1, i, LaneAccept) < 0.1 {
				token = int(s.draw(sc, weights, i+draws))
			}
			biased[token]++
		}
		if pv := d.fit(fair, draws); pv < 1e-3 {
			t.Errorf("%s: p = %g: draws do not follow the distribution", name, pv)
		}
		if pv := d.fit(biased, draws); pv > 1e-3 {
			t.Errorf("%s: p = %g: the test does not see a bias of 10 %%", name, pv)
		}
	}
}

// fit returns the chi-square p-value of counts, rare tokens pooled into one
// bin; 0 if an impossible token was drawn.
func (d ref) fit(counts []int, draws int) float64 {
	var got []int
	var want []float64
	rest, restWant := draws, float64(draws)
	for _, t := range d {
		if e := t.p * float64(draws); e >= 20 {
			got, want = append(got, counts[t.id]), append(want, e)
			rest, restWant = rest-counts[t.id], restWant-e
		}
	}
	possible := 0
	for _, t := range d {
		possible += counts[t.id]
	}
	if possible != draws {
		return 0
	}
	if restWant > 1 {
		got, want = append(got, rest), append(want, restWant)
	}
	return chiSquareP(got, want)
}

// XTC acts with its probability, by its own lane, and Distribution shows which.
func TestXTCActsSometimes(t *testing.T) {
	const n = 10000
	p := batch.SamplingParams{Temperature: 1, XTC: batch.XTC{Probability: 0.3, Threshold: 0.1}, Seed: 3, Logprobs: -1}
	s, acted := mustNew(t, p, 3, nil, nil, nil), 0
	var d Dist
	for i := range n {
		if err := s.Distribution(&d, []float32{2, 1, 0}, i); err != nil {
			t.Fatal(err)
		}
		if acts := s.Uniform(i, LaneXTC) < 0.3; acts != (len(d.IDs) == 2) {
			t.Fatalf("index %d: coin %v, survivors %v", i, acts, d.IDs)
		}
		if len(d.IDs) == 2 { // the top choice is gone
			acted++
		}
	}
	if got := float64(acted) / n; math.Abs(got-0.3) > 0.02 {
		t.Errorf("XTC acted on %g of the tokens, want 0.3", got)
	}
}

func TestDistDraw(t *testing.T) {
	d := Dist{IDs: []int32{4, 9, 30, 31}, Probs: []float32{0.25, 0.5, 0.25, 0}}
	for u, want := range map[float64]int32{0: 4, 0.2499: 4, 0.25: 9, 0.7499: 9, 0.75: 30, 1 - 0x1p-53: 30} {
		if got := d.Draw(u); got != want {
			t.Errorf("Draw(%v) = %d, want %d", u, got, want)
		}
	}
	if d.Prob(9) != 0.5 || d.Prob(10) != 0 {
		t.Errorf("Prob(9) = %v, Prob(10) = %v", d.Prob(9), d.Prob(10))
	}
}

// Rounding at the end of a row must not draw what is impossible.
func TestDrawAtTheEdges(t *testing.T) {
	row := make([]float32, 3*blockSize)
	fill(row, float32(math.Inf(-1)))
	row[blockSize+5], row[blockSize+9] = 0, 0
	sc := newScratch()
	d := sc.softmax(row, 0, 1)
	for u, want := range map[float64]int32{0: blockSize + 5, 0.4999: blockSize + 5, 0.5: blockSize + 9, 1: blockSize + 9, 1.1: blockSize + 9} {
		if got := sc.draw(d, u); got != want {
			t.Errorf("draw(%v) = %d, want %d", u, got, want)
		}
	}
}
