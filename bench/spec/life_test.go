package spec

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"sestina/batch"
	"sestina/bench/prompts"
	"sestina/sampler"
	"sestina/spec"
)

// machine is what a step of so many rows costs, in steps of one row.
type machine struct {
	name string
	few  []float64 // of 1, 2, … rows
	more float64   // of each further row
}

func (m *machine) cost(rows int) float64 {
	n := len(m.few)
	switch {
	case rows == 0:
		return 0
	case rows > n:
		return m.few[n-1] + m.more*float64(rows-n)
	}
	return m.few[rows-1]
}

// machines: the first two as measured with the default model and two threads, on
// an AMD Zen 3 shared with other work (bench spec --synthetic-acceptance, means of
// two runs) and on an Intel Emerald Rapids (2, 4 and 8 rows in docs/performance.md; in
// between interpolated, beyond from its speed with 16 and 32 streams). Then what a
// large model on a machine with little bandwidth, a roofline, and one that is
// bound by arithmetic from the first row may look like.
var machines = []machine{
	{"AVX2", []float64{1, 1.06, 1.33, 1.21, 1.62, 1.73, 2.12, 2.08, 2.39, 2.58, 2.83, 2.88, 3.13, 3.29, 3.49, 3.49, 3.78}, 0.23},
	{"AMX", []float64{1, 1.15, 1.27, 1.39, 1.62, 1.86, 2.09, 2.33}, 0.27},
	{"cheap rows", []float64{1, 1.03, 1.06, 1.10, 1.15, 1.21, 1.28, 1.35}, 0.06},
	{"free rows", []float64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 0.0625},
	{"dear rows", []float64{1}, 0.6},
}

// clock measures costs: exactly, or as on a machine that others use too, with
// spells in which all is up to 1.8 times slower, jitter of a tenth, and one step
// in 50 that takes up to 5 times as long.
type clock struct {
	noise *rand.Rand // nil: exact
	steps int
	spell float64
}

func (c *clock) read(cost float64) time.Duration {
	if r := c.noise; r != nil {
		if c.steps%200 == 0 {
			c.spell = 1 + 0.8*r.Float64()*float64(r.IntN(2))
		}
		c.steps++
		cost *= c.spell * (0.9 + 0.2*r.Float64())
		if r.IntN(50) == 0 {
			cost *= 1 + 4*r.Float64()
		}
	}
	return time.Duration(cost * float64(5*time.Millisecond))
}

// request is a prompt and what is known to be answered.
type request struct{ prompt, answer []int32 }

// life is an engine whose model says what was recorded and whose steps take what
// a machine's curve says. A one-hot draft is accepted iff it is the token that is
// drawn, so what is counted is what an engine would do, step for step.
type life struct {
	*machine
	clock
	t       testing.TB
	s       *spec.Speculator
	draw    *sampler.Sampler
	row     []float32
	verdict spec.Verification
	answers map[int64][]int32
	fresh   []*batch.Sequence // prompts of the next step
	live    []*batch.Sequence
	lastID  int64
	count
}

// count is what a life came to. Costs are those of decoding: the rows of prompts
// are charged to neither side.
type count struct {
	cost                   float64
	tokens, drafted, right int
	parts                  [timeParts]struct{ plain, cost float64 } // by place in the answer
}

// since is the part of a count that came after an earlier one.
func (c count) since(b count) count {
	c.cost, c.tokens, c.drafted, c.right = c.cost-b.cost, c.tokens-b.tokens, c.drafted-b.drafted, c.right-b.right
	for i := range c.parts {
		c.parts[i].plain -= b.parts[i].plain
		c.parts[i].cost -= b.parts[i].cost
	}
	return c
}

// passes are sequences times steps.
func (c *count) passes() float64 { return float64(max(1, c.tokens-c.right)) }

// newLife begins a life with these proposers, none for plain decoding. noise is
// the clock's seed, 0 for an exact one.
func newLife(t testing.TB, m *machine, vocab int, noise uint64, methods ...string) *life {
	params := batch.Greedy()
	draw, err := sampler.New(&params, 0, vocab, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := &life{machine: m, t: t, draw: draw, row: make([]float32, vocab), answers: map[int64][]int32{}}
	if noise > 0 {
		l.noise = rand.New(rand.NewPCG(noise, 1))
	}
	var chain []spec.Proposer
	for _, method := range methods {
		p, err := spec.Build(method, spec.Resources{Vocab: vocab, MaxDraft: spec.DefaultDraft})
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, p)
	}
	curve := spec.NewCurve(spec.Roofline(96.6e6, 30e9, 2*135e6, 6e11)) // the façade's prior for the default model
	l.s = spec.New(spec.Config{Vocab: vocab, Curve: curve, Now: func() time.Duration { return 0 }}, chain...)
	return l
}

// join adds a request, whose prompt is computed in the next step. As in bench
// spec, none has the salt of another.
func (l *life) join(r request) {
	l.lastID++
	l.answers[l.lastID] = r.answer
	l.fresh = append(l.fresh, &batch.Sequence{ID: l.lastID, Salt: fmt.Sprint(l.lastID), Tokens: slices.Clone(r.prompt),
		PromptLen: len(r.prompt), MaxTokens: len(r.answer), Params: batch.Greedy()})
}

