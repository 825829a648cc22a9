package ref

import (
	"math"

	"sestina/backend"
	"sestina/batch"
	"sestina/internal/f32"
	"sestina/tensor"
)

// Positions per tile and per partition; both are absolute, counted from 0, so
// that where a sum is cut never depends on chunking.
const (
	Tile      = 16
	Partition = 256
)

// Attend rotates, stores and attends, one row and one head at a time.
func (b *Backend) Attend(dst, qkv backend.Rows, in *batch.Input, kv backend.Cache, op *backend.Attention) {
	c := kv.(*cache)
	group, at := c.spec.Place(op.Layer)
	D := op.HeadDim
	for row := range qkv.N {
		x := qkv.Row(row)
		for h := range op.Heads + op.KVHeads {
			head := x[h*D : (h+1)*D]
			norm := op.QNorm
			if h >= op.Heads {
				norm = op.KNorm
			}
			if norm != nil {
				copy(head, RMSNorm(head, norm.Weight.Host, norm.Eps))
			}
			if op.Rotary != nil {
				Rotate(head, op.Rotary, row)
			}
		}
		slot := int(in.Slots[group][row])
		for h := range op.KVHeads {
			c.store(at, slot, 0, h, x[(op.Heads+h)*D:][:D])
			c.store(at, slot, 1, h, x[(op.Heads+op.KVHeads+h)*D:][:D])
		}
	}
	for i := range in.Spans {
		span := &in.Spans[i]
		for r := range span.Len {
			row, pos := span.Row+r, span.Start+r
			lo := min(op.First, pos)
			if op.Window > 0 {
				lo = max(lo, pos-op.Window+1)
			}
			for h := range op.Heads {
				keys := keys{c: c, slot: at, head: h / (op.Heads / op.KVHeads), table: span.BlockTables[group]}
				q := make([]float32, D)
				for d, v := range qkv.Row(row)[h*D : (h+1)*D] {
					q[d] = float32(v * op.Scale)
				}
				copy(dst.Row(row)[h*D:(h+1)*D], flash(q, keys, lo, pos))
			}
		}
	}
}

// Rotate applies a row's rotation to one head in place.
func Rotate(head []float32, r *backend.Rotary, row int) {
	cos, sin := r.Cos.Row(row), r.Sin.Row(row)
	for k := range r.Dim / 2 {
		i, j := k, k+r.Dim/2
		if r.Interleaved {
			i, j = 2*k, 2*k+1
		}
		a, b := head[i], head[j]
		head[i] = f32.FMA(a, cos[k], -float32(b*sin[k]))
		head[j] = f32.FMA(b, cos[k], float32(a*sin[k]))
	}
}

func storeRounded(dst, src []float32, d tensor.DType) {
	for i, v := range src {
		switch d {
		case tensor.F16:
			v = tensor.ToFloat16(v).Float32()
		case tensor.BF16:
			v = tensor.ToBFloat16(v).Float32()
		}
		dst[i] = v
	}
}

// store rounds or quantises one head's K (which = 0) or V (1) of one token.
func (c *cache) store(at, token, which, head int, x []float32) {
	e := c.head(at, token, which, head)
	if c.quantised(at) {
		e.quantise(x, c.dtype(at))
		return
	}
	storeRounded(e.values, x, c.dtype(at))
}

// keys reads one head's K and V of one sequence through its block table.
type keys struct {
	c          *cache
	slot, head int // slot of a block
	table      []int32
}

func (k keys) at(pos, which int) entry {
	B := k.c.spec.BlockSize
	token := int(k.table[pos/B])*B + pos%B
	return k.c.head(k.slot, token, which, k.head)
}

// state is one partition's running softmax: maximum, 16 lanes of the
// denominator, numerator.
type state struct {
	m   float32
	l   [Tile]float32
	acc []float32
}

// flash is online-softmax attention of one query over keys [lo, pos]
// (FlashAttention's recurrence, Dao et al. 2022; partitions as in
// Flash-Decoding), in the contract's order.
func flash(q []float32, k keys, lo, pos int) []float32 {
	score := dotFloats(q)
	if k.c.quantised(k.slot) {
		score = dotCodes(quantiseQuery(q))
	}
	var parts []state
	for p := lo / Partition; p <= pos/Partition; p++ {
		s := state{m: float32(math.Inf(-1)), acc: make([]float32, len(q))}
		for t := max(p*Partition, lo/Tile*Tile); t < min((p+1)*Partition, pos+1); t += Tile {
			s.tile(score, k, t, max(lo, t), min(pos, t+Tile-1))
		}
		parts = append(parts, s)
	}
	return combine(parts, len(q))
}

// tile takes visible keys [from, to] of the tile that starts at position t.
func (s *state) tile(dot func(entry) float32, k keys, t, from, to int) {
	var score [Tile]float32
	m := s.m
	for j := from; j <= to; j++ {
		score[j-t] = dot(k.at(j, 0))
		m = max(m, score[j-t])
	}
	alpha := f32.Exp(s.m - m)
	for i := range s.l {
		var p float32
		if i >= from-t && i <= to-t {
			p = f32.Exp(score[i] - m)
		}
		s.l[i] = f32.FMA(s.l[i], alpha, p)
		score[i] = p
	}
	for d := range s.acc {
		s.acc[d] = float32(s.acc[d] * alpha)
	}
	for j := from; j <= to; j++ {
		v := k.at(j, 1)
		for d := range s.acc {
			p := score[j-t]
			if v.scales != nil {
				p *= v.scales[d/32]
			}
			s.acc[d] = f32.FMA(p, v.values[d], s.acc[d])
		}
	}
	s.m = m
}

// combine adds partitions in ascending order and normalises.
func combine(parts []state, dim int) []float32 {
	m := float32(math.Inf(-1))
	for i := range parts {
		m = max(m, parts[i].m)
	}
	var l [Tile]float32
	out := make([]float32, dim)
	for i := range parts {
		w := f32.Exp(parts[i].m - m)
		for j := range l {
			l[j] = f32.FMA(parts[i].l[j], w, l[j])
		}
		for d := range out {
			out[d] = f32.FMA(parts[i].acc[d], w, out[d])
		}
	}
	sum := f32.Tree16(&l)
	for d := range out {
		out[d] /= sum
	}
	return out
}

// textbook is softmax(q·Kᵀ)·V over the full row of scores in float64: the
// definition that flash is compared with by tolerance.
func textbook(q []float32, k keys, lo, pos int) []float64 {
	scores := make([]float64, pos+1)
	top := math.Inf(-1)
	for j := lo; j <= pos; j++ {
		key := k.at(j, 0)
		for d := range q {
			scores[j] += float64(q[d]) * key.at(d)
		}
		top = max(top, scores[j])
	}
	out, sum := make([]float64, len(q)), 0.0
	for j := lo; j <= pos; j++ {
		p := math.Exp(scores[j] - top)
		sum += p
		v := k.at(j, 1)
		for d := range out {
			out[d] += p * v.at(d)
		}
	}
	for d := range out {
		out[d] /= sum
	}
	return out
}
