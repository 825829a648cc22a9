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

func (k *Kernel) scoresGeneric(s []float32, queries queries, pool []byte, offsets []int64, rows int) {
	if k.quantised() {
		k.dotsGeneric(s, queries.blocks, pool, offsets, rows)
		return
	}
	q := queries.floats
	for t, at := range offsets {
		for r := range rows {
			clear(s[r*scoreStride+t*Tile:][:Tile])
		}
		for d := range k.HeadDim {
			for j := range Tile {
				key := k.element(pool[at:], d*Tile+j)
				for r := range rows {
					score := &s[r*scoreStride+t*Tile+j]
					*score = f32.FMA(q[d*rows+r], key, *score)
				}
			}
		}
	}
}

// dotsGeneric is scoresGeneric for quantised keys.
func (k *Kernel) dotsGeneric(s []float32, q []queryBlock, pool []byte, offsets []int64, rows int) {
	for t, at := range offsets {
		tile := pool[at:]
		for r := range rows {
			for j := range Tile {
				var score float32
				for g := range k.groups() {
					b, dot := &q[g*rows+r], int32(0)
					for i, code := range b.codes {
						dot += int32(code) * k.keyCode(tile, g*group+i, j)
					}
					score = f32.FMA(float32(dot), b.scale*k.tileScale(tile, g, j), score)
				}
				s[r*scoreStride+t*Tile+j] = score
			}
		}
	}
}

// softmaxGeneric runs rows [a, b) of a pass through n tiles that begin at tile from of the scratch.
func (k *Kernel) softmaxGeneric(states []float32, s *page, from, n, a, b int) {
	for r := a; r < b; r++ {
		state := states[r*k.StateLen():][:k.StateLen()]
		m := k.maximum(state)
		*m = minusInf
		softmaxRow(s.scores[r*scoreStride+from*Tile:][:n*Tile], s.alpha[r*alphaStride+from:], state[:Tile], m)
	}
}

func softmaxRow(s, alpha, l []float32, m *float32) {
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

// value is V of a position of a tile and the scale that its weight takes, 1 for floats.
func (k *Kernel) value(tile []byte, d, lane int) (v, scale float32) {
	if k.quantised() {
		return float32(k.valueCode(tile, d, lane)), k.tileScale(tile, d/group, lane)
	}
	return k.element(tile, lane*k.width()+d), 1
}

// valuesGeneric adds p·V of tiles t to rows [a, b) of a pass, whose scratch begins at tile seen.from.
func (k *Kernel) valuesGeneric(states []float32, s *page, kv *keys, seen, t tiles, from, to, a, b int) {
	n := k.StateLen()
	for i := t.from; i < t.to; i++ {
		p, at := i-seen.from, kv.offsets[i]+int64(kv.values)
		for r := a; r < b; r++ {
			alpha := s.alpha[r*alphaStride+p]
			for d := range k.HeadDim {
				states[r*n+16+d] *= alpha
			}
		}
		end := Tile
		if i == t.to-1 {
			end = to
		}
		for j := from; j < end; j++ {
			for d := range k.HeadDim {
				v, scale := k.value(kv.pool[at:], d, j)
				for r := a; r < b; r++ {
					acc := &states[r*n+16+d]
					*acc = f32.FMA(float32(s.scores[r*scoreStride+p*Tile+j]*scale), v, *acc)
				}
			}
		}
		from = 0
	}
}

func finishGeneric(out, states []float32, step int, w []float32, sink float32) {
	var l [Tile]float32
	clear(out)
	for i, w := range w {
		state := states[i*step:]
		for j := range l {
			l[j] = f32.FMA(state[j], w, l[j])
		}
		for j := range out {
			out[j] = f32.FMA(state[Tile+j], w, out[j])
		}
	}
	total := f32.Tree16(&l) + sink
	for j := range out {
		out[j] /= total
	}
}

func turnGeneric(dst []float32, step int, rows [][]float32, scale float32) {
	for r, row := range rows {
		for d, v := range row {
			dst[d*step+r] = v * scale
		}
	}
}
