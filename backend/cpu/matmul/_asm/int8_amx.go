package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// int8AMX writes the kernels for AMX: tiles of 16 rows by 16 columns. One TDPBSSD is the exact product of a block of 32
// columns, which goes through memory to the vector registers, where scales and sums are what VPDPBUSD's kernels make of
// them. A piece of two panels and at most nine blocks is widened to signed bytes on the stack, in the lines that
// TDPBSSD takes, and serves all rows. For each 16 rows and panel of a piece there are two phases, because no FMA
// issues on the second vector port while tile instructions are under way:
//
//	products  for every block: load, multiply, store the tile before; some 24 cycles a block
//	sums      for every block and row: convert, scale, add; 24 cycles, 32 with a minimum
//
// Formats with integer scales: Q2_K's and Q3_K's go into the bytes (sc·w is at most 45, -sc·(w-4) in -128…124); Q2_K's
// minima are a second product of the same activations; Q6_K has a product for each half of a block, and float32 holds the
// scaled sum of both exactly (below 2^24).
func int8AMX() {
	for _, f := range formats {
		k := &tileKernel{zKernel: zKernel{format: f, m: 1, panels: 1, masks: map[uint64]VecVirtual{}}}
		if f.codes != nil {
			k.codesAt = f.codeTable(0, 64)
			k.shift = 0
		}
		k.config()
		k.write()
	}
}

const (
	pieceBlocks = 9 // of 32 columns in a piece, at most; and panels: both as in the package
	piecePanels = 2
	tileBytes   = 1024
	firstA      = 4 // tiles 0-3 are products; 4 and 6 rows, 5 and 7 weights, in turn
	firstB      = 5
)

type tileKernel struct {
	zKernel
	sum, weights VecVirtual // of the sums phase
	tiles        Mem        // the shapes of the tile registers
	offset       VecVirtual

	// Variables on the stack.
	products, widened, piece, groups, blocksLeft, later         Mem
	pieceW, pieceX, pieceSteps, rowX, rowOut, rowsLeft, outWord Mem
	panelB, panelsLeft, inPiece                                 Mem
}

// terms is the number of products of a block.
func (k *tileKernel) terms() int {
	if k.q2() || k.q6() {
		return 2
	}
	return 1
}

// inner is the bytes of a row in one product.
func (k *tileKernel) inner() int {
	if k.q6() {
		return 16
	}
	return 32
}

// lineBytes is the size of a widened block's lines; its float factors follow.
func (k *tileKernel) lineBytes() int { return k.terms() * k.inner() * 16 }

func (k *tileKernel) wideBytes() int {
	factors := 1
	switch {
	case k.q6():
		factors = 3
	case k.min || k.k || k.q2():
		factors = 2
	}
	return k.lineBytes() + 64*factors
}

// config places the shapes in memory: palette 1, then bytes per row and rows of each tile.
func (k *tileKernel) config() {
	var bytes [64]byte
	bytes[0] = 1
	for t := range 8 {
		colsb, rows := 64, 16
		switch {
		case t < firstA:
		case t%2 == firstA%2:
			colsb = k.inner()
		default:
			rows = k.inner() / 4
		}
		bytes[16+2*t], bytes[48+t] = byte(colsb), byte(rows)
	}
	k.tiles = GLOBL("tiles"+k.name, RODATA|NOPTR)
	for i := 0; i < 64; i += 4 {
		word := uint32(bytes[i]) | uint32(bytes[i+1])<<8 | uint32(bytes[i+2])<<16 | uint32(bytes[i+3])<<24
		DATA(i, U32(word))
	}
}

// amxSignature is that of every kernel: rows is a multiple of 16, piece the groups of columns that are taken together.
const amxSignature = "func(out *float32, outStride int, w *byte, panelBytes, panels, steps int, x *byte, xStride, rows, piece int)"

func (k *tileKernel) write() {
	name := fmt.Sprintf("int8%sAMX", k.name)
	TEXT(name, 0, amxSignature)
	Doc(name + " multiplies rows of x, a multiple of 16, by panels of 16 weight rows.")
	k.layOut()
	Label("panels")
	k.startPanels()
	Label("piece")
	k.startPiece()
	k.widen()
	k.startRows()
	Label("rows")
	k.startRow()
	Label("square")
	k.multiply()
	k.addUp()
	k.nextSquare()
	k.nextRow()
	k.nextPiece()
	k.nextPanels()
	tileRelease()
	VZEROUPPER()
	RET()
}

