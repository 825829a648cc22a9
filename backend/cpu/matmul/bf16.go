package matmul

import (
	"fmt"
	"math"

	"sestina/internal/f32"
	"sestina/tensor"
)

// BF16 weights × bf16 activations, two columns at a time: the arithmetic of VDPBF16PS (Intel SDM, volume 2).
//
//	x is rounded to bf16 by tensor.ToBFloat16 (nearest, ties to even; a NaN stays one); a row of odd length gets a zero
//	acc = +0; for k = 0, 2, 4, …: acc = fma'(w[k+1], x[k+1], acc), then acc = fma'(w[k], x[k], acc)
//
// The odd column comes first. fma' is an FMA rounded once, to nearest even, that takes a subnormal operand as zero and
// returns a zero of the same sign for a result that is below 2^-126 once rounded to 24 bits. Products of bf16 are exact in
// float32, so one rule serves all: AVX-512 BF16 has the instruction, AVX2 does two FMAs per lane with the flush bits of MXCSR
// set, and this file is the same in pure Go. All give the same bits (TestBF16Scalar asks the instruction itself). Tiles have
// an order of their own: bf16_blocks.go.

// BF16Bytes returns the bytes that a row of k bf16 activations takes: whole pairs.
func BF16Bytes(k int) int { return (k + 1) / 2 * 4 }

// RoundRow writes the bf16 form of x to dst, len(dst) = BF16Bytes(len(x)).
func (k *Kernels) RoundRow(dst []byte, x []float32) {
	if len(dst) != BF16Bytes(len(x)) {
		panic(fmt.Sprintf("matmul: %d activations do not round into %d bytes", len(x), len(dst)))
	}
	if n := len(x) / 16; k.round != nil && n > 0 {
		k.round(&dst[0], &x[0], n)
		dst, x = dst[32*n:], x[16*n:]
	}
	for i, v := range x {
		le.PutUint16(dst[2*i:], uint16(tensor.ToBFloat16(v)))
	}
	if len(x)%2 != 0 {
		le.PutUint16(dst[2*len(x):], 0)
	}
}

// MulBF16 is MulInt8 for BF16 weights and activations of RoundRow: act holds m rows of BF16Bytes(Cols).
func (k *Kernels) MulBF16(out []float32, outStride int, w *Packed, panel0, panels int, act []byte, m int) {
	stride := BF16Bytes(w.Cols)
	if w.DType != tensor.BF16 || len(act) < m*stride {
		panic(fmt.Sprintf("matmul: %d bytes of bf16 activations for %d rows of %d and %v weights", len(act), m, w.Cols, w.DType))
	}
	checkMul(out, outStride, w, panel0, panels, m)
	if m == 0 || panels == 0 {
		return
	}
	weights := w.data[panel0*w.panelBytes : (panel0+panels)*w.panelBytes]
	switch {
	case k.blocks != nil:
		k.blocks.mul(out, outStride, w, weights, act, m)
	case k.bf16 != nil:
		run(k.bf16, out, outStride, weights, w.panelBytes, w.groups(), act, stride, m)
	default:
		mulBF16Generic(out, outStride, w, panel0, panels, act, m)
	}
}

func mulBF16Generic(out []float32, outStride int, w *Packed, panel0, panels int, act []byte, m int) {
	stride := BF16Bytes(w.Cols)
	for p := range panels {
		weights := w.panel(panel0 + p)
		for i := range m {
			acc := (*[PanelRows]float32)(out[i*outStride+p*PanelRows:])
			clear(acc[:])
			for pair := range w.groups() {
				x := le.Uint32(act[i*stride+4*pair:])
				for lane := range acc {
					acc[lane] = dotPair(le.Uint32(weights[pair*lineBytes+4*lane:]), x, acc[lane])
				}
			}
		}
	}
}

// dotPair adds the products of two pairs of bf16, the upper halves' first.
func dotPair(w, x uint32, acc float32) float32 {
	const upper = 0xffff0000
	acc = fmaFlush(math.Float32frombits(w&upper), math.Float32frombits(x&upper), acc)
	return fmaFlush(math.Float32frombits(w<<16), math.Float32frombits(x<<16), acc)
}

const minNormal = 0x1p-126

// fmaFlush is fma' for factors of bf16 precision.
func fmaFlush(x, y, z float32) float32 {
	x, y, z = flush(x), flush(y), flush(z)
	r := f32.FMA(x, y, z)
	if r == 0 || !(abs(r) <= minNormal) {
		return r
	}
	// Is it below 2^-126 when rounded as if exponents had no bound? The sum is small, so the smaller factor and z are too
	// (a difference of 16 and 24 bits is no less than 2^-24 of its terms): they can be scaled up.
	if abs(x) > abs(y) {
		x, y = y, x
	}
	const up = 0x1p60
	r = f32.FMA(x*up, y, z*up)
	if abs(r) < minNormal*up {
		return float32(math.Copysign(0, float64(r)))
	}
	return r / up
}

// flush makes a subnormal value zero.
func flush(x float32) float32 {
	if abs(x) < minNormal {
		return float32(math.Copysign(0, float64(x)))
	}
	return x
}

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

// dotsAgree reports whether a kernel gives this file's bits: the arithmetic of a processor's own instruction is not ours to
// define. Sums are ordinary, cancelling, and around the smallest normal value.
func dotsAgree(tiles []tile) bool {
	const pairs = 64
	weights, x := make([]byte, pairs*lineBytes), make([]byte, pairs*4)
	next := xorshift(1)
	for _, exponents := range []uint32{0x3f80, 0x2000, 0x1f80} { // of factors: about 1, 2^-63, 2^-64
		half := func() uint32 { return exponents ^ next()&0x81ff }
		for i := 0; i < len(weights); i += 4 {
			le.PutUint32(weights[i:], half()<<16|half())
		}
		for i := 0; i < len(x); i += 4 {
			le.PutUint32(x[i:], half()<<16|half())
		}
		var want, got [PanelRows]float32
		for i := range pairs {
			for lane := range want {
				want[lane] = dotPair(le.Uint32(weights[i*lineBytes+4*lane:]), le.Uint32(x[4*i:]), want[lane])
			}
			tiles[len(tiles)-1].run(&got[0], 0, &weights[0], len(weights), 1, i+1, &x[0], len(x))
			if got != want {
				return false
			}
		}
	}
	return true
}
