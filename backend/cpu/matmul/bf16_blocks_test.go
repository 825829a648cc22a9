package matmul

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"sestina/tensor"
)

// blockSum adds a block to the sums of a row: addBlock, or what a wrong kernel does.
type blockSum func(acc *[PanelRows]float32, w, x []byte)

// scalarMul does what the tiles do, in Go: so many groups of 16 rows and panels at a time, reading no byte more.
func scalarMul(groups, wide int, add blockSum) blockMul {
	return func(out *float32, outStride int, w *byte, panelBytes, panels, steps int, x *byte, xStride, rows, pairs, piece, ahead, more int) {
		switch {
		case panels%wide != 0 || panels == 0 || steps < 1 || piece < 1 || groups == 2 && ahead < 1:
			panic(fmt.Sprintf("%d panels by %ds, %d steps by %ds, %d ahead", panels, wide, steps, piece, ahead))
		case groups == 1 && (rows < 1 || rows > tileRows), groups == 2 && rows != wideRows && (rows <= tileRows || rows > wideRows && rows%wideRows != 0):
			panic(fmt.Sprintf("%d rows by %ds", rows, groups*tileRows))
		case pairs < 1 || pairs > blockPairs || pairs < blockPairs && steps != 1:
			panic(fmt.Sprintf("%d blocks of %d pairs", steps, pairs))
		}
		for p := range panels {
			for done := 0; done < steps; done += piece {
				for i := range rows {
					acc := (*[PanelRows]float32)(unsafe.Add(unsafe.Pointer(out), i*outStride+4*p*PanelRows))
					if more == 0 && done == 0 {
						clear(acc[:])
					}
					for s := done; s < min(done+piece, steps); s++ {
						a := (*byte)(unsafe.Add(unsafe.Pointer(x), i*xStride+s*lineBytes))
						b := (*byte)(unsafe.Add(unsafe.Pointer(w), p*panelBytes+s*blockBytes))
						add(acc, unsafe.Slice(b, pairs*lineBytes), unsafe.Slice(a, 4*pairs))
					}
				}
			}
		}
	}
}

func scalarKernels(piece int, add blockSum) *blockKernels {
	return &blockKernels{wide: scalarMul(2, 2, add), narrow: scalarMul(2, 1, add), few: scalarMul(1, 1, add), piece: piece}
}

// scalarBlocks is the pure Go set with scalar blocks in it.
func scalarBlocks(piece int) *Kernels {
	k := *genericKernels
	k.blocks = scalarKernels(piece, addBlock)
	return &k
}

// withBlocks runs f for scalar blocks and for every instruction set here that has kernels for blocks.
func withBlocks(t *testing.T, f func(t *testing.T, k *Kernels)) {
	t.Run("scalar", func(t *testing.T) { f(t, scalarBlocks(2)) })
	for _, isa := range Supported() {
		if k, _ := For(isa); k.BF16InBlocks() {
			t.Run(isa.String(), func(t *testing.T) { f(t, k) })
		}
	}
}

// TestBlocksMatchOracle: rows around the edges of tiles and calls, columns around those of blocks, pieces and slabs, panels
// even and odd in number; and any row among other neighbours.
func TestBlocksMatchOracle(t *testing.T) {
	const most = rowsPerCall + 49
	withBlocks(t, func(t *testing.T, k *Kernels) {
		for _, s := range [][2]int{{83, 1}, {16, 2}, {33, 31}, {83, 32}, {48, 33}, {100, 95}, {83, 321}, {40, 608}, {17, 2100}} {
			fx := newFixture(t, uint64(s[1]), tensor.BF16, s[0], s[1], most, ordinary)
			panels := fx.packed.Panels()
			for _, m := range []int{1, 2, 3, 8, 15, 16, 17, 18, 31, 32, 33, 48, 49, 63, 64, 65, 96, 127, 128, 129, 144, 160, most} {
				if s[1] > 1000 && m != rowsPerCall { // two slabs
					continue
				}
				fx.check(t, k, withBF16, 0, m, 0, panels)
				fx.check(t, k, withBF16, most-m, m, panels/2, panels-panels/2)
			}
		}
	})
}

