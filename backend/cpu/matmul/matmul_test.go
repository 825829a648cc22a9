package matmul

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"sestina/tensor"
)

// fixture is one matrix with activations and the oracle's products.
type fixture struct {
	packed *Packed
	m      int
	x      []float32
	act    []byte
	half   []byte             // bf16 activations
	want   map[kind][]float32 // [m][rows]
	blocks []float32          // want[withBF16] in the order of blocks
	raw    []byte
}

// kind is a type of activations.
type kind int

const (
	withF32 kind = iota
	withInt8
	withBF16
	numKinds
)

func (k kind) String() string { return [numKinds]string{"f32", "int8", "bf16"}[k] }

// suits reports whether a format is multiplied by such activations.
func (k kind) suits(dt tensor.DType) bool {
	return k == withF32 || k == withInt8 && dt.Quantized() || k == withBF16 && dt == tensor.BF16
}

const maxRows = 33

func newFixture(t testing.TB, seed uint64, dt tensor.DType, n, k, m int, f fill) *fixture {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, uint64(dt)))
	fx := &fixture{m: m, raw: rawMatrix(rng, dt, n, k, f), x: randomRows(rng, m, k)}
	fx.packed = pack(t, dt, n, k, fx.raw)
	if dt.Quantized() {
		for b := 0; b < len(fx.x); b += 32 {
			fx.act = append(fx.act, oracleQuantize(fx.x[b:b+32])...)
		}
	}
	fx.want = map[kind][]float32{}
	for kind := range numKinds {
		if kind.suits(dt) {
			fx.want[kind] = make([]float32, m*n)
		}
	}
	for i := range m {
		fx.half = append(fx.half, oracleRound(fx.x[i*k:(i+1)*k])...)
	}
	if dt == tensor.BF16 {
		fx.blocks = make([]float32, m*n)
	}
	rowBytes, weights := len(fx.raw)/n, make([]float32, k)
	for j := range n {
		row := fx.raw[j*rowBytes : (j+1)*rowBytes]
		if err := tensor.Decode(dt, weights, row); err != nil {
			t.Fatal(err)
		}
		var blocks []fileBlock
		if dt.Quantized() {
			blocks = fileBlocks(dt, row)
		}
		for i := range m {
			fx.want[withF32][i*n+j] = oracleF32(weights, fx.x[i*k:(i+1)*k])
			switch {
			case dt.Quantized():
				fx.want[withInt8][i*n+j] = oracleInt8(blocks, fx.act[i*ActBytes(k):])
			case dt == tensor.BF16:
				half := fx.half[i*BF16Bytes(k):][:BF16Bytes(k)]
				fx.want[withBF16][i*n+j], fx.blocks[i*n+j] = oracleBF16(row, half), oracleBlocks(row, half)
			}
		}
	}
	return fx
}

// aligned returns n bytes at a multiple of 64, with room for a guard behind.
func aligned(n int) []byte {
	b := make([]byte, n+128)
	for i := range b {
		b[i] = 0xa5
	}
	skip := 0
	for uintptr(unsafe.Pointer(&b[skip]))%64 != 0 {
		skip++
	}
	return b[skip : skip+n]
}

func pack(t testing.TB, dt tensor.DType, n, k int, raw []byte) *Packed {
	t.Helper()
	size, err := PackedSize(dt, n, k)
	if err != nil {
		t.Fatal(err)
	}
	data := aligned(int(size))
	clear(data)
	p, err := New(dt, n, k, data)
	if err != nil {
		t.Fatal(err)
	}
	half := p.Panels() / 2 // in two calls, the later first
	cut := half * PanelRows * p.rowBytes()
	p.Pack(half, raw[cut:])
	p.Pack(0, raw[:cut])
	if guard := data[:len(data)+32][len(data):]; !bytes.Equal(guard, bytes.Repeat([]byte{0xa5}, 32)) {
		t.Fatalf("%v: Pack wrote past the end", dt)
	}
	return p
}

const guardWord = 0x5eed5eed

