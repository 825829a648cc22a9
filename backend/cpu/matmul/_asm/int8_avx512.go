package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// int8AVX512 writes the kernels for VPDPBUSD on 512 bits: a ZMM register holds one vector of a block, and the four
// activations that meet it are broadcast from memory by the multiplication itself. A vector is unpacked once for
// all rows of the tile.
func int8AVX512() {
	for _, f := range formats {
		var codes Mem
		if f.codes != nil {
			codes = f.codeTable(1<<f.shift, 64)
		}
		for _, t := range f.zTiles() {
			(&zKernel{format: f, m: t[0], panels: t[1], codesAt: codes}).write()
		}
	}
}

// zTiles are rows and panels. Up to eight rows are one pass over the weights, whose reading hides their arithmetic; more
// rows are several, best of 6 × 2: two panels share the broadcasts, which halves the loads, and the sums and accumulators leave
// eight of 32 registers. So do four rows, but not of Q8_0: memory is read fastest front to back.
func (f format) zTiles() (tiles [][2]int) {
	for m := 8; m > 0; m-- {
		if m == 6 && !f.halves() || m == 4 && f.lines < 8 { // halves need two sums
			tiles = append(tiles, [2]int{m, 2})
		}
		tiles = append(tiles, [2]int{m, 1})
	}
	return tiles
}

type zKernel struct {
	format
	m, panels int
	w         *stream
	heads     []GPVirtual // by panel
	act       *rows
	acc       [][]VecVirtual // by panel and row
	masks     map[uint64]VecVirtual
	codesAt   Mem
	table     VecVirtual // of codes
}

func (z *zKernel) write() {
	begin(fmt.Sprintf("int8%sx%dx%dAVX512", z.name, z.m, z.panels), z.m, z.panels)
	out, act, panels := param("out"), param("x"), param("panels")
	z.w, z.act = newStream(z.panels), newRows("xStride", z.m)
	z.masks = map[uint64]VecVirtual{}
	if z.codes != nil {
		z.table = ZMM()
		VMOVDQU64(z.codesAt, z.table)
	}
	for _, b := range z.maskBytes() {
		z.masks[b] = broadcastZ(b * 0x01010101)
	}
	for range z.panels {
		z.acc = append(z.acc, vectors(z.m, ZMM))
	}
	Label("panel")
	z.act.reset(act)
	z.w.next()
	z.clear()
	repeat("group", param("steps"), z.group)
	z.store(out)
	SUBQ(I8(z.panels), panels)
	JNZ(LabelRef("panel"))
	VZEROUPPER()
	RET()
}

func (z *zKernel) clear() {
	for _, acc := range z.acc {
		zero(acc...)
	}
}

// store writes the sums of the panels and moves on to the next.
func (z *zKernel) store(out GPVirtual) {
	row := copyOf(out)
	for i := range z.m {
		for p, acc := range z.acc {
			VMOVUPS(acc[i], Mem{Base: row, Disp: 64 * p})
		}
		if i+1 < z.m {
			ADDQ(NewParamAddr("outStride", 8), row)
		}
	}
	ADDQ(I32(64*z.panels), out)
}

func broadcastZ(word uint64) VecVirtual {
	g, v := GP32(), ZMM()
	MOVL(U32(word), g)
	VPBROADCASTD(g, v)
	return v
}

func (z *zKernel) maskBytes() []uint64 {
	switch z.lines {
	case 2:
		return []uint64{0x03}
	case 3:
		return []uint64{0x03, 0x04}
	case 4:
		return []uint64{0x0f}
	case 5:
		return []uint64{0x0f, 0x10}
	case 6:
		return []uint64{0x0f, 0x30}
	}
	return nil
}

func (z *zKernel) group() {
	if z.head == 0 {
		z.block()
		return
	}
	z.heads = nil
	for _, w := range z.w.w {
		z.heads = append(z.heads, copyOf(w))
	}
	z.w.prefetch(z.head)
	z.w.advance(z.head)
	count := GP64()
	MOVQ(I32(z.blocks), count)
	repeat("block", count, z.block)
}

func (z *zKernel) block() {
	sums := z.dots()
	for p := range z.panels {
		d, m := z.scales(p)
		for i, sum := range sums[p] {
			z.add(z.acc[p][i], sum, i, d)
			if z.min || z.k {
				z.addMin(z.acc[p][i], i, m)
			}
		}
		if z.q2() {
			z.addMins(z.acc[p], m, z.halfMin(p, 0), z.halfMin(p, 1))
		}
	}
	z.w.advance(z.blockBytes())
	z.act.advance(actBlock)
}

