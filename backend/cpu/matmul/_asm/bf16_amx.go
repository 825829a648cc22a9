package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// bf16AMX writes the kernels for BF16 in tiles; bf16_blocks.go of the package has the arithmetic and how the work is cut. A
// block of 32 columns of 16 weight rows is a tile as it lies in memory, and so are the activations of 16 rows. Tiles:
//
//	0 1   products: rows 0-15 by the first panel, by the second
//	2 3   products: rows 16-31
//	4 5   activations: rows 0-15, rows 16-31
//	6 7   weights of the two panels
//
// A block of the largest kernel is four loads (8.5 cycles each, from the first-level cache) and four products (16 cycles
// each), which overlap. Only general registers are used beside the tiles.
func bf16AMX() {
	for _, t := range [][2]int{{2, 2}, {2, 1}, {1, 1}} {
		(&blockKernel{groups: t[0], panels: t[1]}).write()
	}
}

// blockKernel takes 16·groups rows by 16·panels weight rows at a time.
type blockKernel struct {
	groups, panels int

	line, step, outStep              GPVirtual
	x, w, out                        []GPVirtual // of the groups, the panels, the groups
	ahead                            GPVirtual   // what is asked for now, with many rows
	config, pieceW, pieceX           Mem
	left, inPiece, rowX, rowOut      Mem
	rowsLeft, more, firstRows, share Mem
}

const blockSignature = "func(out *float32, outStride int, w *byte, panelBytes, panels, steps int, x *byte, xStride, rows, pairs, piece, ahead, more int)"

func blockArg(name string) Mem {
	at := map[string]int{"out": 0, "outStride": 8, "w": 16, "panelBytes": 24, "panels": 32, "steps": 40, "x": 48, "xStride": 56,
		"rows": 64, "pairs": 72, "piece": 80, "ahead": 88, "more": 96}
	return NewParamAddr(name, at[name])
}

func (k *blockKernel) write() {
	name := fmt.Sprintf("bf16x%dx%dAMX", 16*k.groups, 16*k.panels)
	TEXT(name, NOSPLIT, blockSignature)
	Doc(fmt.Sprintf("%s multiplies rows of x, %d at a time, by %d panels at a time.", name, 16*k.groups, k.panels))
	k.config = AllocLocal(64)
	for _, v := range []*Mem{&k.pieceW, &k.pieceX, &k.left, &k.inPiece, &k.rowX, &k.rowOut, &k.rowsLeft, &k.more} {
		*v = AllocLocal(8)
	}
	k.shapes()
	k.line, k.step, k.outStep = GP64(), load(blockArg("xStride")), load(blockArg("outStride"))
	MOVQ(U32(64), k.line)
	for range k.groups {
		k.x, k.out = append(k.x, GP64()), append(k.out, GP64())
	}
	for range k.panels {
		k.w = append(k.w, GP64())
	}
	if k.groups > 1 {
		k.ahead = GP64()
	}
	Label("panels")
	k.startPanels()
	Label("piece")
	k.startPiece()
	Label("rows")
	k.startRows()
	k.multiply()
	k.eachProduct(func(tile int, at Mem) { storeTile(tile, at) })
	k.nextRows()
	k.nextPiece()
	k.nextPanels()
	tileRelease()
	RET()
}

// shapes configures the tiles (palette 1): a first group of at most 16 rows, a second of what is left up to 32; weights
// have as many lines as there are pairs, activations 4 bytes for each.
func (k *blockKernel) shapes() {
	at := func(i int) Mem { return k.config.Offset(i) }
	zero, rows, pairs, width := GP64(), load(blockArg("rows")), load(blockArg("pairs")), GP64()
	XORQ(zero, zero)
	for i := 0; i < 64; i += 8 {
		MOVQ(zero, at(i))
	}
	MOVB(U8(1), at(0))
	MOVQ(pairs, width)
	SHLQ(U8(2), width)
	shape := func(tile int, rows, bytes Op) {
		MOVB(bytes, at(16+2*tile))
		MOVB(rows, at(48+tile))
	}
	full := U8(64)
	first := Op(rows.As8())
	if k.groups == 2 {
		first = U8(16)
		limit := GP64()
		MOVQ(U32(32), limit)
		CMPQ(rows, limit)
		CMOVQGT(limit, rows)
		SUBQ(U8(16), rows)
	}
	for j := range k.panels {
		shape(j, first, full)
		if k.groups == 2 {
			shape(2+j, rows.As8(), full)
		}
		shape(6+j, pairs.As8(), full)
	}
	shape(4, first, width.As8())
	if k.groups == 2 {
		shape(5, rows.As8(), width.As8())
	}
	config := GP64()
	LEAQ(k.config, config)
	loadTileConfig(Mem{Base: config})
}

