//go:build amd64 && !purego

package attention

import (
	"unsafe"

	"sestina/internal/simd"
	"sestina/tensor"
)

// maxRows is how many rows the kernel's registers hold.
func (k *Kernel) maxRows() int {
	if k.level == simd.AVX2 {
		return 6
	}
	return maxRows
}

// scores writes s[r][t][lane] = Σ_d q[d][r]·K_t[d][lane] for the tiles whose K lie at offsets.
func (k *Kernel) scores(s []float32, queries queries, pool []byte, offsets []int64, rows, ahead int) {
	if k.level == simd.Generic {
		k.scoresGeneric(s, queries, pool, offsets, rows)
		return
	}
	n, dim := len(offsets), k.HeadDim
	wide := k.level == simd.AVX512
	if k.quantised() {
		blocks, q := k.groups(), (*byte)(unsafe.Pointer(&queries.blocks[0]))
		switch {
		case k.DType == tensor.Q8_0 && wide:
			scoresQ8_0AVX512(&s[0], q, &pool[0], &offsets[0], n, ahead, blocks, rows)
		case k.DType == tensor.Q8_0:
			scoresQ8_0AVX2(&s[0], q, &pool[0], &offsets[0], n, ahead, blocks, rows)
		case wide:
			scoresQ4_0AVX512(&s[0], q, &pool[0], &offsets[0], n, ahead, blocks, rows)
		default:
			scoresQ4_0AVX2(&s[0], q, &pool[0], &offsets[0], n, ahead, blocks, rows)
		}
		return
	}
	q := queries.floats
	switch {
	case k.DType == tensor.F16 && wide:
		scoresF16AVX512(&s[0], &q[0], &pool[0], &offsets[0], n, ahead, dim, rows)
	case k.DType == tensor.F16:
		scoresF16AVX2(&s[0], &q[0], &pool[0], &offsets[0], n, ahead, dim, rows)
	case k.DType == tensor.BF16 && wide:
		scoresBF16AVX512(&s[0], &q[0], &pool[0], &offsets[0], n, ahead, dim, rows)
	case k.DType == tensor.BF16:
		scoresBF16AVX2(&s[0], &q[0], &pool[0], &offsets[0], n, ahead, dim, rows)
	case wide:
		scoresF32AVX512(&s[0], &q[0], &pool[0], &offsets[0], n, ahead, dim, rows)
	default:
		scoresF32AVX2(&s[0], &q[0], &pool[0], &offsets[0], n, ahead, dim, rows)
	}
}

// softmax turns the scores of rows [a, b), n tiles from tile from of the scratch
// on, into weights, writes each tile's alpha, and l and m of the states.
func (k *Kernel) softmax(states []float32, s *page, from, n, a, b int) {
	scores, alpha, state := &s.scores[a*scoreStride+from*Tile], &s.alpha[a*alphaStride+from], &states[a*k.StateLen()]
	stride, m := 4*k.StateLen(), 4*(16+k.width())
	switch k.level {
	case simd.AVX512:
		softmaxAVX512(scores, alpha, state, stride, m, n, b-a)
	case simd.AVX2:
		softmaxAVX2(scores, alpha, state, stride, m, n, b-a)
	default:
		k.softmaxGeneric(states, s, from, n, a, b)
	}
}

// values adds p·V to the states of rows [a, b) over tiles t; seen is where the
// scratch begins, from and to bound the lanes of the first and the last tile.
func (k *Kernel) values(states []float32, s *page, kv *keys, seen, t tiles, from, to, a, b int) {
	if k.level == simd.Generic {
		k.valuesGeneric(states, s, kv, seen, t, from, to, a, b)
		return
	}
	acc, stride := &states[a*k.StateLen()+16], 4*k.StateLen()
	p := &s.scores[a*scoreStride+(t.from-seen.from)*Tile]
	alpha := &s.alpha[a*alphaStride+t.from-seen.from]
	n, units, rows := t.to-t.from, k.width()/16, b-a
	at := &kv.offsets[t.from]
	pool, wide := kv.pool[kv.values:], k.level == simd.AVX512
	switch {
	case k.DType == tensor.F16 && wide:
		valuesF16AVX512(acc, stride, p, alpha, &pool[0], at, n, kv.values, from, to, units, rows)
	case k.DType == tensor.F16:
		valuesF16AVX2(acc, stride, p, alpha, &pool[0], at, n, kv.values, from, to, units, rows)
	case k.DType == tensor.BF16 && wide:
		valuesBF16AVX512(acc, stride, p, alpha, &pool[0], at, n, kv.values, from, to, units, rows)
	case k.DType == tensor.BF16:
		valuesBF16AVX2(acc, stride, p, alpha, &pool[0], at, n, kv.values, from, to, units, rows)
	case k.DType == tensor.Q8_0 && wide:
		valuesQ8_0AVX512(acc, stride, p, alpha, &s.scaled[0], &pool[0], at, n, kv.values, from, to, units, rows)
	case k.DType == tensor.Q8_0:
		valuesQ8_0AVX2(acc, stride, p, alpha, &s.scaled[0], &pool[0], at, n, kv.values, from, to, units, rows)
	case k.DType == tensor.Q4_0 && wide:
		valuesQ4_0AVX512(acc, stride, p, alpha, &s.scaled[0], &pool[0], at, n, kv.values, from, to, units, rows)
	case k.DType == tensor.Q4_0:
		valuesQ4_0AVX2(acc, stride, p, alpha, &s.scaled[0], &pool[0], at, n, kv.values, from, to, units, rows)
	case wide:
		valuesF32AVX512(acc, stride, p, alpha, &pool[0], at, n, kv.values, from, to, units, rows)
	default:
		valuesF32AVX2(acc, stride, p, alpha, &pool[0], at, n, kv.values, from, to, units, rows)
	}
}

// finish writes a row's output: states lie step floats apart, w are their weights.
func (k *Kernel) finish(out, states []float32, step int, w []float32, sink float32) {
	switch k.level {
	case simd.AVX512:
		finishAVX512(&out[0], &states[0], 4*step, &w[0], len(w), sink, len(out)/16)
	case simd.AVX2:
		finishAVX2(&out[0], &states[0], 4*step, &w[0], len(w), sink, len(out)/16)
	default:
		finishGeneric(out, states, step, w, sink)
	}
}

// turn writes rows of n elements, scaled, as columns of dst, whose lines are step
// floats long. Up to three elements behind a line that is written are lost.
func (k *Kernel) turn(dst []float32, step int, rows [][]float32, scale float32) {
	n := len(rows[0])
	if k.level == simd.Generic || n%4 > 0 {
		turnGeneric(dst, step, rows, scale)
		return
	}
	row := func(r int) *float32 { return &rows[min(r, len(rows)-1)][0] }
	turnAVX2(&dst[0], 4*step, row(0), row(1), row(2), row(3), scale, n/4)
}

// peak is the value of greatest magnitude, the negative of two, a NaN before all.
func peak(x *[group]float32) float32 {
	if simd.Current() == simd.Generic {
		return peakGeneric(x)
	}
	return peakAVX2(&x[0])
}

// round rounds x·inverse to codes within [low, high] and returns their sum.
func round(codes *[group]int8, x *[group]float32, inverse float32, low, high int8) int32 {
	if simd.Current() == simd.Generic {
		return roundGeneric(codes, x, inverse, low, high)
	}
	return codesAVX2(&codes[0], &x[0], inverse, low, high)
}