// add adds the sum of a block and row i, scaled by d and the activations.
func (z *zKernel) add(acc, sum VecVirtual, i int, d VecVirtual) {
	t := ZMM()
	VMULPS_BCST(z.act.at(i, actD), d, t)
	VFMADD231PS(t, sum, acc)
}

// addMin adds a float minimum times the activations' sum; Q4_K and Q5_K have the minimum itself, to be subtracted.
func (z *zKernel) addMin(acc VecVirtual, i int, m VecVirtual) {
	if z.k {
		VFNMADD231PS_BCST(z.act.at(i, actDS), m, acc)
	} else {
		VFMADD231PS_BCST(z.act.at(i, actDS), m, acc)
	}
}

// addMins adds the integer minima of a block's halves, times the activations' negated sums, scaled by m and the activations.
// Both are below 2^15: VPDPWSSD multiplies the lower words of 32-bit lanes, as the minima's upper ones are zero.
func (z *zKernel) addMins(acc []VecVirtual, m VecVirtual, mins ...VecVirtual) {
	for i, a := range acc {
		low := ZMM()
		zero(low)
		VPDPWSSD_BCST(z.act.at(i, actNeg0), mins[0], low)
		VPDPWSSD_BCST(z.act.at(i, actNeg1), mins[1], low)
		VCVTDQ2PS(low, low)
		z.add(a, low, i, m)
	}
}

// halfMin loads the integer minimum of half a block.
func (z *zKernel) halfMin(p, h int) VecVirtual {
	mn := ZMM()
	VPMOVZXBD(z.w.at(p, 64*z.lines+16*h), mn)
	VPSRLD(U8(4), mn, mn)
	return mn
}

// halfScale loads the integer scale of half a block.
func (z *zKernel) halfScale(p, h int) VecVirtual {
	sc, from := ZMM(), z.w.at(p, 64*z.lines+16*h)
	if !z.q2() {
		VPMOVSXBD(from, sc)
		return sc
	}
	VPMOVZXBD(from, sc)
	VPSLLD(U8(28), sc, sc) // the low nibble
	VPSRLD(U8(28), sc, sc)
	return sc
}

// dots is the integer product of a block with every row, its offset and integer scales applied, as float32, which holds it:
// it stays below 2^24.
func (z *zKernel) dots() (sums [][]VecVirtual) {
	if !z.halves() {
		sums = z.partial(actNeg, 0, 8)
		for _, rows := range sums {
			toFloat(rows...)
		}
		return sums
	}
	first, sums := z.partial(actNeg0, 0, 4), z.partial(actNeg1, 4, 8)
	for p := range sums {
		sc := []VecVirtual{z.halfScale(p, 0), z.halfScale(p, 1)}
		if z.q6() {
			toFloat(sc...)
			z.joinFloats(first[p], sums[p], sc)
		} else {
			z.joinWords(first[p], sums[p], sc)
		}
	}
	return sums
}

// zero does what avo knows to need no input: with VPXORD registers would count as used all the way before.
func zero(v ...VecVirtual) {
	for _, x := range v {
		VXORPS(x, x, x)
	}
}

func toFloat(sums ...VecVirtual) {
	for _, s := range sums {
		VCVTDQ2PS(s, s)
	}
}

// joinFloats makes the sums of last halves those of both, times sc, all of it exact in float32.
func (z *zKernel) joinFloats(first, last, sc []VecVirtual) {
	toFloat(first...)
	toFloat(last...)
	for i, sum := range last {
		VMULPS(sc[1], sum, sum)
		VFMADD231PS(sc[0], first[i], sum)
	}
}

// joinWords does the same with sums below 2^15, in two instructions instead of five: VPDPWSSD multiplies the lower words of
// 32-bit lanes, if the scales' upper ones are zero.
func (z *zKernel) joinWords(first, last, sc []VecVirtual) {
	if !z.q2() {
		words := broadcastZ(0xffff)
		VPANDD(words, sc[0], sc[0])
		VPANDD(words, sc[1], sc[1])
	}
	for i, sum := range last {
		both := ZMM()
		zero(both)
		VPDPWSSD(sc[0], first[i], both)
		VPDPWSSD(sc[1], sum, both)
		VCVTDQ2PS(both, sum)
	}
}

