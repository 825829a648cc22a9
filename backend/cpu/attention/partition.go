package attention

import (
	"fmt"
	"math"

	"sestina/internal/simd"
)

var minusInf = float32(math.Inf(-1))

// tiles is a range [from, to) of a partition's tiles.
type tiles struct{ from, to int }

func (t tiles) empty() bool { return t.from >= t.to }

// rowTiles are the tiles of a partition that row i sees.
func (q *Query) rowTiles(i, part int) tiles {
	lo, pos := q.visible(i)
	base := part * tilesPerPartition
	return tiles{max(0, lo/Tile-base), min(tilesPerPartition, pos/Tile+1-base)}
}

// partition computes the states of one partition for all rows. more says that
// the same thread takes the next one after it.
func (k *Kernel) partition(states []float32, pool []byte, q *Query, part int, more bool, s *Scratch) {
	if !k.gather(&s.keys, pool, q, part, &s.Moved) {
		return
	}
	if more && k.tiled() {
		k.offsets(&s.keys.next, len(pool), q, part+1, tiles{0, q.rowTiles(q.Rows-1, part+1).to})
	}
	n, flash := k.StateLen(), &grow(&s.flash, 1)[0]
	k.passes(q.Rows*q.Group, func(a, b int) {
		p := pass{k, q, flash, &s.keys, k.queries(s, a), part, a, b, states[a*n : b*n]}
		if seen := p.seen(); !seen.empty() {
			p.score(seen)
			p.softmaxes(seen)
			p.weightValues(seen)
		}
	})
}

// full computes the states of all partitions as textbook attention does: all
// scores, then all weights, then all products, with the score matrix in memory
// between. The sums are flash attention's own, in its order.
func (k *Kernel) full(states []float32, pool []byte, q *Query, s *Scratch) {
	first, end := q.Partitions()
	rows, n := q.Rows*q.Group, k.StateLen()
	count := (rows + k.maxRows() - 1) / k.maxRows()
	pages, kv := grow(&s.full, (end-first)*count), grow(&s.fullKV, end-first)
	each := func(times int64, f func(p *pass, seen tiles)) { // times that f takes the matrix through memory
		for part := first; part < end; part++ {
			i := 0
			k.passes(rows, func(a, b int) {
				of := states[(part-first)*rows*n:]
				p := pass{k, q, &pages[(part-first)*count+i], &kv[part-first], k.queries(s, a), part, a, b, of[a*n : b*n]}
				if seen := p.seen(); !seen.empty() {
					f(&p, seen)
					s.Moved.Scores += times * p.scoresSeen()
				}
				i++
			})
		}
	}
	for part := first; part < end; part++ {
		k.gather(&kv[part-first], pool, q, part, &s.Moved)
	}
	each(1, (*pass).score)        // written
	each(2, (*pass).softmaxes)    // read, written
	each(1, (*pass).weightValues) // read
}

// gather finds the tiles of a partition that the query's rows see; false when there are none.
func (k *Kernel) gather(kv *keys, pool []byte, q *Query, part int, moved *Moved) bool {
	all := tiles{q.rowTiles(0, part).from, q.rowTiles(q.Rows-1, part).to}
	if all.empty() {
		return false
	}
	moved.KeysValues += 2 * int64((all.to-all.from)*Tile*k.HeadDim)
	if k.tiled() {
		k.locate(kv, pool, q, part, all)
	} else {
		k.pack(kv, pool, q, part, all)
	}
	return true
}

// locate fills the offsets of the head's K in the tiles of a pool.
func (k *Kernel) locate(kv *keys, pool []byte, q *Query, part int, all tiles) {
	k.offsets(&kv.offsets, len(pool), q, part, all)
	kv.next = kv.offsets
	kv.pool, kv.values = pool, k.KVHeads*k.keyBytes()+q.KVHead*(k.valueBytes()-k.keyBytes())
}

