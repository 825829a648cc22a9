package attention

import (
	"math"
	"math/rand/v2"

	"sestina/internal/f32"
	"sestina/internal/simd"
	"sestina/tensor"
)

// sequence is a sequence of n positions stored in a pool, beside the plain
// values that the oracles read: [position][KV head][dim], rounded to the dtype.
type sequence struct {
	layout Layout
	n      int
	pool   []byte
	table  []int32
	k, v   [][][]float32
}

// newSequence stores n random positions in blocks in random order. Whatever is
// not stored is all ones: NaN in every dtype.
func newSequence(r *rand.Rand, l Layout, n int) *sequence {
	blocks := (n + l.BlockSize - 1) / l.BlockSize
	s := &sequence{layout: l, n: n, pool: make([]byte, (blocks+2)*l.BlockBytes())}
	for i := range s.pool {
		s.pool[i] = 0xff
	}
	for _, b := range r.Perm(blocks + 2)[:blocks] {
		s.table = append(s.table, int32(b))
	}
	draw := func() []float32 {
		x := make([]float32, l.HeadDim)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		return x
	}
	for j := range n {
		s.k, s.v = append(s.k, nil), append(s.v, nil)
		slot := s.table[j/l.BlockSize]*int32(l.BlockSize) + int32(j%l.BlockSize)
		for h := range l.KVHeads {
			k, v := draw(), draw()
			l.Store(s.pool, slot, h, k, v)
			s.k[j], s.v[j] = append(s.k[j], rounded(l, k)), append(s.v[j], rounded(l, v))
		}
	}
	return s
}

func rounded(l Layout, x []float32) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		switch y[i] = v; l.DType {
		case tensor.F16:
			y[i] = simd.FromF16(simd.ToF16(v))
		case tensor.BF16:
			y[i] = simd.FromBF16(simd.ToBF16(v))
		}
	}
	return y
}

// head gives position i, head g of a query, scaled.
func head(q *Query, dim, i, g int) []float32 {
	x := make([]float32, dim)
	for d, v := range q.Q[i*q.Stride+g*dim:][:dim] {
		x[d] = v * q.Scale
	}
	return x
}

func capped(q *Query, s float32) float32 {
	if q.SoftCap == 0 {
		return s
	}
	e := f32.Exp(2 * float32(s/q.SoftCap))
	return q.SoftCap * float32(1-float32(2/float32(e+1)))
}

// contract is the numerics contract for one row and head, in scalar code and
// plain terms: bits.
func (s *sequence) contract(q *Query, i, g int) []float32 {
	D, lo, pos := s.layout.HeadDim, 0, q.Pos+i
	if q.Window > 0 {
		lo = max(0, pos-q.Window+1)
	}
	x := head(q, D, i, g)
	type state struct {
		m   float32
		l   [16]float32
		acc []float32
	}
	var parts []*state
	for part := lo / 256; part <= pos/256; part++ {
		st := &state{m: minusInf, acc: make([]float32, D)}
		parts = append(parts, st)
		for t := part * 256; t < part*256+256; t += 16 {
			from, to := max(t, lo), min(t+15, pos)
			if from > to {
				continue
			}
			var p [16]float32
			mn := st.m
			for j := from; j <= to; j++ {
				for d := range x {
					p[j-t] = f32.FMA(x[d], s.k[j][q.KVHead][d], p[j-t])
				}
				p[j-t] = capped(q, p[j-t])
				mn = max(mn, p[j-t])
			}
			alpha := f32.Exp(st.m - mn)
			for j := range p {
				if t+j < from || t+j > to {
					p[j] = 0
				} else {
					p[j] = f32.Exp(p[j] - mn)
				}
				st.l[j] = f32.FMA(st.l[j], alpha, p[j])
			}
			for d := range st.acc {
				st.acc[d] *= alpha
				for j := from; j <= to; j++ {
					st.acc[d] = f32.FMA(p[j-t], s.v[j][q.KVHead][d], st.acc[d])
				}
			}
			st.m = mn
		}
	}
	top := minusInf
	for _, st := range parts {
		top = max(top, st.m)
	}
	if q.Sinks != nil {
		top = max(top, q.Sinks[g])
	}
	var l [16]float32
	out := make([]float32, D)
	for _, st := range parts {
		w := f32.Exp(st.m - top)
		for j := range l {
			l[j] = f32.FMA(st.l[j], w, l[j])
		}
		for d := range out {
			out[d] = f32.FMA(st.acc[d], w, out[d])
		}
	}
	total := f32.Tree16(&l)
	if q.Sinks != nil {
		total += f32.Exp(q.Sinks[g] - top)
	}
	for d := range out {
		out[d] /= total
	}
	return out
}

// textbook is softmax over the full row of scores, in float64.
func (s *sequence) textbook(q *Query, i, g int) []float64 {
	pos := q.Pos + i
	weights := map[int]float64{}
	sum, top := 0.0, math.Inf(-1)
	for j := 0; j <= pos; j++ {
		if q.Window > 0 && j <= pos-q.Window {
			continue
		}
		score := 0.0
		for d, v := range head(q, s.layout.HeadDim, i, g) {
			score += float64(v) * float64(s.k[j][q.KVHead][d])
		}
		if q.SoftCap > 0 {
			score = float64(q.SoftCap) * math.Tanh(score/float64(q.SoftCap))
		}
		weights[j] = score
		top = max(top, score)
	}
	out := make([]float64, s.layout.HeadDim)
	for j, score := range weights {
		w := math.Exp(score - top)
		sum += w
		for d := range out {
			out[d] += w * float64(s.v[j][q.KVHead][d])
		}
	}
	if q.Sinks != nil {
		sum += math.Exp(float64(q.Sinks[g]) - top)
	}
	for d := range out {
		out[d] /= sum
	}
	return out
}
