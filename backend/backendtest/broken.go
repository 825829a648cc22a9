package backendtest

import (
	"slices"

	"sestina/backend"
	"sestina/backend/ref"
	"sestina/batch"
)

// SplitK breaks batch invariance in the usual way: with more than `above` rows
// the inner sum of a matmul is computed in two halves, as a kernel tuned for
// many rows might. Every value stays within rounding of the truth.
func SplitK(b backend.Backend, above int) backend.Backend { return &splitK{b, above} }

type splitK struct {
	backend.Backend
	above int
}

func (b *splitK) Linear(dst, x backend.Rows, op *backend.Linear) {
	cut := x.Width / 64 * 32
	if x.N <= b.above || cut == 0 || op.Epilogue == backend.SwiGLU {
		b.Backend.Linear(dst, x, op)
		return
	}
	plain := *op
	plain.Norm = nil
	low := backend.Rows{N: x.N, Width: x.Width, Host: append([]float32(nil), x.Host...)}
	for i := range x.N {
		if op.Norm != nil {
			copy(low.Row(i), ref.RMSNorm(x.Row(i), op.Norm.Weight.Host, op.Norm.Eps))
		}
	}
	high := backend.Rows{N: x.N, Width: x.Width, Host: append([]float32(nil), low.Host...)}
	for i := range x.N {
		clear(low.Row(i)[cut:])
		clear(high.Row(i)[:cut])
	}
	b.Backend.Linear(dst, low, &plain)
	plain.Bias, plain.Epilogue = nil, backend.Add
	b.addAll(dst, high, &plain)
}

// addAll is an Add of several matrices side by side.
func (b *splitK) addAll(dst, x backend.Rows, op *backend.Linear) {
	col := 0
	for _, w := range op.W {
		n, _ := w.Shape()
		y := backend.Rows{N: x.N, Width: n, Host: make([]float32, x.N*n)}
		b.Backend.Linear(y, x, &backend.Linear{W: []backend.Matrix{w}})
		for i := range x.N {
			for k, v := range y.Row(i) {
				dst.Row(i)[col+k] += v
			}
		}
		col += n
	}
}

// ShiftTiles breaks invariance to chunking: a sequence that computes one token
// counts its attention tiles from a block before position 0, a chunk counts
// them from 0. It shows where the block size is no multiple of the tile.
func ShiftTiles(b backend.Backend) backend.Backend { return &shiftTiles{b} }

type shiftTiles struct{ backend.Backend }

func (b *shiftTiles) Attend(dst, qkv backend.Rows, in *batch.Input, kv backend.Cache, op *backend.Attention) {
	for _, span := range in.Spans {
		one, shifted := *in, *op
		last := span.Row + span.Len
		one.TokenIDs, one.Positions, one.Slots = in.TokenIDs[span.Row:last], in.Positions[span.Row:last], nil
		for _, slots := range in.Slots {
			one.Slots = append(one.Slots, slots[span.Row:last])
		}
		if span.Len == 1 {
			visible := span.Start + 1 - min(op.First, span.Start)
			shifted.First = 0
			if op.Window > 0 {
				visible = min(visible, op.Window)
			}
			shifted.Window = visible
			span.BlockTables = slices.Clone(span.BlockTables)
			for g, table := range span.BlockTables {
				span.BlockTables[g] = append([]int32{table[0]}, table...)
			}
			span.Start += in.BlockSize
		}
		row := span.Row
		span.Row = 0
		one.Spans = []batch.Span{span}
		if op.Rotary != nil {
			r := *op.Rotary
			r.Cos, r.Sin = slice(r.Cos, row, span.Len), slice(r.Sin, row, span.Len)
			shifted.Rotary = &r
		}
		b.Backend.Attend(slice(dst, row, span.Len), slice(qkv, row, span.Len), &one, kv, &shifted)
	}
}

// slice is rows [first, first+n).
func slice(r backend.Rows, first, n int) backend.Rows {
	return backend.Rows{N: n, Width: r.Width, Host: r.Host[first*r.Width : (first+n)*r.Width]}
}
