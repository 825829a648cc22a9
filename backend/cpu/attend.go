package cpu

import (
	"fmt"

	"sestina/backend"
	"sestina/backend/cpu/attention"
	"sestina/batch"
	"sestina/internal/arena"
	"sestina/internal/checked"
	"sestina/internal/simd"
)

// cache is a paged KV pool: one region, a range of it per slot of a block.
type cache struct {
	spec    backend.CacheSpec
	region  *arena.Region
	pools   [][]byte            // per slot
	kernels []*attention.Kernel // per slot; slots of one shape share
	places  []place             // per layer
}

// place is where a layer's K and V are.
type place struct{ group, slot int }

func (c *cache) Spec() backend.CacheSpec { return c.spec }
func (c *cache) Bytes() uint64           { return uint64(len(c.region.Bytes())) }
func (c *cache) Close() error            { return c.region.Free() }

// NewCache allocates the pool off the heap; pages are taken when first written.
func (b *Backend) NewCache(spec backend.CacheSpec) (backend.Cache, error) {
	b.raw = nil
	c := &cache{spec: spec}
	var total uint64
	var err error
	for i := range spec.Layers {
		group, slot := spec.Place(i)
		c.places = append(c.places, place{group, slot})
	}
	slots := spec.Slots()
	sizes := make([]uint64, len(slots))
	made := map[attention.Layout]*attention.Kernel{}
	for i, layer := range slots {
		l := spec.Layers[layer]
		layout := attention.Layout{KVHeads: l.KVHeads, HeadDim: l.HeadDim, BlockSize: spec.BlockSize, DType: spec.LayerDType(layer)}
		if made[layout] == nil {
			if made[layout], err = attention.New(layout); err != nil {
				return nil, err
			}
		}
		c.kernels = append(c.kernels, made[layout])
		if sizes[i], err = checked.Mul(uint64(spec.Blocks), uint64(layout.BlockBytes())); err == nil {
			if sizes[i], err = checked.Align(sizes[i], 64); err == nil {
				total, err = checked.Add(total, sizes[i])
			}
		}
		if err != nil {
			return nil, fmt.Errorf("KV pool of %d blocks: %w", spec.Blocks, err)
		}
	}
	if c.region, err = arena.Alloc(total); err != nil {
		return nil, fmt.Errorf("KV pool: %w", err)
	}
	rest := c.region.Bytes()
	for i := range slots {
		n := spec.Blocks * c.kernels[i].BlockBytes()
		c.pools = append(c.pools, rest[:n:n])
		rest = rest[sizes[i]:]
	}
	return c, nil
}

// Layout is the arrangement that package attention describes; its version goes
// up when the bytes of the same K and V become others.
func (c *cache) Layout() string { return "cpu 1" }

func (c *cache) BlockBytes() (n int) {
	for _, k := range c.kernels {
		n += k.BlockBytes()
	}
	return n
}

// ReadBlock copies a block's bytes out, slot after slot.
func (c *cache) ReadBlock(dst []byte, block int32) {
	for slot, pool := range c.pools {
		n := c.kernels[slot].BlockBytes()
		copy(dst[:n], pool[int(block)*n:][:n])
		dst = dst[n:]
	}
}

// WriteBlock undoes ReadBlock.
func (c *cache) WriteBlock(block int32, src []byte) {
	for slot, pool := range c.pools {
		n := c.kernels[slot].BlockBytes()
		copy(pool[int(block)*n:][:n], src[:n])
		src = src[n:]
	}
}

// CopyBlocks copies whole blocks in every slot.
func (b *Backend) CopyBlocks(kv backend.Cache, copies []batch.BlockCopy) {
	c := kv.(*cache)
	for slot, pool := range c.pools {
		n := c.kernels[slot].BlockBytes()
		for _, cp := range copies {
			copy(pool[int(cp.Dst)*n:][:n], pool[int(cp.Src)*n:][:n])
		}
	}
}

