package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// int8AVX2 writes the kernels for 256 bits: a line of 64 bytes is taken as two halves, rows 0-7 and 8-15, with wide
// weights in two parts of four vectors. VPMADDUBSW adds pairs of products in 16 bits, saturating; with weights of at most 15,
// 31 and 63 eight, four and two such sums fit (15·127·2·8 = 30,480; 31·127·2·4 = 31,496; 63·127·2·2 = 32,004). Q8_0 and
// IQ4_NL go by the sign trick: |w| times ±a, where 128·127·2 = 32,512 fits once.
func int8AVX2() {
	c := constants()
	for _, f := range formats {
		y := newYKernel(f, c)
		for _, m := range []int{4, 2, 1} {
			k := y
			k.m = m
			k.write()
		}
	}
}

// constants places the 32-byte constants in memory: VEX code has too few registers for them.
func constants() map[uint32]Mem {
	c := map[uint32]Mem{}
	for _, word := range []uint32{0x0f0f0f0f, 0x10101010, 0x30303030, 0x80808080, 0x00010001, 0xff,
		0x03030303, 0x04040404, 1, 1 << 21} {
		c[word] = GLOBL(fmt.Sprintf("c%08x", word), RODATA|NOPTR)
		for i := range 8 {
			DATA(4*i, U32(word))
		}
	}
	return c
}

// newYKernel places a format's codes in memory.
func newYKernel(f format, c map[uint32]Mem) yKernel {
	y := yKernel{format: f, constant: c}
	switch {
	case f.codes == nil:
	case f.signed():
		y.table = f.codeTable(0, 32)
	default:
		y.table = f.codeTable(1<<f.shift, 32)
	}
	return y
}

type yKernel struct {
	format
	m        int
	w        *stream
	heads    GPVirtual
	act      *rows
	acc      [2][]Op // by half; registers, or memory for many rows
	constant map[uint32]Mem
	table    Mem // of codes
}

func (y *yKernel) write() {
	begin(fmt.Sprintf("int8%sx%dx1AVX2", y.name, y.m), y.m, 1)
	out, act, panels := param("out"), param("x"), param("panels")
	y.w, y.act = newStream(1), newRows("xStride", y.m)
	y.allocate()
	repeat("panel", panels, func() {
		y.act.reset(act)
		y.clear()
		repeat("group", param("steps"), y.group)
		y.store(out)
	})
	VZEROUPPER()
	RET()
}

func (y *yKernel) inMemory() bool { return y.m > 2 }

func (y *yKernel) allocate() {
	var frame Mem
	if y.inMemory() { // aligned: a load behind a store of the same bytes is slow where they cross a cache line
		local, base := AllocLocal(64*y.m+32), GP64()
		LEAQ(local.Offset(31), base)
		ANDQ(I8(-32), base)
		frame = Mem{Base: base}
	}
	for h := range y.acc {
		for i := range y.m {
			if y.inMemory() {
				y.acc[h] = append(y.acc[h], frame.Offset(64*i+32*h))
			} else {
				y.acc[h] = append(y.acc[h], YMM())
			}
		}
	}
}

func (y *yKernel) clear() {
	zero := YMM()
	if y.inMemory() {
		VXORPS(zero, zero, zero)
	}
	for _, half := range y.acc {
		for _, a := range half {
			if y.inMemory() {
				VMOVUPS(zero, a)
			} else {
				VXORPS(a, a, a)
			}
		}
	}
}

func (y *yKernel) store(out GPVirtual) {
	row := copyOf(out)
	for i := range y.m {
		for h := range 2 {
			a := y.acc[h][i]
			if y.inMemory() {
				a = YMM()
				VMOVUPS(y.acc[h][i], a)
			}
			VMOVUPS(a, Mem{Base: row, Disp: 32 * h})
		}
		if i+1 < y.m {
			ADDQ(NewParamAddr("outStride", 8), row)
		}
	}
	ADDQ(I8(64), out)
}

func (y *yKernel) at(disp int) Mem { return y.w.at(0, disp) }

func (y *yKernel) group() {
	if y.head == 0 {
		y.block()
		return
	}
	y.heads = copyOf(y.w.w[0])
	y.w.prefetch(y.head)
	y.w.advance(y.head)
	count := GP64()
	MOVQ(I32(y.blocks), count)
	repeat("block", count, y.block)
}

func (y *yKernel) block() {
	y.w.prefetch(y.blockBytes())
	for h := range 2 {
		y.half(h)
	}
	y.w.advance(y.blockBytes())
	y.act.advance(actBlock)
}

// parts is the number of parts in which a half is unpacked. The 16-bit sums of a whole block of 4-bit weights fit, but its
// eight vectors find registers only where accumulators leave them.
func (y *yKernel) parts() int {
	if y.max == 15 && y.m != 2 {
		return 1
	}
	return 2
}

// half adds a block's product for eight weight rows.
func (y *yKernel) half(h int) {
	sums := make([]VecVirtual, y.m)
	for part := range y.parts() {
		var w []VecVirtual
		for v := range 8 / y.parts() {
			w = append(w, y.unpack(h, 4*part+v))
		}
		var sc VecVirtual
		if y.halves() {
			sc = y.halfScale(h, part)
		}
		for i := range sums {
			sum := y.dot(i, part, w)
			if y.halves() {
				VPMULLD(sc, sum, sum)
			}
			if part > 0 {
				VPADDD(sums[i], sum, sum)
			}
			sums[i] = sum
		}
	}
	d, m := y.scales(h)
	var mins []VecVirtual
	if y.q2() {
		mins = []VecVirtual{y.halfMin(h, 0), y.halfMin(h, 1)}
	}
	for i, sum := range sums {
		y.accumulate(i, y.acc[h][i], sum, d, m, mins)
	}
}

