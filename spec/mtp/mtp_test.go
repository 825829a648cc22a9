package mtp

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"sestina/backend"
	_ "sestina/backend/all"
	"sestina/batch"
	"sestina/checkpoint"
	"sestina/internal/datatest"
	"sestina/internal/simd"
	"sestina/model"
	_ "sestina/model/all"
	"sestina/runner"
	"sestina/spec"
	"sestina/tensor"
)

const testdata = "../../model/testdata/mtp"

// rig is a target with its runner and a pool that hands out blocks as a
// scheduler does: a sequence has those that its computed positions fill, and more
// for as long as a step lasts.
type rig struct {
	t     *testing.T
	r     *runner.ModelRunner
	p     *Proposer
	block int
	free  []int32
	next  int64
}

func newRig(t *testing.T, m model.Model, b backend.Backend, block int) *rig {
	t.Helper()
	const tokens = 640
	blocks := (tokens + block - 1) / block
	r, err := runner.New(m, b, runner.Config{Blocks: blocks, BlockSize: block, KVDType: tensor.F32, DraftSeqs: 4, DraftLen: spec.MaxDraft})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	p, err := spec.Build("mtp", spec.Resources{Vocab: m.Info().Vocab, MaxDraft: spec.MaxDraft, Target: r})
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{t: t, r: r, p: p.(*Proposer), block: block}
	for _, i := range rand.New(rand.NewPCG(5, uint64(block))).Perm(blocks) {
		g.free = append(g.free, int32(i))
	}
	return g
}

func load(t *testing.T, name string) (model.Model, backend.Backend) {
	t.Helper()
	c, err := checkpoint.Open(filepath.Join(testdata, name))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := backend.Open("cpu", backend.Options{Threads: 2, Activations: backend.ActivationsF32})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	m, err := model.Load(c, b, model.Options{MaxRows: 64, MaxLogitRows: 64, MTP: c})
	if err != nil {
		t.Fatal(err)
	}
	if !m.Info().MTP {
		t.Fatal("the MTP layer was not loaded")
	}
	return m, b
}

func (g *rig) open(ids []int32) *batch.Sequence {
	g.next++
	return &batch.Sequence{ID: g.next, Status: batch.Running, Tokens: slices.Clone(ids), PromptLen: len(ids)}
}

// table gives a sequence the blocks of n positions and takes those beyond.
func (g *rig) table(s *batch.Sequence, n int) {
	if s.BlockTables == nil {
		s.BlockTables = make([][]int32, 1)
	}
	for len(s.BlockTables[0])*g.block < n {
		s.BlockTables[0] = append(s.BlockTables[0], g.free[0])
		g.free = g.free[1:]
	}
	for keep := (n + g.block - 1) / g.block; len(s.BlockTables[0]) > keep; {
		g.giveBack(s, len(s.BlockTables[0])-1)
		s.BlockTables[0] = s.BlockTables[0][:len(s.BlockTables[0])-1]
	}
}

func (g *rig) giveBack(s *batch.Sequence, i int) {
	if s.BlockTables[0][i] >= 0 {
		g.free = append(g.free, s.BlockTables[0][i])
		s.BlockTables[0][i] = -1
	}
}

// settle leaves a sequence with the blocks of its computed positions, without
// those behind the window.
func (g *rig) settle(s *batch.Sequence) {
	g.table(s, s.NumComputed)
	if w := g.r.Windows()[0]; w > 0 {
		for i := range max(0, s.NumComputed-w+1) / g.block {
			g.giveBack(s, i)
		}
	}
}

func (g *rig) close(s *batch.Sequence) {
	g.table(s, 0)
	s.Status, s.NumComputed = batch.Finished, 0
}

type share struct {
	seq *batch.Sequence
	n   int
}

