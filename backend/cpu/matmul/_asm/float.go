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

// colBytes is the size of a column of a panel.
func (f *floatKernel) colBytes() int {
	if f.name == "F32" {
		return 64
	}
	return 32
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
	repeat("column", param("steps"), f.column)
	f.store(out)
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

// column adds one k.
func (f *floatKernel) column() {
	var x []VecVirtual
	for i := range f.m {
		v := f.register()
		VBROADCASTSS(f.x.at(i, 0), v)
		x = append(x, v)
	}
	f.w.prefetch(f.colBytes())
	for p := range f.panels {
		for v := range f.vectors {
			weights := f.load(f.w.at(p, f.colBytes()/f.vectors*v))
			for i := range f.m {
				VFMADD231PS(x[i], weights, f.acc[i][p*f.vectors+v])
			}
		}
	}
	f.w.advance(f.colBytes())
	f.x.advance(4)
}

// load widens 16 / vectors weights.
func (f *floatKernel) load(from Mem) VecVirtual {
	w := f.register()
	switch f.name {
	case "F32":
		VMOVUPS(from, w)
	case "F16":
		VCVTPH2PS(from, w)
	case "BF16":
		VPMOVZXWD(from, w)
		VPSLLD(U8(16), w, w)
	}
	return w
}

func (f *floatKernel) store(out GPVirtual) {
	row := copyOf(out)
	for i, acc := range f.acc {
		for j, a := range acc {
			VMOVUPS(a, Mem{Base: row, Disp: 64 / f.vectors * j})
		}
		if i+1 < f.m {
			ADDQ(NewParamAddr("outStride", 8), row)
		}
	}
	ADDQ(I32(64*f.panels), out)
}