// layOut places what is on the stack and loads what stays in registers.
func (k *tileKernel) layOut() {
	for _, v := range []*Mem{&k.products, &k.widened, &k.piece, &k.groups, &k.blocksLeft, &k.later, &k.pieceW, &k.pieceX,
		&k.pieceSteps, &k.rowX, &k.rowOut, &k.rowsLeft, &k.outWord, &k.panelB, &k.panelsLeft, &k.inPiece} {
		*v = AllocLocal(8)
	}
	productBytes := (1 + pieceBlocks*k.terms()) * tileBytes // a tile in front: see multiply
	memory := AllocLocal(64 + productBytes + piecePanels*pieceBlocks*k.wideBytes())
	at := GP64()
	LEAQ(memory, at)
	ADDQ(I8(63), at)
	ANDQ(I8(-64), at)
	ADDQ(I32(tileBytes), at)
	MOVQ(at, k.products)
	ADDQ(I32(productBytes-tileBytes), at)
	MOVQ(at, k.widened)
	shapes := GP64()
	LEAQ(k.tiles, shapes)
	loadTileConfig(Mem{Base: shapes})
	if k.codes != nil {
		k.table = ZMM()
		VMOVDQU64(k.codesAt, k.table)
	}
	for _, b := range k.maskBytes() {
		k.masks[b] = broadcastZ(b * 0x01010101)
	}
	if k.shift > 0 {
		k.offset = broadcastZ((1 << k.shift) * 0x01010101)
	}
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

func (k *tileKernel) startPanels() {
	least("panelsChosen", U32(piecePanels), arg("panels"), k.inPiece)
	move(arg("w"), k.pieceW)
	move(arg("x"), k.pieceX)
	move(arg("steps"), k.pieceSteps)
	zero := GP64()
	XORQ(zero, zero)
	MOVQ(zero, k.later)
}

func (k *tileKernel) startPiece() {
	least("pieceChosen", arg("piece"), k.pieceSteps, k.groups)
	n := load(k.groups)
	if k.blocks > 1 {
		IMUL3Q(I32(k.blocks), n, n)
	}
	MOVQ(n, k.blocksLeft)
}

func (k *tileKernel) groupBytes() int { return k.head + k.blocks*k.blockBytes() }

// widen unpacks a piece of every panel.
func (k *tileKernel) widen() {
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

// widenBlock writes a block's signed lines and its factors as float32.
func (k *tileKernel) widenBlock(dst GPVirtual) {
	line := func(i int) Mem { return Mem{Base: dst, Disp: 64 * i} }
	for v := range 8 {
		w := k.unpack(0, v)
		switch {
		case k.q2() || k.q3():
			k.scaleBytes(v, w)
		case k.offset != nil:
			VPSUBB(k.offset, w, w)
		}
		VMOVDQU64(w, line(v))
	}
	d, m := k.scales(0)
	factors := []VecVirtual{d}
	switch {
	case k.q2():
		k.minBytes(line)
		factors = append(factors, m)
	case k.q3(): // the bytes are negated
		VPXORD(broadcastZ(1<<31), d, d)
	case k.q6():
		for h := range 2 {
			sc := k.halfScale(0, h)
			VCVTDQ2PS(sc, sc)
			factors = append(factors, sc)
		}
	case m != nil:
		factors = append(factors, m)
	}
	for i, f := range factors {
		VMOVUPS(f, Mem{Base: dst, Disp: k.lineBytes() + 64*i})
	}
	k.w.advance(k.blockBytes())
	ADDQ(I32(k.wideBytes()), dst)
}

// scaleBytes multiplies the four weights of every lane by the integer scale of vector v's half: no product leaves its byte.
// Q3_K's become -sc·(w-4), so that 128 does not occur.
func (k *tileKernel) scaleBytes(v int, w VecVirtual) {
	sc, twice := k.halfScale(0, v/4), ZMM()
	var positive VecVirtual
	if k.q3() {
		positive = ZMM()
		VPSRAD(U8(31), sc, positive)
		VPABSD(sc, sc)
	}
	VPSLLD(U8(16), sc, twice)
	VPORD(sc, twice, twice)
	VPMULLW(twice, w, w)
	if !k.q3() {
		return
	}
	four := ZMM()
	VPSLLW(U8(2), twice, twice)
	VPSLLW(U8(8), twice, four)
	VPORD(twice, four, four)
	VPSUBB(four, w, w) // |sc|·(w-4)
	const not = 0x55
	VPTERNLOGD(U8(not), positive, positive, positive)
	VPXORD(positive, w, w)
	VPSUBB(positive, w, w)
}

// minBytes writes Q2_K's second lines: every column's weight is its half's minimum, negated.
func (k *tileKernel) minBytes(line func(int) Mem) {
	for h := range 2 {
		mn, next, zero := ZMM(), ZMM(), ZMM()
		VPMOVZXBD(k.w.at(0, 64*k.lines+16*h), mn)
		VPSRLD(U8(4), mn, mn)
		for _, shift := range []uint64{8, 16} {
			VPSLLD(U8(shift), mn, next)
			VPORD(next, mn, mn)
		}
		VPXORD(zero, zero, zero)
		VPSUBB(mn, zero, zero)
		for v := range 4 {
			VMOVDQU64(zero, line(8+4*h+v))
		}
	}
}

func (k *tileKernel) startRows() {
	move(k.pieceX, k.rowX)
	move(arg("out"), k.rowOut)
	move(arg("rows"), k.rowsLeft)
}

func (k *tileKernel) startRow() {
	move(k.widened, k.panelB)
	move(k.inPiece, k.panelsLeft)
	move(k.rowOut, k.outWord)
}

// multiply is the products phase of 16 rows and a panel. A product is stored after the next one has been started: the two
// overlap. So the first store is of a tile that means nothing, to the place in front.
func (k *tileKernel) multiply() {
	b, a, c, n := load(k.panelB), load(k.rowX), load(k.products), load(k.blocksLeft)
	step, line := load(arg("xStride")), GP64()
	MOVQ(U32(64), line)
	terms := k.terms()
	unroll := 4 / terms
	row := func(disp int) Mem { return Mem{Base: a, Index: step, Scale: 1, Disp: disp} }
	tile := func(i int) Mem { return Mem{Base: c, Index: line, Scale: 1, Disp: tileBytes * i} }
	done := func(j int) string { return fmt.Sprintf("multiplied%d", j) }
	Label("multiplyBlocks")
	for j := range unroll {
		for t := range terms {
			i := j*terms + t
			ta, tb := firstA+2*(j%2), firstB+2*(i%2)
			if k.q6() {
				ta = firstA + 2*(i%2)
			}
			loadTile(Mem{Base: b, Index: line, Scale: 1, Disp: j*k.wideBytes() + t*k.lineBytes()/terms}, tb)
			switch {
			case k.q6():
				loadTile(row(actBlock*j+16*t), ta)
			case t == 0:
				loadTile(row(actBlock*j), ta)
			}
			zeroTile(i)
			dotTiles(tb, ta, i)
			storeTile((i+3)%4, tile(i-1))
		}
		DECQ(n)
		JZ(LabelRef(done(j)))
	}
	ADDQ(I32(unroll*k.wideBytes()), b)
	ADDQ(I32(unroll*actBlock), a)
	ADDQ(I32(4*tileBytes), c)
	JMP(LabelRef("multiplyBlocks"))
	for j := range unroll {
		Label(done(j))
		last := (j+1)*terms - 1
		storeTile(last, tile(last))
		if j+1 < unroll {
			JMP(LabelRef("multiplied"))
		}
	}
	Label("multiplied")
}

// addUp is the sums phase: 16 accumulators, continued from the outputs after the first piece.
func (k *tileKernel) addUp() {
	acc := vectors(16, ZMM)
	out := newRows("outStride", 16)
	out.reset(load(k.outWord))
	CMPQ(k.later, U8(0))
	JNE(LabelRef("continued"))
	for _, a := range acc {
		VPXORD(a, a, a)
	}
	JMP(LabelRef("started"))
	Label("continued")
	for i, a := range acc {
		VMOVUPS(out.at(i, 0), a)
	}
	Label("started")
	b, c := load(k.panelB), load(k.products)
	k.act = newRows("xStride", 16)
	k.act.reset(load(k.rowX))
	repeat("sumBlock", load(k.blocksLeft), func() {
		k.sumBlock(acc, b, c)
		ADDQ(I32(k.wideBytes()), b)
		ADDQ(I32(tileBytes*k.terms()), c)
		k.act.advance(actBlock)
	})
	MOVQ(b, k.panelB) // the next panel's lines follow
	out.reset(load(k.outWord))
	for i, a := range acc {
		VMOVUPS(a, out.at(i, 0))
	}
}

// sumBlock adds a block's products to 16 rows.
func (k *tileKernel) sumBlock(acc []VecVirtual, b, c GPVirtual) {
	var factors []VecVirtual
	for at := k.lineBytes(); at < k.wideBytes(); at += 64 {
		f := ZMM()
		VMOVUPS(Mem{Base: b, Disp: at}, f)
		factors = append(factors, f)
	}
	product := func(term, i int) VecVirtual {
		s := ZMM()
		VCVTDQ2PS(Mem{Base: c, Disp: term*tileBytes + 64*i}, s)
		return s
	}
	add := func(acc, sum, factor VecVirtual, i int) {
		t := ZMM()
		VMULPS_BCST(k.act.at(i, actD), factor, t)
		VFMADD231PS(t, sum, acc)
	}
	for i, a := range acc {
		sum := product(0, i)
		if k.q6() {
			last := product(1, i)
			VMULPS(factors[2], last, last)
			VFMADD231PS(factors[1], sum, last)
			sum = last
		}
		add(a, sum, factors[0], i)
		switch {
		case k.q2():
			add(a, product(1, i), factors[1], i)
		case k.min:
			VFMADD231PS_BCST(k.act.at(i, actDS), factors[1], a)
		case k.k: // the minimum itself, to be subtracted
			VFNMADD231PS_BCST(k.act.at(i, actDS), factors[1], a)
		}
	}
}

// nextSquare goes on to the next panel of the piece for the same rows.
func (k *tileKernel) nextSquare() {
	ADDQ(I8(64), k.outWord)
	DECQ(k.panelsLeft)
	JNZ(LabelRef("square"))
}

// nextRow goes on to the next 16 rows.
func (k *tileKernel) nextRow() {
	for _, x := range []struct {
		stride string
		at     Mem
	}{{"xStride", k.rowX}, {"outStride", k.rowOut}} {
		rows := load(arg(x.stride))
		SHLQ(U8(4), rows)
		ADDQ(rows, x.at)
	}
	SUBQ(I8(16), k.rowsLeft)
	JNZ(LabelRef("rows"))
}

// nextPiece goes on to the next columns of the same panels.
func (k *tileKernel) nextPiece() {
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
func (k *tileKernel) nextPanels() {
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

// Tile instructions, which encode_amx.go turns into bytes. Tiles are numbers.

func tileInstruction(opcode string, memory *Mem, operands ...Op) {
	i := &ir.Instruction{Opcode: opcode, Operands: operands, ISA: []string{"AMX"}}
	if memory != nil {
		for _, r := range Registers(*memory) {
			i.Inputs = append(i.Inputs, r)
		}
	}
	Instruction(i)
}

func loadTileConfig(from Mem)  { tileInstruction("LDTILECFG", &from, from) }
func tileRelease()             { tileInstruction("TILERELEASE", nil) }
func zeroTile(t int)           { tileInstruction("TILEZERO", nil, U8(t)) }
func loadTile(from Mem, t int) { tileInstruction("TILELOADD", &from, from, U8(t)) }
func storeTile(t int, to Mem)  { tileInstruction("TILESTORED", &to, U8(t), to) }
func dotTiles(b, a, c int)     { tileInstruction("TDPBSSD", nil, U8(b), U8(a), U8(c)) }