// TestBlocksExtremes: infinities, NaNs and subnormal numbers among the weights, pairs of every kind of awkward factor.
func TestBlocksExtremes(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	pick := func() uint32 { return uint32(awkward[rng.IntN(len(awkward))]) }
	withBlocks(t, func(t *testing.T, k *Kernels) {
		newFixture(t, 11, tensor.BF16, 40, 75, 35, strange).check(t, k, withBF16, 0, 35, 0, 3)
		special, finite := 0, 0
		for range 3000 {
			weights, x, row := make([]uint32, 1+rng.IntN(24)), []byte(nil), []byte(nil)
			for i := range weights {
				weights[i] = pick()<<16 | pick()
				v := pick()<<16 | pick()
				if rng.IntN(8) != 0 { // about 2^-126
					weights[i], v = 0x1f801f80^rng.Uint32()&0x80ff80ff, 0x20002000^rng.Uint32()&0x81ff81ff
				}
				x, row = le.AppendUint32(x, v), le.AppendUint32(row, weights[i])
			}
			want := oracleBlocks(row, x)
			if finite++; want != want || want == 0 || math.IsInf(float64(want), 0) {
				special++
			}
			var out [PanelRows]float32
			k.MulBF16(out[:], 0, pairMatrix(t, weights), 0, 1, x, 1)
			for _, got := range out {
				if !same(got, want) {
					t.Fatalf("%#x · %x = %v (%#x), want %v (%#x)", weights, x, got, math.Float32bits(got), want, math.Float32bits(want))
				}
			}
		}
		if special < 300 || special > finite-300 {
			t.Errorf("%d of %d sums are zero, infinite or no number: too few of a kind to show anything", special, finite)
		}
	})
}

// TestBlocksFlushBoundary: which results are too small is decided after rounding, as for the FMAs of the other order.
func TestBlocksFlushBoundary(t *testing.T) {
	bf16 := func(f float32) uint32 { return math.Float32bits(f) >> 16 }
	withBlocks(t, func(t *testing.T, k *Kernels) {
		for _, c := range []struct {
			small float64
			want  float32
		}{{0x1p-149, 0}, {0x1p-150, 0}, {0x1.02p-151, 0}, {0x1p-151, 0x1p-126}, {0x1p-160, 0x1p-126}, {0, 0x1p-126}} {
			for _, sign := range []float32{1, -1} {
				// two even columns: 2^-60·2^-66, then -2^-60·(small·2^60)
				w := pairMatrix(t, []uint32{bf16(0x1p-60), bf16(0x1p-60)})
				x := le.AppendUint32(le.AppendUint32(nil, bf16(sign*0x1p-66)), bf16(-sign*float32(c.small*0x1p60)))
				var out [PanelRows]float32
				k.MulBF16(out[:], 0, w, 0, 1, x, 1)
				if out[3] != sign*c.want {
					t.Errorf("%v·2^-126 less %v is %v, want %v", sign, c.small, out[3], c.want)
				}
			}
		}
	})
}

// recorded is a call of a kernel.
type recorded struct {
	kernel                                       string
	row, rows, panel, panels, block, steps, pair int
	piece, ahead, more                           int
}

