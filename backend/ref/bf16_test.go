package ref

import (
	"math"
	"math/rand/v2"
	"testing"

	"sestina/backend"
	"sestina/tensor"
)

// TestBF16EqualsTextbook: rounding activations to bf16 costs at most 2^-9 of each product.
func TestBF16EqualsTextbook(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	const rows = 5
	for _, cols := range []int{1, 2, 7, 96} {
		w, x := normals(rng, rows*cols), normals(rng, cols)
		raw := make([]byte, 2*len(w))
		if err := tensor.Encode(tensor.BF16, raw, w); err != nil {
			t.Fatal(err)
		}
		for _, act := range []backend.ActivationDType{backend.ActivationsAuto, backend.ActivationsF32} {
			m, err := New(backend.Options{Activations: act}).NewMatrix(backend.Source{DType: tensor.BF16, Rows: rows, Cols: cols,
				Read: func(dst []byte, row0, n int) error { copy(dst, raw[2*row0*cols:]); return nil }})
			if err != nil {
				t.Fatal(err)
			}
			tolerance := map[backend.ActivationDType]float64{backend.ActivationsAuto: 0x1p-9, backend.ActivationsF32: 1e-6}[act]
			for r, got := range m.(*matrix).mul(x) {
				want, size := 0.0, 0.0
				for k, v := range x {
					p := float64(tensor.ToBFloat16(w[r*cols+k]).Float32()) * float64(v)
					want, size = want+p, size+math.Abs(p)
				}
				near(t, "a product with BF16 weights", got, want, size, tolerance+1e-6)
			}
		}
	}
}

// TestFlushedFMA: known results at the edge of the normal numbers.
func TestFlushedFMA(t *testing.T) {
	const least = 0x1p-126
	for _, c := range []struct{ x, y, z, want float32 }{
		{1, 1, 1, 2},
		{1, 0x1p-127, 1, 1},      // a subnormal factor is zero
		{1, 1, 0x1p-149, 1},      // and so is a subnormal sum
		{0x1p-64, 0x1p-63, 0, 0}, // a subnormal result too
		{-0x1p-64, 0x1p-63, 0, float32(math.Copysign(0, -1))},
		{0x1p-63, 0x1p-63, 0, least},
		{-0x1p-75, 0x1p-75, least, 0},     // 2^-126 - 2^-150
		{-0x1p-75, 0x1p-76, least, least}, // 2^-126 - 2^-151 ties up to 2^-126
		{-0x1.02p-75, 0x1p-76, least, 0},  // a little less does not
		{0x1p127, 1.5, -0x1p127, 0x1p126},
		{0x1p127, 2, 0, float32(math.Inf(1))},
	} {
		if got := flushedFMA(c.x, c.y, c.z); math.Float32bits(got) != math.Float32bits(c.want) {
			t.Errorf("%v·%v + %v = %v, want %v", c.x, c.y, c.z, got, c.want)
		}
	}
}
