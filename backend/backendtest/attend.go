package backendtest

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"sestina/backend"
	"sestina/batch"
	"sestina/tensor"
)

// attendCase is one attention layer and the sequences that it serves. What a
// position's output must be depends on neither the block size nor the schedule.
type attendCase struct {
	seed                uint64
	block               int
	kv                  tensor.DType
	heads, kvHeads, dim int
	window, first       int
	qkNorm              bool
	rotary              rotary
	lens                []int
	schedules           []schedule
}

// rotary is how a head is rotated: its first 1/part dimensions (0: not at all).
type rotary struct {
	part        int
	interleaved bool
}

// schedule cuts sequences of the given lengths into steps.
type schedule func(rng *rand.Rand, lens []int) []step

// step is how many tokens of which sequences.
type step []share

type share struct{ seq, n int }

func (c *attendCase) String() string {
	return fmt.Sprintf("block %d %s", c.block, c.layerName())
}

func (c *attendCase) layerName() string {
	return fmt.Sprintf("%v heads %d/%d×%d window %d first %d norm %v rotary %v lengths %v", c.kv, c.heads, c.kvHeads, c.dim, c.window, c.first, c.qkNorm, c.rotary, c.lens)
}

var (
	blockSizes = []int{1, 4, 7, 16, 32, 64}
	kvFormats  = []tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.Q8_0, tensor.Q4_0}
	headShapes = [][3]int{{4, 4, 8}, {4, 2, 16}, {8, 2, 32}, {3, 1, 64}, {6, 3, 16}, {8, 1, 8}, {9, 3, 64}, {2, 1, 80}, {1, 1, 128}}
	windows    = []int{0, 0, 1, 5, 16, 17, 33, 300}
	rotaries   = []rotary{{part: 1}, {part: 1, interleaved: true}, {}, {part: 2}, {part: 4, interleaved: true}}
)

// attendChecks crosses block sizes, KV formats and head shapes while windows,
// norms and rotations take turns; longer contexts cross tiles and partitions.
func attendChecks() []check {
	var cases []attendCase
	rng := rand.New(rand.NewPCG(6, 6))
	for _, kv := range kvFormats {
		for i, h := range headShapes {
			c := attendCase{kv: kv, heads: h[0], kvHeads: h[1], dim: fit(kv, h[2]), lens: []int{37, 1, 18},
				window: windows[rng.IntN(len(windows))], qkNorm: rng.IntN(2) == 0, rotary: rotaries[rng.IntN(len(rotaries))],
				schedules: []schedule{whole, oneByOne, random, random}}
			for j := range blockSizes {
				if c.block = blockSizes[j]; kv == tensor.F32 || (i+j)%2 == 0 {
					cases = append(cases, c)
				}
			}
		}
		for i, window := range windows[1:] {
			c := attendCase{kv: kv, heads: 2, kvHeads: 1, dim: fit(kv, 16), lens: []int{300, 1, 257}, window: window,
				block: blockSizes[i%len(blockSizes)], rotary: rotaries[i%len(rotaries)], schedules: []schedule{whole, random, decodeAfter(5)}}
			cases = append(cases, c)
		}
		for i, first := range []int{1, 18, 270} {
			c := attendCase{kv: kv, heads: 4, kvHeads: 2, dim: fit(kv, 16), lens: []int{300, 2, 19}, first: first, window: windows[1+2*i],
				block: blockSizes[2+i], schedules: []schedule{whole, oneByOne, random}}
			cases = append(cases, c)
		}
		c := attendCase{kv: kv, heads: 2, kvHeads: 2, dim: fit(kv, 8), lens: []int{530}, block: 7, schedules: []schedule{whole, decodeAfter(20), chunks(255)}}
		cases = append(cases, c)
		c.block, c.lens, c.schedules = 16, []int{35}, nil
		for n := range 35 {
			c.schedules = append(c.schedules, chunks(n+1))
		}
		cases = append(cases, c)
	}
	var out []check
	for _, c := range cases {
		c.seed = uint64(c.heads*c.dim + c.lens[0])
		out = append(out, check{fmt.Sprintf("attend/%v", c.kv), c.String(), backend.ActivationsAuto, c.run})
	}
	return out
}

