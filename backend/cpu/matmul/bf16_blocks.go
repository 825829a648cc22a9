package matmul

import (
	"math"

	"sestina/tensor"
)

// BF16 weights × bf16 activations, 32 columns at a time: the arithmetic of TDPBF16PS (Intel SDM, volume 2).
//
//	acc = +0; for every 32 columns from 0 on, the last of them maybe fewer:
//	  even = odd = +0; for k = 0, 2, 4, …: even = fma'(w[k], x[k], even), odd = fma'(w[k+1], x[k+1], odd)
//	  acc = acc +' (even +' odd)
//
// fma' is that of bf16.go, +' flushes likewise; x is rounded, and a row of odd length continued by a zero, as there. On
// processors with tiles the instruction is some 17 times as fast as VDPBF16PS, whose order this is not: sums differ in
// their last bits. So a family has one order for all rows (backend/ref has both), and here one instruction serves every
// number of rows, from 1 on. With few rows a tile of weights, 1 KiB, still takes less time than memory does to bring it.
//
// A panel is a pile of the instruction's right operands: 16 pairs of columns by 16 weight rows, 1 KiB, one after another.
// The left operand is 16 rows of activations as they are, 64 bytes of each. Three kernels share the work:
//
//	wide    32 rows × 2 panels: four products of two tiles by two, so that a tile is loaded for two products
//	narrow  32 rows × 1 panel: what is left of an odd number of panels
//	few     up to 16 rows × 1 panel: weights are read once, front to back, and asked for 4 KiB ahead
//
// Tiles take the shape of what there is: fewer rows, or fewer pairs at the end of a panel. So nothing is padded, and no
// memory beyond the operands is read: a zero times a stale NaN would be a NaN.
//
// With many rows the weights of a piece (288 columns of two panels, 18 KiB) stay in the first-level cache while all
// rows pass, and the activations of a slab in the second-level cache while all panels do. A sum that is continued later
// waits in the output: float32 as it is in the tile, so where columns are cut at a multiple of 32 no bit depends on it.
const (
	blockCols  = 32
	blockPairs = blockCols / 2
	blockBytes = blockPairs * lineBytes // of a panel
	tileRows   = 16
	wideRows   = 2 * tileRows

	blockPiece = 9         // blocks
	slabBytes  = 512 << 10 // of activations
	slabBlocks = 256       // at most, so that a call for few rows is short

	aheadLines = 4 // that a unit of blockCall.ahead asks for
)

// blockMul multiplies rows × panels of 16, of which the rows are at most 16 (few), 17 to 32, or a multiple of 32, and the
// panels even in number (wide). It takes steps blocks of pairs pairs, of which only a last one has fewer than 16, in pieces of
// so many steps. With more != 0 it adds to out. While it computes a step it asks for ahead·4 lines of the panels after the
// next. Strides are in bytes.
type blockMul func(out *float32, outStride int, w *byte, panelBytes, panels, steps int, x *byte, xStride, rows, pairs, piece, ahead, more int)

// blockKernels are the kernels of one instruction set and the blocks of a piece.
type blockKernels struct {
	wide, narrow, few blockMul
	piece             int
}

// BF16InBlocks reports whether BF16 products with bf16 activations are added 32 columns at a time, in TDPBF16PS's order and
// not in VDPBF16PS's.
func (k *Kernels) BF16InBlocks() bool { return k.blocks != nil }

// WhyNoBlocks says why a processor's tiles are used, but not for BF16; nil where they are, or where there are none.
func WhyNoBlocks() error { return whyNoBlocks() }

// mul multiplies m rows by panels of weights.
func (b *blockKernels) mul(out []float32, outStride int, w *Packed, weights, act []byte, m int) {
	stride := BF16Bytes(w.Cols)
	most := max(2, panelsPerCall(w.panelBytes)&^1)
	for panels := 0; len(weights) > 0; weights, out = weights[panels*w.panelBytes:], out[min(panels*PanelRows, len(out)):] {
		panels = min(most, len(weights)/w.panelBytes)
		for row, n := 0, 0; row < m; row += n {
			n = blockRows(m - row)
			c := blockCall{out[row*outStride:], outStride, weights, w.panelBytes, panels, act[row*stride:], stride, n}
			b.columns(&c, w.Cols)
		}
	}
}

// blockRows is how many of the rows that are left go together: whole 32s first.
func blockRows(left int) int {
	if left > wideRows {
		return min(left&^(wideRows-1), rowsPerCall)
	}
	return left
}

// blockCall is some rows times some panels.
type blockCall struct {
	out        []float32
	outStride  int
	w          []byte
	panelBytes int
	panels     int
	x          []byte
	xStride    int
	rows       int
}

// columns takes all columns: slabs of whole blocks, then what is left of a block.
func (b *blockKernels) columns(c *blockCall, cols int) {
	blocks := cols / blockCols
	slab := equalParts(blocks, min(slabBlocks, slabBytes/lineBytes/c.rows))
	for from := 0; from < blocks; from += slab {
		b.call(c, from, min(slab, blocks-from), blockPairs)
	}
	if pairs := (cols%blockCols + 1) / 2; pairs > 0 {
		b.call(c, blocks, 1, pairs)
	}
}

