package attention

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"

	"sestina/internal/simd"
	"sestina/tensor"
)

// awkward makes 32-blocks where rounding and scales could differ between kernels.
func awkward(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for g := 0; g < n; g += group {
		scale := float32(math.Pow(10, 60*r.Float64()-42)) // below the least subnormal to beyond float16
		for i := range group {
			switch x[g+i] = float32(r.NormFloat64()) * scale; r.IntN(6) {
			case 0:
				x[g+i] = scale * float32(r.IntN(255)-127) / 2 // between codes
			case 1:
				x[g+i] = float32(math.Copysign(0, r.Float64()-0.5))
			}
		}
		switch i := g + r.IntN(group); r.IntN(8) {
		case 0:
			x[i] = float32(math.NaN())
		case 1:
			x[i] = float32(math.Inf(r.IntN(2)*2 - 1))
		case 2: // a tie of magnitudes
			x[i], x[g+(i+1)%group] = 3*scale, -3*scale
		case 3:
			clear(x[g : g+group])
		}
	}
	return x
}

// TestStoredBytesAreOne: every instruction set stores the same bytes and makes
// the same codes of a query.
func TestStoredBytesAreOne(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 11))
	for _, dtype := range []tensor.DType{tensor.Q8_0, tensor.Q4_0} {
		for range 300 {
			l := Layout{KVHeads: 1, HeadDim: 64, BlockSize: 1 + r.IntN(2)*15, DType: dtype}
			k, v := awkward(r, 64), awkward(r, 64)
			var wantPool []byte
			var want queryBlock
			for _, kernel := range kernels(t, l) {
				restore, err := simd.Use(kernel.level)
				if err != nil {
					t.Fatal(err)
				}
				pool, got := bytes.Repeat([]byte{0xaa}, l.BlockBytes()), queryBlock{}
				l.Store(pool, int32(l.BlockSize-1), 0, k, v)
				kernel.quantiseQuery(&got, (*[group]float32)(k))
				restore()
				if kernel.level == simd.Generic {
					wantPool, want = pool, got
				}
				if !bytes.Equal(pool, wantPool) {
					t.Fatalf("%v %v: stored % x of %v and %v, want % x", dtype, kernel.level, pool, k, v, wantPool)
				}
				if got.codes != want.codes || got.offset != want.offset || math.Float32bits(got.scale) != math.Float32bits(want.scale) {
					t.Fatalf("%v %v: %v becomes %+v, want %+v", dtype, kernel.level, k[:group], got, want)
				}
			}
		}
	}
}

// TestStoreIsTheContract: codes and scales read back from tiles are the oracle's.
func TestStoreIsTheContract(t *testing.T) {
	r := rand.New(rand.NewPCG(12, 12))
	for _, dtype := range []tensor.DType{tensor.Q8_0, tensor.Q4_0} {
		l := Layout{KVHeads: 2, HeadDim: 96, BlockSize: 16, DType: dtype}
		for lane := range Tile {
			pool := make([]byte, l.BlockBytes())
			k, v := make([]float32, 96), make([]float32, 96)
			for d := range k {
				k[d], v[d] = float32(r.NormFloat64()), float32(r.NormFloat64())
			}
			l.Store(pool, int32(lane), 1, k, v)
			keys := pool[l.keyBytes():]
			values := pool[2*l.keyBytes()+l.valueBytes():]
			for d := range k {
				wantK, wantV := rounded(l, k), rounded(l, v)
				if got := float32(l.keyCode(keys, d, lane)); got != wantK.values[d] || l.tileScale(keys, d/32, lane) != wantK.scales[d/32] {
					t.Fatalf("%v: K[%d] of lane %d is %v·%v, want %v·%v", dtype, d, lane, got, l.tileScale(keys, d/32, lane), wantK.values[d], wantK.scales[d/32])
				}
				if got := float32(l.valueCode(values, d, lane)); got != wantV.values[d] || l.tileScale(values, d/32, lane) != wantV.scales[d/32] {
					t.Fatalf("%v: V[%d] of lane %d is %v·%v, want %v·%v", dtype, d, lane, got, l.tileScale(values, d/32, lane), wantV.values[d], wantV.scales[d/32])
				}
			}
		}
	}
}
