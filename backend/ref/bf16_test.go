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

// TestBF16Orders: sums that show by their last bit what was added to what first; the activations are ones.
func TestBF16Orders(t *testing.T) {
	const big = 1 << 24 // to which 1 is added in vain, but not 2
	at := func(n int, values map[int]float32) []float32 {
		row := make([]float32, n)
		for k, v := range values {
			row[k] = v
		}
		return row
	}
	for name, c := range map[string]struct {
		w             []float32
		pairs, blocks float32
	}{
		"odd columns are a chain of their own":       {[]float32{big, 1, 0, 1}, big, big + 2},
		"even columns are one":                       {[]float32{big, 0, 1, 0, 1, 0}, big, big},
		"columns 30 and 31 are of the first block":   {at(34, map[int]float32{0: big, 30: 1, 31: 1}), big, big},
		"columns 32 and 33 are of the second":        {at(34, map[int]float32{0: big, 32: 1, 33: 1}), big, big + 2},
		"a third block is not added to the second":   {at(66, map[int]float32{0: big, 32: 1, 64: 1}), big, big},
		"a last odd column":                          {at(33, map[int]float32{0: big, 32: 2}), big + 2, big + 2},
		"both sums flush":                            {[]float32{0x1.8p-126, -0x1p-126}, 0, 0},
		"a total flushes":                            {at(34, map[int]float32{0: 0x1.8p-126, 32: -0x1p-126}), 0, 0},
		"what a total has lost does not come back":   {at(66, map[int]float32{0: 0x1.8p-126, 32: -0x1p-126, 64: 0x1p-126}), 0x1p-126, 0x1p-126},
		"a chain flushes before the other one comes": {[]float32{0x1.8p-126, 0x1p-125, -0x1p-126, 0}, 0x1.4p-125, 0x1p-125},
	} {
		x := make([]float32, len(c.w))
		for k := range x {
			x[k] = 1
		}
		if pairs, blocks := dotBF16(c.w, x), dotBF16Blocks(c.w, x); pairs != c.pairs || blocks != c.blocks {
			t.Errorf("%s: %v and %v, want %v and %v", name, pairs, blocks, c.pairs, c.blocks)
		}
	}
}