// offsets finds where K of a head lies in the tiles all, not none, of a partition.
func (k *Kernel) offsets(out *[tilesPerPartition]int64, poolBytes int, q *Query, part int, all tiles) {
	blockBytes, tileBytes, perBlock := k.BlockBytes(), k.tileBytes(), k.BlockSize/Tile
	blocks := poolBytes / blockBytes
	first := part*tilesPerPartition + all.from
	i, in := first/perBlock, first%perBlock // block of the sequence, tile in the block
	for t := all.from; t < all.to; t++ {
		block := int(q.Table[i])
		if block < 0 || block >= blocks {
			panic(fmt.Sprintf("attention: position %d lies in block %d of %d", (part*tilesPerPartition+t)*Tile, block, blocks))
		}
		out[t] = int64(block*blockBytes + in*tileBytes + q.KVHead*k.keyBytes())
		if in++; in == perBlock {
			i, in = i+1, 0
		}
	}
	for t := all.to; t < len(out); t++ { // what is fetched after the last is there
		out[t] = out[all.to-1]
	}
}

// pack copies the visible keys and values of a token-major pool into tiles.
func (k *Kernel) pack(kv *keys, pool []byte, q *Query, part int, all tiles) {
	one := Layout{KVHeads: 1, HeadDim: k.HeadDim, BlockSize: Partition, DType: k.DType}
	packed := grow(&kv.packed, one.BlockBytes())
	lo, _ := q.visible(0)
	from, to := max(part*Partition+all.from*Tile, lo), min(part*Partition+all.to*Tile, q.Pos+q.Rows)
	switch {
	case k.quantised():
		k.packQuantised(one, packed, pool, q, from, to)
	case k.size() == 4:
		packKeys[uint32](k, one, packed, pool, q, from, to)
	default:
		packKeys[uint16](k, one, packed, pool, q, from, to)
	}
	for t := range kv.offsets {
		kv.offsets[t] = int64(t * one.tileBytes())
	}
	kv.next = kv.offsets
	kv.pool, kv.values = packed, one.keyBytes()
}

// packKeys copies positions [from, to) of one partition from a token-major pool.
func packKeys[T uint16 | uint32](k *Kernel, one Layout, packed, pool []byte, q *Query, from, to int) {
	n := k.HeadDim * k.size()
	for j := from; j < to; j++ {
		slot := int(q.Table[j/k.BlockSize])*k.BlockSize + j%k.BlockSize
		src, _ := k.keyOffset(slot, q.KVHead)
		dst, _ := one.keyOffset(j%Partition, 0)
		scatter(view[T](packed[dst:]), Tile, view[T](pool[src:src+n]))
		src = k.valueOffset(slot, q.KVHead)
		copy(packed[one.valueOffset(j%Partition, 0):], pool[src:src+n])
	}
}

// pass is rows [a, b) of a query in one partition; row r is position r/Group.
type pass struct {
	*Kernel
	q      *Query
	s      *page
	kv     *keys
	rows   queries
	part   int
	a, b   int
	states []float32
}

// queries are the scaled queries of a pass, transposed.
type queries struct {
	floats []float32    // [dim][rows]
	blocks []queryBlock // [block][rows], for quantised keys
}

// queries are those of the pass that begins with row a.
func (k *Kernel) queries(s *Scratch, a int) queries {
	if k.quantised() {
		return queries{blocks: s.codes[a*k.groups():]}
	}
	return queries{floats: s.q[a*k.HeadDim:]}
}

// seen is the range of tiles that any of its rows sees.
func (p *pass) seen() tiles {
	return tiles{p.q.rowTiles(p.a/p.q.Group, p.part).from, p.q.rowTiles((p.b-1)/p.q.Group, p.part).to}
}

// score computes q·Kᵀ of the pass; the first one fetches V.
func (p *pass) score(seen tiles) {
	ahead := 0
	if p.a == 0 {
		ahead = p.kv.values
	}
	p.scores(p.s.scores[:], p.rows, p.kv.pool, p.kv.offsets[seen.from:seen.to], p.b-p.a, ahead)
	if p.q.SoftCap > 0 {
		p.softCap(seen)
	}
}

// softmaxes turns every row's scores into weights: rows together where all see
// all tiles whole, else the rows of a position, which see the same keys.
func (p *pass) softmaxes(seen tiles) {
	clear(p.states)
	if p.common(seen) == seen {
		p.weigh(p.a, p.b, seen)
		return
	}
	for a := p.a; a < p.b; {
		b := min((a/p.q.Group+1)*p.q.Group, p.b)
		p.weigh(a, b, seen)
		a = b
	}
}

