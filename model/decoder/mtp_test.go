package decoder

import (
	"math"
	"math/rand/v2"
	"testing"

	"sestina/backend"
	"sestina/tensor"
)

// TestEightBitsAreNear: each value is off by at most half a step of its 32.
func TestEightBitsAreNear(t *testing.T) {
	const rows, cols = 5, 96
	rng := rand.New(rand.NewPCG(3, 3))
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		values := make([]float32, rows*cols)
		for i := range values {
			values[i] = float32(rng.NormFloat64())
		}
		raw := make([]byte, len(values)*d.BlockBytes())
		if err := tensor.Encode(d, raw, values); err != nil {
			t.Fatal(err)
		}
		size := cols * d.BlockBytes()
		src := inEightBits(backend.Source{Name: "x", DType: d, Rows: rows, Cols: cols, Read: func(dst []byte, row0, n int) error {
			copy(dst, raw[row0*size:(row0+n)*size])
			return nil
		}})
		got, packed := make([]float32, 3*cols), make([]byte, 3*cols/32*tensor.Q8_0.BlockBytes())
		if err := src.Read(packed, 1, 3); err != nil {
			t.Fatal(err)
		}
		if err := tensor.Decode(src.DType, got, packed); err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(got); at += 32 {
			want, top := values[cols+at:][:32], 0.0
			for _, v := range want {
				top = max(top, math.Abs(float64(v)))
			}
			for i, v := range want {
				if off := math.Abs(float64(got[at+i] - v)); off > 0.51*top/127+0.005*top {
					t.Fatalf("%v: value %d is %v, want %v", d, at+i, got[at+i], v)
				}
			}
		}
	}
}
