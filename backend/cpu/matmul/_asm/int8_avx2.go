package main

import (
	"fmt"
	"math/bits"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// int8AVX2 writes the kernels for 256 bits: a line of 64 bytes is two halves, rows 0-7 and 8-15. VPMADDUBSW adds pairs of
// products in 16 bits, saturating; with weights of at most 15 eight such sums fit (15·127·2·8 = 30,480). Of wider weights the
// sums about their middle do: |w-16| ≤ 16 and 16·127·2·8 = 32,512, in a half of a block |w-32| ≤ 32 and 32·127·2·4 = 32,512.
// So 16-bit sums begin at -16 or -32 times the activations', may wrap on the way, and end right. Q8_0 and IQ4_NL go by the
// sign trick: |w| times ±a, where 128·127·2 = 32,512 fits once.
//
// A vector of weights is unpacked and at once multiplied by every row, so that no more than its two halves are in
// registers; both halves share the loads of the activations as far as sixteen registers hold their sums.
func int8AVX2() {
	c := constants()
	for _, f := range formats {
		y := newYKernel(f, c)
		for m := 4; m > 0; m-- { // more rows a pass: no faster, arithmetic bounds them
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

	raw, extra []held // by place in the set: the line that was unpacked last, and that of further bits
}

// held is what a register holds of a block.
type held struct {
	disp int
	line VecVirtual
}

// forget empties the registers of unpack for a set of so many halves.
func (y *yKernel) forget(places int) {
	y.raw, y.extra = make([]held, places), make([]held, places)
}

// hold loads the half line at disp, unless it is the one that is held.
func (y *yKernel) hold(h *held, disp int) VecVirtual {
	if h.line == nil || h.disp != disp {
		*h = held{disp, YMM()}
		VMOVDQU(y.at(disp), h.line)
	}
	return h.line
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

// parts is the number of parts of a block that have integer scales of their own.
func (y *yKernel) parts() int {
	if y.halves() {
		return 2
	}
	return 1
}

// vectors is the number of vectors in a part.
func (y *yKernel) vectors() int { return 8 / y.parts() }

// centre is the power of two that 16-bit sums are taken about: 0 where those of the weights themselves fit.
func (y *yKernel) centre() uint64 {
	if y.signed() || y.max*127*2*y.vectors() < 1<<15 {
		return 0
	}
	return uint64(bits.Len(uint(y.max)) - 1)
}

// sets are the halves of a line that are taken together: a row of each has a sum under way, and one of parts.
func (y *yKernel) sets() [][]int {
	if y.m*y.parts() <= 4 {
		return [][]int{{0, 1}}
	}
	return [][]int{{0}, {1}}
}

// inMemory says where the float sums are: registers are few.
func (y *yKernel) inMemory() bool { return y.m*y.parts() > 2 }

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
	for _, set := range y.sets() {
		y.product(set)
	}
	y.w.advance(y.blockBytes())
	y.act.advance(actBlock)
}

// product adds a block's product for the weight rows of some halves.
func (y *yKernel) product(set []int) {
	sums := y.integers(set)
	d, m := make([]VecVirtual, len(set)), make([]VecVirtual, len(set))
	mins := make([][2]VecVirtual, len(set))
	for k, h := range set {
		d[k], m[k] = y.scales(h)
		if y.q2() {
			mins[k] = [2]VecVirtual{y.halfMin(h, 0), y.halfMin(h, 1)}
		}
	}
	for i := range sums {
		var acc []VecVirtual
		for _, h := range set {
			acc = append(acc, y.load(y.acc[h][i]))
		}
		y.accumulate(i, acc, sums[i], d, m, mins)
		if y.inMemory() {
			for k, h := range set {
				VMOVUPS(acc[k], y.acc[h][i])
			}
		}
	}
}

// load is a float sum in a register.
func (y *yKernel) load(from Op) VecVirtual {
	if !y.inMemory() {
		return from.(VecVirtual)
	}
	acc := YMM()
	VMOVUPS(from, acc)
	return acc
}

// grid is [row][half of the set] sums; add puts x into one, the first time in its place.
type grid [][]VecVirtual

func (y *yKernel) grid(set []int) grid {
	g := make(grid, y.m)
	for i := range g {
		g[i] = make([]VecVirtual, len(set))
	}
	return g
}

func (g grid) add(i, k int, x VecVirtual, op func(...Op)) {
	if g[i][k] == nil {
		g[i][k] = x
	} else {
		op(x, g[i][k], g[i][k])
	}
}

// order is the vectors of a part as they are taken: those of one line together where they are in the same part.
func (y *yKernel) order(part int) []int {
	switch {
	case y.halves():
		return []int{4 * part, 4*part + 1, 4*part + 2, 4*part + 3}
	case y.lines == 8:
		return []int{0, 1, 2, 3, 4, 5, 6, 7}
	}
	return []int{0, 4, 1, 5, 2, 6, 3, 7}
}

// integers is the integer product of a block, [row][half of the set].
func (y *yKernel) integers(set []int) grid {
	y.forget(len(set))
	totals := y.grid(set)
	for part := range y.parts() {
		sums := y.pairs(set, part)
		for i := range sums {
			y.offset(i, part, sums[i])
		}
		for k, h := range set {
			var sc VecVirtual
			if y.halves() {
				sc = y.halfScale(h, part)
			}
			for i := range sums {
				if y.halves() {
					VPMULLD(sc, sums[i][k], sums[i][k])
				}
				totals.add(i, k, sums[i][k], VPADDD)
			}
		}
	}
	return totals
}

// pairs multiplies a part's vectors by the activations and widens their sums.
func (y *yKernel) pairs(set []int, part int) grid {
	sums := y.grid(set)
	if y.centre() > 0 {
		y.begin(part, sums)
	}
	for _, v := range y.order(part) {
		w, size := make([]VecVirtual, len(set)), make([]VecVirtual, len(set))
		for k, h := range set {
			w[k] = y.unpack(k, h, v)
			if y.signed() {
				size[k] = YMM()
				VPABSB(w[k], size[k])
			}
		}
		for i := range sums {
			x := YMM()
			VPBROADCASTD(y.act.at(i, 4*v), x)
			for k := range set {
				p := x
				if k+1 < len(set) {
					p = YMM()
				}
				if y.signed() {
					VPSIGNB(w[k], x, p)
					VPMADDUBSW(p, size[k], p)
					VPMADDWD(y.constant[0x00010001], p, p)
					sums.add(i, k, p, VPADDD)
				} else {
					VPMADDUBSW(x, w[k], p)
					sums.add(i, k, p, VPADDW)
				}
			}
		}
	}
	for i := range sums {
		for _, x := range sums[i] {
			if !y.signed() {
				VPMADDWD(y.constant[0x00010001], x, x)
			}
		}
	}
	return sums
}

// begin sets 16-bit sums to what makes them sums about the centre.
func (y *yKernel) begin(part int, sums grid) {
	from := actPairs
	if y.halves() {
		from += 4 + 4*part
	}
	for i := range sums {
		for k := range sums[i] {
			sums[i][k] = YMM()
			if k == 0 {
				VPBROADCASTD(y.act.at(i, from), sums[i][0])
				VPSLLW(U8(y.centre()), sums[i][0], sums[i][0])
			} else {
				VMOVDQA(sums[i][0], sums[i][k])
			}
		}
	}
}

// offset makes up for the weights' offset in a part's sums, as far as the centre does not.
func (y *yKernel) offset(i, part int, sums []VecVirtual) {
	if y.signed() || y.shift == y.centre() {
		return
	}
	neg, from := YMM(), actNeg
	if y.halves() {
		from = actNeg0 + 4*part
	}
	VPBROADCASTD(y.act.at(i, from), neg)
	VPSLLD(U8(max(y.shift, y.centre())), neg, neg)
	for _, s := range sums {
		if y.centre() > 0 { // no offset: back to the weights' own sum
			VPSUBD(neg, s, s)
		} else {
			VPADDD(neg, s, s)
		}
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

// accumulate adds one row's sums of a block, scaled, to its float sums. mins are the integer minima that m scales, if any.
func (y *yKernel) accumulate(i int, acc, sums, d, m []VecVirtual, mins [][2]VecVirtual) {
	factor := YMM()
	VBROADCASTSS(y.act.at(i, actD), factor)
	for k, sum := range sums {
		t := YMM()
		VCVTDQ2PS(sum, sum)
		VMULPS(factor, d[k], t)
		VFMADD231PS(t, sum, acc[k])
	}
	if y.min || y.k {
		VBROADCASTSS(y.act.at(i, actDS), factor)
	}
	for k := range acc {
		switch {
		case y.min:
			VFMADD231PS(factor, m[k], acc[k])
		case y.k: // m is the minimum itself, to be subtracted
			VFNMADD231PS(factor, m[k], acc[k])
		case y.q2():
			sum, neg := YMM(), YMM()
			VPBROADCASTD(y.act.at(i, actNeg0), sum)
			VPMULLD(mins[k][0], sum, sum)
			VPBROADCASTD(y.act.at(i, actNeg1), neg)
			VPMULLD(mins[k][1], neg, neg)
			VPADDD(neg, sum, sum)
			VCVTDQ2PS(sum, sum)
			VMULPS(factor, m[k], neg)
			VFMADD231PS(neg, sum, acc[k])
		}
	}
}
