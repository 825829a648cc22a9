package tensor

import "math"

// Encoders of the 32-element formats, with the rounding of llama.cpp's quantize_row_*_ref. The scale is chosen from the
// largest magnitude (or the range) of the block; the inverse is computed from the scale before it is rounded to float16.

func encodeQ4_0(dst []byte, src []float32) {
	for ; len(src) > 0; dst, src = dst[18:], src[32:] {
		d, inverse := scaleOf(largest(src[:32]), -8)
		putF16(dst, d)
		for k := range 16 {
			lo := level(float32(src[k]*inverse)+8.5, 15)
			hi := level(float32(src[k+16]*inverse)+8.5, 15)
			dst[2+k] = lo | hi<<4
		}
	}
}

func encodeQ4_1(dst []byte, src []float32) {
	for ; len(src) > 0; dst, src = dst[20:], src[32:] {
		least, most := extent(src[:32])
		d, inverse := scaleOf(most-least, 15)
		putF16(dst, d)
		putF16(dst[2:], least)
		for k := range 16 {
			lo := level(float32((src[k]-least)*inverse)+0.5, 15)
			hi := level(float32((src[k+16]-least)*inverse)+0.5, 15)
			dst[4+k] = lo | hi<<4
		}
	}
}

func encodeQ5_0(dst []byte, src []float32) {
	for ; len(src) > 0; dst, src = dst[22:], src[32:] {
		d, inverse := scaleOf(largest(src[:32]), -16)
		putF16(dst, d)
		var qh uint32
		for k := range 16 {
			lo := level(float32(src[k]*inverse)+16.5, 31)
			hi := level(float32(src[k+16]*inverse)+16.5, 31)
			dst[6+k] = lo&15 | hi<<4
			qh |= uint32(lo>>4)<<k | uint32(hi>>4)<<(k+16)
		}
		le.PutUint32(dst[2:], qh)
	}
}

func encodeQ5_1(dst []byte, src []float32) {
	for ; len(src) > 0; dst, src = dst[24:], src[32:] {
		least, most := extent(src[:32])
		d, inverse := scaleOf(most-least, 31)
		putF16(dst, d)
		putF16(dst[2:], least)
		var qh uint32
		for k := range 16 {
			lo := level(float32((src[k]-least)*inverse)+0.5, 31)
			hi := level(float32((src[k+16]-least)*inverse)+0.5, 31)
			dst[8+k] = lo&15 | hi<<4
			qh |= uint32(lo>>4)<<k | uint32(hi>>4)<<(k+16)
		}
		le.PutUint32(dst[4:], qh)
	}
}

func encodeQ8_0(dst []byte, src []float32) {
	for ; len(src) > 0; dst, src = dst[34:], src[32:] {
		d, inverse := scaleOf(abs(largest(src[:32])), 127)
		putF16(dst, d)
		for k, v := range src[:32] {
			q := level(float32(math.Round(float64(abs(v*inverse)))), 127) // half away from zero
			if v < 0 {
				q = -q
			}
			dst[2+k] = q
		}
	}
}

// largest returns the element of greatest magnitude, the first of equals.
func largest(x []float32) float32 {
	best := float32(0)
	for _, v := range x {
		if abs(v) > abs(best) {
			best = v
		}
	}
	return best
}

func extent(x []float32) (least, most float32) {
	least, most = x[0], x[0]
	for _, v := range x[1:] {
		if v < least {
			least = v
		}
		if v > most {
			most = v
		}
	}
	return least, most
}

// scaleOf returns d = span/levels and 1/d, 0 for a block of zeros.
func scaleOf(span, levels float32) (d, inverse float32) {
	d = span / levels
	if d != 0 {
		inverse = 1 / d
	}
	return d, inverse
}

// level truncates x to an integer in [0, most]; NaN becomes 0, so a bad weight gives the same bytes on every machine.
func level(x float32, most uint8) uint8 {
	switch {
	case !(x > 0):
		return 0
	case x >= float32(most):
		return most
	}
	return uint8(x)
}

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

func putF16(b []byte, f float32) { le.PutUint16(b, uint16(ToFloat16(f))) }