// fit is the next head size that a KV format has: quantised ones share scales in 32.
func fit(kv tensor.DType, dim int) int {
	n := kv.BlockSize()
	return (dim + n - 1) / n * n
}

// whole computes every sequence in one step.
func whole(_ *rand.Rand, lens []int) []step { return chunks(slices.Max(lens))(nil, lens) }

// oneByOne decodes all sequences together.
func oneByOne(_ *rand.Rand, lens []int) []step { return chunks(1)(nil, lens) }

// chunks takes n tokens of every sequence that has them in each step.
func chunks(n int) schedule {
	return func(_ *rand.Rand, lens []int) (steps []step) {
		for at := 0; at < slices.Max(lens); at += n {
			var s step
			for seq, length := range lens {
				if at < length {
					s = append(s, share{seq, min(n, length-at)})
				}
			}
			steps = append(steps, s)
		}
		return steps
	}
}

// decodeAfter computes all but the last n tokens in one step, then one at a time:
// single rows over long contexts, which a backend may split.
func decodeAfter(n int) schedule {
	return func(_ *rand.Rand, lens []int) (steps []step) {
		prompts := make([]int, len(lens))
		for seq, length := range lens {
			prompts[seq] = max(1, length-n)
		}
		steps = whole(nil, prompts)
		for {
			var s step
			for seq := range lens {
				if prompts[seq] < lens[seq] {
					prompts[seq]++
					s = append(s, share{seq, 1})
				}
			}
			if s == nil {
				return steps
			}
			steps = append(steps, s)
		}
	}
}

// random mixes single tokens and chunks of changing sequences in changing order.
func random(rng *rand.Rand, lens []int) (steps []step) {
	left := slices.Clone(lens)
	for slices.Max(left) > 0 {
		var s step
		for _, seq := range rng.Perm(len(lens)) {
			if left[seq] == 0 || rng.IntN(4) == 0 {
				continue
			}
			n := 1
			if rng.IntN(3) > 0 {
				n = 1 + rng.IntN(left[seq])
			}
			left[seq] -= n
			s = append(s, share{seq, n})
		}
		if s != nil {
			steps = append(steps, s)
		}
	}
	return steps
}

// layer is a case's data on one backend.
type layer struct {
	c        *attendCase
	b        backend.Backend
	op       *backend.Attention
	qkv      [][]float32 // per sequence, [position][width]
	cos, sin []float32   // [position][rotated/2]
	in       int         // width of qkv
	out      int         // width of the output
}

func (c *attendCase) layer(b backend.Backend) (*layer, error) {
	rng := rand.New(rand.NewPCG(c.seed, 7))
	l := &layer{c: c, b: b, in: (c.heads + 2*c.kvHeads) * c.dim, out: c.heads * c.dim}
	for _, n := range c.lens {
		l.qkv = append(l.qkv, normals(rng, n*l.in))
	}
	l.op = &backend.Attention{Layer: 1, Heads: c.heads, KVHeads: c.kvHeads, HeadDim: c.dim, Window: c.window, First: c.first,
		Scale: float32(1 / math.Sqrt(float64(c.dim)))}
	if c.rotary.part > 0 {
		l.op.Rotary = &backend.Rotary{Dim: c.dim / c.rotary.part, Interleaved: c.rotary.interleaved}
		for range slices.Max(c.lens) * l.op.Rotary.Dim / 2 {
			s, cos := math.Sincos(rng.Float64() * 7)
			l.cos, l.sin = append(l.cos, float32(cos)), append(l.sin, float32(s))
		}
	}
	if c.qkNorm {
		for _, n := range []**backend.Norm{&l.op.QNorm, &l.op.KNorm} {
			v, err := b.NewVector(normals(rng, c.dim))
			if err != nil {
				return nil, err
			}
			*n = &backend.Norm{Weight: v, Eps: 1e-6}
		}
	}
	return l, nil
}

