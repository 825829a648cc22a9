package ref

import (
	"math"
	"math/rand/v2"
	"testing"

	"sestina/backend"
	"sestina/batch"
	"sestina/tensor"
)

// The oracle itself is compared with the textbook formulas in float64, within
// what float32 rounding allows.

func normals(rng *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

// near compares with a bound relative to the size of what was summed.
func near(t *testing.T, what string, got float32, want, size, tolerance float64) {
	t.Helper()
	if diff := math.Abs(float64(got) - want); !(diff <= tolerance*size) {
		t.Fatalf("%s is %v, want %v (differs by %.2g, allowed %.2g)", what, got, want, diff, tolerance*size)
	}
}

func TestFlashEqualsTextbookSoftmax(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	const context, block = 800, 5
	b := New(backend.Options{})
	for _, d := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.Q8_0, tensor.Q4_0} {
		dim, tolerance := 16, 2e-6
		if d == tensor.Q8_0 || d == tensor.Q4_0 {
			dim, tolerance = 32, 4e-6
		}
		kv, err := b.NewCache(backend.CacheSpec{Layers: []backend.CacheLayer{{KVHeads: 1, HeadDim: dim}},
			Blocks: context / block, BlockSize: block, DType: d})
		if err != nil {
			t.Fatal(err)
		}
		var table []int32
		for _, i := range rng.Perm(context / block) {
			table = append(table, int32(i))
		}
		k := keys{c: kv.(*cache), table: table}
		for pos := range context {
			for which := range 2 {
				k.c.store(0, int(table[pos/block])*block+pos%block, which, 0, normals(rng, dim))
			}
		}
		compared := 0
		for _, pos := range []int{0, 1, 15, 16, 17, 100, 255, 256, 257, 511, 512, 799} {
			for _, lo := range []int{0, 1, 15, 16, 255, 256, 300, 799} {
				if lo > pos {
					continue
				}
				q := normals(rng, dim)
				exact := q // what the scores see
				if k.c.quantised(k.slot) {
					exact = make([]float32, dim)
					for i, e := 0, quantiseQuery(q); i < dim; i++ {
						exact[i] = float32(e.at(i))
					}
				}
				want := textbook(exact, k, lo, pos)
				for i, v := range flash(q, k, lo, pos) {
					near(t, "attention", v, want[i], 1, tolerance)
					compared++
				}
			}
		}
		t.Logf("%v: %d values", d, compared)
	}
}

// TestAttendEqualsTextbookLayer computes a whole layer by its definition: norm,
// rotation, softmax over every visible key, grouped heads.
func TestAttendEqualsTextbookLayer(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	const heads, kvHeads, dim, rows, window, rotated = 4, 2, 8, 40, 21, 4
	b := New(backend.Options{})
	kv, err := b.NewCache(backend.CacheSpec{Layers: []backend.CacheLayer{{KVHeads: kvHeads, HeadDim: dim}}, Blocks: 3, BlockSize: 16, DType: tensor.F32})
	if err != nil {
		t.Fatal(err)
	}
	in := batch.Input{BlockSize: 16, Slots: make([][]int32, 1), Spans: []batch.Span{{Len: rows, BlockTables: [][]int32{{2, 0, 1}}}}}
	cos, sin := make([]float32, 0), make([]float32, 0)
	for pos := range rows {
		in.TokenIDs, in.Positions = append(in.TokenIDs, 0), append(in.Positions, int32(pos))
		in.Slots[0] = append(in.Slots[0], in.Spans[0].BlockTables[0][pos/16]*16+int32(pos%16))
		for k := range rotated / 2 {
			s, c := math.Sincos(float64(pos) * math.Pow(100, -float64(k)/2))
			cos, sin = append(cos, float32(c)), append(sin, float32(s))
		}
	}
	width := (heads + 2*kvHeads) * dim
	qkv := backend.Rows{N: rows, Width: width, Host: normals(rng, rows*width)}
	qNorm, kNorm := normals(rng, dim), normals(rng, dim)
	op := &backend.Attention{Heads: heads, KVHeads: kvHeads, HeadDim: dim, Scale: 0.3, Window: window,
		QNorm: &backend.Norm{Weight: backend.Vector{Host: qNorm}, Eps: 1e-6}, KNorm: &backend.Norm{Weight: backend.Vector{Host: kNorm}, Eps: 1e-6},
		Rotary: &backend.Rotary{Dim: rotated, Cos: backend.Rows{N: rows, Width: rotated / 2, Host: cos}, Sin: backend.Rows{N: rows, Width: rotated / 2, Host: sin}}}
	// head is q or k of a row by the formulas: x·w/rms, then complex rotation.
	head := func(pos, h int, w []float32) []float64 {
		x, ss := make([]float64, dim), 0.0
		for i, v := range qkv.Row(pos)[h*dim : (h+1)*dim] {
			x[i] = float64(v)
			ss += x[i] * x[i]
		}
		for i := range x {
			x[i] *= float64(w[i]) / math.Sqrt(ss/dim+1e-6)
		}
		for k := range rotated / 2 {
			s, c := math.Sincos(float64(pos) * math.Pow(100, -float64(k)/2))
			a, b := x[k], x[k+rotated/2]
			x[k], x[k+rotated/2] = a*c-b*s, a*s+b*c
		}
		return x
	}
	want := make([][]float64, rows)
	for pos := range rows {
		for h := range heads {
			out, sum, q := make([]float64, dim), 0.0, head(pos, h, qNorm)
			for j := max(0, pos-window+1); j <= pos; j++ {
				score := 0.0
				for i, v := range head(j, heads+h/2, kNorm) {
					score += q[i] * v * 0.3
				}
				p := math.Exp(score)
				sum += p
				for i := range out {
					out[i] += p * float64(qkv.Row(j)[(heads+kvHeads+h/2)*dim+i])
				}
			}
			for i := range out {
				want[pos] = append(want[pos], out[i]/sum)
			}
		}
	}
	dst := backend.Rows{N: rows, Width: heads * dim, Host: make([]float32, rows*heads*dim)}
	b.Attend(dst, qkv, &in, kv, op)
	for pos := range rows {
		for i, v := range dst.Row(pos) {
			near(t, "attention", v, want[pos][i], 1, 5e-6)
		}
	}
}

func TestInterleavedRotationIsThePermutedOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	const dim = 8
	angles := backend.Rows{N: 1, Width: dim / 2, Host: normals(rng, dim/2)}
	half := &backend.Rotary{Dim: dim, Cos: angles, Sin: angles}
	pairs := &backend.Rotary{Dim: dim, Interleaved: true, Cos: angles, Sin: angles}
	x := normals(rng, dim)
	y := make([]float32, dim)
	for k := range dim / 2 {
		y[2*k], y[2*k+1] = x[k], x[k+dim/2]
	}
	Rotate(x, half, 0)
	Rotate(y, pairs, 0)
	for k := range dim / 2 {
		if y[2*k] != x[k] || y[2*k+1] != x[k+dim/2] {
			t.Fatalf("pair %d: %v %v, want %v %v", k, y[2*k], y[2*k+1], x[k], x[k+dim/2])
		}
	}
}

func TestLinearEqualsItsDefinition(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	for _, d := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.Q8_0, tensor.Q4_0, tensor.Q4_1, tensor.Q5_0, tensor.Q5_1, tensor.Q4_K, tensor.Q5_K, tensor.Q6_K,
		tensor.Q2_K, tensor.Q3_K, tensor.IQ4_NL, tensor.MXFP4} {
		for _, act := range []backend.ActivationDType{backend.ActivationsAuto, backend.ActivationsF32} {
			tolerance := 3e-6 // of float32 sums
			switch {
			case act == backend.ActivationsAuto && HasIntegerPath(d):
				tolerance = 0.5 / 127 * 2 // of int8 activations: half a step, twice for the steps' own sizes
			case act == backend.ActivationsAuto && d == tensor.BF16:
				tolerance += 0x1p-9 // of bf16 activations
			}
			linearEqualsDefinition(t, rng, New(backend.Options{Activations: act}), d, tolerance)
		}
	}
}

// linearEqualsDefinition checks SiLU(gate)·up of normed rows with biases, and
// the residual sum.
func linearEqualsDefinition(t *testing.T, rng *rand.Rand, b *Backend, d tensor.DType, tolerance float64) {
	const n, cols = 5, 256
	w := []*matrix{randomMatrix(t, rng, b, d, n, cols), randomMatrix(t, rng, b, d, n, cols)}
	bias := []backend.Vector{{Host: normals(rng, n)}, {Host: normals(rng, n)}}
	norm := normals(rng, cols)
	x := backend.Rows{N: 1, Width: cols, Host: normals(rng, cols)}
	y, size := [2][n]float64{}, [2][n]float64{}
	ss := 0.0
	for _, v := range x.Host {
		ss += float64(v) * float64(v)
	}
	for m := range w {
		for r := range n {
			y[m][r] = float64(bias[m].Host[r])
			for k, v := range x.Host {
				p := float64(v) / math.Sqrt(ss/cols+1e-5) * float64(norm[k]) * float64(w[m].values[r*cols+k])
				y[m][r] += p
				size[m][r] += math.Abs(p)
			}
		}
	}
	op := &backend.Linear{Norm: &backend.Norm{Weight: backend.Vector{Host: norm}, Eps: 1e-5}, W: []backend.Matrix{w[0], w[1]}, Bias: bias}
	dst := backend.Rows{N: 1, Width: 2 * n, Host: make([]float32, 2*n)}
	b.Linear(dst, x, op)
	for i, v := range dst.Host {
		near(t, d.String(), v, y[i/n][i%n], size[i/n][i%n]+1, tolerance)
	}
	op.Epilogue = backend.Add
	b.Linear(dst, x, op)
	for i, v := range dst.Host {
		near(t, d.String()+" residual", v, 2*y[i/n][i%n], 2*size[i/n][i%n]+1, tolerance)
	}
	op.Epilogue = backend.SwiGLU
	dst = backend.Rows{N: 1, Width: n, Host: make([]float32, n)}
	b.Linear(dst, x, op)
	for i, v := range dst.Host {
		silu := y[0][i] / (1 + math.Exp(-y[0][i]))
		near(t, d.String()+" SwiGLU", v, silu*y[1][i], (size[0][i]+1)*(size[1][i]+1), 2*tolerance)
	}
}

