package matmul

import (
	"math"

	"sestina/internal/f32"
	"sestina/tensor"
)

// The kernels in pure Go: the arithmetic of every instruction set, one weight row at a time.

func mulInt8Generic(out []float32, outStride int, w *Packed, panel0, panels int, act []byte, m int) {
	actStride := ActBytes(w.Cols)
	for p := range panels {
		col := p * PanelRows
		for i := range m {
			clear(out[i*outStride+col:][:PanelRows])
		}
		w.eachBlock(w.panel(panel0+p), func(b block, k int) {
			for lane := range PanelRows {
				weights, s := b.weights(lane), b.scales(lane)
				for i := range m {
					a := act[i*actStride+ActBytes(k):][:ActBlock]
					acc := &out[i*outStride+col+lane]
					*acc = b.accumulate(*acc, &weights, s, a)
				}
			}
		})
	}
}

// accumulate adds one block's product to a sum, in the contract's order: integers exactly (integer scales and Q2_K's
// integer minima too), one FMA for the scale, one for the minimum.
func (b *block) accumulate(acc float32, weights *[8]uint32, s scales, act []byte) float32 {
	word := func(at int) int32 { return int32(le.Uint32(act[at:])) }
	first, last := dot16(weights[:4], act), dot16(weights[4:], act[16:])
	sum := first + last + b.layout.offset*word(actNeg)
	if b.layout.halves() {
		sum = s.sc[0]*(first+b.layout.offset*word(actNeg0)) + s.sc[1]*(last+b.layout.offset*word(actNeg1))
	}
	d, ds := math.Float32frombits(uint32(word(actD))), math.Float32frombits(uint32(word(actDS)))
	acc = f32.FMA(float32(sum), float32(s.d*d), acc)
	switch {
	case b.dtype == tensor.Q2_K:
		acc = f32.FMA(float32(s.mn[0]*word(actNeg0)+s.mn[1]*word(actNeg1)), float32(s.m*d), acc)
	case b.layout.min:
		acc = f32.FMA(s.m, ds, acc)
	}
	return acc
}

// dot16 is the sum of 16 products of unsigned weights and signed activations.
func dot16(weights []uint32, act []byte) (sum int32) {
	act = act[:16]
	for v, w := range weights[:4] {
		a := le.Uint32(act[4*v:])
		sum += int32(w&0xff)*int32(int8(a)) + int32(w>>8&0xff)*int32(int8(a>>8)) +
			int32(w>>16&0xff)*int32(int8(a>>16)) + int32(w>>24)*int32(int8(a>>24))
	}
	return sum
}

func mulF32Generic(out []float32, outStride int, w *Packed, panel0, panels int, x []float32, xStride, m int, scratch []float32) {
	for p := range panels {
		w.widenPanel(scratch, panel0+p)
		for i := range m {
			acc := (*[PanelRows]float32)(out[i*outStride+p*PanelRows:])
			clear(acc[:])
			for k, v := range x[i*xStride:][:w.Cols] {
				for lane, weight := range scratch[k*PanelRows:][:PanelRows] {
					acc[lane] = f32.FMA(weight, v, acc[lane])
				}
			}
		}
	}
}

// widenPanel writes a panel in float32, column after column.
func (p *Packed) widenPanel(dst []float32, panel int) {
	src := p.panel(panel)
	if p.layout.scalar() {
		for k := range p.Cols {
			for lane := range PanelRows {
				dst[k*PanelRows+lane] = widen(p.DType, src, k, lane)
			}
		}
		return
	}
	var values [32]float32
	p.eachBlock(src, func(b block, k int) {
		for lane := range PanelRows {
			b.decode(lane, values[:])
			for i, v := range values {
				dst[(k+i)*PanelRows+lane] = v
			}
		}
	})
}