func (k *blockKernel) startPanels() {
	move(blockArg("w"), k.pieceW)
	move(blockArg("x"), k.pieceX)
	move(blockArg("steps"), k.left)
	move(blockArg("more"), k.more)
	if k.ahead != nil { // the panels after these
		MOVQ(blockArg("w"), k.ahead)
		for range k.panels {
			ADDQ(blockArg("panelBytes"), k.ahead)
		}
	}
}

func (k *blockKernel) startPiece() {
	least("pieceChosen", blockArg("piece"), k.left, k.inPiece)
	move(k.pieceX, k.rowX)
	move(blockArg("out"), k.rowOut)
	move(blockArg("rows"), k.rowsLeft)
}

// startRows begins the sums of some rows: at zero, or where they were left.
func (k *blockKernel) startRows() {
	beside := func(r []GPVirtual, step GPVirtual) { // 16 rows further
		if len(r) > 1 {
			MOVQ(step, r[1])
			SHLQ(U8(4), r[1])
			ADDQ(r[0], r[1])
		}
	}
	MOVQ(k.rowX, k.x[0])
	beside(k.x, k.step)
	MOVQ(k.rowOut, k.out[0])
	beside(k.out, k.outStep)
	MOVQ(k.pieceW, k.w[0])
	if k.panels > 1 {
		MOVQ(k.w[0], k.w[1])
		ADDQ(blockArg("panelBytes"), k.w[1])
	}
	CMPQ(k.more, U8(0))
	JNE(LabelRef("continued"))
	k.eachProduct(func(tile int, _ Mem) { zeroTile(tile) })
	JMP(LabelRef("started"))
	Label("continued")
	k.eachProduct(func(tile int, at Mem) { loadTile(at, tile) })
	Label("started")
}

// eachProduct calls f for the tiles of sums and their places.
func (k *blockKernel) eachProduct(f func(tile int, at Mem)) {
	for i, out := range k.out {
		for j := range k.panels {
			f(2*i+j, Mem{Base: out, Index: k.outStep, Scale: 1, Disp: 64 * j})
		}
	}
}

// multiply takes the blocks of a piece.
func (k *blockKernel) multiply() {
	repeat("block", load(k.inPiece), func() {
		for i := range k.groups {
			loadTile(Mem{Base: k.x[i], Index: k.step, Scale: 1}, 4+i)
			for j := range k.panels {
				if i == 0 {
					loadTile(Mem{Base: k.w[j], Index: k.line, Scale: 1}, 6+j)
				}
				tileInstruction("TDPBF16PS", nil, U8(6+j), U8(4+i), U8(2*i+j))
			}
			ADDQ(I32(64), k.x[i])
		}
		k.prefetch()
		for _, w := range k.w {
			ADDQ(I32(tileBytes), w)
		}
	})
}

// prefetch asks for weights: with few rows for those 4 KiB ahead, with many for a share of the next panels.
func (k *blockKernel) prefetch() {
	if k.ahead == nil {
		for at := 0; at < tileBytes; at += 64 {
			PREFETCHT0(Mem{Base: k.w[0], Disp: far + at})
		}
		return
	}
	repeat("ahead", load(blockArg("ahead")), func() {
		for i := range 4 {
			PREFETCHT1(Mem{Base: k.ahead, Disp: 64 * i})
		}
		ADDQ(I32(256), k.ahead)
	})
}

func (k *blockKernel) nextRows() {
	for _, x := range []struct {
		step GPVirtual
		at   Mem
	}{{k.step, k.rowX}, {k.outStep, k.rowOut}} {
		rows := copyOf(x.step)
		SHLQ(U8(5), rows)
		ADDQ(rows, x.at)
	}
	SUBQ(I8(32), k.rowsLeft)
	JG(LabelRef("rows"))
}

// nextPiece goes on to the next columns of the same panels.
func (k *blockKernel) nextPiece() {
	one, n := GP64(), load(k.inPiece)
	MOVQ(U32(1), one)
	MOVQ(one, k.more)
	SUBQ(n, k.left)
	JE(LabelRef("panelsDone"))
	SHLQ(U8(6), n)
	ADDQ(n, k.pieceX)
	SHLQ(U8(4), n)
	ADDQ(n, k.pieceW)
	JMP(LabelRef("piece"))
	Label("panelsDone")
}

func (k *blockKernel) nextPanels() {
	for range k.panels {
		bytes := load(blockArg("panelBytes"))
		ADDQ(bytes, blockArg("w"))
	}
	ADDQ(I32(64*k.panels), blockArg("out"))
	SUBQ(I8(k.panels), blockArg("panels"))
	JNZ(LabelRef("panels"))
}
