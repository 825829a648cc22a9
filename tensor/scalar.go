package tensor

import (
	"encoding/binary"
	"math"
)

var le = binary.LittleEndian

// Float16 is an IEEE 754 half: 1 sign, 5 exponent (bias 15), 10 fraction bits.
type Float16 uint16

// Float32 returns the exact value; a NaN keeps its payload.
func (h Float16) Float32() float32 {
	sign, exp, frac := uint32(h>>15)<<31, uint32(h>>10)&31, uint32(h)&0x3ff
	switch exp {
	case 0: // zero or subnormal: frac · 2^-24, exact in float32
		return math.Float32frombits(sign | math.Float32bits(float32(frac)*0x1p-24))
	case 31: // infinity or NaN
		return math.Float32frombits(sign | 0xff<<23 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+127-15)<<23 | frac<<13)
}

// ToFloat16 rounds to nearest, ties to even; overflow becomes infinity, a NaN stays a (quiet) NaN.
func ToFloat16(f float32) Float16 {
	bits := math.Float32bits(f)
	sign := Float16(bits>>16) & 0x8000
	bits &= 0x7fffffff
	switch {
	case bits > 0x7f800000: // NaN
		return sign | 0x7e00 | Float16(bits>>13)&0x3ff
	case bits >= 0x477ff000: // 65520, half way to the first value past the largest, and above
		return sign | 0x7c00
	case bits < 0x38800000: // below 2^-14: adding 0.5 leaves multiples of 2^-24 in the fraction, rounded by the machine
		return sign | Float16(math.Float32bits(math.Float32frombits(bits)+0.5)-math.Float32bits(0.5))
	}
	bits += 0xfff + bits>>13&1 // round half to even
	return sign | Float16(bits>>13-(127-15)<<10)
}

// BFloat16 is the upper half of a float32: 1 sign, 8 exponent, 7 fraction bits.
type BFloat16 uint16

// Float32 returns the exact value.
func (b BFloat16) Float32() float32 { return math.Float32frombits(uint32(b) << 16) }

// ToBFloat16 rounds to nearest, ties to even; a NaN stays a (quiet) NaN.
func ToBFloat16(f float32) BFloat16 {
	bits := math.Float32bits(f)
	if bits&0x7fffffff > 0x7f800000 {
		return BFloat16(bits>>16 | 0x40)
	}
	return BFloat16((bits + 0x7fff + bits>>16&1) >> 16)
}

// f16 reads the Float16 at the start of b.
func f16(b []byte) float32 { return Float16(le.Uint16(b)).Float32() }

func decodeF32(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(le.Uint32(src[4*i:]))
	}
}

func encodeF32(dst []byte, src []float32) {
	for i, f := range src {
		le.PutUint32(dst[4*i:], math.Float32bits(f))
	}
}

func decodeF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = f16(src[2*i:])
	}
}

func encodeF16(dst []byte, src []float32) {
	for i, f := range src {
		le.PutUint16(dst[2*i:], uint16(ToFloat16(f)))
	}
}

func decodeBF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = BFloat16(le.Uint16(src[2*i:])).Float32()
	}
}

func encodeBF16(dst []byte, src []float32) {
	for i, f := range src {
		le.PutUint16(dst[2*i:], uint16(ToBFloat16(f)))
	}
}

func decodeF64(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = float32(math.Float64frombits(le.Uint64(src[8*i:])))
	}
}

// decodeF8E4M3 reads the "fn" variant of OCP 8-bit floats: bias 7, no infinities, S.1111.111 is NaN.
func decodeF8E4M3(dst []float32, src []byte) {
	for i, b := range src {
		exp, frac := int(b>>3)&15, float64(b&7)
		v := math.Ldexp(8+frac, exp-7-3)
		switch {
		case exp == 0:
			v = math.Ldexp(frac, -6-3)
		case b&0x7f == 0x7f:
			v = math.NaN()
		}
		dst[i] = float32(math.Copysign(v, float64(int8(b)|1)))
	}
}

// decodeF8E5M2 reads the 8-bit float that is the upper half of a Float16.
func decodeF8E5M2(dst []float32, src []byte) {
	for i, b := range src {
		dst[i] = (Float16(b) << 8).Float32()
	}
}