// step is one step of the engine.
func (l *life) step() {
	step, results := &batch.Step{}, []batch.Result{}
	for _, seq := range l.fresh {
		step.Seqs = append(step.Seqs, batch.Scheduled{Seq: seq, NumTokens: seq.PromptLen})
		results = append(results, batch.Result{Tokens: l.answers[seq.ID][:1]})
	}
	n, base := len(l.live), len(l.live)+step.NumTokens()
	l.s.Draft(l.live, base)
	drafts, tokens, place := 0, 0, 0
	for _, seq := range l.live {
		l.verify(seq)
		step.Seqs = append(step.Seqs, batch.Scheduled{Seq: seq, NumTokens: 1 + len(seq.Drafts), NumDrafts: len(seq.Drafts)})
		results = append(results, batch.Result{Tokens: slices.Clone(l.verdict.Tokens), Finish: l.verdict.Finish})
		l.right += l.verdict.Accepted
		drafts, tokens, place = drafts+len(seq.Drafts), tokens+len(l.verdict.Tokens), place+seq.NumOutput()
	}
	l.live, l.fresh = append(l.fresh, l.live...), nil
	for i := range step.Seqs {
		step.Seqs[i].Seq.Tokens = append(step.Seqs[i].Seq.Tokens, results[i].Tokens...)
	}
	l.s.Done(step, results, l.read(l.machine.cost(base+drafts)))
	l.live = slices.DeleteFunc(l.live, func(seq *batch.Sequence) bool {
		ended := seq.NumOutput() >= len(l.answers[seq.ID])
		if ended {
			if !slices.Equal(seq.Tokens[seq.PromptLen:], l.answers[seq.ID]) {
				l.t.Fatal("drafts changed the text")
			}
			l.s.Release(seq)
		}
		return ended
	})
	if n == 0 {
		return
	}
	plain := l.machine.cost(n)
	cost := l.machine.cost(base+drafts) - l.machine.cost(base) + plain
	l.count.cost, l.tokens, l.drafted = l.count.cost+cost, l.tokens+tokens, l.drafted+drafts
	part := &l.parts[min(timeParts*place/n/recordedLen, timeParts-1)]
	part.plain += float64(tokens) * plain / float64(n)
	part.cost += cost
}

// verify lets the recorded answer be drawn.
func (l *life) verify(seq *batch.Sequence) {
	answer, said, set := l.answers[seq.ID], seq.NumOutput(), int32(0)
	target := spec.Target{Sampler: l.draw, Output: said,
		Row: func(i int) []float32 {
			l.row[set], set = 0, answer[said+i]
			l.row[set] = 1
			return l.row
		},
		Ends: func(output int, _ int32) batch.FinishReason {
			if output+1 == len(answer) {
				return batch.FinishStop
			}
			return batch.NotFinished
		}}
	if err := l.s.Verify(&l.verdict, seq, &target); err != nil {
		l.t.Fatal(err)
	}
	l.row[set] = 0
}

// waves answers a list again and again, as bench spec does: so many at once, and the next when all
// of them are done. It returns the count after the first time.
func (l *life) waves(reps [][]request, streams int) (cold count) {
	for i, all := range reps {
		for first := 0; first < len(all); first += streams {
			for j := range streams {
				l.join(all[(first+j)%len(all)])
			}
			for len(l.live)+len(l.fresh) > 0 {
				l.step()
			}
		}
		if i == 0 {
			cold = l.count
		}
	}
	return cold
}

// closed keeps so many at work, each followed by the next at once, until the
// list has been answered so often that all streams were long.
func (l *life) closed(reps [][]request, streams int) {
	all := slices.Concat(reps...)
	for next := 0; next < max(len(all), 8*streams); {
		for len(l.live)+len(l.fresh) < streams {
			l.join(all[next%len(all)])
			next++
		}
		l.step()
	}
}

// library is what was recorded. Tokens are numbered anew for each prompt: a small
// vocabulary is drawn from fast, and nobody looks into another's text.
type library struct {
	vocab int
	sets  map[string][]recorded
}

func newLibrary(t testing.TB) *library {
	known, err := readRecorded()
	if err != nil {
		t.Fatal(err)
	}
	l := &library{sets: map[string][]recorded{}}
	longest := 0
	for _, r := range known {
		ids := map[int32]int32{}
		for _, tokens := range append([][]int32{r.Prompt, r.Greedy}, r.Drawn...) {
			for i, id := range tokens {
				if _, ok := ids[id]; !ok {
					ids[id] = int32(len(ids))
				}
				tokens[i] = ids[id]
			}
		}
		l.vocab = max(l.vocab, len(ids))
		l.sets[r.Set] = append(l.sets[r.Set], r)
		longest = max(longest, len(l.sets[r.Set]))
	}
	for i := range longest {
		for _, name := range prompts.Names() {
			if i < len(l.sets[name]) {
				l.sets[prompts.Mixed] = append(l.sets[prompts.Mixed], l.sets[name][i])
			}
		}
	}
	return l
}

// reps are the requests of each repetition, drawn with a seed each, or greedy.
func (l *library) reps(set string, drawn bool) (out [][]request) {
	for rep := range recordedReps {
		var all []request
		for _, r := range l.sets[set] {
			answer := r.Greedy
			if drawn {
				answer = r.Drawn[rep]
			}
			all = append(all, request{r.Prompt, answer})
		}
		out = append(out, all)
	}
	return out
}