// product runs a kernel over panels of rows [row0, row0+m) into a guarded buffer and returns [m][16·panels].
func (fx *fixture) product(t testing.TB, k *Kernels, kind kind, row0, m, panel0, panels int) []float32 {
	t.Helper()
	cols := panels * PanelRows
	stride := cols + 3
	buf := make([]float32, 16+m*stride)
	for i := range buf {
		buf[i] = math.Float32frombits(guardWord)
	}
	out := buf[8 : 8+(m-1)*stride+cols]
	kCols := fx.packed.Cols
	switch kind {
	case withInt8:
		act := fx.act[row0*ActBytes(kCols):][:m*ActBytes(kCols)]
		k.MulInt8(out, stride, fx.packed, panel0, panels, act, m)
	case withBF16:
		act := fx.half[row0*BF16Bytes(kCols):][:m*BF16Bytes(kCols)]
		k.MulBF16(out, stride, fx.packed, panel0, panels, act, m)
	default:
		k.MulF32(out, stride, fx.packed, panel0, panels, fx.x[row0*kCols:], kCols, m, make([]float32, fx.packed.ScratchLen()))
	}
	var got []float32
	for i := range buf {
		at := i - 8
		if at >= 0 && at < m*stride && at%stride < cols {
			got = append(got, buf[i])
		} else if math.Float32bits(buf[i]) != guardWord {
			t.Fatalf("%v %v m=%d: wrote outside the output, at %d", k.ISA, fx.packed.DType, m, at)
		}
	}
	return got
}

// check compares a product with the oracle's.
func (fx *fixture) check(t testing.TB, k *Kernels, kind kind, row0, m, panel0, panels int) {
	t.Helper()
	want := fx.want[kind]
	if kind == withBF16 && k.BF16InBlocks() {
		want = fx.blocks
	}
	for i, got := range fx.product(t, k, kind, row0, m, panel0, panels) {
		row, col := row0+i/(panels*PanelRows), panel0*PanelRows+i%(panels*PanelRows)
		expected := float32(0)
		if col < fx.packed.Rows {
			expected = want[row*fx.packed.Rows+col]
		}
		if !same(got, expected) {
			t.Fatalf("%v %v %dx%d with %v rows %d+%d: output [%d][%d] = %v (%#x), the oracle says %v (%#x)",
				k.ISA, fx.packed.DType, fx.packed.Rows, fx.packed.Cols, kind, row0, m, row, col,
				got, math.Float32bits(got), expected, math.Float32bits(expected))
		}
	}
}

// each runs f for every instruction set and activation type that a format has here.
func each(t *testing.T, dt tensor.DType, f func(t *testing.T, k *Kernels, kind kind)) {
	for _, isa := range Supported() {
		k, err := For(isa)
		if err != nil {
			t.Fatal(err)
		}
		for kind := range numKinds {
			if kind.suits(dt) {
				t.Run(fmt.Sprintf("%v/%v", isa, kind), func(t *testing.T) { f(t, k, kind) })
			}
		}
	}
}

func columns(dt tensor.DType) []int {
	switch dt.BlockSize() {
	case 256:
		return []int{256, 768}
	case 32:
		return []int{32, 96, 576}
	}
	return []int{1, 33, 200}
}

// TestKernelsMatchOracle: every instruction set, format, number of rows and shape, bit by bit, with guard words.
func TestKernelsMatchOracle(t *testing.T) {
	for _, dt := range DTypes() {
		t.Run(dt.String(), func(t *testing.T) {
			for _, k := range columns(dt) {
				for _, n := range []int{1, 16, 83} {
					fx := newFixture(t, uint64(n), dt, n, k, maxRows, ordinary)
					each(t, dt, func(t *testing.T, kernels *Kernels, kind kind) {
						for m := 1; m <= 17; m++ {
							fx.check(t, kernels, kind, 0, m, 0, fx.packed.Panels())
						}
						fx.check(t, kernels, kind, 0, maxRows, 0, fx.packed.Panels())
					})
				}
			}
		})
	}
}

