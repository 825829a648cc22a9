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
// them. A piece is widened to signed bytes in the lines that TDPBSSD takes. For each 16 rows and panel of a piece there are
// two phases, because no FMA issues on the second vector port while tile instructions are under way:
//
//	products  for every block: load, multiply, store the tile before; some 24 cycles a block
//	sums      for every block and row: convert, scale, add; 24 cycles, 32 with a minimum
//
// Q6_K and Q2_K have no such kernels: a product for each half of a block, or for the integer minima, took longer than
// int8Wide's kernels take.
func int8AMX() {
	tiles := tileShapes()
	for _, f := range formats {
		if f.q6() || f.q2() {
			continue
		}
		k := &tileKernel{pieceKernel: newPieces(f, 16), tiles: tiles}
		k.signed = true
		if f.codes != nil {
			k.codesAt = f.codeTable(0, 64)
			k.shift = 0
		}
		k.write()
	}
}

const (
	tileBytes = 1024
	firstA    = 4 // tiles 0-3 are products; 4 and 6 rows, 5 and 7 weights, in turn
	firstB    = 5
)

type tileKernel struct {
	pieceKernel
	tiles                                 Mem // the shapes of the tile registers
	products, outWord, panelB, panelsLeft Mem // variables on the stack
}

// tileShapes places the shapes in memory: palette 1, then bytes per row and rows of each tile.
func tileShapes() Mem {
	var bytes [64]byte
	bytes[0] = 1
	for t := range 8 {
		colsb, rows := 64, 16
		switch {
		case t < firstA:
		case t%2 == firstA%2:
			colsb = 32
		default:
			rows = 8
		}
		bytes[16+2*t], bytes[48+t] = byte(colsb), byte(rows)
	}
	tiles := GLOBL("tiles", RODATA|NOPTR)
	for i := 0; i < 64; i += 4 {
		word := uint32(bytes[i]) | uint32(bytes[i+1])<<8 | uint32(bytes[i+2])<<16 | uint32(bytes[i+3])<<24
		DATA(i, U32(word))
	}
	return tiles
}

func (k *tileKernel) write() {
	name := fmt.Sprintf("int8%sAMX", k.name)
	TEXT(name, 0, piecesSignature)
	Doc(name + " multiplies rows of x, a multiple of 16, by panels of 16 weight rows.")
	k.layOut()
	k.loops(k.squares)
	tileRelease()
	VZEROUPPER()
	RET()
}

// layOut places what is on the stack and loads the shapes.
func (k *tileKernel) layOut() {
	const productBytes = (1 + pieceBlocks) * tileBytes // a tile in front: see multiply
	at := k.allocate(productBytes+k.pieceBytes(), &k.products, &k.outWord, &k.panelB, &k.panelsLeft)
	ADDQ(I32(tileBytes), at)
	MOVQ(at, k.products)
	ADDQ(I32(productBytes-tileBytes), at)
	MOVQ(at, k.widened)
	shapes := GP64()
	LEAQ(k.tiles, shapes)
	loadTileConfig(Mem{Base: shapes})
}

// squares multiplies 16 rows by every panel of the piece.
func (k *tileKernel) squares() {
	move(k.widened, k.panelB)
	move(k.inPiece, k.panelsLeft)
	move(k.rowOut, k.outWord)
	Label("square")
	k.multiply()
	k.addUp()
	ADDQ(I8(64), k.outWord)
	DECQ(k.panelsLeft)
	JNZ(LabelRef("square"))
}

// multiply is the products phase of 16 rows and a panel. A product is stored after the next one has been started: the two
// overlap. So the first store is of a tile that means nothing, to the place in front.
func (k *tileKernel) multiply() {
	b, a, c, n := load(k.panelB), load(k.rowX), load(k.products), load(k.blocksLeft)
	step, line := load(arg("xStride")), GP64()
	MOVQ(U32(64), line)
	const unroll = 4
	row := func(disp int) Mem { return Mem{Base: a, Index: step, Scale: 1, Disp: disp} }
	tile := func(i int) Mem { return Mem{Base: c, Index: line, Scale: 1, Disp: tileBytes * i} }
	done := func(j int) string { return fmt.Sprintf("multiplied%d", j) }
	Label("multiplyBlocks")
	for j := range unroll {
		ta, tb := firstA+2*(j%2), firstB+2*(j%2)
		loadTile(Mem{Base: b, Index: line, Scale: 1, Disp: j * k.wideBytes()}, tb)
		loadTile(row(actBlock*j), ta)
		zeroTile(j)
		dotTiles(tb, ta, j)
		storeTile((j+unroll-1)%unroll, tile(j-1))
		DECQ(n)
		JZ(LabelRef(done(j)))
	}
	ADDQ(I32(unroll*k.wideBytes()), b)
	ADDQ(I32(unroll*actBlock), a)
	ADDQ(I32(unroll*tileBytes), c)
	JMP(LabelRef("multiplyBlocks"))
	for j := range unroll {
		Label(done(j))
		storeTile(j, tile(j))
		if j+1 < unroll {
			JMP(LabelRef("multiplied"))
		}
	}
	Label("multiplied")
}

// addUp is the sums phase.
func (k *tileKernel) addUp() {
	acc := [][]VecVirtual{vectors(16, ZMM)}
	out := newRows("outStride", 16)
	out.reset(load(k.outWord))
	k.resume(acc, out)
	b, c := load(k.panelB), load(k.products)
	k.act = newRows("xStride", 16)
	k.act.reset(load(k.rowX))
	repeat("sumBlock", load(k.blocksLeft), func() {
		k.sumBlock(acc[0], b, c)
		ADDQ(I32(k.wideBytes()), b)
		ADDQ(I32(tileBytes), c)
		k.act.advance(actBlock)
	})
	MOVQ(b, k.panelB) // the next panel's lines follow
	out.reset(load(k.outWord))
	k.save(acc, out)
}

// sumBlock adds a block's products to 16 rows.
func (k *tileKernel) sumBlock(acc []VecVirtual, b, c GPVirtual) {
	factors := vectors(k.factors, ZMM)
	for i, f := range factors {
		VMOVUPS(k.factorAt(b, i), f)
	}
	for i, a := range acc {
		sum := ZMM()
		VCVTDQ2PS(Mem{Base: c, Disp: 64 * i}, sum)
		k.add(a, sum, i, factors[0])
		if k.min || k.k {
			k.addMin(a, i, factors[1])
		}
	}
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
