package model_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"sestina/backend"
	"sestina/backend/backendtest"
	"sestina/backend/cpu/matmul"
	"sestina/backend/ref"
	"sestina/batch"
	"sestina/checkpoint"
	"sestina/model"
	"sestina/runner"
	"sestina/tensor"
)

// Batch invariance: a position's logits have the same bits whatever else the
// step computes and however the sequence came to be in the cache. The scalar
// backend, one sequence alone in one chunk, says what the bits are; every
// schedule below must repeat them. TestVariantBackendsAreCaught runs the same
// schedules on backends that are not invariant and demands that they fail.

// promptLen is long enough for several attention tiles and every chunk edge.
const promptLen = 41

// rig drives one model step by step and compares every row of logits.
type rig struct {
	runner    *runner.ModelRunner
	blockSize int
	prompts   [][]int32
	free      []int32 // physical blocks, in scattered order
	want      map[int64][][]float32
	rows      int   // rows of logits compared
	differing int   // of them, with another bit
	first     error // the first difference
}

// prompts are the sequences of all schedules: 0 is the one that is watched most.
func prompts(vocab int) [][]int32 {
	rng := rand.New(rand.NewPCG(1, 4))
	out := make([][]int32, 18)
	for i := range out {
		for range promptLen {
			out[i] = append(out[i], int32(rng.IntN(vocab)))
		}
	}
	return out
}