// step computes n tokens of each, drafts included, commits greedily what was
// accepted and returns how many drafts were.
func (g *rig) step(shares ...share) (accepted int) {
	g.t.Helper()
	var st batch.Step
	for _, s := range shares {
		g.table(s.seq, s.seq.NumComputed+s.n)
		drafts := max(0, s.seq.NumComputed+s.n-len(s.seq.Tokens))
		st.Seqs = append(st.Seqs, batch.Scheduled{Seq: s.seq, NumTokens: s.n, NumDrafts: drafts})
	}
	out := g.r.Run(&st)
	for i, s := range st.Seqs {
		seq, share := s.Seq, out.Shares[i]
		computed := seq.NumComputed + s.NumTokens - s.NumDrafts
		for row := range share.Len {
			id, _ := simd.ArgMax(out.Logits.Row(share.First + row))
			seq.Tokens = append(seq.Tokens, int32(id))
			if row == s.NumDrafts || seq.Drafts[row] != int32(id) {
				break
			}
			accepted++
			computed++
		}
		seq.Drafts, seq.NumComputed = nil, computed
		g.settle(seq)
	}
	return accepted
}

func (g *rig) propose(k int, seqs ...*batch.Sequence) []spec.Draft {
	g.t.Helper()
	drafts, err := g.p.Propose(seqs, slices.Repeat([]int{k}, len(seqs)))
	if err != nil {
		g.t.Fatal(err)
	}
	return drafts
}

// TestRoundsEqualReference generates with K drafts a round and compares each
// round with the reference's: where it starts, what is drafted, what is accepted.
func TestRoundsEqualReference(t *testing.T) {
	for _, name := range []string{"llama", "mistral"} {
		m, b := load(t, name)
		golden := datatest.Safetensors(t, filepath.Join(testdata, name, "golden.safetensors"))
		for _, block := range []int{1, 4, 7, 16} {
			t.Run(fmt.Sprintf("%s/block=%d", name, block), func(t *testing.T) {
				rounds, accepted := 0, 0
				g := newRig(t, m, b, block)
				for k := 0; ; k++ {
					field := func(name string) datatest.Array { return golden[fmt.Sprintf("seq%d.%s", k, name)] }
					if field("input_ids").I32 == nil {
						break
					}
					seq := g.open(field("input_ids").I32)
					g.step(share{seq, 13})
					g.step(share{seq, len(seq.Tokens) - 13})
					for i, prefix := range field("spec_prefix").I32 {
						if len(seq.Tokens) != int(prefix) {
							t.Fatalf("seq%d: round %d starts with %d tokens, want %d", k, i, len(seq.Tokens), prefix)
						}
						K := field("spec_draft").Shape[1]
						want := field("spec_draft").I32[i*K:][:K]
						if got := g.propose(K, seq)[0].Tokens; !slices.Equal(got, want) {
							t.Fatalf("seq%d: round %d drafts %v, want %v", k, i, got, want)
						}
						seq.Drafts = slices.Clone(want)
						n := g.step(share{seq, 1 + K})
						if n != int(field("spec_accepted").I32[i]) {
							t.Fatalf("seq%d: round %d accepts %d, want %d", k, i, n, field("spec_accepted").I32[i])
						}
						rounds, accepted = rounds+1, accepted+n
					}
					if greedy := field("greedy_ids").I32; !slices.Equal(seq.Tokens[seq.PromptLen:][:len(greedy)-4], greedy[:len(greedy)-4]) {
						t.Fatalf("seq%d: generated %v, want %v", k, seq.Tokens[seq.PromptLen:], greedy)
					}
					g.close(seq)
				}
				if rounds == 0 || accepted == 0 {
					t.Fatalf("%d rounds, %d accepted", rounds, accepted)
				}
				t.Logf("%d rounds, %d drafts accepted", rounds, accepted)
			})
		}
	}
}

