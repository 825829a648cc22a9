package attention

import (
	"math"
	"math/rand/v2"
	"testing"

	"sestina/tensor"
)

// TestEveryShapeOfPass: passes of every number of rows, of one position or of
// as many, over every number of tiles, from the first key on or behind a window.
// What a row does not see is NaN where it is not another's.
func TestEveryShapeOfPass(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 11))
	for rows := 1; rows <= maxRows+1; rows++ {
		for n := 1; n <= tilesPerPartition+1; n++ {
			dtype := dtypes[(rows+n)%len(dtypes)]
			s := newSequence(r, Layout{1, fit(dtype, 48), 16, dtype}, max(rows, n*Tile-r.IntN(Tile)))
			window := 0
			if r.IntN(2) == 0 {
				window = 1 + r.IntN(s.n)
			}
			checkContract(t, r, s, s.query(r, 1, rows, window))
			checkContract(t, r, s, s.query(r, rows, 1, window))
		}
	}
}

// TestSoftmaxKernels compares the online softmax with its scalar twin, for all
// numbers of rows and tiles, from any tile of the scratch on, with scores whose
// weights vanish, with infinities, and with NaN around them, which must stay there.
func TestSoftmaxKernels(t *testing.T) {
	r := rand.New(rand.NewPCG(12, 12))
	all := kernels(t, Layout{1, 16, 16, tensor.F32})
	for rows := 1; rows <= maxRows; rows++ {
		for n := 1; n <= tilesPerPartition; n++ {
			from := r.IntN(tilesPerPartition - n + 1)
			start := softmaxInput(r, rows, from, n)
			want, states := softmaxOf(all[0], start, from, n, rows)
			for _, k := range all[1:] {
				got, gotStates := softmaxOf(k, start, from, n, rows)
				if !sameBits(got.scores[:], want.scores[:]) {
					t.Fatalf("%v: %d tiles from %d, %d rows: weights differ", k.level, n, from, rows)
				}
				for i := range rows {
					if a := i*alphaStride + from; !sameBits(got.alpha[a:a+n], want.alpha[a:a+n]) {
						t.Fatalf("%v: %d tiles from %d, row %d of %d: alpha %v, want %v", k.level, n, from, i, rows, got.alpha[a:a+n], want.alpha[a:a+n])
					}
					a, b := gotStates[i*k.StateLen():][:k.StateLen()], states[i*k.StateLen():][:k.StateLen()]
					if !sameBits(a[:Tile], b[:Tile]) || *k.maximum(a) != *k.maximum(b) {
						t.Fatalf("%v: %d tiles from %d, row %d of %d: state %v, want %v", k.level, n, from, i, rows, a, b)
					}
				}
			}
		}
	}
}

// softmaxInput is a page of NaN but for n tiles of some rows. Each row's first
// score is finite, as a row sees one that is.
func softmaxInput(r *rand.Rand, rows, from, n int) *page {
	p := new(page)
	for i := range p.scores {
		p.scores[i] = float32(math.NaN())
	}
	special := []float32{minusInf, 0, float32(math.Copysign(0, -1)), -86.5, -87, -87.5, -104, 1e-40, -1e30, 3}
	for i := range rows {
		scores := p.scores[i*scoreStride+from*Tile:][:n*Tile]
		for j := range scores {
			if scores[j] = float32(r.NormFloat64() * 30); j > 0 && r.IntN(4) == 0 {
				scores[j] = special[r.IntN(len(special))]
			}
		}
	}
	return p
}

func softmaxOf(k *Kernel, start *page, from, n, rows int) (page, []float32) {
	p, states := *start, make([]float32, maxRows*k.StateLen())
	k.softmax(states, &p, from, n, 0, rows)
	return p, states
}

// TestMovedIsOneForAll: no count depends on how many rows a pass takes, in which instruction sets differ; tiled attention
// moves no scores.
func TestMovedIsOneForAll(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 13))
	s := newSequence(r, Layout{1, 16, 16, tensor.F32}, 100)
	q := s.query(r, 100, 5, 0) // passes begin within positions and tiles
	for _, q.Full = range []bool{false, true} {
		var want Moved
		for i, k := range kernels(t, s.layout) {
			var scratch Scratch
			k.Attend(make([]float32, 100*q.Stride), q.Stride, s.pool, q, &scratch)
			if i == 0 {
				want = scratch.Moved
			}
			if scratch.Moved != want || want.Total() == 0 || q.Full == (want.Scores == 0) {
				t.Errorf("%v, full %v: moved %+v, the scalar kernel %+v", k.level, q.Full, scratch.Moved, want)
			}
		}
	}
}