// TestPlaceDoesNotMatter: a row's result is the same for any neighbours, tile and split into panels.
func TestPlaceDoesNotMatter(t *testing.T) {
	for _, dt := range DTypes() {
		t.Run(dt.String(), func(t *testing.T) {
			fx := newFixture(t, 7, dt, 100, 256, maxRows, ordinary)
			each(t, dt, func(t *testing.T, kernels *Kernels, kind kind) {
				for row0 := 0; row0 < 20; row0 += 3 {
					for _, m := range []int{1, 2, 5, 9} {
						for panel0 := 0; panel0 < fx.packed.Panels(); panel0 += 2 {
							fx.check(t, kernels, kind, row0, m, panel0, min(1+row0%5, fx.packed.Panels()-panel0))
						}
					}
				}
			})
		})
	}
}

// TestChunksJoin: a matrix of more weights than one assembly call takes.
func TestChunksJoin(t *testing.T) {
	for _, dt := range []tensor.DType{tensor.Q4_0, tensor.F16, tensor.BF16} {
		fx := newFixture(t, 3, dt, 1200, 768, 5, ordinary)
		if panelsPerCall(fx.packed.panelBytes) >= fx.packed.Panels() {
			t.Fatalf("%v: the matrix fits one call", dt)
		}
		each(t, dt, func(t *testing.T, kernels *Kernels, kind kind) {
			if kernels.ISA != Generic { // it has no chunks
				fx.check(t, kernels, kind, 0, 5, 0, fx.packed.Panels())
			}
		})
	}
}

// TestExtremes: quants at both ends against activations at ±127, where 16-bit sums would saturate, and scales that are
// infinite, NaN, subnormal or zero.
func TestExtremes(t *testing.T) {
	for _, dt := range DTypes() {
		for _, f := range []fill{ones, zeros, strange} {
			t.Run(fmt.Sprint(dt, "/", f), func(t *testing.T) {
				fx := newFixture(t, 11, dt, 40, 512, 9, f)
				each(t, dt, func(t *testing.T, kernels *Kernels, kind kind) {
					for m := 1; m <= 9; m++ {
						fx.check(t, kernels, kind, 0, m, 0, fx.packed.Panels())
					}
				})
			})
		}
	}
}

// TestWrongOrderIsSeen: a sum over k kept in two halves differs from the contract's in some output, so the comparisons
// above would notice a kernel that does so.
func TestWrongOrderIsSeen(t *testing.T) {
	fx := newFixture(t, 5, tensor.Q4_0, 64, 576, 1, ordinary)
	rowBytes, differ := fx.packed.rowBytes(), 0
	for j := range 64 {
		blocks := fileBlocks(tensor.Q4_0, fx.raw[j*rowBytes:(j+1)*rowBytes])
		half := len(blocks) / 2
		split := oracleInt8(blocks[:half], fx.act) + oracleInt8(blocks[half:], fx.act[half*ActBlock:])
		if !same(split, fx.want[withInt8][j]) {
			differ++
		}
	}
	if differ == 0 {
		t.Fatal("a sum in two halves has the same bits everywhere: the comparison proves nothing")
	}
}

// TestRow: the gather gives tensor.Decode's values.
func TestRow(t *testing.T) {
	for _, dt := range DTypes() {
		for f := range numFills {
			rng := rand.New(rand.NewPCG(uint64(f), 9))
			const n, k = 35, 512
			raw := rawMatrix(rng, dt, n, k, f)
			p := pack(t, dt, n, k, raw)
			want, got := make([]float32, n*k), make([]float32, k)
			if err := tensor.Decode(dt, want, raw); err != nil {
				t.Fatal(err)
			}
			for i := range n {
				p.Row(i, got)
				for j, v := range got {
					if !same(v, want[i*k+j]) {
						t.Fatalf("%v row %d column %d: %v, Decode says %v", dt, i, j, v, want[i*k+j])
					}
				}
			}
		}
	}
}