// attendJob is one layer's attention. Its units are KV heads: the group of
// query heads that reads one is rotated and computed together, so K and V pass
// by once per group.
//
//	append  rotate q and k, store k and v      unit: row × KV head
//	whole   attention of some rows             unit: piece × KV head
//	parts   one partition of a long context    unit: piece × KV head × partition
//	close   combine the partitions             unit: piece × KV head
//
// A step whose sequences have one piece each (decode, verification) needs no barrier between append and whole: no piece reads
// another's keys, so one unit does both.
type attendJob struct {
	b        *Backend
	dst, qkv backend.Rows
	in       *batch.Input
	slots    []int32 // of the layer's group, as its block tables are
	group    int
	op       *backend.Attention
	kernel   *attention.Kernel
	pool     []byte

	phase   int
	fused   bool                // whole appends first
	heads   int                 // units per piece: KV heads, or query heads when they are expanded
	shared  int                 // query heads per unit
	pieces  []piece             // runs of rows of one sequence
	parts   []part              // units of the parts phase
	states  []float32           // of all parts
	scratch []attention.Scratch // per worker
}

const (
	appendKV = iota
	wholeRows
	partitions
	closeRows
)

// piece is some consecutive rows of one sequence, one unit per KV head.
type piece struct{ row, len, pos, span int }

// part is one partition of one piece and KV head.
type part struct{ unit, index, states int }

// pieceRows is how many rows one unit takes: enough that K and V, once in the
// first-level cache, serve several passes; few enough to share out.
const pieceRows = 16

// share is the largest part of a thread's work that one unit may be: with larger
// ones, threads wait for the last to end.
const share = 4

// Attend rotates, stores and attends.
func (b *Backend) Attend(dst, qkv backend.Rows, in *batch.Input, kv backend.Cache, op *backend.Attention) {
	if qkv.N == 0 {
		return
	}
	j := &b.attend
	c := kv.(*cache)
	at := c.places[op.Layer]
	j.dst, j.qkv, j.in, j.op = dst, qkv, in, op
	j.slots, j.group = in.Slots[at.group], at.group
	j.kernel, j.pool = c.kernels[at.slot], c.pools[at.slot]
	if j.scratch == nil {
		j.scratch = make([]attention.Scratch, b.team.Threads())
	}
	j.plan()
	units := len(j.pieces) * j.heads
	if !j.fused {
		j.run(appendKV, qkv.N*op.KVHeads, 4)
	}
	if len(j.parts) == 0 {
		j.run(wholeRows, units, 1)
		return
	}
	j.run(partitions, len(j.parts), 1)
	j.run(closeRows, units, 1)
}

func (j *attendJob) run(phase, n, grain int) {
	j.phase = phase
	j.b.team.Run(n, grain, j)
}

// plan cuts the step into pieces and decides whether long contexts are split.
// It is the same for every layer of a step, and cheap enough to repeat.
func (j *attendJob) plan() {
	j.pieces, j.parts, j.fused = j.pieces[:0], j.parts[:0], !j.b.opt.ExpandHeads
	j.heads, j.shared = j.op.KVHeads, j.op.Heads/j.op.KVHeads
	if j.b.opt.ExpandHeads {
		j.heads, j.shared = j.op.Heads, 1
	}
	for i := range j.in.Spans {
		s := &j.in.Spans[i]
		j.fused = j.fused && s.Len <= pieceRows
		rows := pieceRows
		if j.b.opt.FullAttention {
			rows = s.Len // the matrix is whole
		}
		for r := 0; r < s.Len; r += rows {
			j.pieces = append(j.pieces, piece{row: s.Row + r, len: min(rows, s.Len-r), pos: s.Start + r, span: i})
		}
	}
	threads, units := j.b.team.Threads(), len(j.pieces)*j.heads
	if threads == 1 || j.b.opt.FullAttention || j.even(threads) {
		return
	}
	states := 0
	for u := range units {
		q := j.query(u)
		first, end := q.Partitions()
		for p := first; p < end; p++ {
			j.parts = append(j.parts, part{unit: u, index: p, states: states})
			states += q.Rows * q.Group * j.kernel.StateLen()
		}
	}
	if len(j.parts) <= units {
		j.parts = j.parts[:0]
		return
	}
	j.states = grow(j.states, states)
	j.fused = false
}

