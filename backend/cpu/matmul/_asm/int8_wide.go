package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// int8Wide writes the kernels for VPDPBUSD and many rows: the weights of a piece are unpacked once, not for every tile of rows
// anew. On Intel all arithmetic of 512 bits shares two ports, so the count of instructions, two a cycle, is the time. A block of
// 32 columns times 6 rows times two panels:
//
//	96  VPDPBUSD
//	36  convert, scale, add; 48 with a minimum
//	6   offsets, of formats that have one
//
// Unpacking and scales, which the tiles of int8AVX512 add to that, are 26 of Q4_0, 56 of Q5_0, 70 of Q5_K. Q3_K, its scales in
// the bytes, costs what Q4_0 does, Q2_K 60 more for its minima. Q6_K's scaled weights are too large for bytes: it has a sum for
// each half, therefore four rows at a time, and costs 42 more for six.
func int8Wide() {
	for _, f := range formats {
		if f.lines == 8 {
			continue // nothing to unpack
		}
		k := &wideKernel{pieceKernel: newPieces(f, 6)}
		if f.codes != nil {
			k.codesAt = f.codeTable(1<<f.shift, 64)
		}
		wide := f
		wide.lines = 8 // what unpack takes as it is
		switch {
		case k.q3():
			wide.shift = 7
		case k.q6():
			k.rows = 4
		}
		k.sums = &zKernel{format: wide, m: k.rows, panels: piecePanels}
		k.write()
	}
}

type wideKernel struct {
	pieceKernel
	sums *zKernel // over what is widened
}

func (k *wideKernel) write() {
	name := fmt.Sprintf("int8%sWideAVX512", k.name)
	TEXT(name, 0, piecesSignature)
	Doc(fmt.Sprintf("%s multiplies rows of x, a multiple of %d, by panels of 16 weight rows, an even number.", name, k.rows))
	MOVQ(k.allocate(k.pieceBytes()), k.widened)
	k.loops(k.multiply)
	VZEROUPPER()
	RET()
}

// multiply is for some rows, two panels and the piece.
func (k *wideKernel) multiply() {
	z := k.sums
	z.acc = [][]VecVirtual{vectors(k.rows, ZMM), vectors(k.rows, ZMM)}
	z.act = newRows("xStride", k.rows)
	z.act.reset(load(k.rowX))
	out := newRows("outStride", k.rows)
	out.reset(load(k.rowOut))
	k.resume(z.acc, out)
	blocks, second := load(k.blocksLeft), GP64()
	IMUL3Q(I32(k.wideBytes()), blocks, second)
	z.w = &stream{w: []GPVirtual{load(k.widened), second}, cached: true}
	ADDQ(z.w.w[0], second)
	repeat("sumBlock", blocks, func() {
		k.sumBlock()
		z.w.advance(k.wideBytes())
		z.act.advance(actBlock)
	})
	out.reset(load(k.rowOut))
	k.save(z.acc, out)
}

// sumBlock adds a block's products.
func (k *wideKernel) sumBlock() {
	z := k.sums
	factor := func(p, i int) VecVirtual {
		f := ZMM()
		VMOVUPS(k.factorAt(z.w.w[p], i), f)
		return f
	}
	var sums, first [][]VecVirtual
	if k.q6() {
		first, sums = z.partial(actNeg0, 0, 4), z.partial(actNeg1, 4, 8)
	} else {
		sums = z.partial(actNeg, 0, 8)
	}
	for p := range sums {
		if k.q6() {
			z.joinFloats(first[p], sums[p], []VecVirtual{factor(p, 1), factor(p, 2)})
		} else {
			toFloat(sums[p]...)
		}
		d := factor(p, 0)
		for i, sum := range sums[p] {
			z.add(z.acc[p][i], sum, i, d)
		}
		switch {
		case k.q2():
			z.addMins(z.acc[p], factor(p, 1), factor(p, 2), factor(p, 3))
		case k.min || k.k:
			m := factor(p, 1)
			for i, a := range z.acc[p] {
				z.addMin(a, i, m)
			}
		}
	}
}
