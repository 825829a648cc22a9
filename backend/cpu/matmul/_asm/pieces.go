package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// pieceKernel is what the kernels for many rows share. A piece of the weights, two panels of at most nine blocks, is widened
// to bytes on the stack, where it stays in the first-level cache, and serves all rows, so many at a time. Between pieces the
// sums wait in the outputs. The integer scales of Q2_K and Q3_K go into the bytes: sc·w is at most 45, -sc·(w-4) in -128…124.
type pieceKernel struct {
	zKernel
	rows    int  // at a time
	signed  bool // bytes are the weights, not offset; of Q3_K, by 128
	factors int  // vectors after a block's lines, of float32 or of integer minima

	// Variables on the stack.
	widened, groups, blocksLeft, later, pieceW, pieceX, pieceSteps, rowX, rowOut, rowsLeft, inPiece Mem
}

const (
	pieceBlocks = 9 // both as in the package
	piecePanels = 2

	lineBytes = 8 * 64 // of a widened block
)

// newPieces is a kernel for so many rows at a time.
func newPieces(f format, rows int) pieceKernel {
	k := pieceKernel{zKernel: zKernel{format: f}, rows: rows, factors: 1}
	switch {
	case f.q2():
		k.factors = 4
	case f.q6():
		k.factors = 3
	case f.min || f.k:
		k.factors = 2
	}
	return k
}

func (k *pieceKernel) wideBytes() int { return lineBytes + 64*k.factors }

// piecesSignature is that of every such kernel: rows is a multiple of those at a time, piece the groups of columns that are
// taken together.
const piecesSignature = "func(out *float32, outStride int, w *byte, panelBytes, panels, steps int, x *byte, xStride, rows, piece int)"

// allocate places the variables and so many aligned bytes, which it returns the address of.
func (k *pieceKernel) allocate(bytes int, more ...*Mem) GPVirtual {
	for _, v := range append(more, &k.widened, &k.groups, &k.blocksLeft, &k.later, &k.pieceW, &k.pieceX, &k.pieceSteps,
		&k.rowX, &k.rowOut, &k.rowsLeft, &k.inPiece) {
		*v = AllocLocal(8)
	}
	memory, at := AllocLocal(64+bytes), GP64()
	LEAQ(memory, at)
	ADDQ(I8(63), at)
	ANDQ(I8(-64), at)
	return at
}

// pieceBytes is the size of a widened piece.
func (k *pieceKernel) pieceBytes() int { return piecePanels * pieceBlocks * k.wideBytes() }

// loops takes panels by panels, piece by piece and rows by rows; multiply is for the rows from rowX on and the piece.
func (k *pieceKernel) loops(multiply func()) {
	Label("panels")
	k.startPanels()
	Label("piece")
	k.startPiece()
	k.widen()
	move(k.pieceX, k.rowX)
	move(arg("out"), k.rowOut)
	move(arg("rows"), k.rowsLeft)
	Label("rows")
	multiply()
	k.nextRows()
	k.nextPiece()
	k.nextPanels()
}

func arg(name string) Mem {
	at := map[string]int{"out": 0, "outStride": 8, "w": 16, "panelBytes": 24, "panels": 32, "steps": 40, "x": 48, "xStride": 56,
		"rows": 64, "piece": 72}
	return NewParamAddr(name, at[name])
}

// load reads a variable; move copies one.
func load(from Mem) GPVirtual {
	r := GP64()
	MOVQ(from, r)
	return r
}

func move(from, to Mem) { MOVQ(load(from), to) }

// least writes the smaller of a number and a variable.
func least(label string, of Op, variable, to Mem) {
	n, limit := GP64(), load(variable)
	MOVQ(of, n)
	CMPQ(n, limit)
	JL(LabelRef(label))
	MOVQ(limit, n)
	Label(label)
	MOVQ(n, to)
}

func (k *pieceKernel) startPanels() {
	least("panelsChosen", U32(piecePanels), arg("panels"), k.inPiece)
	move(arg("w"), k.pieceW)
	move(arg("x"), k.pieceX)
	move(arg("steps"), k.pieceSteps)
	no := GP64()
	XORQ(no, no)
	MOVQ(no, k.later)
}

func (k *pieceKernel) startPiece() {
	least("pieceChosen", arg("piece"), k.pieceSteps, k.groups)
	n := load(k.groups)
	if k.blocks > 1 {
		IMUL3Q(I32(k.blocks), n, n)
	}
	MOVQ(n, k.blocksLeft)
}

func (k *pieceKernel) groupBytes() int { return k.head + k.blocks*k.blockBytes() }

// widen unpacks a piece of every panel.
func (k *pieceKernel) widen() {
	k.unpackBy()
	dst, from, panels := load(k.widened), load(k.pieceW), load(k.inPiece)
	k.w = &stream{w: []GPVirtual{GP64()}}
	Label("widenPanel")
	MOVQ(from, k.w.w[0])
	repeat("widenGroup", load(k.groups), func() {
		if k.head == 0 {
			k.widenBlock(dst)
			return
		}
		k.heads = []GPVirtual{copyOf(k.w.w[0])}
		k.w.advance(k.head)
		count := GP64()
		MOVQ(I32(k.blocks), count)
		repeat("widenBlock", count, func() { k.widenBlock(dst) })
	})
	ADDQ(arg("panelBytes"), from)
	DECQ(panels)
	JNZ(LabelRef("widenPanel"))
}

// unpackBy loads the registers that unpack uses.
func (k *pieceKernel) unpackBy() {
	k.masks = map[uint64]VecVirtual{}
	if k.codes != nil {
		k.table = ZMM()
		VMOVDQU64(k.codesAt, k.table)
	}
	for _, b := range k.maskBytes() {
		k.masks[b] = broadcastZ(b * 0x01010101)
	}
}

