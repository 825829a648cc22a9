package matmul

import (
	"math"

	"sestina/tensor"
)

// Many rows. Kernels for them widen a piece of the weights (piecePanels panels × pieceBlocks blocks) into their stack frame,
// where it stays in the first-level cache while all rows of the call use it: the more rows, the less that costs. Tile
// registers take 16 rows by 16 columns, whole blocks of 32 columns exact in one instruction; with VPDPBUSD it is unpacking
// that is saved, so Q8_0 has no such kernel. The sums are the other kernels' to the bit, because integers are exact and the float32 steps are the same;
// so which rows come here is a matter of speed alone.

const (
	pieceBlocks = 9 // of 32 columns, at most; the frames are made for as many
	piecePanels = 2

	// A call multiplies at most so many pairs: below 100 µs at 0.26 Tops. Up to rowsPerCall rows share the widened weights.
	pairsPerCall = 3 << 22
	rowsPerCall  = 128
	fewestRows   = 16 // of a call
)

// squares is a kernel for multiples of so many rows and panels; least is the number of rows from which it pays: measured, see
// docs/lab.md. Strides are in bytes, steps and piece in groups of columns.
type squares struct {
	rows, panels, least int

	run func(out *float32, outStride int, w *byte, panelBytes, panels, steps int, x *byte, xStride, rows, piece int)
}

// WhyNoAMX says why a processor's tile registers are not used; nil where they are, or where there are none.
func WhyNoAMX() error { return whyNoAMX() }

// mulSquares multiplies as many of the first rows as one of the kernels takes, and pays to, and returns their number. The
// rest is for the other kernels, which take fewer rows in less time.
func (k *Kernels) mulSquares(out []float32, outStride int, w *Packed, weights, act []byte, m int) (done int) {
	for _, set := range k.squares {
		s, ok := set[w.DType]
		if !ok || m-done < s.least {
			continue
		}
		rows := (m - done) / s.rows * s.rows
		x, y := act[done*ActBytes(w.Cols):], out[done*outStride:]
		panels := len(weights) / w.panelBytes / s.panels * s.panels
		s.multiply(y, outStride, w, weights[:panels*w.panelBytes], x, rows)
		if rest := weights[panels*w.panelBytes:]; len(rest) > 0 {
			run(k.tiles[w.DType], y[panels*PanelRows:], outStride, rest, w.panelBytes, w.groups(), x, ActBytes(w.Cols), rows)
		}
		done += rows
	}
	return done
}

// multiply makes one call after another.
func (s *squares) multiply(out []float32, outStride int, w *Packed, weights, act []byte, m int) {
	actStride, steps, piece := ActBytes(w.Cols), w.groups(), pieceGroups(w)
	most, perCall := squaresPerCall(w.Cols)
	most, perCall = most-most%s.rows, max(perCall, s.panels)
	for row := 0; row < m; row += most {
		rows := min(m-row, most)
		x, y := act[row*actStride:], out[row*outStride:]
		for left, panels := weights, 0; len(left) > 0; left, y = left[panels*w.panelBytes:], y[min(panels*PanelRows, len(y)):] {
			panels = min(perCall, len(left)/w.panelBytes)
			s.run(&y[0], 4*outStride, &left[0], w.panelBytes, panels, steps, &x[0], actStride, rows, piece)
		}
	}
}

// squaresPerCall is the most rows and panels of one call: many rows rather than many panels, but a whole piece
// before the last doubling of rows.
func squaresPerCall(cols int) (rows, panels int) {
	rows = rowsPerCall
	for pairs := rows * PanelRows * cols; rows > fewestRows && (pairs > pairsPerCall || rows == rowsPerCall && piecePanels*pairs > pairsPerCall); {
		rows, pairs = rows/2, pairs/2
	}
	panels = pairsPerCall / (rows * PanelRows * cols)
	return rows, max(1, panels-panels%piecePanels)
}

// pieceGroups is the number of groups in a piece: equal pieces, as few as the frames allow.
func pieceGroups(w *Packed) int { return equalParts(w.groups(), max(1, pieceBlocks/w.layout.blocks)) }

// squaresAgree compares AMX's kernel for Q8_0 with this package's Go: 16 rows, two panels, three blocks of which one is a piece
// of its own, weights and activations at both ends of their ranges.
func squaresAgree(s squares) bool {
	const m, n, k = 16, 2 * PanelRows, 3 * 32
	layout := layoutOf(tensor.Q8_0)
	w := &Packed{DType: tensor.Q8_0, Rows: n, Cols: k, layout: layout, data: make([]byte, 2*3*layout.groupBytes())}
	w.panelBytes = len(w.data) / 2
	x, raw := make([]float32, m*k), make([]byte, n*w.rowBytes())
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
	act := make([]byte, m*ActBytes(k))
	for i := range m {
		quantizeGeneric(act[i*ActBytes(k):][:ActBytes(k)], x[i*k:][:k])
	}
	want, got := make([]float32, m*n), make([]float32, m*n)
	mulInt8Generic(want, n, w, 0, 2, act, m)
	s.run(&got[0], 4*n, &w.data[0], w.panelBytes, 2, 3, &act[0], ActBytes(k), m, 2)
	for i, v := range got {
		if math.Float32bits(v) != math.Float32bits(want[i]) {
			return false
		}
	}
	return true
}
