// Command _asm writes the assembly of package matmul. One run writes one family of kernels:
//
//	go run . -family int8avx512 -out ../int8_avx512_amd64.s -stubs ../int8_avx512_amd64.go -pkg matmul
package main

import (
	"flag"
	"fmt"
	"log"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// format mirrors the package's layout table: see layout.go there.
type format struct {
	name                      string
	blocks, head, lines, tail int
	shift                     uint64 // offset = 1 << shift, 0 for none
	min, k                    bool   // an f16 minimum; Q4_K's and Q5_K's integer scales and minima
	max                       int    // largest unsigned weight
	codes                     []int  // the signed values that 4-bit weights stand for
}

var formats = []format{
	{name: "Q40", blocks: 1, lines: 4, tail: 32, shift: 3, max: 15},
	{name: "Q41", blocks: 1, lines: 4, tail: 64, min: true, max: 15},
	{name: "Q50", blocks: 1, lines: 5, tail: 32, shift: 4, max: 31},
	{name: "Q51", blocks: 1, lines: 5, tail: 64, min: true, max: 31},
	{name: "Q80", blocks: 1, lines: 8, tail: 32, shift: 7, max: 255},
	{name: "Q4K", blocks: 8, head: 64, lines: 4, tail: 32, k: true, max: 15},
	{name: "Q5K", blocks: 8, head: 64, lines: 5, tail: 32, k: true, max: 31},
	{name: "Q6K", blocks: 8, head: 32, lines: 6, tail: 32, shift: 5, max: 63},
	{name: "Q2K", blocks: 8, head: 64, lines: 2, tail: 32, max: 3},
	{name: "Q3K", blocks: 8, head: 32, lines: 3, tail: 32, shift: 2, max: 7},
	{name: "IQ4NL", blocks: 1, lines: 4, tail: 32, shift: 7, max: 255,
		codes: []int{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}},
	{name: "MXFP4", blocks: 1, lines: 4, tail: 16, shift: 4, max: 28,
		codes: []int{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}},
}

// halves reports whether columns 0-15 and 16-31 of a block have integer scales of their own.
func (f format) halves() bool { return f.q2() || f.q3() || f.q6() }

// q2 reports whether such scales share a byte with integer minima.
func (f format) q2() bool { return f.lines == 2 }

// q3 and q6 are the formats with such scales and no minimum.
func (f format) q3() bool { return f.lines == 3 }
func (f format) q6() bool { return f.lines == 6 }

// signed reports whether the AVX2 kernels take weights as signed bytes: more than seven bits would saturate.
func (f format) signed() bool { return f.max == 255 }

// e8 reports whether scales are exponents in a byte.
func (f format) e8() bool { return f.tail == 16 }

func (f format) blockBytes() int { return f.lines*64 + f.tail }

// codeTable places the values of 4-bit weights in memory, plus offset, often enough for a register of so many bytes.
func (f format) codeTable(offset, size int) Mem {
	table := GLOBL("codes"+f.name, RODATA|NOPTR)
	for i := range size {
		DATA(i, U8(f.codes[i%16]+offset))
	}
	return table
}

// Offsets in an activation block.
const (
	actBlock = 64
	actD     = 32
	actDS    = 36
	actNeg   = 40
	actNeg0  = 44
	actNeg1  = 48
	actPairs = 52 // of the block, then of its parts
)

func main() {
	family := flag.String("family", "", "int8amx, int8wide, int8avx512, int8avx2, float, bf16, bf16amx or convert")
	families := map[string]func(){"int8amx": int8AMX, "int8wide": int8Wide, "int8avx512": int8AVX512, "int8avx2": int8AVX2, "float": float, "bf16": bf16, "bf16amx": bf16AMX, "convert": convert}
	flag.Parse()
	generate := families[*family]
	if generate == nil {
		log.Fatalf("unknown family %q", *family)
	}
	ConstraintExpr("amd64,!purego")
	generate()
	Generate()
	if err := encodeFile(flag.Lookup("out").Value.String()); err != nil {
		log.Fatal(err)
	}
}

// signature is that of every matrix kernel. Strides are in bytes; steps are columns or groups of columns.
const signature = "func(out *float32, outStride int, w *byte, panelBytes, panels, steps int, x *byte, xStride int)"

// begin starts the function of a tile.
func begin(name string, m, panels int) {
	TEXT(name, NOSPLIT, signature)
	Doc(fmt.Sprintf("%s multiplies %d x by 16·%d weight rows at a time.", name, m, panels))
}

// far is how far ahead of their use weights are asked for, in bytes.
const far = 4096

// rows addresses M rows at a fixed stride: one base register for four rows.
type rows struct {
	base        []GPVirtual
	step, step3 GPVirtual
}

// newRows loads the stride of M rows; reset sets the first row.
func newRows(strideParam string, m int) *rows {
	r := &rows{}
	for range (m + 3) / 4 {
		r.base = append(r.base, GP64())
	}
	if m > 1 {
		r.step = Load(Param(strideParam), GP64()).(GPVirtual)
	}
	if m > 3 {
		r.step3 = GP64()
		LEAQ(Mem{Base: r.step, Index: r.step, Scale: 2}, r.step3)
	}
	return r
}

func (r *rows) reset(first Register) {
	MOVQ(first, r.base[0])
	for i := 1; i < len(r.base); i++ {
		LEAQ(Mem{Base: r.base[i-1], Index: r.step, Scale: 4}, r.base[i])
	}
}

func (r *rows) at(m, disp int) Mem {
	a := Mem{Base: r.base[m/4], Disp: disp}
	switch m % 4 {
	case 1:
		a.Index, a.Scale = r.step, 1
	case 2:
		a.Index, a.Scale = r.step, 2
	case 3:
		a.Index, a.Scale = r.step3, 1
	}
	return a
}

func (r *rows) advance(n int) {
	for _, b := range r.base {
		ADDQ(I32(n), b)
	}
}

// param loads a parameter into a register of its own.
func param(name string) GPVirtual { return Load(Param(name), GP64()).(GPVirtual) }

// repeat emits a loop that runs count times; count is consumed and must not be 0.
func repeat(label string, count GPVirtual, body func()) {
	Label(label)
	body()
	DECQ(count)
	JNZ(LabelRef(label))
}

// copyOf is a register with the value of another.
func copyOf(r GPVirtual) GPVirtual {
	c := GP64()
	MOVQ(r, c)
	return c
}

// stream is the memory that the weights of a tile come from: neighbouring panels, read side by side.
type stream struct {
	w     []GPVirtual // by panel
	ahead GPVirtual   // what is asked for now, with several panels

	cached bool // no need to ask for anything
}

// newStream reads panels at a time, from the parameter w on.
func newStream(panels int) *stream {
	s := &stream{}
	for range panels {
		s.w = append(s.w, GP64())
	}
	Load(Param("w"), s.w[panels-1])
	if panels > 1 {
		s.ahead = GP64()
	}
	return s
}

// next moves to the panels behind the last ones.
func (s *stream) next() {
	last := len(s.w) - 1
	if last == 0 {
		return
	}
	MOVQ(s.w[last], s.w[0])
	for p := range s.w[1:] {
		MOVQ(s.w[p], s.w[p+1])
		ADDQ(NewParamAddr("panelBytes", 24), s.w[p+1])
	}
	MOVQ(s.w[last], s.ahead)
	ADDQ(NewParamAddr("panelBytes", 24), s.ahead)
}

func (s *stream) at(p, disp int) Mem { return Mem{Base: s.w[p], Disp: disp} }

// advance passes n bytes of every panel.
func (s *stream) advance(n int) {
	for _, w := range s.w {
		ADDQ(I32(n), w)
	}
	if s.ahead != nil {
		ADDQ(I32(n*len(s.w)), s.ahead)
	}
}

// prefetch asks for what will be read: of one panel the n bytes that are far ahead; while several panels are read side by
// side, the next ones from front to back, into the second-level cache.
func (s *stream) prefetch(n int) { s.prefetchPart(n, 0, 1) }

// prefetchPart is part number part of so many of prefetch.
func (s *stream) prefetchPart(n, part, parts int) {
	if s.cached {
		return
	}
	lines := (n*len(s.w) + 63) / 64
	for at := 64 * (lines * part / parts); at < 64*(lines*(part+1)/parts); at += 64 {
		if s.ahead == nil {
			PREFETCHT0(s.at(0, far+at))
		} else {
			PREFETCHT1(Mem{Base: s.ahead, Disp: at})
		}
	}
}

// vectors takes n registers.
func vectors(n int, register func() VecVirtual) (v []VecVirtual) {
	for range n {
		v = append(v, register())
	}
	return v
}
