package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// A sum over k is one chain of FMAs of latency 4, so several sums must be under way: of rows or, with few rows, of panels,
// but no more panels than it takes to wait for memory instead. The tile of one panel finishes what the wide one leaves.
var (
	zTiles = [][2]int{{8, 2}, {8, 1}, {4, 2}, {4, 1}, {2, 2}, {2, 1}, {1, 2}, {1, 1}} // rows, panels
	yTiles = [][2]int{{4, 1}, {2, 2}, {2, 1}, {1, 2}, {1, 1}}
)

// float writes the kernels for float32 activations.
func float() {
	for _, name := range []string{"F32", "F16", "BF16"} {
		for _, t := range zTiles {
			(&floatKernel{name: name, isa: "AVX512", m: t[0], panels: t[1], vectors: 1}).write()
		}
		for _, t := range yTiles {
			(&floatKernel{name: name, isa: "AVX2", m: t[0], panels: t[1], vectors: 2}).write()
		}
	}
}

type floatKernel struct {
	name, isa          string
	m, panels, vectors int // vectors: registers for 16 lanes
	x                  *rows
	w                  *stream
	acc                [][]VecVirtual // [row][panel·vectors + vector]
}

func (f *floatKernel) register() VecVirtual {
	if f.vectors == 1 {
		return ZMM()
	}
	return YMM()
}

// lineBytes is the size of a column of a panel, of a pair of columns for BF16.
func (f *floatKernel) lineBytes() int {
	if f.name == "F16" {
		return 32
	}
	return 64
}

func (f *floatKernel) write() {
	begin(fmt.Sprintf("float%sx%dx%d%s", f.name, f.m, f.panels, f.isa), f.m, f.panels)
	out, first := param("out"), param("x")
	f.w, f.x = newStream(f.panels), newRows("xStride", f.m)
	for range f.m {
		f.acc = append(f.acc, vectors(f.panels*f.vectors, f.register))
	}
	left := param("panels")
	Label("panel")
	f.start(first)
	f.columns()
	storeRows(out, f.acc, 64/f.vectors)
	ADDQ(I32(64*f.panels), out)
	SUBQ(I8(f.panels), left)
	JNZ(LabelRef("panel"))
	VZEROUPPER()
	RET()
}

func (f *floatKernel) start(first GPVirtual) {
	f.w.next()
	f.x.reset(first)
	for _, row := range f.acc {
		for _, a := range row {
			VXORPS(a, a, a)
		}
	}
}

// columns adds every k.
func (f *floatKernel) columns() {
	if f.name != "BF16" {
		repeat("column", param("steps"), func() { f.line(1) })
		return
	}
	pairs := param("steps")
	SHRQ(U8(1), pairs)
	JZ(LabelRef("single"))
	repeat("pair", pairs, func() { f.line(2) })
	Label("single")
	odd := param("steps")
	TESTQ(U32(1), odd)
	JZ(LabelRef("done"))
	f.line(1)
	Label("done")
}

// line adds the columns of one line of a panel: one, or for BF16 two.
func (f *floatKernel) line(columns int) {
	f.w.prefetch(f.lineBytes())
	for k := range columns {
		var x []VecVirtual
		for i := range f.m {
			v := f.register()
			VBROADCASTSS(f.x.at(i, 4*k), v)
			x = append(x, v)
		}
		for p := range f.panels {
			for v := range f.vectors {
				weights := f.load(f.w.at(p, f.lineBytes()/f.vectors*v), k)
				for i := range f.m {
					VFMADD231PS(x[i], weights, f.acc[i][p*f.vectors+v])
				}
			}
		}
	}
	f.w.advance(f.lineBytes())
	f.x.advance(4 * columns)
}

// load widens 16 / vectors weights of column k of a line.
func (f *floatKernel) load(from Mem, k int) VecVirtual {
	w := f.register()
	if f.name == "F16" {
		VCVTPH2PS(from, w)
		return w
	}
	VMOVUPS(from, w)
	if f.name == "BF16" {
		if k == 1 {
			VPSRLD(U8(16), w, w)
		}
		VPSLLD(U8(16), w, w)
	}
	return w
}

// storeRows writes the sums of a tile, [row][vector].
func storeRows(out GPVirtual, acc [][]VecVirtual, vectorBytes int) {
	row := copyOf(out)
	for i := range acc {
		for j, a := range acc[i] {
			VMOVUPS(a, Mem{Base: row, Disp: vectorBytes * j})
		}
		if i+1 < len(acc) {
			ADDQ(NewParamAddr("outStride", 8), row)
		}
	}
}