func load(t testing.TB, path string, b backend.Backend) model.Model {
	t.Helper()
	c, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m, err := model.Load(c, b, model.Options{MaxRows: 1024, MaxLogitRows: 1024})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// expected are the scalar backend's logits of the first prompts, alone.
func expected(t testing.TB, path string, act backend.ActivationDType, kv tensor.DType, order backend.BF16Order) map[int64][][]float32 {
	t.Helper()
	b := ref.New(backend.Options{Activations: act, BF16: order})
	return alone(t, load(t, path, b), b, runner.Config{Blocks: 8, BlockSize: 16, KVDType: kv})
}

// alone computes the logits of the first prompts, one after the other, in one chunk.
func alone(t testing.TB, m model.Model, b backend.Backend, cfg runner.Config) map[int64][][]float32 {
	t.Helper()
	r, err := runner.New(m, b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := map[int64][][]float32{}
	for i, ids := range prompts(r.Info().Vocab)[:3] {
		err := r.Logits(ids, promptLen, func(_ int, row []float32) error {
			want[int64(i)] = append(want[int64(i)], slices.Clone(row))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return want
}

func newRig(t testing.TB, m model.Model, b backend.Backend, blockSize int, kv tensor.DType, want map[int64][][]float32) *rig {
	t.Helper()
	cfg := runner.Config{BlockSize: blockSize, KVDType: kv}
	cfg.Blocks = 20 * ((promptLen + blockSize - 1) / blockSize) * len(runner.Windows(m.Info(), cfg))
	blocks := cfg.Blocks
	r, err := runner.New(m, b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	g := &rig{runner: r, blockSize: blockSize, prompts: prompts(r.Info().Vocab), want: want}
	for _, i := range rand.New(rand.NewPCG(2, uint64(blockSize))).Perm(blocks) {
		g.free = append(g.free, int32(i))
	}
	return g
}

// open starts prompt i. What is not computed yet are drafts, all to be accepted,
// so that every row of every step has logits to compare: a chunk is then a
// verification pass too.
func (g *rig) open(i int) *batch.Sequence {
	ids := g.prompts[i]
	s := &batch.Sequence{ID: int64(i), Tokens: ids[:1], PromptLen: 1, Drafts: ids[1:]}
	n := (len(ids) + g.blockSize - 1) / g.blockSize
	for range g.runner.Windows() {
		s.BlockTables, g.free = append(s.BlockTables, slices.Clone(g.free[:n])), g.free[n:]
	}
	return s
}

// computed tells a sequence that its first n tokens are in the cache.
func (g *rig) computed(s *batch.Sequence, n int) {
	ids := g.prompts[s.ID]
	s.NumComputed = n
	s.Tokens, s.Drafts = ids[:min(n+1, len(ids))], ids[min(n+1, len(ids)):]
}

// close gives a sequence's blocks back, for others to write into.
func (g *rig) close(seqs ...*batch.Sequence) {
	for _, s := range seqs {
		g.free = append(g.free, slices.Concat(s.BlockTables...)...)
	}
}

// share is n tokens of a sequence, fewer where fewer are left.
type share struct {
	seq *batch.Sequence
	n   int
}

// step runs the shares as one step and compares all their logits.
func (g *rig) step(shares ...share) {
	var st batch.Step
	for _, s := range shares {
		if n := min(s.n, s.seq.NumUncomputed()); n > 0 {
			st.Seqs = append(st.Seqs, batch.Scheduled{Seq: s.seq, NumTokens: n})
		}
	}
	out := g.runner.Run(&st)
	for i, s := range st.Seqs {
		for r := range out.Shares[i].Len {
			pos := s.Seq.NumComputed + r
			g.compare(s.Seq.ID, pos, out.Logits.Row(out.Shares[i].First+r))
		}
		g.computed(s.Seq, s.Seq.NumComputed+s.NumTokens)
	}
}

// compare checks one row of logits. Of a neighbour that the scalar backend did
// not run, the first answer is the one that all others must repeat.
func (g *rig) compare(id int64, pos int, got []float32) {
	if g.want[id] == nil {
		g.want[id] = make([][]float32, promptLen)
	}
	if g.want[id][pos] == nil {
		g.want[id][pos] = slices.Clone(got)
		return
	}
	g.rows++
	for k, w := range g.want[id][pos] {
		if math.Float32bits(got[k]) != math.Float32bits(w) {
			g.differing++
			if g.first == nil {
				g.first = fmt.Errorf("sequence %d, position %d, logit %d is %v, want %v", id, pos, k, got[k], w)
			}
			return
		}
	}
}

// finish runs a sequence to its end, n tokens a step, alone.
func (g *rig) finish(s *batch.Sequence, n int) {
	for s.NumUncomputed() > 0 {
		g.step(share{s, n})
	}
	g.close(s)
}

// schedules are the ways in which a sequence may come about. size is a chunk size.
var schedules = []struct {
	name string
	run  func(g *rig, size int)
}{
	{"alone in chunks", func(g *rig, size int) { g.finish(g.open(0), size) }},
	{"among neighbours", amongNeighbours},
	{"at tile edges", atTileEdges},
	{"preempted", preempted},
	{"from a cached prefix", cachedPrefix},
	{"forked", forked},
}

// amongNeighbours decodes prompt 0 beside `size mod 17 + 1` others that take
// chunks of changing sizes.
func amongNeighbours(g *rig, size int) {
	needle, shares := g.open(0), []share(nil)
	for i := range size%17 + 1 {
		shares = append(shares, share{g.open(i + 1), 0})
	}
	for at := 0; needle.NumUncomputed() > 0; at++ {
		step := slices.Clone(shares)
		for i := range step {
			step[i].n = 1 + (at*7+i*5)%(size+3)
		}
		g.step(slices.Insert(step, at%(len(step)+1), share{needle, 1})...)
	}
	g.close(needle)
	for _, s := range shares {
		g.close(s.seq)
	}
}

// atTileEdges makes steps of exactly M rows, for M where matmul tiles change.
func atTileEdges(g *rig, size int) {
	for _, rows := range []int{1, 2, 15, 16, 17, 63, 64} {
		needle, one, two := g.open(0), g.open(1), g.open(2)
		for needle.NumUncomputed() > 0 {
			n := min(size, rows, needle.NumUncomputed())
			fill := min(rows-n, one.NumUncomputed())
			g.step(share{needle, n}, share{one, fill}, share{two, rows - n - fill})
		}
		g.close(needle, one, two)
	}
}

// preempted loses its blocks to a neighbour half way and is computed again in other chunks.
func preempted(g *rig, size int) {
	needle, other := g.open(0), g.open(1)
	for needle.NumComputed < promptLen/2 {
		g.step(share{needle, size}, share{other, 1})
	}
	g.close(needle)
	others := len(g.free) - len(slices.Concat(needle.BlockTables...))
	g.free = append(g.free[others:], g.free[:others]...)
	thief := g.open(2)
	g.step(share{thief, promptLen})
	again := g.open(0)
	g.step(share{again, promptLen / 2}, share{other, 2})
	g.finish(again, size+1)
	g.close(other, thief)
}

// cachedPrefix continues from blocks that another sequence of the same tokens computed.
func cachedPrefix(g *rig, size int) {
	owner, other := g.open(0), g.open(1)
	for owner.NumUncomputed() > 0 {
		g.step(share{other, 3}, share{owner, size})
	}
	heir := g.open(0)
	shared := min(size*5, promptLen-1) / g.blockSize
	for i, table := range heir.BlockTables {
		g.free = append(g.free, table[:shared]...)
		copy(table, owner.BlockTables[i][:shared])
	}
	g.computed(heir, shared*g.blockSize)
	for heir.NumUncomputed() > 0 {
		g.step(share{heir, size})
	}
	for _, table := range heir.BlockTables {
		g.free = append(g.free, table[shared:]...)
	}
	g.close(owner, other)
}

// forked continues from copies of another sequence's blocks.
func forked(g *rig, size int) {
	owner, fork := g.open(0), g.open(0)
	g.step(share{owner, size})
	var st batch.Step
	for k, table := range owner.BlockTables {
		for i := range (owner.NumComputed + g.blockSize - 1) / g.blockSize {
			st.Copies = append(st.Copies, batch.BlockCopy{Src: table[i], Dst: fork.BlockTables[k][i]})
		}
	}
	g.computed(fork, owner.NumComputed)
	if fork.NumUncomputed() > 0 {
		st.Seqs = []batch.Scheduled{{Seq: fork, NumTokens: 1}}
		out := g.runner.Run(&st)
		g.compare(0, fork.NumComputed, out.Logits.Row(0))
		g.computed(fork, fork.NumComputed+1)
	}
	g.finish(owner, size)
	g.finish(fork, size)
}

// subject is a model with its arithmetic.
type subject struct {
	path string
	act  backend.ActivationDType
	kv   tensor.DType
}

func subjects() []subject {
	out := []subject{
		{"testdata/hf/llama_plain", backend.ActivationsF32, tensor.F32}, {"testdata/hf/mistral", backend.ActivationsAuto, tensor.F16},
		{"testdata/hf/qwen3", backend.ActivationsAuto, tensor.F32}, {"testdata/hf/smollm3", backend.ActivationsAuto, tensor.BF16},
		{"testdata/hf/llama_f16", backend.ActivationsAuto, tensor.F16}, {"testdata/gguf/llama_plain_q8_0.gguf", backend.ActivationsF32, tensor.F16},
	}
	for _, q := range quantised {
		out = append(out, subject{q + ".gguf", backend.ActivationsAuto, tensor.F16})
	}
	return out
}

// thorough runs the whole product of configurations, 3.6 million rows of logits
// in some minutes; the build tag real sets it. Otherwise configurations take turns.
var thorough = false

func TestLogitsAreBatchInvariant(t *testing.T) {
	rows, turn := 0, 0
	for n, s := range subjects() {
		want := map[backend.BF16Order]map[int64][][]float32{} // by the order of BF16 products
		for _, isa := range matmul.Supported() {
			for threads := 1; threads <= 3; threads++ {
				turn++
				if isa == matmul.Generic && threads != 1+n%3 && !thorough {
					continue // pure Go is slow
				}
				t.Run(fmt.Sprintf("%s/%v/threads=%d", s.path, isa, threads), func(t *testing.T) {
					b := cpuWith(t, backend.Options{ISA: isa.String(), Threads: threads, Activations: s.act})
					order := backend.OrderOf(b)
					if want[order] == nil {
						want[order] = expected(t, s.path, s.act, s.kv, order)
					}
					m := load(t, s.path, b)
					for i, blockSize := range []int{16, 1, 4, 7, 32} {
						g := newRig(t, m, b, blockSize, s.kv, want[order])
						chosen := thorough || (turn+i)%3 == 0
						if isa == matmul.Generic {
							chosen = thorough || i == n%5
						}
						invariance(g, chosen, isa != matmul.Generic, 1+(turn+i)*7%promptLen)
						if g.first != nil {
							t.Errorf("blocks of %d: %d of %d rows differ; %v", blockSize, g.differing, g.rows, g.first)
						}
						rows += g.rows
					}
				})
			}
		}
	}
	t.Logf("T02 rows of logits compared alone, batched, chunked and from the cache %d, differing bits 0", rows)
}

// invariance runs a chosen configuration through all schedules with one chunk
// size (thorough: with every one); a fast one computes a sequence alone in chunks of every size.
func invariance(g *rig, chosen, fast bool, one int) {
	for size := 1; size <= promptLen; size++ {
		switch {
		case thorough, chosen && size == one:
			everySchedule(g, size)
		case fast && g.blockSize == 16:
			schedules[0].run(g, size)
		}
	}
}

func everySchedule(g *rig, size int) {
	for _, s := range schedules {
		s.run(g, size)
	}
}

// TestVariantBackendsAreCaught is the inverse twin: an inner sum that is split
// when there are many rows, and a decode path whose attention tiles begin
// elsewhere. Both are right within rounding, and both must be noticed.
func TestVariantBackendsAreCaught(t *testing.T) {
	for name, broken := range map[string]func(backend.Backend) backend.Backend{
		"k split above 4 rows":               func(b backend.Backend) backend.Backend { return backendtest.SplitK(b, 4) },
		"decode counts tiles from elsewhere": backendtest.ShiftTiles,
	} {
		for _, s := range []subject{subjects()[0], subjects()[len(subjects())-1]} {
			t.Run(name+"/"+s.path, func(t *testing.T) {
				right := cpuWith(t, backend.Options{Threads: 1, Activations: s.act})
				b := broken(right)
				g := newRig(t, load(t, s.path, b), b, 7, s.kv, expected(t, s.path, s.act, s.kv, backend.OrderOf(right)))
				everySchedule(g, 5)
				if g.differing == 0 {
					t.Fatalf("%d rows compared and not one differs", g.rows)
				}
				t.Logf("%d of %d rows differ; %v", g.differing, g.rows, g.first)
			})
		}
	}
}
