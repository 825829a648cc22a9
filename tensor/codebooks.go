package tensor

import "math"

// Formats whose 4-bit codes index a table of values, and the ternary ones.

// iq4Values are the sixteen levels of IQ4_NL and IQ4_XS, spaced for normally distributed weights.
var iq4Values = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// fp4Values are the values of E2M1, doubled so that they are whole.
var fp4Values = [16]float32{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

// IQ4_NL, 18 bytes: d f16; qs [16]u4x2. Value d·iq4Values[q].
func decodeIQ4_NL(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[32:], x[18:] {
		decodeCodes(y, x[2:18], &iq4Values, f16(x))
	}
}

// IQ4_XS, 136 bytes: d f16; scalesHigh u16 = 8 of 2 bits; scalesLow [4]u4x2; qs [128], 16 bytes for each 32 elements.
// Value d·(scale-32)·iq4Values[q].
func decodeIQ4_XS(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[256:], x[136:] {
		d, high, low, qs := f16(x), le.Uint16(x[2:]), x[4:8], x[8:136]
		for b := range 8 {
			scale := int(low[b/2]>>(b%2*4)&15) | int(high>>(2*b)&3)<<4
			decodeCodes(y[32*b:], qs[16*b:][:16], &iq4Values, d*float32(scale-32))
		}
	}
}

// MXFP4, 17 bytes: e u8, a power-of-two scale 2^(e-127); qs [16]u4x2. Value scale/2·fp4Values[q].
// OCP Microscaling Formats v1.0.
func decodeMXFP4(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[32:], x[17:] {
		decodeCodes(y, x[1:17], &fp4Values, halfE8M0(x[0]))
	}
}

// halfE8M0 returns 2^(e-128), subnormal for e < 2.
func halfE8M0(e byte) float32 {
	if e < 2 {
		return math.Float32frombits(0x00200000 << e)
	}
	return math.Float32frombits(uint32(e-1) << 23)
}

// NVFP4, 36 bytes: d [4] unsigned E4M3, of 16 elements each; qs [32], 8 bytes for each 16 elements.
// Value d/2·fp4Values[q].
func decodeNVFP4(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[64:], x[36:] {
		for b := range 4 {
			decodeCodes(y[16*b:], x[4+8*b:][:8], &fp4Values, halfE4M3(x[b]))
		}
	}
}

// halfE4M3 returns half the value of an unsigned E4M3 float (bias 7); 0x7f counts as 0.
func halfE4M3(b byte) float32 {
	if b == 0x7f {
		return 0
	}
	exp, frac := int(b>>3)&15, float64(b&7)
	if exp == 0 {
		return float32(math.Ldexp(frac, -9-1))
	}
	return float32(math.Ldexp(8+frac, exp-7-3-1))
}

// decodeCodes writes scale·values[q] for the low nibbles of qs, then for the high ones.
func decodeCodes(y []float32, qs []byte, values *[16]float32, scale float32) {
	for k, q := range qs {
		y[k] = scale * values[q&15]
		y[k+len(qs)] = scale * values[q>>4]
	}
}

// TQ2_0, 66 bytes: qs [64]u2x4; d f16. Value d·(q-1).
func decodeTQ2_0(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[256:], x[66:] {
		d := f16(x[64:])
		for i := range 256 {
			q := x[i/128*32+i%32] >> (i / 32 % 4 * 2) & 3
			y[i] = d * float32(int(q)-1)
		}
	}
}

// TQ1_0, 54 bytes: qs [48], five ternary digits a byte; qh [4], four digits a byte; d f16. A byte is the fraction
// digits/3^5 of 256, so multiplying by 3^n modulo 256 brings digit n to the top. Value d·(digit-1).
func decodeTQ1_0(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[256:], x[54:] {
		d := f16(x[52:])
		ternary(y, x[:32], 5, d)
		ternary(y[160:], x[32:48], 5, d)
		ternary(y[240:], x[48:52], 4, d)
	}
}

func ternary(y []float32, qs []byte, digits int, d float32) {
	power := byte(1)
	for n := range digits {
		for k, q := range qs {
			digit := int(q*power) * 3 >> 8
			y[n*len(qs)+k] = d * float32(digit-1)
		}
		power *= 3
	}
}
