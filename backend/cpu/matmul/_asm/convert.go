package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// convert writes what prepares operands: widening a panel to float32, quantising a row to int8. AVX2 serves both
// instruction sets.
func convert() {
	c := constants()
	for _, f := range formats {
		y := newYKernel(f, c)
		dequantize(&y)
	}
	quantize()
	read()
}

// read writes the yardstick for kernels that wait for memory: it only loads.
func read() {
	TEXT("readAVX2", NOSPLIT, "func(data *byte, chunks int) byte")
	Doc("readAVX2 loads chunks of 512 bytes and returns one byte that depends on all of them.")
	data := param("data")
	ahead := &stream{w: []GPVirtual{data}}
	var acc []VecVirtual
	for i := range 4 {
		acc = append(acc, YMM())
		VPXOR(acc[i], acc[i], acc[i])
	}
	repeat("chunk", param("chunks"), func() {
		ahead.prefetch(512)
		for i := range 16 {
			VPXOR(Mem{Base: data, Disp: 32 * i}, acc[i%4], acc[i%4])
		}
		ADDQ(I32(512), data)
	})
	for _, a := range acc[1:] {
		VPXOR(a, acc[0], acc[0])
	}
	result := GP64()
	VMOVQ(acc[0].AsX(), result)
	VZEROUPPER()
	Store(result.As8(), ReturnIndex(0))
	RET()
}

// dequantize widens one panel. Lane = row already holds in the packed form: byte j of every 32-bit lane is column 4v+j.
func dequantize(y *yKernel) {
	name := "widen" + y.name + "AVX2"
	TEXT(name, NOSPLIT, "func(dst *float32, w *byte, groups int)")
	Doc(fmt.Sprintf("%s widens a %s panel to float32, column after column.", name, y.name))
	dst := param("dst")
	y.w = newStream(1)
	block := func() {
		for h := range 2 {
			widenHalf(y, dst, h)
		}
		y.w.advance(y.blockBytes())
		ADDQ(I32(32*64), dst)
	}
	repeat("group", param("groups"), func() {
		if y.head == 0 {
			block()
			return
		}
		y.heads = copyOf(y.w.w[0])
		y.w.advance(y.head)
		count := GP64()
		MOVQ(I32(y.blocks), count)
		repeat("block", count, block)
	})
	VZEROUPPER()
	RET()
}

func widenHalf(y *yKernel, dst GPVirtual, h int) {
	d, m := y.scales(h)
	var offset VecVirtual
	if y.shift > 0 && !y.signed() {
		offset = YMM()
		g := GP32()
		MOVL(U32(1<<y.shift), g)
		VMOVD(g, offset.AsX())
		VPBROADCASTD(offset.AsX(), offset)
	}
	y.forget(1)
	for v := range 8 {
		scale, low := d, m
		if y.halves() {
			scale = y.halfScale(h, v/4)
			VCVTDQ2PS(scale, scale)
			VMULPS(d, scale, scale)
		}
		if y.q2() {
			low = y.halfMin(h, v/4)
			VCVTDQ2PS(low, low)
			VMULPS(m, low, low)
		}
		w := y.unpack(0, h, v)
		for j := range 4 {
			x := YMM()
			if y.signed() { // signed bytes
				VPSLLD(U8(24-8*j), w, x)
				VPSRAD(U8(24), x, x)
			} else {
				VPSRLD(U8(8*j), w, x)
				VPAND(y.constant[0xff], x, x)
			}
			if offset != nil {
				VPSUBD(offset, x, x)
			}
			VCVTDQ2PS(x, x)
			VMULPS(scale, x, x)
			switch {
			case y.min:
				VADDPS(m, x, x)
			case y.k, y.q2():
				VSUBPS(low, x, x)
			}
			VMOVUPS(x, Mem{Base: dst, Disp: (4*v+j)*64 + 32*h})
		}
	}
}

