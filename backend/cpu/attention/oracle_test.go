package attention

import (
	"math"
	"math/rand/v2"

	"sestina/internal/f32"
	"sestina/internal/simd"
	"sestina/tensor"
)

// sequence is a sequence of n positions stored in a pool, beside the plain
// values that the oracles read: [position][KV head], rounded to the dtype.
type sequence struct {
	layout Layout
	n      int
	pool   []byte
	table  []int32
	k, v   [][]stored
}

// stored is one K or V of one head: element d is values[d]·scales[d/32].
type stored struct{ values, scales []float32 }

func (x stored) at(d int) float64 { return float64(x.values[d]) * float64(x.scales[d/32]) }

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

func rounded(l Layout, x []float32) stored {
	y := stored{make([]float32, len(x)), make([]float32, (len(x)+31)/32)}
	for g := range y.scales {
		block := x[32*g : min(len(x), 32*g+32)]
		if y.scales[g] = 1; l.quantised() {
			y.scales[g] = quantisedScale(block, l.DType)
		}
		for i, v := range block {
			switch d := y.scales[g]; l.DType {
			case tensor.F16:
				v = simd.FromF16(simd.ToF16(v))
			case tensor.BF16:
				v = simd.FromBF16(simd.ToBF16(v))
			case tensor.Q8_0:
				v = roundWithin(v, d, -127, 127)
			case tensor.Q4_0:
				v = roundWithin(v, d, -8, 7)
			}
			y.values[32*g+i] = v
		}
	}
	return y
}

// quantisedScale is the scale of 32 values in a quantised cache.
func quantisedScale(x []float32, d tensor.DType) float32 {
	var top float32
	for _, v := range x {
		if a, b := math.Abs(float64(v)), math.Abs(float64(top)); a > b || a == b && v < 0 {
			top = v
		}
	}
	if d == tensor.Q4_0 {
		return simd.FromF16(simd.ToF16(top / -8))
	}
	return simd.FromF16(simd.ToF16(max(top, -top) / 127))
}

func roundWithin(v, d float32, low, high float64) float32 {
	if d == 0 || math.IsInf(float64(d), 0) {
		return 0
	}
	return float32(min(high, max(low, math.RoundToEven(float64(v*float32(1/d))))))
}

// quantisedQuery is a scaled query row as codes and scales; floats for float dtypes.
func quantisedQuery(l Layout, x []float32) stored {
	if !l.quantised() {
		return rounded(Layout{DType: tensor.F32}, x)
	}
	y := stored{make([]float32, len(x)), make([]float32, len(x)/32)}
	for g := range y.scales {
		var top float32
		for _, v := range x[32*g : 32*g+32] {
			top = max(top, v, -v)
		}
		if top < 1e-30 {
			continue
		}
		y.scales[g] = top / 127
		for i, v := range x[32*g : 32*g+32] {
			y.values[32*g+i] = roundWithin(v, y.scales[g], -127, 127)
		}
	}
	return y
}

// dot is the score of a query and a key.
func dot(l Layout, q, k stored) (s float32) {
	if !l.quantised() {
		for d, v := range q.values {
			s = f32.FMA(v, k.values[d], s)
		}
		return s
	}
	for g := range q.scales {
		sum := 0
		for d := 32 * g; d < 32*g+32; d++ {
			sum += int(q.values[d]) * int(k.values[d])
		}
		s = f32.FMA(float32(sum), q.scales[g]*k.scales[g], s)
	}
	return s
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
	D, pos := s.layout.HeadDim, q.Pos+i
	lo := min(q.First, pos)
	if q.Window > 0 {
		lo = max(lo, pos-q.Window+1)
	}
	x := quantisedQuery(s.layout, head(q, D, i, g))
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
				p[j-t] = capped(q, dot(s.layout, x, s.k[j][q.KVHead]))
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
					v := s.v[j][q.KVHead]
					st.acc[d] = f32.FMA(float32(p[j-t]*v.scales[d/32]), v.values[d], st.acc[d])
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
	pos, x := q.Pos+i, quantisedQuery(s.layout, head(q, s.layout.HeadDim, i, g))
	weights := map[int]float64{}
	sum, top := 0.0, math.Inf(-1)
	for j := 0; j <= pos; j++ {
		if q.Window > 0 && j <= pos-q.Window || j < min(q.First, pos) {
			continue
		}
		score := 0.0
		for d := range s.layout.HeadDim {
			score += x.at(d) * s.k[j][q.KVHead].at(d)
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
			out[d] += w * s.v[j][q.KVHead].at(d)
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