// even says that the pieces share out well as they are: none is more than a
// fraction of a thread's work. A long prompt's piece beside short streams is.
func (j *attendJob) even(threads int) bool {
	total, largest := 0, 0
	for i := range j.pieces {
		p := &j.pieces[i]
		keys := p.pos + p.len
		if w := j.op.Window; w > 0 {
			keys = min(keys, w+p.len)
		}
		work := p.len * keys
		total += work
		largest = max(largest, work)
	}
	return largest*share*threads <= total*j.heads
}

// query is unit u: a piece and a KV head, or a query head when they are expanded.
func (j *attendJob) query(u int) attention.Query {
	op := j.op
	p, head := &j.pieces[u/j.heads], u%j.heads
	return attention.Query{
		Q: j.qkv.Host[p.row*j.qkv.Width+head*j.shared*op.HeadDim:], Stride: j.qkv.Width, Rows: p.len, Group: j.shared,
		Pos: p.pos, Window: op.Window, First: op.First, Table: j.in.Spans[p.span].BlockTables[j.group], KVHead: head * j.shared * op.KVHeads / op.Heads,
		Scale: op.Scale, Full: j.b.opt.FullAttention,
	}
}

// out is where unit u's attention goes.
func (j *attendJob) out(u int) []float32 {
	p, head := &j.pieces[u/j.heads], u%j.heads
	return j.dst.Host[p.row*j.dst.Width+head*j.shared*j.op.HeadDim:]
}

// Do is one worker's units of the current phase.
func (j *attendJob) Do(worker, i0, i1 int) {
	s := &j.scratch[worker]
	for u := i0; u < i1; u++ {
		switch j.phase {
		case appendKV:
			j.append(u/j.op.KVHeads, u%j.op.KVHeads)
		case wholeRows:
			if p := &j.pieces[u/j.heads]; j.fused {
				for row := range p.len {
					j.append(p.row+row, u%j.heads)
				}
			}
			q := j.query(u)
			j.kernel.Attend(j.out(u), j.dst.Width, j.pool, &q, s)
		case partitions:
			p := &j.parts[u]
			q := j.query(p.unit)
			j.kernel.Partition(j.states[p.states:][:q.Rows*q.Group*j.kernel.StateLen()], j.pool, &q, p.index, s)
		case closeRows:
			q := j.query(u)
			j.kernel.Combine(j.out(u), j.dst.Width, j.states[j.firstState(u):], &q, s)
		}
	}
}

// firstState is where the states of a unit begin; parts are in order of units.
func (j *attendJob) firstState(unit int) int {
	for i := range j.parts {
		if j.parts[i].unit == unit {
			return j.parts[i].states
		}
	}
	panic("cpu: a unit without partitions")
}

// append rotates one row's query heads of one KV head and its key, and stores
// key and value at the row's slot.
func (j *attendJob) append(row, head int) {
	op, D := j.op, j.op.HeadDim
	x := j.qkv.Row(row)
	group := op.Heads / op.KVHeads
	for h := head * group; h < (head+1)*group; h++ {
		j.rotate(x[h*D:(h+1)*D], op.QNorm, row)
	}
	k := x[(op.Heads+head)*D:][:D]
	j.rotate(k, op.KNorm, row)
	j.kernel.Store(j.pool, j.slots[row], head, k, x[(op.Heads+op.KVHeads+head)*D:][:D])
}

// rotate norms and rotates one head.
func (j *attendJob) rotate(head []float32, norm *backend.Norm, row int) {
	if norm != nil {
		simd.RMSNorm(head, head, norm.Weight.Host, norm.Eps)
	}
	r := j.op.Rotary
	switch {
	case r == nil:
	case r.Interleaved:
		simd.RoPEInterleaved(head[:r.Dim], r.Cos.Row(row), r.Sin.Row(row))
	default:
		simd.RoPE(head[:r.Dim], r.Cos.Row(row), r.Sin.Row(row))
	}
}
