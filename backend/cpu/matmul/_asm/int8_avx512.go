package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const int8Signature = "func(out *float32, outStride int, w *byte, panels, groups int, act *byte, actStride int)"

// far is how far ahead of their use weights are asked for, in bytes.
const far = 4096

// int8AVX512 writes the kernels for VPDPBUSD on 512 bits: a ZMM register holds one vector of a block, and the four
// activations that meet it are broadcast from memory by the multiplication itself. A block is unpacked into eight
// registers once for all rows.
func int8AVX512() {
	for _, f := range formats {
		for _, m := range []int{8, 4, 2, 1} {
			(&zKernel{format: f, m: m}).write()
		}
	}
}

type zKernel struct {
	format
	m       int
	w       GPVirtual
	act     *rows
	acc     []VecVirtual
	masks   map[uint64]VecVirtual
	d, dmin VecVirtual // of the group, in formats with a head
}

func (z *zKernel) write() {
	name := fmt.Sprintf("int8%sx%dAVX512", z.name, z.m)
	TEXT(name, NOSPLIT, int8Signature)
	Doc(fmt.Sprintf("%s multiplies tiles of %d by %s panels.", name, z.m, z.name))
	out, act, panels, groups := param("out"), param("act"), param("panels"), param("groups")
	z.w, z.act = param("w"), newRows("actStride", z.m)
	z.masks = map[uint64]VecVirtual{}
	for _, b := range z.maskBytes() {
		z.masks[b] = broadcastZ(b * 0x01010101)
	}
	for range z.m {
		z.acc = append(z.acc, ZMM())
	}
	repeat("panel", panels, func() {
		z.act.reset(act)
		for _, a := range z.acc {
			VPXORD(a, a, a)
		}
		repeat("group", copyOf(groups), z.group)
		z.store(out)
	})
	VZEROUPPER()
	RET()
}

// store writes the sums of a panel and moves on to the next.
func (z *zKernel) store(out GPVirtual) {
	row := copyOf(out)
	for i, a := range z.acc {
		VMOVUPS(a, Mem{Base: row})
		if i+1 < z.m {
			ADDQ(NewParamAddr("outStride", 8), row)
		}
	}
	ADDQ(I8(64), out)
}

func broadcastZ(word uint64) VecVirtual {
	g, v := GP32(), ZMM()
	MOVL(U32(word), g)
	VPBROADCASTD(g, v)
	return v
}

func (z *zKernel) maskBytes() []uint64 {
	switch z.lines {
	case 4:
		return []uint64{0x0f}
	case 5:
		return []uint64{0x0f, 0x10}
	case 6:
		return []uint64{0x0f, 0x30}
	}
	return nil
}

func (z *zKernel) at(disp int) Mem { return Mem{Base: z.w, Disp: disp} }

func (z *zKernel) group() {
	if z.head == 0 {
		z.block()
		return
	}
	z.d = ZMM()
	VCVTPH2PS(z.at(0), z.d)
	if z.k {
		z.dmin = ZMM()
		VCVTPH2PS(z.at(32), z.dmin)
	}
	ADDQ(I8(z.head), z.w)
	count := GP64()
	MOVQ(I32(z.blocks), count)
	repeat("block", count, z.block)
}

func (z *zKernel) block() {
	prefetch(z.w, z.blockBytes(), far)
	weights := z.unpack()
	d, m, sc := z.scales()
	for i := range z.m {
		sum := z.dot(i, weights, sc)
		VCVTDQ2PS(sum, sum)
		t := ZMM()
		VMULPS_BCST(z.act.at(i, actD), d, t)
		VFMADD231PS(t, sum, z.acc[i])
		switch {
		case z.min:
			VFMADD231PS_BCST(z.act.at(i, actDS), m, z.acc[i])
		case z.k: // m is the minimum itself, to be subtracted
			VFNMADD231PS_BCST(z.act.at(i, actDS), m, z.acc[i])
		}
	}
	ADDQ(I32(z.blockBytes()), z.w)
	z.act.advance(actBlock)
}

// unpack loads the eight vectors of a block as unsigned bytes.
func (z *zKernel) unpack() (w []VecVirtual) {
	for range 8 {
		w = append(w, ZMM())
	}
	if z.lines == 8 {
		for v := range w {
			VMOVDQU64(z.at(64*v), w[v])
		}
		return w
	}
	for j := range 4 {
		VMOVDQU64(z.at(64*j), w[j])
		VPSRLW(U8(4), w[j], w[j+4])
		VPANDD(z.masks[0x0f], w[j], w[j])
		VPANDD(z.masks[0x0f], w[j+4], w[j+4])
	}
	for v := range w {
		switch z.lines {
		case 5: // bit v of the fifth line to bit 4
			z.insert(256, 4-v, 0x10, w[v])
		case 6: // field v%4 of line 4 + v/4 to bits 4-5
			z.insert(256+v/4*64, 4-v%4*2, 0x30, w[v])
		}
	}
	return w
}

// insert shifts the line at disp left (right if negative) and sets those of its bits that are in mask.
func (z *zKernel) insert(disp, left int, mask uint64, w VecVirtual) {
	bits := ZMM()
	switch {
	case left > 0:
		VPSLLW(U8(left), z.at(disp), bits)
	case left < 0:
		VPSRLW(U8(-left), z.at(disp), bits)
	default:
		VMOVDQU64(z.at(disp), bits)
	}
	const orAnd = 0xf8 // w | bits & mask
	VPTERNLOGD(U8(orAnd), z.masks[mask], bits, w)
}

// scales loads the factors of a block.
func (z *zKernel) scales() (d, m VecVirtual, sc []VecVirtual) {
	tail := 64 * z.lines
	switch {
	case z.k:
		d, m = ZMM(), ZMM()
		for i, x := range []VecVirtual{d, m} {
			VPMOVZXBD(z.at(tail+16*i), x)
			VCVTDQ2PS(x, x)
			VMULPS([]VecVirtual{z.d, z.dmin}[i], x, x)
		}
	case z.q6():
		sc = []VecVirtual{ZMM(), ZMM()}
		for i, x := range sc {
			VPMOVSXBD(z.at(tail+16*i), x)
		}
		d = z.d
	default:
		d = ZMM()
		VCVTPH2PS(z.at(tail), d)
		if z.min {
			m = ZMM()
			VCVTPH2PS(z.at(tail+32), m)
		}
	}
	return d, m, sc
}

// dot is the exact integer product of a block with row i, its offset and (Q6_K) integer scales applied.
func (z *zKernel) dot(i int, w, sc []VecVirtual) VecVirtual {
	if !z.q6() {
		return z.partial(i, actNeg, w, 0)
	}
	first, last := z.partial(i, actNeg0, w[:4], 0), z.partial(i, actNeg1, w[4:], 16)
	VPMULLD(sc[0], first, first)
	VPMULLD(sc[1], last, last)
	VPADDD(last, first, first)
	return first
}

// partial multiplies vectors by the activations from byte a on, and starts from the offset's compensation.
func (z *zKernel) partial(i, neg int, w []VecVirtual, a int) VecVirtual {
	sum := ZMM()
	if z.shift > 0 {
		VPSLLD_BCST(U8(z.shift), z.act.at(i, neg), sum)
	} else {
		VPXORD(sum, sum, sum)
	}
	for v, x := range w {
		VPDPBUSD_BCST(z.act.at(i, a+4*v), x, sum)
	}
	return sum
}
