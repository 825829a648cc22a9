package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// A line of a BF16 panel is a pair of columns: 16 words, the lower half for the even column. A VDPBF16PS waits six cycles for
// the one before it in the same sum, which still takes a line faster than it comes from memory: up to four rows read one
// panel after the other, front to back.
var (
	zPairTiles = [][2]int{{8, 2}, {8, 1}, {4, 1}, {2, 1}, {1, 1}}
	yPairTiles = [][2]int{{4, 1}, {2, 2}, {2, 1}, {1, 2}, {1, 1}}
)

// bf16 writes the kernels for BF16 weights and activations; bf16.go of the package has the arithmetic.
func bf16() {
	for _, t := range zPairTiles {
		(&pairKernel{m: t[0], panels: t[1], vectors: 1}).write()
	}
	upper := GLOBL("upperHalves", RODATA|NOPTR)
	for i := range 8 {
		DATA(4*i, U32(0xffff0000))
	}
	for _, t := range yPairTiles {
		(&pairKernel{m: t[0], panels: t[1], vectors: 2, upper: upper}).write()
	}
	roundRow()
}

type pairKernel struct {
	m, panels, vectors int // vectors: registers for 16 lanes
	x                  *rows
	w                  *stream
	acc                [][]VecVirtual // [row][panel·vectors + vector]
	upper              Mem            // AVX2: masks of the odd columns
}

func (p *pairKernel) register() VecVirtual {
	if p.vectors == 1 {
		return ZMM()
	}
	return YMM()
}

func (p *pairKernel) write() {
	isa := "AVX512"
	if p.vectors == 2 {
		isa = "AVX2"
	}
	begin(fmt.Sprintf("bf16x%dx%d%s", p.m, p.panels, isa), p.m, p.panels)
	out, first, left := param("out"), param("x"), param("panels")
	p.w, p.x = newStream(p.panels), newRows("xStride", p.m)
	for range p.m {
		p.acc = append(p.acc, vectors(p.panels*p.vectors, p.register))
	}
	restore := func() {}
	if p.vectors == 2 {
		restore = flushSubnormals()
	}
	Label("panel")
	p.w.next()
	p.x.reset(first)
	for _, row := range p.acc {
		for _, a := range row {
			VXORPS(a, a, a)
		}
	}
	repeat("pair", param("steps"), func() {
		p.w.prefetch(64)
		if p.vectors == 1 {
			p.multiply()
		} else {
			p.multiplyAVX2()
		}
		p.w.advance(64)
		p.x.advance(4)
	})
	storeRows(out, p.acc, 64/p.vectors)
	ADDQ(I32(64*p.panels), out)
	SUBQ(I8(p.panels), left)
	JNZ(LabelRef("panel"))
	restore()
	VZEROUPPER()
	RET()
}

// multiply adds a pair of columns.
func (p *pairKernel) multiply() {
	w := vectors(p.panels, ZMM)
	for i := range w {
		VMOVUPS(p.w.at(i, 0), w[i])
	}
	for i, acc := range p.acc {
		x := ZMM()
		VPBROADCASTD(p.x.at(i, 0), x)
		for j := range acc {
			dpbf16(x, w[j], acc[j])
		}
	}
}

// dpbf16 is VDPBF16PS, which encode.go turns into bytes.
func dpbf16(x, w, acc VecVirtual) {
	Instruction(&ir.Instruction{Opcode: "VDPBF16PS", Operands: []Op{x, w, acc}, Inputs: []Op{x, w, acc}, Outputs: []Op{acc},
		ISA: []string{"AVX512_BF16"}})
}

// multiplyAVX2 adds a pair of columns, to each sum the odd one first, then the even one: products of bf16 are exact, so that
// FMAs round as VDPBF16PS does. The few of rows and weights stay in registers while the others pass by.
func (p *pairKernel) multiplyAVX2() {
	rows := func(i int) [2]VecVirtual {
		x := YMM()
		VPBROADCASTD(p.x.at(i, 0), x)
		return p.split(x)
	}
	weights := func(j int) [2]VecVirtual {
		w := YMM()
		VMOVDQU(p.w.at(j/2, 32*(j%2)), w)
		return p.split(w)
	}
	if p.m <= 2 {
		var x [][2]VecVirtual
		for i := range p.m {
			x = append(x, rows(i))
		}
		for j := range p.panels * 2 {
			w := weights(j)
			for half := range 2 {
				for i := range x {
					VFMADD231PS(x[i][half], w[half], p.acc[i][j])
				}
			}
		}
		return
	}
	var w [][2]VecVirtual
	for j := range p.panels * 2 {
		w = append(w, weights(j))
	}
	for i := range p.m {
		x := rows(i)
		for half := range 2 {
			for j := range w {
				VFMADD231PS(x[half], w[j][half], p.acc[i][j])
			}
		}
	}
}

// split is the odd and the even columns of pairs, as float32.
func (p *pairKernel) split(pairs VecVirtual) [2]VecVirtual {
	odd := YMM()
	VPAND(p.upper, pairs, odd)
	VPSLLD(U8(16), pairs, pairs)
	return [2]VecVirtual{odd, pairs}
}

// flushSubnormals makes zeros of subnormal operands and results until the code that it returns has run.
func flushSubnormals() (restore func()) {
	const daz, ftz = 1 << 6, 1 << 15
	old, flushing := AllocLocal(8), AllocLocal(8)
	VSTMXCSR(old)
	bits := GP32()
	MOVL(old, bits)
	ORL(U32(daz|ftz), bits)
	MOVL(bits, flushing)
	VLDMXCSR(flushing)
	return func() { VLDMXCSR(old) }
}

// roundRow writes the rounding of activations. A NaN would become an infinity: it keeps its upper half, made quiet.
func roundRow() {
	TEXT("roundAVX2", NOSPLIT, "func(dst *byte, x *float32, chunks int)")
	Doc("roundAVX2 writes chunks of 16 float32 as bf16.")
	dst, x := param("dst"), param("x")
	constant := func(bits uint32) VecVirtual {
		g, v := GP32(), YMM()
		MOVL(U32(bits), g)
		VMOVD(g, v.AsX())
		VPBROADCASTD(v.AsX(), v)
		return v
	}
	half, one, quiet := constant(0x7fff), constant(1), constant(0x40)
	repeat("chunk", param("chunks"), func() {
		var r []VecVirtual
		for i := range 2 {
			v, up, nan := YMM(), YMM(), YMM()
			VMOVUPS(Mem{Base: x, Disp: 32 * i}, v)
			VCMPPS(U8(3), v, v, nan) // unordered
			VPSRLD(U8(16), v, up)
			odd := YMM()
			VPAND(one, up, odd)
			VPOR(quiet, up, up)
			VPADDD(half, v, v)
			VPADDD(odd, v, v)
			VPSRLD(U8(16), v, v)
			VPBLENDVB(nan, up, v, v)
			r = append(r, v)
		}
		VPACKUSDW(r[1], r[0], r[0])
		VPERMQ(U8(0xd8), r[0], r[0]) // the pack works on 128-bit halves
		VMOVDQU(r[0], Mem{Base: dst})
		ADDQ(I32(64), x)
		ADDQ(I32(32), dst)
	})
	VZEROUPPER()
	RET()
}
