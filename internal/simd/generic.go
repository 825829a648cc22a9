package simd

import (
	"math"

	"sestina/internal/f32"
)

// The scalar twins: what each kernel means, and what machines without a SIMD
// version run.

func expGeneric(dst, x []float32) {
	for i, v := range x {
		dst[i] = f32.Exp(v)
	}
}

func scaleGeneric(dst, x []float32, s float32) {
	for i, v := range x {
		dst[i] = v * s
	}
}

func addGeneric(dst, x []float32) {
	for i, v := range x {
		dst[i] += v
	}
}

func scaleMulGeneric(dst, x, w []float32, s float32) {
	for i, v := range x {
		dst[i] = float32(v*s) * w[i]
	}
}

func siluMulGeneric(dst, gate, up []float32) {
	for i, g := range gate {
		dst[i] = f32.SiLU(g) * up[i]
	}
}

func ropeGeneric(a, b, cos, sin []float32) {
	for k, c := range cos {
		a[k], b[k] = rotate(a[k], b[k], c, sin[k])
	}
}

func ropeInterleavedGeneric(x, cos, sin []float32) {
	for k, c := range cos {
		x[2*k], x[2*k+1] = rotate(x[2*k], x[2*k+1], c, sin[k])
	}
}

func rotate(a, b, c, s float32) (float32, float32) {
	return f32.FMA(a, c, -float32(b*s)), f32.FMA(b, c, float32(a*s))
}

func maxNaNGeneric(x []float32) (float32, bool) {
	m, nan := float32(math.Inf(-1)), false
	for _, v := range x {
		if v > m {
			m = v
		}
		nan = nan || v != v
	}
	return m, nan
}

func indexEqualGeneric(x []float32, v float32) int {
	for i, e := range x {
		if e == v {
			return i
		}
	}
	return -1
}

func softmaxWeightsGeneric(dst, x []float32, max, scale float32) float64 {
	var lane [16]float64
	for i, v := range x {
		dst[i] = f32.Exp(float32(float32(v-max) * scale))
		lane[i&15] += float64(dst[i])
	}
	for n := 8; n > 0; n /= 2 {
		for i := range n {
			lane[i] += lane[i+n]
		}
	}
	return lane[0]
}

func countGEGeneric(x []float32, threshold float32) int {
	n := 0
	for _, v := range x {
		if v >= threshold {
			n++
		}
	}
	return n
}

// collectGEFrom is CollectGE over x[from:], for a dst that already holds n indices.
func collectGEFrom(dst []int32, x []float32, threshold float32, from, n int) int {
	for i := from; i < len(x) && n < len(dst); i++ {
		if x[i] >= threshold {
			dst[n] = int32(i)
			n++
		}
	}
	return n
}

func f32ToF16Generic(dst []uint16, x []float32) {
	for i, v := range x {
		dst[i] = ToF16(v)
	}
}

func f16ToF32Generic(dst []float32, x []uint16) {
	for i, h := range x {
		dst[i] = FromF16(h)
	}
}

func f32ToBF16Generic(dst []uint16, x []float32) {
	for i, v := range x {
		dst[i] = ToBF16(v)
	}
}

func bf16ToF32Generic(dst []float32, x []uint16) {
	for i, h := range x {
		dst[i] = FromBF16(h)
	}
}

// ToF16 rounds f to half precision as VCVTPS2PH does: to nearest even, NaNs
// made quiet, infinity from 65520 on.
func ToF16(f float32) uint16 {
	bits := math.Float32bits(f)
	sign := uint16(bits>>16) & 0x8000
	bits &= 0x7fffffff
	switch {
	case bits > 0x7f800000: // NaN
		return sign | 0x7e00 | uint16(bits>>13)&0x3ff
	case bits >= 0x477ff000: // half way to the first value past the largest, and above
		return sign | 0x7c00
	case bits < 0x38800000: // below 2^-14: adding 0.5 leaves multiples of 2^-24 in the fraction
		return sign | uint16(math.Float32bits(math.Float32frombits(bits)+0.5)-math.Float32bits(0.5))
	}
	bits += 0xfff + bits>>13&1 // round half to even
	return sign | uint16(bits>>13-(127-15)<<10)
}

// FromF16 widens a half exactly; NaNs are made quiet, as VCVTPH2PS does.
func FromF16(h uint16) float32 {
	sign, exp, frac := uint32(h>>15)<<31, uint32(h>>10)&31, uint32(h)&0x3ff
	switch {
	case exp == 0: // zero or subnormal: frac · 2^-24
		return math.Float32frombits(sign | math.Float32bits(float32(frac)*0x1p-24))
	case exp == 31 && frac != 0:
		return math.Float32frombits(sign | 0x7fc00000 | frac<<13)
	case exp == 31:
		return math.Float32frombits(sign | 0x7f800000)
	}
	return math.Float32frombits(sign | (exp+127-15)<<23 | frac<<13)
}

// ToBF16 rounds f to bfloat16, to nearest even, NaNs made quiet.
func ToBF16(f float32) uint16 {
	bits := math.Float32bits(f)
	if bits&0x7fffffff > 0x7f800000 {
		return uint16(bits>>16 | 0x40)
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// FromBF16 widens a bfloat16 exactly.
func FromBF16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }
