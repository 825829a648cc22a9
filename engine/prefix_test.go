package engine

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"

	"sestina/batch"
)

// The prefix cache changes time only. Prompts end at, before and behind block
// edges, part from one another there, and are ten times what the pool holds, so
// that blocks are evicted while others are found: the answers are those of an
// engine without the cache.
func TestPrefixCacheChangesTimeOnly(t *testing.T) {
	for _, backend := range []string{"", "cpu", "cpu mistral"} {
		for _, block := range []int{16, 7} {
			reqs := edges(uint64(block), block, 150)
			need := 0
			for _, r := range reqs {
				need += len(r.Prompt)
			}
			s := setup{backend: backend, blocks: max(need/10, 160) / block, blockSize: block}
			off := s
			off.opt.Techniques.PrefixCaching = "off"
			want := together(t, off.open(t), reqs, 1, nil)
			e := s.open(t)
			tokens := compare(t, reqs, together(t, e, reqs, 1, nil), want)
			st := e.Stats()
			if st.PrefixHitTokens == 0 || st.PrefixStops[batch.StopDiverged] == 0 || st.PrefixStops[batch.StopEvicted] == 0 {
				t.Errorf("%q, blocks of %d: %d tokens found, stops %v: the test shows nothing", backend, block, st.PrefixHitTokens, st.PrefixStops)
			}
			t.Logf("T05 %q, blocks of %d: %d requests of %.0fx the pool, %d tokens compared, 0 differ; %.0f %% of the prompts found in the cache",
				backend, block, len(reqs), float64(need)/float64(s.blocks*block), tokens, 100*float64(st.PrefixHitTokens)/float64(st.PrefixQueryTokens))
		}
	}
}

// edges are greedy requests whose prompts end and part around block edges.
func edges(seed uint64, block, n int) []Request {
	r := rand.New(rand.NewPCG(seed, 9))
	ids := func(n int) []int32 {
		out := make([]int32, n)
		for i := range out {
			out[i] = int32(3 + r.IntN(vocab-3))
		}
		return out
	}
	beside := func() int { return max(0, block*r.IntN(1+96/block)+r.IntN(3)-1) }
	var families [][]int32
	for range 6 {
		families = append(families, ids(112))
	}
	reqs := make([]Request, n)
	for i := range reqs {
		shared, length := beside(), beside()
		prompt := append(slices.Clone(families[r.IntN(1+i*6/n)][:shared]), ids(max(1, length-shared))...)
		p := batch.Greedy()
		p.IgnoreEOS = true
		reqs[i] = Request{Prompt: prompt, MaxTokens: 1 + r.IntN(8), Sampling: p}
	}
	return reqs
}

// A prompt that was just served costs a tenth at most: counted in rows, which is
// what time to first token is made of.
func TestPrefixHitSavesThePrompt(t *testing.T) {
	e := setup{blocks: 300}.open(t)
	req := Request{Prompt: slices.Repeat([]int32{5, 6, 7, 8, 9}, 400), MaxTokens: 1, Sampling: batch.Greedy()}
	cost := func() float64 {
		before := e.Stats().StepTokens
		ask(t, e, req)
		return float64(e.Stats().StepTokens - before)
	}
	miss, hit := cost(), cost()
	if miss != 2000 || hit > miss/10 {
		t.Errorf("%v rows for a miss of 2,000 tokens, %v for a hit; want a tenth at most", miss, hit)
	}
	t.Logf("T05 a prompt of 2,000 tokens: %v rows on a miss, %v on a hit (%.0fx fewer)", miss, hit, miss/hit)
}

// Tenants cannot tell what others have sent. The victim's prompt ends in a
// secret of eight tokens; the attacker knows the rest and sends it with the right
// secret or a wrong one. What it can see of the engine's work, the rows before its
// first token, tells right from wrong within a tenant (or the test proves nothing) and
// nothing across tenants: the area under the ROC curve is that of a coin.
func TestTenantsCannotGuess(t *testing.T) {
	const trials, known, secret = 120, 40, 8 // the secret ends a block
	for _, c := range []struct {
		who, salt string
		low, high float64
	}{{"the same", "victim", 0.9, 1}, {"another", "attacker", 0.47, 0.53}} {
		r := rand.New(rand.NewPCG(4, 4))
		e := setup{blocks: 600}.open(t)
		rows := func(salt string, prompt ...[]int32) float64 {
			before := e.Stats().StepTokens
			ask(t, e, Request{Prompt: slices.Concat(prompt...), MaxTokens: 1, Sampling: batch.Greedy(), Salt: salt})
			return float64(e.Stats().StepTokens - before)
		}
		ids := func(n int) []int32 {
			out := make([]int32, n)
			for i := range out {
				out[i] = int32(3 + r.IntN(vocab-3))
			}
			return out
		}
		var right, wrong []float64
		for i := range trials {
			text, truth, guess, end := ids(known), ids(secret), ids(secret), ids(1)
			rows("victim", text, truth, end)
			if i%2 == 0 {
				right = append(right, rows(c.salt, text, truth, end))
			} else {
				wrong = append(wrong, rows(c.salt, text, guess, end))
			}
		}
		area := auc(right, wrong)
		if area < c.low || area > c.high {
			t.Errorf("%s tenant tells right from wrong with AUC %.3f, want %v to %v", c.who, area, c.low, c.high)
		}
		t.Logf("T32 %d guesses of %d tokens by %s tenant: AUC %.3f", trials, secret, c.who, area)
	}
}

// auc is the chance that a right guess costs less than a wrong one; ties count half.
func auc(right, wrong []float64) float64 {
	sum := 0.0
	for _, a := range right {
		for _, b := range wrong {
			sum += float64(1-cmp.Compare(a, b)) / 2
		}
	}
	return sum / float64(len(right)*len(wrong))
}