// quantize writes the activation kernel; see activation.go of the package for the block.
func quantize() {
	TEXT("quantizeAVX2", NOSPLIT, "func(dst *byte, x *float32, blocks int)")
	Doc("quantizeAVX2 writes blocks of int8 activations.")
	dst, x := param("dst"), param("x")
	constant := func(bits uint32) VecVirtual {
		g, v := GP32(), YMM()
		MOVL(U32(bits), g)
		VMOVD(g, v.AsX())
		VPBROADCASTD(v.AsX(), v)
		return v
	}
	size, order := constant(0x7fffffff), YMM()
	below := constant(0x0da2425f) // the float32 before 1e-30
	c127, one := constant(0x42fe0000), constant(0x3f800000)
	lowest := constant(0xffffff81) // -127
	table := GLOBL("quantizeOrder", RODATA|NOPTR)
	for i, at := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
		DATA(4*i, U32(at))
	}
	VMOVDQU(table, order)
	repeat("block", param("blocks"), func() {
		d, id := blockScale(x, size, below, c127, one)
		q := roundBlock(x, id, lowest)
		storeBlock(dst, d, q, order)
		ADDQ(I32(128), x)
		ADDQ(I8(actBlock), dst)
	})
	VZEROUPPER()
	RET()
}

// blockScale returns d and 1/d of 32 values in the low lane, both 0 for a block that is too small. The largest size is
// found among integers, where NaN > infinity > every number.
func blockScale(x GPVirtual, size, below, c127, one VecVirtual) (d, id VecVirtual) {
	top := YMM()
	VPAND(Mem{Base: x}, size, top)
	for i := 1; i < 4; i++ {
		v := YMM()
		VPAND(Mem{Base: x, Disp: 32 * i}, size, v)
		VPMAXSD(v, top, top)
	}
	v, t := YMM(), top.AsX()
	VEXTRACTI128(U8(1), top, v.AsX())
	VPMAXSD(v.AsX(), t, t)
	for _, swap := range []uint64{0x4e, 0xb1} {
		VPSHUFD(U8(swap), t, v.AsX())
		VPMAXSD(v.AsX(), t, t)
	}
	d, id = XMM(), XMM()
	valid := XMM()
	VPCMPGTD(below.AsX(), t, valid)
	VDIVSS(c127.AsX(), t, d)
	VDIVSS(d, one.AsX(), id)
	VPAND(valid, d, d)
	VPAND(valid, id, id)
	return d, id
}

// roundBlock returns the four vectors of q as 32-bit integers.
func roundBlock(x GPVirtual, id, lowest VecVirtual) (q []VecVirtual) {
	factor := YMM()
	VBROADCASTSS(id, factor)
	for i := range 4 {
		v := YMM()
		VMULPS(Mem{Base: x, Disp: 32 * i}, factor, v)
		VCVTPS2DQ(v, v)
		VPMAXSD(lowest, v, v) // a NaN became the lowest integer
		q = append(q, v)
	}
	return q
}

func storeBlock(dst GPVirtual, d VecVirtual, q []VecVirtual, order VecVirtual) {
	first, last := YMM(), YMM()
	VPADDD(q[1], q[0], first)
	VPADDD(q[3], q[2], last)

	VPACKSSDW(q[1], q[0], q[0])
	VPACKSSDW(q[3], q[2], q[2])
	VPACKSSWB(q[2], q[0], q[0])
	VPERMD(q[0], order, q[0])
	VMOVDQU(q[0], Mem{Base: dst})

	VPHADDD(last, first, first)
	s, t := first.AsX(), XMM()
	VEXTRACTI128(U8(1), first, t)
	VPADDD(t, s, s) // first pair, second pair of four in each half
	zero, ds, pairs := XMM(), XMM(), XMM()
	VPXOR(zero, zero, zero)
	VPSUBD(s, zero, pairs)
	VPACKSSDW(pairs, pairs, pairs)
	VMOVQ(pairs, Mem{Base: dst, Disp: actPairs + 4})
	VPSHUFD(U8(1), pairs, t)
	VPADDW(t, pairs, pairs)
	VMOVD(pairs, Mem{Base: dst, Disp: actPairs})
	VPHADDD(s, s, s) // Σ0, Σ1, Σ0, Σ1
	VPHADDD(s, s, t) // Σ
	VCVTDQ2PS(t, ds)
	VMULSS(ds, d, ds)
	VMOVSS(d, Mem{Base: dst, Disp: actD})
	VMOVSS(ds, Mem{Base: dst, Disp: actDS})
	VPSUBD(t, zero, t)
	VPSUBD(s, zero, s)
	VMOVD(t, Mem{Base: dst, Disp: actNeg})
	VMOVQ(s, Mem{Base: dst, Disp: actNeg0})
}