// want is the oracle's output of every position of every sequence, one after
// another, from whole sequences in blocks of 16.
func (c *attendCase) want() []float32 {
	return remember("attend "+c.layerName(), func() []float32 {
		alone := *c
		alone.block = 16
		l, err := alone.layer(oracle(backend.ActivationsAuto))
		if err != nil {
			panic(err)
		}
		var out []float32
		err = l.execute(whole, func(_, _ int, row []float32) error { return nil }, &out)
		if err != nil {
			panic(err)
		}
		return out
	})
}

func (c *attendCase) run(b backend.Backend) (int, error) {
	l, err := c.layer(b)
	if err != nil {
		return 0, err
	}
	want, compared := c.want(), 0
	var first []int // first row of each sequence in want
	for at, i := 0, 0; i < len(c.lens); at, i = at+c.lens[i], i+1 {
		first = append(first, at)
	}
	for i, s := range c.schedules {
		err := l.execute(s, func(seq, pos int, row []float32) error {
			compared += len(row)
			return equalBits(row, want[(first[seq]+pos)*l.out:][:l.out])
		}, nil)
		if err != nil {
			return compared, fmt.Errorf("schedule %d: %w", i, err)
		}
	}
	return compared, nil
}

// paged is a pool whose blocks belong to sequences in scattered order.
type paged struct {
	cache  backend.Cache
	tables [][]int32
	spare  int32 // a block that nobody owns
}

// newPool allocates blocks for all sequences and a few more, and fills every
// slot with NaN, as a pool in use holds what its last owner left. The layer is in
// the second of two block groups and shares its memory with one of the first.
func (l *layer) newPool(rng *rand.Rand) (*paged, error) {
	blocks := 3
	for _, n := range l.c.lens {
		blocks += (n + l.c.block - 1) / l.c.block
	}
	cache, err := l.b.NewCache(backend.CacheSpec{
		Layers: []backend.CacheLayer{{KVHeads: 1, HeadDim: 32}, {KVHeads: l.c.kvHeads, HeadDim: l.c.dim}, {KVHeads: l.c.kvHeads, HeadDim: l.c.dim}},
		Blocks: blocks, BlockSize: l.c.block, DTypes: []tensor.DType{tensor.F32, l.c.kv, l.c.kv}, Groups: [][]int{{0, 2}, {-1, 1}}})
	if err != nil {
		return nil, err
	}
	p := &paged{cache: cache}
	order := rng.Perm(blocks)
	for _, n := range l.c.lens {
		var table []int32
		for range (n + l.c.block - 1) / l.c.block {
			table = append(table, int32(order[0]))
			order = order[1:]
		}
		p.tables = append(p.tables, table)
	}
	p.spare = int32(order[0])
	l.poison(p, blocks)
	return p, nil
}

// poison stores NaN into every slot.
func (l *layer) poison(p *paged, blocks int) {
	op := *l.op
	op.QNorm, op.KNorm, op.Rotary, op.Window, op.First = nil, nil, nil, 1, 0
	in := batch.Input{BlockSize: l.c.block}
	for block := range blocks {
		in.Spans = append(in.Spans, batch.Span{Row: len(in.TokenIDs), Len: l.c.block, BlockTables: l.tables(p, []int32{int32(block)})})
		for i := range l.c.block {
			l.addRow(p, &in, i, int32(block*l.c.block+i))
		}
	}
	qkv, dst := newRows(l.b, in.Rows(), l.in), newRows(l.b, in.Rows(), l.out)
	l.b.Attend(dst.Rows, qkv.Rows, &in, p.cache, &op)
}

// tables gives the table to the layer's group; the others' name a block of nobody.
func (l *layer) tables(p *paged, table []int32) (all [][]int32) {
	group, _ := p.cache.Spec().Place(l.op.Layer)
	for g := range p.cache.Spec().NumGroups() {
		all = append(all, slices.Repeat([]int32{p.spare}, len(table)))
		if g == group {
			all[g] = table
		}
	}
	return all
}