// partial multiplies vectors from to to-1 by every row, starting from the offset's compensation. Rows and panels are the
// inner loop: neighbouring instructions are independent.
func (z *zKernel) partial(neg, from, to int) (sums [][]VecVirtual) {
	for range z.panels {
		sums = append(sums, vectors(z.m, ZMM))
	}
	for i := range z.m {
		for p := range sums {
			switch {
			case z.shift == 0:
				zero(sums[p][i])
			case p == 0:
				VPSLLD_BCST(U8(z.shift), z.act.at(i, neg), sums[p][i])
			default:
				VMOVDQA32(sums[0][i], sums[p][i])
			}
		}
	}
	for v := from; v < to; v++ {
		z.w.prefetchPart(z.blockBytes(), v, 8) // not all at once: they would queue
		var w []VecVirtual
		for p := range z.panels {
			w = append(w, z.unpack(p, v))
		}
		for i := range z.m {
			a := z.act.at(i, 4*v)
			if z.panels == 1 {
				VPDPBUSD_BCST(a, w[0], sums[0][i])
				continue
			}
			x := ZMM()
			VPBROADCASTD(a, x)
			for p := range sums {
				VPDPBUSD(x, w[p], sums[p][i])
			}
		}
	}
	return sums
}

// unpack loads vector v of a block as unsigned bytes.
func (z *zKernel) unpack(p, v int) VecVirtual {
	w := ZMM()
	switch {
	case z.lines == 8:
		VMOVDQU64(z.w.at(p, 64*v), w)
		return w
	case z.lines < 4: // field v%4 of line v/4
		if v%4 == 0 {
			VPANDD(z.w.at(p, 64*(v/4)), z.masks[0x03], w)
			break
		}
		VPSRLW(U8(v%4*2), z.w.at(p, 64*(v/4)), w)
		VPANDD(z.masks[0x03], w, w)
	case v < 4:
		VPANDD(z.w.at(p, 64*v), z.masks[0x0f], w)
	default:
		VPSRLW(U8(4), z.w.at(p, 64*(v-4)), w)
		VPANDD(z.masks[0x0f], w, w)
	}
	switch z.lines {
	case 3: // bit v of the third line to bit 2
		z.insert(p, 128, 2-v, 0x04, w)
	case 5: // bit v of the fifth line to bit 4
		z.insert(p, 256, 4-v, 0x10, w)
	case 6: // field v%4 of line 4 + v/4 to bits 4-5
		z.insert(p, 256+v/4*64, 4-v%4*2, 0x30, w)
	}
	if z.codes != nil {
		VPSHUFB(w, z.table, w)
	}
	return w
}

// insert shifts the line at disp left (right if negative) and sets those of its bits that are in mask.
func (z *zKernel) insert(p, disp, left int, mask uint64, w VecVirtual) {
	bits := ZMM()
	switch {
	case left > 0:
		VPSLLW(U8(left), z.w.at(p, disp), bits)
	case left < 0:
		VPSRLW(U8(-left), z.w.at(p, disp), bits)
	default:
		VMOVDQU64(z.w.at(p, disp), bits)
	}
	const orAnd = 0xf8 // w | bits & mask
	VPTERNLOGD(U8(orAnd), z.masks[mask], bits, w)
}

// scales loads the float factors of a block.
func (z *zKernel) scales(p int) (d, m VecVirtual) {
	tail := 64 * z.lines
	switch {
	case z.k:
		d, m = ZMM(), ZMM()
		for i, x := range []VecVirtual{d, m} {
			of := ZMM()
			VPMOVZXBD(z.w.at(p, tail+16*i), x)
			VCVTDQ2PS(x, x)
			VCVTPH2PS(Mem{Base: z.heads[p], Disp: 32 * i}, of)
			VMULPS(of, x, x)
		}
	case z.halves():
		d = ZMM()
		VCVTPH2PS(Mem{Base: z.heads[p]}, d)
		if z.q2() {
			m = ZMM()
			VCVTPH2PS(Mem{Base: z.heads[p], Disp: 32}, m)
		}
	case z.e8():
		d = z.exponents(z.w.at(p, tail))
	default:
		d = ZMM()
		VCVTPH2PS(z.w.at(p, tail), d)
		if z.min {
			m = ZMM()
			VCVTPH2PS(z.w.at(p, tail+32), m)
		}
	}
	return d, m
}

// exponents turns sixteen bytes e into 2^(e-128): exponent e-1, but subnormal 2^-128 and 2^-127 for 0 and 1.
func (z *zKernel) exponents(from Mem) VecVirtual {
	d, subnormal, one := ZMM(), broadcastZ(1<<21), broadcastZ(1)
	VPMOVZXBD(from, d)
	low := ZMM()
	VPMINUD(one, d, low)
	VPSLLVD(low, subnormal, subnormal)
	VPSUBD(one, d, d)
	VPSLLD(U8(23), d, d)
	VPMAXSD(subnormal, d, d)
	return d
}