// randomMatrix encodes random weights, or fills blocks with random bits under small scales.
func randomMatrix(t *testing.T, rng *rand.Rand, b *Backend, d tensor.DType, rows, cols int) *matrix {
	src := backend.Source{Name: d.String(), DType: d, Rows: rows, Cols: cols}
	size, err := src.RowBytes()
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, rows*size)
	if d.CanEncode() {
		if err := tensor.Encode(d, raw, normals(rng, rows*cols)); err != nil {
			t.Fatal(err)
		}
	} else {
		for i := range raw {
			raw[i] = byte(rng.Uint32())
		}
		scales := map[tensor.DType][]int{tensor.Q4_K: {0, 2}, tensor.Q5_K: {0, 2}, tensor.Q6_K: {208},
			tensor.Q2_K: {80, 82}, tensor.Q3_K: {108}, tensor.IQ4_NL: {0}}[d]
		for at := 0; at < len(raw); at += d.BlockBytes() {
			for _, field := range scales {
				raw[at+field], raw[at+field+1] = byte(rng.Uint32()), 0x14 // about 1e-3
			}
			if d == tensor.MXFP4 {
				raw[at] = byte(118 + rng.IntN(4)) // about 2^-8
			}
		}
	}
	src.Read = func(dst []byte, row0, n int) error { copy(dst, raw[row0*size:]); return nil }
	m, err := b.NewMatrix(src)
	if err != nil {
		t.Fatal(err)
	}
	return m.(*matrix)
}

func TestQuantizeIsWithinHalfAStep(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	x := normals(rng, 32*50)
	for i := range 32 {
		x[i], x[32+i] = 0, 1e-31*x[32+i]
	}
	for i, a := range Quantize(x) {
		var sum int32
		for k, q := range a.Q {
			sum += int32(q)
			if i < 2 && q != 0 || q == -128 {
				t.Fatalf("block %d holds %d", i, q)
			}
			if i >= 2 {
				near(t, "dequantised", float32(a.D*float32(q)), float64(x[i*32+k]), float64(a.D), 0.5001)
			}
		}
		if sum != a.Sum || i < 2 && a.D != 0 {
			t.Fatalf("block %d: sum %d, want %d; scale %v", i, a.Sum, sum, a.D)
		}
	}
}

// TestQuantisedCacheIsWithinHalfAStep: what is read is near what was stored, a
// block of zeros is zeros, and what cannot be represented reads as NaN.
func TestQuantisedCacheIsWithinHalfAStep(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	for _, d := range []tensor.DType{tensor.Q8_0, tensor.Q4_0} {
		for range 100 {
			x, e := normals(rng, 64), entry{make([]float32, 64), make([]float32, 2)}
			e.quantise(x, d)
			for i, v := range x {
				step := math.Abs(float64(e.scales[i/32]))
				if d == tensor.Q4_0 && e.values[i] == 7 {
					step *= 2 // codes end at 7, half the range at -8
				}
				if diff := math.Abs(e.at(i) - float64(v)); diff > 0.501*step {
					t.Fatalf("%v: %v reads as %v, more than half of %v off", d, v, e.at(i), step)
				}
			}
		}
		for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(-1)), 1e30} {
			x, e := make([]float32, 64), entry{make([]float32, 64), make([]float32, 2)}
			x[40] = bad
			e.quantise(x, d)
			if e.at(0) != 0 || e.at(33) == e.at(33) {
				t.Errorf("%v: %v beside zeros reads as %v, other 32 as %v", d, bad, e.at(33), e.at(0))
			}
		}
	}
}
