package matmul

import (
	"math"

	"sestina/tensor"
)

// Many rows on machines with tile registers: squares of 16 rows by 16 columns, whole blocks of 32 columns exact in one
// instruction. The sums are the other kernels' to the bit, because integers are exact and the float32 steps are the same; so
// which rows come here is a matter of speed alone.
//
// Such a kernel widens a piece of the weights (piecePanels panels × pieceBlocks blocks) into its stack frame, where it stays
// in the first-level cache while all rows of the call use it: the more rows, the less that costs.

const (
	squareRows  = 16
	pieceBlocks = 9 // of 32 columns, at most; the frames are made for as many
	piecePanels = 2

	// leastSquares is the number of rows from which it pays to widen the weights: measured, see docs/lab.md.
	leastSquares = 32

	// A call multiplies at most so many pairs: below 100 µs at 0.26 Tops. Up to rowsPerCall rows share the widened weights.
	pairsPerCall = 3 << 22
	rowsPerCall  = 128
)

// squares is a kernel for a multiple of 16 rows. Strides are in bytes, steps and piece in groups of columns.
type squares func(out *float32, outStride int, w *byte, panelBytes, panels, steps int, x *byte, xStride, rows, piece int)

// WhyNoAMX says why a processor's tile registers are not used; nil where they are, or where there are none.
func WhyNoAMX() error { return whyNoAMX() }

// mulSquares multiplies as many of the first rows as it pays to and returns their number, a multiple of 16. The rest is for
// the other kernels, which take fewer rows in less time than a square takes.
func (k *Kernels) mulSquares(out []float32, outStride int, w *Packed, weights, act []byte, m int) (done int) {
	if m < leastSquares {
		return 0
	}
	mul, actStride := k.squares[w.DType], ActBytes(w.Cols)
	steps, piece := w.groups(), pieceGroups(w)
	most, perCall := squaresPerCall(w.Cols)
	for whole := m &^ (squareRows - 1); done < whole; {
		rows := min(whole-done, most)
		x, y := act[done*actStride:], out[done*outStride:]
		for left, panels := weights, 0; len(left) > 0; left, y = left[panels*w.panelBytes:], y[min(panels*PanelRows, len(y)):] {
			panels = min(perCall, len(left)/w.panelBytes)
			mul(&y[0], 4*outStride, &left[0], w.panelBytes, panels, steps, &x[0], actStride, rows, piece)
		}
		done += rows
	}
	return done
}

// squaresPerCall is the most rows and panels of one call: many rows rather than many panels, but a whole piece
// before the last doubling of rows.
func squaresPerCall(cols int) (rows, panels int) {
	rows = rowsPerCall
	for pairs := rows * PanelRows * cols; rows > squareRows && (pairs > pairsPerCall || rows == rowsPerCall && piecePanels*pairs > pairsPerCall); {
		rows, pairs = rows/2, pairs/2
	}
	panels = pairsPerCall / (rows * PanelRows * cols)
	return rows, max(1, panels-panels%piecePanels)
}

// pieceGroups is the number of groups in a piece: equal pieces, as few as the frames allow.
func pieceGroups(w *Packed) int { return equalParts(w.groups(), max(1, pieceBlocks/w.layout.blocks)) }

// squaresAgree compares a kernel for Q8_0 with this package's Go: 16 rows, two panels, three blocks of which one is a piece
// of its own, weights and activations at both ends of their ranges.
func squaresAgree(mul squares) bool {
	const n, k = 2 * PanelRows, 3 * 32
	layout := layoutOf(tensor.Q8_0)
	w := &Packed{DType: tensor.Q8_0, Rows: n, Cols: k, layout: layout, data: make([]byte, 2*3*layout.groupBytes())}
	w.panelBytes = len(w.data) / 2
	x, raw := make([]float32, squareRows*k), make([]byte, n*w.rowBytes())
	for i := range x {
		x[i] = float32(i*i%255 - 127)
	}
	for i := range raw {
		raw[i] = byte(i * i >> 3)
		if i%34 < 2 {
			raw[i] = 0x2c // about 1/16, as float16
		}
	}
	w.Pack(0, raw)
	act := make([]byte, squareRows*ActBytes(k))
	for i := range squareRows {
		quantizeGeneric(act[i*ActBytes(k):][:ActBytes(k)], x[i*k:][:k])
	}
	want, got := make([]float32, squareRows*n), make([]float32, squareRows*n)
	mulInt8Generic(want, n, w, 0, 2, act, squareRows)
	mul(&got[0], 4*n, &w.data[0], w.panelBytes, 2, 3, &act[0], ActBytes(k), squareRows, 2)
	for i, v := range got {
		if math.Float32bits(v) != math.Float32bits(want[i]) {
			return false
		}
	}
	return true
}
