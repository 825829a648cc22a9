package attention

import (
	"sestina/internal/f32"
	"sestina/internal/simd"
	"sestina/tensor"
)

// The scalar twins of the kernels in _asm.

// element reads element i of a pool as float32.
func (k *Kernel) element(pool []byte, i int) float32 {
	switch k.DType {
	case tensor.F16:
		return simd.FromF16(view[uint16](pool)[i])
	case tensor.BF16:
		return simd.FromBF16(view[uint16](pool)[i])
	}
	return view[float32](pool)[i]
}

func (k *Kernel) scoresGeneric(s, q []float32, pool []byte, offsets []int64, rows int) {
	for t, at := range offsets {
		for r := range rows {
			score := s[r*scoreStride+t*Tile:][:Tile]
			clear(score)
			for d := range k.HeadDim {
				for j := range score {
					score[j] = f32.FMA(q[d*rows+r], k.element(pool[at:], d*Tile+j), score[j])
				}
			}
		}
	}
}

func softmaxGeneric(s, alpha, l []float32, m *float32) {
	for t := range len(s) / Tile {
		score := s[t*Tile:][:Tile]
		next := *m
		for _, v := range score {
			next = max(next, v)
		}
		alpha[t] = f32.Exp(float32(*m - next))
		*m = next
		for j, v := range score {
			score[j] = f32.Exp(float32(v - next))
			l[j] = f32.FMA(l[j], alpha[t], score[j])
		}
	}
}

// valuesGeneric adds p·V of the tiles at offsets to acc.
func (k *Kernel) valuesGeneric(acc, p, alpha []float32, pool []byte, offsets []int64, from, to int) {
	for t, at := range offsets {
		for d := range acc {
			acc[d] *= alpha[t]
		}
		end := Tile
		if t == len(offsets)-1 {
			end = to
		}
		for j := from; j < end; j++ {
			for d := range acc {
				acc[d] = f32.FMA(p[t*Tile+j], k.element(pool[at:], j*k.width()+d), acc[d])
			}
		}
		from = 0
	}
}

func accumulateGeneric(dst, x []float32, w float32) {
	for i, v := range x {
		dst[i] = f32.FMA(v, w, dst[i])
	}
}

func divideGeneric(x []float32, by float32) {
	for i := range x {
		x[i] /= by
	}
}

// valuesRows is valuesGeneric for rows [a, b) of a pass.
func (k *Kernel) valuesRows(states []float32, s *Scratch, pool []byte, seen, t tiles, from, to, a, b int) {
	for r := a; r < b; r++ {
		acc := states[r*k.StateLen()+16:][:k.HeadDim]
		k.valuesGeneric(acc, s.scores[r*scoreStride+(t.from-seen.from)*Tile:], s.alpha[r*alphaStride+t.from-seen.from:],
			pool, s.offsets[t.from:t.to], from, to)
	}
}