// widenBlock writes a block's bytes and factors and goes on to the next.
func (k *pieceKernel) widenBlock(dst GPVirtual) {
	k.widenLines(dst)
	for i, f := range k.blockFactors() {
		VMOVUPS(f, k.factorAt(dst, i))
	}
	k.w.advance(k.blockBytes())
	ADDQ(I32(k.wideBytes()), dst)
}

func (k *pieceKernel) widenLines(dst GPVirtual) {
	var scale func(w VecVirtual)
	var offset VecVirtual
	if k.signed && k.shift > 0 && !k.q3() {
		offset = broadcastZ((1 << k.shift) * 0x01010101)
	}
	for v := range 8 {
		w := k.unpack(0, v)
		if v%4 == 0 && (k.q2() || k.q3()) {
			scale = k.byteScale(v / 4)
		}
		switch {
		case scale != nil:
			scale(w)
		case offset != nil:
			VPSUBB(offset, w, w)
		}
		VMOVDQU64(w, Mem{Base: dst, Disp: 64 * v})
	}
}

// byteScale is the multiplication of weights by the integer scale of a half: no product leaves its byte. Q3_K's become
// -sc·(w-4), so that 128 does not occur: |sc|·w, inverted where sc is positive, and a constant.
func (k *pieceKernel) byteScale(h int) func(w VecVirtual) {
	sc, twice := k.halfScale(0, h), ZMM()
	var positive, add VecVirtual
	if k.q3() {
		positive = ZMM()
		VPSRAD(U8(31), sc, positive)
		VPABSD(sc, sc)
	}
	VPSLLD(U8(16), sc, twice)
	VPORD(sc, twice, twice)
	if k.q3() {
		add = ZMM()
		VPSLLW(U8(2), twice, sc)
		VPSLLW(U8(8), sc, add)
		VPORD(sc, add, add) // 4·|sc| in every byte
		VPXORD(positive, add, add)
		VPSUBB(positive, add, add) // 4·sc
		const not = 0x55
		VPTERNLOGD(U8(not), positive, positive, positive)
		VPSUBB(positive, add, add) // -x is ^x + 1
		if !k.signed {
			VPXORD(broadcastZ(0x80808080), add, add)
		}
	}
	return func(w VecVirtual) {
		VPMULLW(twice, w, w)
		if k.q3() {
			VPXORD(positive, w, w)
			VPADDB(add, w, w)
		}
	}
}

// blockFactors is what a block's sums are multiplied by: d, then a minimum or two integer scales as float32; Q2_K's integer
// minima stay integers. Q3_K's d is negated, as its bytes are.
func (k *pieceKernel) blockFactors() []VecVirtual {
	d, m := k.scales(0)
	switch {
	case k.q2():
		return []VecVirtual{d, m, k.halfMin(0, 0), k.halfMin(0, 1)}
	case k.q3():
		VPXORD(broadcastZ(1<<31), d, d)
	case k.q6():
		first, last := k.halfScale(0, 0), k.halfScale(0, 1)
		toFloat(first, last)
		return []VecVirtual{d, first, last}
	case m != nil:
		return []VecVirtual{d, m}
	}
	return []VecVirtual{d}
}

// factorAt is where factor i of a widened block is.
func (k *pieceKernel) factorAt(block GPVirtual, i int) Mem {
	return Mem{Base: block, Disp: lineBytes + 64*i}
}

// resume starts sums, by panel and row: at zero in the first piece, then where the last one left them.
func (k *pieceKernel) resume(acc [][]VecVirtual, out *rows) {
	CMPQ(k.later, U8(0))
	JNE(LabelRef("continued"))
	for _, rows := range acc {
		zero(rows...)
	}
	JMP(LabelRef("started"))
	Label("continued")
	for p, rows := range acc {
		for i, a := range rows {
			VMOVUPS(out.at(i, 64*p), a)
		}
	}
	Label("started")
}

// save writes sums to the outputs.
func (k *pieceKernel) save(acc [][]VecVirtual, out *rows) {
	for p, rows := range acc {
		for i, a := range rows {
			VMOVUPS(a, out.at(i, 64*p))
		}
	}
}

// nextRows goes on to the next rows.
func (k *pieceKernel) nextRows() {
	for _, x := range []struct {
		stride string
		at     Mem
	}{{"xStride", k.rowX}, {"outStride", k.rowOut}} {
		bytes := GP64()
		IMUL3Q(I32(k.rows), load(arg(x.stride)), bytes)
		ADDQ(bytes, x.at)
	}
	SUBQ(I8(k.rows), k.rowsLeft)
	JNZ(LabelRef("rows"))
}

// nextPiece goes on to the next columns of the same panels.
func (k *pieceKernel) nextPiece() {
	one := GP64()
	MOVQ(U32(1), one)
	MOVQ(one, k.later)
	bytes := GP64()
	IMUL3Q(I32(k.groupBytes()), load(k.groups), bytes)
	ADDQ(bytes, k.pieceW)
	columns := load(k.blocksLeft)
	SHLQ(U8(6), columns) // actBlock
	ADDQ(columns, k.pieceX)
	groups := load(k.groups)
	SUBQ(groups, k.pieceSteps)
	JNZ(LabelRef("piece"))
}

// nextPanels goes on to the next panels.
func (k *pieceKernel) nextPanels() {
	n, bytes := load(k.inPiece), GP64()
	MOVQ(n, bytes)
	IMULQ(arg("panelBytes"), bytes)
	ADDQ(bytes, arg("w"))
	left := copyOf(n)
	SHLQ(U8(6), n)
	ADDQ(n, arg("out"))
	SUBQ(left, arg("panels"))
	JNZ(LabelRef("panels"))
}