// TestDraftsDependOnTokensAlone brings the same tokens about in many ways.
func TestDraftsDependOnTokensAlone(t *testing.T) {
	const length, k = 45, 5
	for _, name := range []string{"llama", "mistral"} {
		m, b := load(t, name)
		rng := rand.New(rand.NewPCG(7, 7))
		var texts [][]int32
		for range 3 {
			var ids []int32
			for range length {
				ids = append(ids, int32(rng.IntN(m.Info().Vocab)))
			}
			texts = append(texts, ids)
		}
		want := map[int][]int32{}
		for i, ids := range texts {
			g := newRig(t, m, b, 16)
			s := g.open(ids)
			g.compute(s, length-1)
			want[i] = slices.Clone(g.propose(k, s)[0].Tokens)
			if len(want[i]) != k {
				t.Fatalf("%s: %d drafts, want %d", name, len(want[i]), k)
			}
		}
		for _, block := range []int{1, 4, 7, 16} {
			for trial := range 6 {
				g := newRig(t, m, b, block)
				seqs := []*batch.Sequence{g.open(texts[0]), g.open(texts[1]), g.open(texts[2])}
				if trial%2 == 1 {
					g.preempted(rng, seqs[0])
				}
				g.wander(rng, seqs)
				for i, d := range g.propose(k, seqs...) {
					if !slices.Equal(d.Tokens, want[i]) {
						t.Errorf("%s, block %d, trial %d: sequence %d drafts %v, want %v", name, block, trial, i, d.Tokens, want[i])
					}
				}
			}
		}
	}
}

// compute runs positions up to n, 20 a step, without committing anything.
func (g *rig) compute(s *batch.Sequence, n int) {
	for s.NumComputed < n {
		g.forced(share{s, min(20, n-s.NumComputed)})
	}
}

// forced is a step whose tokens are known beforehand.
func (g *rig) forced(shares ...share) {
	var lens []int
	for _, s := range shares {
		lens = append(lens, len(s.seq.Tokens))
	}
	var st batch.Step
	for _, s := range shares {
		g.table(s.seq, s.seq.NumComputed+s.n)
		st.Seqs = append(st.Seqs, batch.Scheduled{Seq: s.seq, NumTokens: s.n})
	}
	g.r.Run(&st)
	for i, s := range shares {
		s.seq.NumComputed += s.n
		s.seq.Tokens = s.seq.Tokens[:lens[i]]
	}
}

// wander brings all sequences to their last token by chunks, single tokens and
// rejected drafts, in changing company.
func (g *rig) wander(rng *rand.Rand, seqs []*batch.Sequence) {
	for {
		if s := seqs[rng.IntN(len(seqs))]; rng.IntN(2) == 0 {
			g.reject(rng, s)
		}
		var shares []share
		for _, s := range seqs {
			left := len(s.Tokens) - 1 - s.NumComputed
			if left == 0 || rng.IntN(3) == 0 {
				continue
			}
			shares = append(shares, share{s, 1 + rng.IntN(min(left, 9))})
		}
		if len(shares) > 0 {
			g.forced(shares...)
		}
		if !slices.ContainsFunc(seqs, func(s *batch.Sequence) bool { return s.NumComputed < len(s.Tokens)-1 }) {
			return
		}
	}
}

// reject lets the layer draft, verifies other drafts at the next token and keeps none of them.
func (g *rig) reject(rng *rand.Rand, s *batch.Sequence) {
	all, n := s.Tokens, s.NumComputed+1
	if n == len(all) {
		return
	}
	s.Tokens = all[:n:n]
	g.propose(3, s)
	for range 4 {
		s.Drafts = append(s.Drafts, int32(rng.IntN(100)))
	}
	g.forced(share{s, 1 + len(s.Drafts)})
	s.Drafts, s.NumComputed, s.Tokens = nil, n, all
	g.settle(s)
}

// preempted computes half of a sequence, drafts and loses its blocks to another.
func (g *rig) preempted(rng *rand.Rand, s *batch.Sequence) {
	g.compute(s, 20)
	g.reject(rng, s)
	g.table(s, 0)
	s.Status, s.NumComputed = batch.Waiting, 0
	thief := g.open(s.Tokens[5:30])
	g.compute(thief, 24)
	g.close(thief)
	s.Status = batch.Running
}