// scoresSeen counts the scores of the tiles that each row itself sees: how rows are cut into passes differs between processors.
func (p *pass) scoresSeen() (n int64) {
	for r := p.a; r < p.b; r++ {
		t := p.q.rowTiles(r/p.q.Group, p.part)
		n += int64(max(0, t.to-t.from) * Tile)
	}
	return n
}

// weightValues adds p·V, whose order is by position: to the rows of a position
// what the next one's do not see any more, to all rows what they all see, then to
// the rows of a position what the first one's do not see yet.
func (p *pass) weightValues(seen tiles) {
	group, rows := p.q.Group, p.b-p.a
	first, last := p.a/group, (p.b-1)/group
	from, _ := p.within(last)
	_, to := p.within(first)
	from = (from + Tile - 1) &^ (Tile - 1)
	together := first < last && from < to
	for i := first; i <= last; i++ {
		lo, hi := p.within(i)
		if together {
			hi = from
		}
		p.span(seen, lo, hi, max(p.a, i*group)-p.a, min(p.b, (i+1)*group)-p.a)
	}
	if !together {
		return
	}
	p.span(seen, from, to, 0, rows)
	if to%Tile > 0 { // the tile's alpha is done
		for r := range rows {
			p.s.alpha[r*alphaStride+to/Tile-seen.from] = 1
		}
	}
	for i := first + 1; i <= last; i++ {
		_, hi := p.within(i)
		p.span(seen, to, hi, max(p.a, i*group)-p.a, min(p.b, (i+1)*group)-p.a)
	}
}

// within is the range of positions of the partition that row i sees.
func (p *pass) within(i int) (from, to int) {
	lo, pos := p.q.visible(i)
	base := p.part * Partition
	return max(0, lo-base), min(Partition, pos+1-base)
}

// span adds p·V of positions [from, to) of the partition to rows [a, b) of the pass.
func (p *pass) span(seen tiles, from, to, a, b int) {
	if from < to {
		t := tiles{from / Tile, (to + Tile - 1) / Tile}
		p.values(p.states, p.s, p.kv, seen, t, from-t.from*Tile, to-(t.to-1)*Tile, a, b)
	}
}

// lanes is where the visible positions of row i begin in its first tile of the
// partition and where they end in its last.
func (p *pass) lanes(i int, t tiles) (from, to int) {
	lo, pos := p.q.visible(i)
	base := p.part * Partition
	return max(0, lo-base-t.from*Tile), min(Tile, pos+1-base-(t.to-1)*Tile)
}

// weigh blends the scores that rows [a, b) do not see, the same for all of them,
// and runs the others through the online softmax.
func (p *pass) weigh(a, b int, seen tiles) {
	t := p.q.rowTiles(a/p.q.Group, p.part)
	if t.empty() {
		return
	}
	from, to := p.lanes(a/p.q.Group, t)
	at, n := (t.from-seen.from)*Tile, (t.to-t.from)*Tile
	for r := a - p.a; r < b-p.a; r++ {
		scores := p.s.scores[r*scoreStride+at:][:n]
		for j := range from {
			scores[j] = minusInf
		}
		for j := n - Tile + to; j < n; j++ {
			scores[j] = minusInf
		}
	}
	p.softmax(p.states, p.s, t.from-seen.from, t.to-t.from, a-p.a, b-p.a)
}

// common is the range of tiles that all rows see whole.
func (p *pass) common(seen tiles) tiles {
	t := seen
	for i := p.a / p.q.Group; i <= (p.b-1)/p.q.Group; i++ {
		lo, pos := p.q.visible(i)
		base := p.part * tilesPerPartition
		t.from = max(t.from, (lo+Tile-1)/Tile-base)
		t.to = min(t.to, (pos+1)/Tile-base)
	}
	return t
}

// softCap bounds the scores of a pass: cap·tanh(s/cap), with tanh x = 1 − 2/(e^2x + 1).
func (p *pass) softCap(seen tiles) {
	for r := range p.b - p.a {
		scores := p.s.scores[r*scoreStride:][:(seen.to-seen.from)*Tile]
		for i, v := range scores {
			scores[i] = 2 * float32(v/p.q.SoftCap)
		}
		simd.Exp(scores, scores)
		for i, e := range scores {
			scores[i] = p.q.SoftCap * float32(1-float32(2/float32(e+1)))
		}
	}
}