// TestQuantize: blocks of every magnitude, ties, zeros, subnormals and values that are not finite.
func TestQuantize(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	blocks := [][]float32{{}, {1e-30}, {0.99e-30}, {1e-44}, {inf}, {-inf, 1}, {nan, 5}, {nan, inf}, {127, 0.5, 1.5, -0.5, -2.5}, {math.MaxFloat32}}
	for e := -100; e < 127; e++ {
		b := make([]float32, 32)
		for i := range b {
			b[i] = float32(math.Ldexp(rng.NormFloat64(), e))
		}
		blocks = append(blocks, b)
	}
	var x []float32
	var want []byte
	for _, b := range blocks {
		b = append(b, make([]float32, 32-len(b))...)
		x, want = append(x, b...), append(want, oracleQuantize(b)...)
	}
	for _, isa := range Supported() {
		k, _ := For(isa)
		got := bytes.Repeat([]byte{0xa5}, len(want)+ActBlock)
		k.QuantizeRow(got[:len(want)], x)
		if !bytes.Equal(got[len(want):], bytes.Repeat([]byte{0xa5}, ActBlock)) {
			t.Fatalf("%v: wrote past the end", isa)
		}
		for i := range blocks {
			g, w := got[i*ActBlock:][:ActBlock], want[i*ActBlock:][:ActBlock]
			if bothNaN(g[32:], w[32:]) && bothNaN(g[36:], w[36:]) { // any NaN will do
				copy(g[32:40], w[32:40])
			}
			if !bytes.Equal(g, w) {
				t.Errorf("%v block %v:\n got %v\nwant %v", isa, x[i*32:(i+1)*32], g, w)
			}
		}
	}
}

func bothNaN(a, b []byte) bool {
	x, y := math.Float32frombits(le.Uint32(a)), math.Float32frombits(le.Uint32(b))
	return x != x && y != y
}

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		dt      tensor.DType
		n, k    int
		percent float64 // of the file; 0: refused
	}{
		{tensor.Q4_0, 64, 576, 100}, {tensor.Q4_1, 64, 32, 100}, {tensor.Q5_0, 64, 96, 100}, {tensor.Q5_1, 64, 96, 100},
		{tensor.Q8_0, 64, 576, 100}, {tensor.Q6_K, 64, 512, 100}, {tensor.Q4_K, 64, 256, 103}, {tensor.Q5_K, 64, 256, 103},
		{tensor.Q2_K, 64, 512, 100}, {tensor.Q3_K, 64, 256, 104}, {tensor.IQ4_NL, 64, 96, 100}, {tensor.MXFP4, 64, 96, 100},
		{tensor.F32, 64, 7, 100}, {tensor.F16, 64, 7, 100}, {tensor.BF16, 64, 8, 100}, {tensor.BF16, 64, 7, 115},
		{tensor.Q4_0, 64, 40, 0}, {tensor.Q4_K, 64, 128, 0}, {tensor.IQ4_XS, 64, 256, 0}, {tensor.F16, 0, 8, 0}, {tensor.F16, 8, -8, 0},
		{tensor.F32, math.MaxInt, math.MaxInt, 0},
	} {
		size, err := PackedSize(c.dt, c.n, c.k)
		if (err != nil) != (c.percent == 0) {
			t.Errorf("%v %dx%d: %d bytes, error %v", c.dt, c.n, c.k, size, err)
		}
		if err == nil {
			file, _ := c.dt.Bytes(tensor.Shape{c.n, c.k})
			if p := 100 * float64(size) / float64(file); p > c.percent || p < 100 {
				t.Errorf("%v: %.2f %% of the file", c.dt, p)
			}
		}
	}
	if _, err := New(tensor.F32, 4, 4, make([]byte, 4)); err == nil {
		t.Error("New took too little memory")
	}
}

// FuzzShapes: any shape, any part of the rows and panels.
func FuzzShapes(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(40), uint8(2), uint8(5), uint8(1), uint8(0), uint8(2))
	f.Add(uint64(2), uint8(8), uint8(17), uint8(1), uint8(9), uint8(0), uint8(1), uint8(1))
	f.Fuzz(func(t *testing.T, seed uint64, format, n, groups, m, row0, panel0, filled uint8) {
		dt := DTypes()[int(format)%len(DTypes())]
		rows, cols := 1+int(n)%100, (1+int(groups)%6)*dt.BlockSize()
		m, row0 = 1+m%60, row0%8
		fx := newFixture(t, seed, dt, rows, cols, int(m+row0), fill(filled)%numFills)
		first := int(panel0) % fx.packed.Panels()
		for _, isa := range Supported() {
			k, _ := For(isa)
			for kind := range numKinds {
				if kind.suits(dt) {
					fx.check(t, k, kind, int(row0), int(m), first, fx.packed.Panels()-first)
				}
			}
		}
	})
}