// TestUnknownStateCostsDraftsOnly: behind blocks that another sequence computed
// the last state is nobody's, so there is no draft; after one step there is.
func TestUnknownStateCostsDraftsOnly(t *testing.T) {
	m, b := load(t, "llama")
	g := newRig(t, m, b, 4)
	ids := []int32{3, 1, 4, 1, 5, 9, 2, 6, 5}
	owner := g.open(ids)
	g.compute(owner, 8)
	heir := g.open(ids)
	heir.BlockTables, heir.NumComputed = [][]int32{slices.Clone(owner.BlockTables[0])}, 8
	drafts := g.propose(3, owner, heir)
	if len(drafts[0].Tokens) != 3 || len(drafts[1].Tokens) != 0 {
		t.Fatalf("drafts %v", drafts)
	}
	g.step(share{heir, 1})
	if d := g.propose(3, heir)[0]; len(d.Tokens) != 3 {
		t.Fatalf("%d drafts after a step of its own, want 3", len(d.Tokens))
	}
}

// broken is a target whose MTP layer fails.
type broken struct {
	model.MTP
	level func()
	guess func(model.Guess)
}

func (m *broken) KeepLevel(in *batch.Input, states backend.Rows, kv backend.Cache) {
	m.level()
	m.MTP.KeepLevel(in, states, kv)
}

func (m *broken) Draft(in *batch.Input, states backend.Rows, kv backend.Cache) model.Guess {
	g := m.MTP.Draft(in, states, kv)
	m.guess(g)
	return g
}

// TestFailuresCostDraftsOnly: a layer that panics or computes NaN does not
// reach the answer.
func TestFailuresCostDraftsOnly(t *testing.T) {
	ids := []int32{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5}
	generate := func(m model.Model, b backend.Backend) (tokens []int32, drafted int, faults uint64) {
		g := newRig(t, m, b, 4)
		s := spec.New(spec.Config{Vocab: m.Info().Vocab, Fixed: 3}, g.p)
		seq := g.open(ids)
		seq.MaxTokens = 1000
		g.step(share{seq, len(ids)})
		for range 12 {
			s.Draft([]*batch.Sequence{seq}, 1)
			drafted += len(seq.Drafts)
			g.step(share{seq, 1 + len(seq.Drafts)})
		}
		return seq.Tokens[:len(ids)+12], drafted, s.Stats().Proposers[0].Faults
	}
	m, b := load(t, "llama")
	want, drafted, faults := generate(m, b)
	if drafted != 36 || faults != 0 {
		t.Fatalf("a sound layer: %d drafts, %d faults", drafted, faults)
	}
	nothing, steps := func() {}, 0
	for name, c := range map[string]struct {
		m        *broken
		least    uint64 // faults
		drafting bool
	}{
		"panics while keeping level": {&broken{level: func() {
			if steps++; steps > 3 {
				panic("broken")
			}
		}, guess: func(model.Guess) {}}, 1, true},
		"panics while drafting": {&broken{level: nothing, guess: func(model.Guess) { panic("broken") }}, 1, false},
		"computes NaN": {&broken{level: nothing, guess: func(g model.Guess) {
			for i := range g.Logits.Host {
				g.Logits.Host[i] = float32(math.NaN())
			}
		}}, 0, false},
	} {
		c.m.MTP = m.(model.MTP)
		got, drafted, faults := generate(c.m, b)
		if !slices.Equal(got, want) || faults < c.least || (drafted > 0) != c.drafting {
			t.Errorf("a layer that %s: %d drafts, %d faults, tokens %v, want %v", name, drafted, faults, got, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	m, b := load(t, "llama")
	g := newRig(t, m, b, 16)
	for name, r := range map[string]spec.Resources{
		"no target":     {},
		"other options": {Target: g.r, Options: []byte(`{"x":1}`)},
	} {
		r.Vocab, r.MaxDraft = 160, 4
		if _, err := spec.Build("mtp", r); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