// halfScale loads the integer scale of eight rows of a part of a block.
func (y *yKernel) halfScale(h, part int) VecVirtual {
	sc, from := YMM(), y.at(64*y.lines+16*part+8*h)
	if !y.q2() {
		VPMOVSXBD(from, sc)
		return sc
	}
	VPMOVZXBD(from, sc)
	VPSLLD(U8(28), sc, sc) // the low nibble
	VPSRLD(U8(28), sc, sc)
	return sc
}

// halfMin loads the integer minimum that shares a byte with a scale.
func (y *yKernel) halfMin(h, part int) VecVirtual {
	m := YMM()
	VPMOVZXBD(y.at(64*y.lines+16*part+8*h), m)
	VPSRLD(U8(4), m, m)
	return m
}

// accumulate adds one row's sum of a block, scaled, to its accumulator. mins are the integer minima that m scales, if any.
func (y *yKernel) accumulate(i int, to Op, sum, d, m VecVirtual, mins []VecVirtual) {
	acc := to
	if y.inMemory() {
		acc = YMM()
		VMOVUPS(to, acc)
	}
	VCVTDQ2PS(sum, sum)
	factor := YMM()
	VBROADCASTSS(y.act.at(i, actD), factor)
	VMULPS(factor, d, factor)
	VFMADD231PS(factor, sum, acc)
	if y.min || y.k {
		VBROADCASTSS(y.act.at(i, actDS), factor)
	}
	switch {
	case y.min:
		VFMADD231PS(factor, m, acc)
	case y.k: // m is the minimum itself, to be subtracted
		VFNMADD231PS(factor, m, acc)
	}
	if mins != nil {
		VPBROADCASTD(y.act.at(i, actNeg0), sum)
		VPMULLD(mins[0], sum, sum)
		VPBROADCASTD(y.act.at(i, actNeg1), factor)
		VPMULLD(mins[1], factor, factor)
		VPADDD(factor, sum, sum)
		VCVTDQ2PS(sum, sum)
		VBROADCASTSS(y.act.at(i, actD), factor)
		VMULPS(factor, m, factor)
		VFMADD231PS(factor, sum, acc)
	}
	if y.inMemory() {
		VMOVUPS(acc, to)
	}
}

// unpack loads half h of vector v: bytes, signed or not as the format says.
func (y *yKernel) unpack(h, v int) VecVirtual {
	w := YMM()
	if y.lines == 8 {
		VMOVDQU(y.at(64*v+32*h), w)
		VPXOR(y.constant[0x80808080], w, w)
		return w
	}
	if y.lines < 4 { // field v%4 of line v/4
		VMOVDQU(y.at(64*(v/4)+32*h), w)
		if v%4 > 0 {
			VPSRLW(U8(v%4*2), w, w)
		}
		VPAND(y.constant[0x03030303], w, w)
		if y.lines == 3 {
			y.insert(128+32*h, 2-v, 0x04040404, w)
		}
		return w
	}
	VMOVDQU(y.at(64*(v%4)+32*h), w)
	if v >= 4 {
		VPSRLW(U8(4), w, w)
	}
	VPAND(y.constant[0x0f0f0f0f], w, w)
	switch y.lines {
	case 5:
		y.insert(256+32*h, 4-v, 0x10101010, w)
	case 6:
		y.insert(256+v/4*64+32*h, 4-v%4*2, 0x30303030, w)
	}
	if y.codes != nil {
		table := YMM()
		VMOVDQU(y.table, table)
		VPSHUFB(w, table, w)
	}
	return w
}

// insert shifts the half line at disp left (right if negative) and sets those of its bits that are in mask.
func (y *yKernel) insert(disp, left int, mask uint32, w VecVirtual) {
	bits := YMM()
	VMOVDQU(y.at(disp), bits)
	switch {
	case left > 0:
		VPSLLW(U8(left), bits, bits)
	case left < 0:
		VPSRLW(U8(-left), bits, bits)
	}
	VPAND(y.constant[mask], bits, bits)
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

// dot is the integer product of a part's vectors. The offset comes with the last part, for Q6_K with each.
func (y *yKernel) dot(i, part int, w []VecVirtual) (sum VecVirtual) {
	per := min(len(w), max(1, 32767/(y.max*127*2))) // sums of pairs that fit 16 bits
	for v := 0; v < len(w); v += per {
		x := y.pairs(i, 16*part+4*v, w[v:v+per])
		if v > 0 {
			VPADDD(sum, x, x)
		}
		sum = x
	}
	if y.shift == 0 || y.signed() || !y.halves() && part+1 < y.parts() {
		return sum
	}
	neg, from := YMM(), actNeg
	if y.halves() {
		from = actNeg0 + 4*part
	}
	VPBROADCASTD(y.act.at(i, from), neg)
	VPSLLD(U8(y.shift), neg, neg)
	VPADDD(neg, sum, sum)
	return sum
}

// pairs multiplies vectors by the activations from byte a on; their 16-bit sums are added before they are widened.
func (y *yKernel) pairs(i, a int, w []VecVirtual) VecVirtual {
	var sum VecVirtual
	for v, x := range w {
		p := YMM()
		VPBROADCASTD(y.act.at(i, a+4*v), p)
		if y.signed() {
			size := YMM()
			VPSIGNB(x, p, p)
			VPABSB(x, size)
			x = size
		}
		VPMADDUBSW(p, x, p)
		if v == 0 {
			sum = p
		} else {
			VPADDW(p, sum, sum)
		}
	}
	VPMADDWD(y.constant[0x00010001], sum, sum)
	return sum
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