// TestBlockCalls: which kernel gets what, that every column of every row and panel comes once and in order, and that no call
// multiplies for long.
func TestBlockCalls(t *testing.T) {
	var calls []recorded
	var base recorded // addresses, as numbers
	var w *Packed
	record := func(name string) blockMul {
		return func(out *float32, outStride int, weights *byte, panelBytes, panels, steps int, x *byte, xStride, rows, pairs, piece, ahead, more int) {
			at := int(uintptr(unsafe.Pointer(weights)) - uintptr(unsafe.Pointer(&w.data[0])))
			c := recorded{name, (int(uintptr(unsafe.Pointer(x))) - base.row) / xStride, rows, at / panelBytes, panels, at % panelBytes / blockBytes, steps, pairs, piece, ahead, more}
			if o := (int(uintptr(unsafe.Pointer(out))) - base.panel) / 4; o != c.row*outStride/4+c.panel*PanelRows {
				t.Fatalf("%+v writes to %d", c, o)
			}
			calls = append(calls, c)
		}
	}
	b := &blockKernels{wide: record("wide"), narrow: record("narrow"), few: record("few"), piece: blockPiece}
	for _, s := range []struct {
		n, cols, m int
		want       []recorded // nil: any
	}{
		{48, 70, 1, []recorded{{"few", 0, 1, 0, 3, 0, 2, 16, 2, 0, 0}, {"few", 0, 1, 0, 3, 2, 1, 3, 1, 0, 1}}},
		{48, 5, 16, []recorded{{"few", 0, 16, 0, 3, 0, 1, 3, 1, 0, 0}}},
		{48, 576, 17, []recorded{{"wide", 0, 17, 0, 2, 0, 18, 16, 9, 8, 0}, {"narrow", 0, 17, 2, 1, 0, 18, 16, 9, 8, 0}}},
		{32, 320, 65, []recorded{{"wide", 0, 64, 0, 2, 0, 10, 16, 5, 4, 0}, {"few", 64, 1, 0, 2, 0, 10, 16, 10, 0, 0}}},
		{32, 4096, 160, []recorded{{"wide", 0, 128, 0, 2, 0, 64, 16, 8, 2, 0}, {"wide", 0, 128, 0, 2, 64, 64, 16, 8, 2, 1},
			{"wide", 128, 32, 0, 2, 0, 128, 16, 9, 8, 0}}},
		{400, 576, 300, nil}, {48, 14336, 1, nil}, {48, 14336, 128, nil}, {64, 33, 95, nil}, {400, 8192, 31, nil}, {16, 1 << 17, 1, nil}, {16, 1 << 17, 128, nil},
	} {
		calls, w = nil, pack(t, tensor.BF16, s.n, s.cols, make([]byte, 2*s.n*s.cols))
		act, out, cols := make([]byte, s.m*BF16Bytes(s.cols)), make([]float32, s.m*w.Panels()*PanelRows), w.Panels()*PanelRows
		base = recorded{row: int(uintptr(unsafe.Pointer(&act[0]))), panel: int(uintptr(unsafe.Pointer(&out[0])))}
		b.mul(out, cols, w, w.data, act, s.m)
		if s.want != nil && !slices.Equal(calls, s.want) {
			t.Errorf("%d × %d by %d rows:\n got %v\nwant %v", s.n, s.cols, s.m, calls, s.want)
		}
		reached := make([]int, s.m*w.Panels()) // pairs of columns so far
		for _, c := range calls {
			if pairs := c.rows * c.panels * PanelRows * c.steps * blockPairs; pairs > 1<<24 {
				t.Errorf("%d × %d by %d rows: %+v is %d pairs", s.n, s.cols, s.m, c, pairs)
			}
			if bytes := c.panels * c.steps * blockBytes; bytes > 2*chunkBytes {
				t.Errorf("%d × %d by %d rows: %+v reads %d bytes", s.n, s.cols, s.m, c, bytes)
			}
			for row := range c.rows {
				for p := range c.panels {
					r := &reached[(c.row+row)*w.Panels()+c.panel+p]
					if *r != c.block*blockPairs || (*r > 0) != (c.more != 0) {
						t.Fatalf("%d × %d by %d rows: %+v comes after %d pairs", s.n, s.cols, s.m, c, *r)
					}
					*r += (c.steps-1)*blockPairs + c.pair
				}
			}
		}
		if slices.Min(reached) != w.groups() || slices.Max(reached) != w.groups() {
			t.Errorf("%d × %d by %d rows: %d to %d pairs of %d", s.n, s.cols, s.m, slices.Min(reached), slices.Max(reached), w.groups())
		}
	}
}