// call multiplies steps blocks of pairs, from block from on.
func (b *blockKernels) call(c *blockCall, from, steps, pairs int) {
	piece, ahead, more := equalParts(steps, b.piece), 0, min(from, 1)
	run := func(mul blockMul, panel, panels int) {
		mul(&c.out[panel*PanelRows], 4*c.outStride, &c.w[panel*c.panelBytes+from*blockBytes], c.panelBytes, panels, steps,
			&c.x[from*lineBytes], c.xStride, c.rows, pairs, piece, ahead, more)
	}
	if c.rows <= tileRows {
		piece = steps
		run(b.few, 0, c.panels)
		return
	}
	groups := (c.rows + wideRows - 1) / wideRows // each asks for its share of the next two panels
	ahead = (2*blockPairs/aheadLines + groups - 1) / groups
	if even := c.panels &^ 1; even > 0 {
		run(b.wide, 0, even)
	}
	if c.panels%2 != 0 {
		run(b.narrow, c.panels-1, 1)
	}
}

// equalParts is the length of the parts that n is cut into: as few as can be, none above most, the last maybe shorter.
func equalParts(n, most int) int {
	parts := max(1, (n+most-1)/most)
	return max(1, (n+parts-1)/parts)
}

// addBlock adds a block of columns to the sums of a panel: a line of weights and a word of activations for each pair.
func addBlock(acc *[PanelRows]float32, w, x []byte) {
	var even, odd [PanelRows]float32
	for ; len(x) > 0; w, x = w[lineBytes:], x[4:] {
		a := le.Uint32(x)
		for lane := range acc {
			b := le.Uint32(w[4*lane:])
			even[lane] = fmaFlush(math.Float32frombits(b<<16), math.Float32frombits(a<<16), even[lane])
			odd[lane] = fmaFlush(math.Float32frombits(b&^0xffff), math.Float32frombits(a&^0xffff), odd[lane])
		}
	}
	for lane := range acc {
		acc[lane] = addFlush(acc[lane], addFlush(even[lane], odd[lane]))
	}
}

// addFlush is +'. Near 2^-126 float32 sums are exact, so that rounding has no part in what is too small.
func addFlush(x, y float32) float32 { return flush(flush(x) + flush(y)) }

// blocksAgree reports whether kernels give addBlock's bits: all three, with tiles of all rows and of some, a whole block and
// an odd part of one. Sums are ordinary, cancelling, around the smallest normal value with subnormal factors among
// them, and beyond the largest.
func blocksAgree(b *blockKernels) bool {
	const n, k, m = 3 * PanelRows, blockCols + 9, wideRows + 3
	w := &Packed{DType: tensor.BF16, Rows: n, Cols: k, layout: layoutOf(tensor.BF16)}
	w.panelBytes = w.groups() * lineBytes
	w.data = make([]byte, 3*w.panelBytes)
	stride, random := BF16Bytes(k), xorshift(1)
	x := make([]byte, m*stride)
	got := make([]float32, m*n)
	for _, exponents := range [][2]uint32{{0x3f80, 0x3f80}, {0x2000, 0x2000}, {0x1f80, 0x1f80}, {0x0080, 0x3f80}, {0x3f80, 0x0080}, {0x5f80, 0x5f80}} {
		for i, data := range [][]byte{w.data, x} { // factors of about 1, 2^-63, 2^-64, 2^-126 and below, 2^64
			half := func() uint32 { return exponents[i] ^ random()&0x81ff }
			for at := 0; at < len(data); at += 4 {
				le.PutUint32(data[at:], half()<<16|half())
			}
		}
		for _, rows := range []int{3, tileRows + 3, m} { // 35 rows are 32 and 3
			b.mul(got, n, w, w.data, x, rows)
			for i := 0; i < rows; i += tileRows + 1 { // one of each tile
				for p := range 3 {
					var want [PanelRows]float32
					row, panel := x[i*stride:(i+1)*stride], w.panel(p)
					addBlock(&want, panel, row[:lineBytes])
					addBlock(&want, panel[blockBytes:], row[lineBytes:])
					if !sameFloats(got[i*n+p*PanelRows:][:PanelRows], want[:]) {
						return false
					}
				}
			}
		}
	}
	return true
}

// sameFloats compares bits; a NaN equals any other.
func sameFloats(a, b []float32) bool {
	for i, v := range a {
		if w := b[i]; math.Float32bits(v) != math.Float32bits(w) && (v == v || w == w) {
			return false
		}
	}
	return true
}

// xorshift is a generator of 32 random bits.
func xorshift(state uint32) func() uint32 {
	return func() uint32 {
		state ^= state << 13
		state ^= state >> 17
		state ^= state << 5
		return state
	}
}