func (l *layer) addRow(p *paged, in *batch.Input, pos int, slot int32) {
	in.TokenIDs = append(in.TokenIDs, 0)
	in.Positions = append(in.Positions, int32(pos))
	if in.Slots == nil {
		in.Slots = make([][]int32, p.cache.Spec().NumGroups())
	}
	group, _ := p.cache.Spec().Place(l.op.Layer)
	for g := range in.Slots {
		at := p.spare*int32(l.c.block) + int32(pos%l.c.block)
		if g == group {
			at = slot
		}
		in.Slots[g] = append(in.Slots[g], at)
	}
}

// execute runs a schedule in a fresh pool and hands over each position's
// output; all, if not nil, receives them in the order of sequences and positions.
func (l *layer) execute(s schedule, each func(seq, pos int, row []float32) error, all *[]float32) error {
	rng := rand.New(rand.NewPCG(l.c.seed, uint64(l.c.block)))
	p, err := l.newPool(rng)
	if err != nil {
		return err
	}
	defer p.cache.Close()
	done := make([]int, len(l.c.lens))
	for _, st := range s(rng, l.c.lens) {
		dst, err := l.step(p, st, done)
		if err != nil {
			return fmt.Errorf("step %v after %v: %w", st, done, err)
		}
		row := 0
		for _, sh := range st {
			for range sh.n {
				if err := each(sh.seq, done[sh.seq], dst.Row(row)); err != nil {
					return fmt.Errorf("step %v, sequence %d, position %d: %w", st, sh.seq, done[sh.seq], err)
				}
				row++
				done[sh.seq]++
			}
		}
		if all != nil {
			*all = append(*all, dst.Host...)
		}
	}
	return nil
}

// step runs one step whose sequences have done[seq] tokens in the cache.
func (l *layer) step(p *paged, st step, done []int) (guarded, error) {
	in := batch.Input{BlockSize: l.c.block}
	var x, cos, sin []float32
	for _, sh := range st {
		start := done[sh.seq]
		in.Spans = append(in.Spans, batch.Span{Row: in.Rows(), Len: sh.n, Start: start, BlockTables: l.tables(p, l.visible(p, sh.seq, start))})
		for pos := start; pos < start+sh.n; pos++ {
			l.addRow(p, &in, pos, p.tables[sh.seq][pos/l.c.block]*int32(l.c.block)+int32(pos%l.c.block))
			x = append(x, l.qkv[sh.seq][pos*l.in:][:l.in]...)
			if r := l.op.Rotary; r != nil {
				cos, sin = append(cos, l.cos[pos*r.Dim/2:][:r.Dim/2]...), append(sin, l.sin[pos*r.Dim/2:][:r.Dim/2]...)
			}
		}
	}
	n := in.Rows()
	dst, qkv := newRows(l.b, n, l.out), newRows(l.b, n, l.in)
	copy(qkv.Host, x)
	op, margins := *l.op, func() error { return errors.Join(dst.check("output"), qkv.check("qkv")) }
	if op.Rotary != nil {
		r, c, s := *op.Rotary, newRows(l.b, n, op.Rotary.Dim/2), newRows(l.b, n, op.Rotary.Dim/2)
		copy(c.Host, cos)
		copy(s.Host, sin)
		r.Cos, r.Sin, op.Rotary = c.Rows, s.Rows, &r
	}
	l.b.Attend(dst.Rows, qkv.Rows, &in, p.cache, &op)
	return dst, margins()
}

// visible is a sequence's block table as a pool may show it: blocks behind the
// window have gone back and belong to others.
func (l *layer) visible(p *paged, seq, start int) []int32 {
	table := slices.Clone(p.tables[seq])
	if l.op.Window > 0 {
		for i := range table[:max(0, start-l.op.Window+1)/l.c.block] {
			table[i] = p.spare
		}
	}
	return table
}