// TestBlocksSelfTest: kernels that add in another order, keep subnormal numbers or lose a part are refused.
func TestBlocksSelfTest(t *testing.T) {
	withBlocks(t, func(t *testing.T, k *Kernels) {
		if !blocksAgree(k.blocks) {
			t.Error("its own kernels are refused")
		}
	})
	upper := func(b []byte) float32 { return math.Float32frombits(le.Uint32(b) &^ 0xffff) }
	lower := func(b []byte) float32 { return math.Float32frombits(le.Uint32(b) << 16) }
	chains := func(w, x []byte, lane int, fma func(x, y, z float32) float32) (even, odd float32) {
		for ; len(x) > 0; w, x = w[lineBytes:], x[4:] {
			even, odd = fma(lower(w[4*lane:]), lower(x), even), fma(upper(w[4*lane:]), upper(x), odd)
		}
		return even, odd
	}
	each := func(f func(acc float32, w, x []byte, lane int) float32) blockSum {
		return func(acc *[PanelRows]float32, w, x []byte) {
			for lane := range acc {
				acc[lane] = f(acc[lane], w, x, lane)
			}
		}
	}
	for name, add := range map[string]blockSum{
		"right": each(func(acc float32, w, x []byte, lane int) float32 {
			even, odd := chains(w, x, lane, oracleFMA)
			return oracleFMA(1, acc, oracleFMA(1, even, odd))
		}),
		"the order of pairs": each(func(acc float32, w, x []byte, lane int) float32 {
			for ; len(x) > 0; w, x = w[lineBytes:], x[4:] {
				acc = dotPair(le.Uint32(w[4*lane:]), le.Uint32(x), acc)
			}
			return acc
		}),
		"even sums first": each(func(acc float32, w, x []byte, lane int) float32 {
			even, odd := chains(w, x, lane, fmaFlush)
			return addFlush(addFlush(acc, even), odd)
		}),
		"products rounded": each(func(acc float32, w, x []byte, lane int) float32 {
			even, odd := chains(w, x, lane, func(x, y, z float32) float32 { return addFlush(flush(flush(x)*flush(y)), z) })
			return addFlush(acc, addFlush(even, odd))
		}),
		"subnormal numbers kept": each(func(acc float32, w, x []byte, lane int) float32 {
			even, odd := chains(w, x, lane, func(x, y, z float32) float32 { return float32(math.FMA(float64(x), float64(y), float64(z))) })
			return acc + (even + odd)
		}),
		"subnormal factors kept": each(func(acc float32, w, x []byte, lane int) float32 {
			even, odd := chains(w, x, lane, func(x, y, z float32) float32 { return flush(float32(math.FMA(float64(x), float64(y), float64(z)))) })
			return addFlush(acc, addFlush(even, odd))
		}),
		"subnormal sums kept": each(func(acc float32, w, x []byte, lane int) float32 {
			even, odd := chains(w, x, lane, fmaFlush)
			return acc + (even + odd)
		}),
		"the end of a panel forgotten": func(acc *[PanelRows]float32, w, x []byte) {
			if len(x) == lineBytes {
				addBlock(acc, w, x)
			}
		},
	} {
		if got := blocksAgree(scalarKernels(1, add)); got != (name == "right") {
			t.Errorf("%s: agrees %v", name, got)
		}
	}
	right := scalarKernels(1, addBlock)
	for name, b := range map[string]*blockKernels{
		"wide":   {scalarMul(2, 2, blockSum(func(*[PanelRows]float32, []byte, []byte) {})), right.narrow, right.few, 1},
		"narrow": {right.wide, scalarMul(2, 1, blockSum(func(*[PanelRows]float32, []byte, []byte) {})), right.few, 1},
		"few":    {right.wide, right.narrow, scalarMul(1, 1, blockSum(func(*[PanelRows]float32, []byte, []byte) {})), 1},
	} {
		if blocksAgree(b) {
			t.Errorf("%s kernels are not looked at", name)
		}
	}
}

// TestWrongBlocksAreSeen: sums of the other order, and of blocks half as long, differ from the oracle's, so the comparisons
// above would notice a kernel that makes them.
func TestWrongBlocksAreSeen(t *testing.T) {
	fx := newFixture(t, 31, tensor.BF16, 64, 576, 1, ordinary)
	pairs, short := 0, 0
	for j := range 64 {
		row, halves := fx.raw[j*2*576:][:2*576], float32(0)
		for at := 0; at < len(row); at += lineBytes / 2 {
			halves = addFlush(halves, oracleBlocks(row[at:at+lineBytes/2], fx.half[at:at+lineBytes/2]))
		}
		if !same(fx.want[withBF16][j], fx.blocks[j]) {
			pairs++
		}
		if !same(halves, fx.blocks[j]) {
			short++
		}
	}
	if pairs < 8 || short < 8 {
		t.Errorf("of 64 sums %d depend on the order of pairs and %d on the length of a block: too few to show anything", pairs, short)
	}
}
