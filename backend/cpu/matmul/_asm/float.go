package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const floatSignature = "func(out *float32, outStride int, w *byte, panelBytes, panels, cols int, x *float32, xStride int)"

// A sum over k is one chain of FMAs of latency 4, so several sums must be under way: the tiles have eight or more, of
// rows or, with few rows, of panels. The tile of one panel finishes what the wide one leaves.
var (
	zTiles = [][2]int{{8, 2}, {8, 1}, {4, 2}, {4, 1}, {2, 4}, {2, 1}, {1, 4}, {1, 1}} // rows, panels
	yTiles = [][2]int{{4, 1}, {2, 2}, {2, 1}, {1, 4}, {1, 1}}
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
	w                  []GPVirtual
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
	name := fmt.Sprintf("float%sx%dx%d%s", f.name, f.m, f.panels, f.isa)
	TEXT(name, NOSPLIT, floatSignature)
	Doc(fmt.Sprintf("%s multiplies %d rows by %s panels, %d at a time.", name, f.m, f.name, f.panels))
	out, first, w, x := param("out"), param("x"), param("w"), newRows("xStride", f.m)
	f.x = x
	for range f.panels {
		f.w = append(f.w, GP64())
	}
	for i := range f.m {
		f.acc = append(f.acc, nil)
		for range f.panels * f.vectors {
			f.acc[i] = append(f.acc[i], f.register())
		}
	}
	left := param("panels")
	Label("panel")
	f.start(first, w)
	repeat("column", param("cols"), f.column)
	MOVQ(f.w[f.panels-1], w)
	f.store(out)
	SUBQ(I8(f.panels), left)
	JNZ(LabelRef("panel"))
	VZEROUPPER()
	RET()
}

func (f *floatKernel) start(first, w GPVirtual) {
	f.x.reset(first)
	MOVQ(w, f.w[0])
	for p := 1; p < f.panels; p++ {
		MOVQ(f.w[p-1], f.w[p])
		ADDQ(NewParamAddr("panelBytes", 24), f.w[p])
	}
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
	for p, w := range f.w {
		for v := range f.vectors {
			weights := f.load(Mem{Base: w, Disp: f.colBytes() / f.vectors * v})
			for i := range f.m {
				VFMADD231PS(x[i], weights, f.acc[i][p*f.vectors+v])
			}
		}
		PREFETCHT0(Mem{Base: w, Disp: far / f.panels})
		ADDQ(I8(f.colBytes()), w)
	}
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
