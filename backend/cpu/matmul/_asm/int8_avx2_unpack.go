package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// unpack is vector v of half h, place k of the set: bytes, signed or not as the format says. A line that the vector before
// came from is in a register still.
func (y *yKernel) unpack(k, h, v int) VecVirtual {
	if y.lines == 8 {
		w := YMM()
		VMOVDQU(y.at(64*v+32*h), w)
		VPXOR(y.constant[0x80808080], w, w)
		return w
	}
	if y.lines < 4 { // field v%4 of line v/4
		return y.fields(k, h, v)
	}
	w, from := YMM(), y.hold(&y.raw[k], 64*(v%4)+32*h)
	if v >= 4 {
		VPSRLW(U8(4), from, w)
		from = w
	}
	VPAND(y.constant[0x0f0f0f0f], from, w)
	switch y.lines {
	case 5:
		y.insert(k, 256+32*h, 4-v, 0x10101010, w)
	case 6:
		y.insert(k, 256+v/4*64+32*h, 4-v%4*2, 0x30303030, w)
	}
	if y.codes != nil {
		table := YMM()
		VMOVDQU(y.table, table)
		VPSHUFB(w, table, w)
	}
	return w
}

// fields is unpack for weights of two bits, and a third in a line of its own.
func (y *yKernel) fields(k, h, v int) VecVirtual {
	w, from := YMM(), y.hold(&y.raw[k], 64*(v/4)+32*h)
	if v%4 > 0 {
		VPSRLW(U8(v%4*2), from, w)
		from = w
	}
	VPAND(y.constant[0x03030303], from, w)
	if y.lines == 3 {
		y.insert(k, 128+32*h, 2-v, 0x04040404, w)
	}
	return w
}

// insert shifts the half line at disp left (right if negative) and sets those of its bits that are in mask.
func (y *yKernel) insert(k, disp, left int, mask uint32, w VecVirtual) {
	bits, from := YMM(), y.hold(&y.extra[k], disp)
	switch {
	case left > 0:
		VPSLLW(U8(left), from, bits)
		from = bits
	case left < 0:
		VPSRLW(U8(-left), from, bits)
		from = bits
	}
	VPAND(y.constant[mask], from, bits)
	VPOR(bits, w, w)
}

// scales loads the float factors of half a block.
func (y *yKernel) scales(h int) (d, m VecVirtual) {
	tail := 64 * y.lines
	switch {
	case y.k:
		d, m = YMM(), YMM()
		for i, x := range []VecVirtual{d, m} {
			of := YMM()
			VPMOVZXBD(y.at(tail+16*i+8*h), x)
			VCVTDQ2PS(x, x)
			VCVTPH2PS(Mem{Base: y.heads, Disp: 32*i + 16*h}, of)
			VMULPS(of, x, x)
		}
	case y.halves():
		d = YMM()
		VCVTPH2PS(Mem{Base: y.heads, Disp: 16 * h}, d)
		if y.q2() {
			m = YMM()
			VCVTPH2PS(Mem{Base: y.heads, Disp: 32 + 16*h}, m)
		}
	case y.e8():
		d = y.exponents(y.at(tail + 8*h))
	default:
		d = YMM()
		VCVTPH2PS(y.at(tail+16*h), d)
		if y.min {
			m = YMM()
			VCVTPH2PS(y.at(tail+32+16*h), m)
		}
	}
	return d, m
}

// exponents turns eight bytes e into 2^(e-128): exponent e-1, but subnormal 2^-128 and 2^-127 for 0 and 1.
func (y *yKernel) exponents(from Mem) VecVirtual {
	d, low, subnormal := YMM(), YMM(), YMM()
	VPMOVZXBD(from, d)
	VPMINUD(y.constant[1], d, low)
	VMOVDQU(y.constant[1<<21], subnormal)
	VPSLLVD(low, subnormal, low)
	VPSUBD(y.constant[1], d, d)
	VPSLLD(U8(23), d, d)
	VPMAXSD(low, d, d)
	return d
}
