// Command asm writes the assembly of package attention: scores = q·K, the
// online softmax over the tiles of a partition, and acc += p·V.
package main

import (
	"fmt"
	"strings"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"sestina/internal/simd/asm/vec"
)

func main() {
	Package("sestina/internal/simd/asm/vec")
	ConstraintExpr("amd64,!purego")
	for _, s := range vec.ISAs() {
		for _, t := range []element{{"F32", 64}, {"F16", 32}, {"BF16", 32}} {
			scores(s, t)
			values(s, t)
		}
		for _, t := range []element{{"Q8_0", 16}, {"Q4_0", 8}} {
			dots(s, t)
			values(s, t)
		}
		softmax(s)
		finish(s)
	}
	turn(vec.ISAs()[0])
	quantize(vec.ISAs()[0])
	Generate()
}

// element is the type of K and V in the pool.
type element struct {
	name string
	unit int // bytes of 16 elements
}

// scaled says that elements are codes, of which 32 share a scale.
func (t element) scaled() bool { return t.unit < 32 }

// load widens 16 elements to float32.
func (t element) load(s *vec.ISA, m Mem) vec.V {
	v := s.New()
	for h := range v {
		if v[h] == nil {
			continue
		}
		at := m.Offset(t.unit / 2 * h)
		switch t.name {
		case "F32":
			VMOVUPS(at, v[h])
		case "F16":
			VCVTPH2PS(at, v[h])
		case "BF16":
			VPMOVZXWD(at, v[h])
			VPSLLD(U8(16), v[h], v[h])
		case "Q8_0":
			VPMOVSXBD(at, v[h])
			VCVTDQ2PS(v[h], v[h])
		}
	}
	if t.name == "Q4_0" {
		nibbles(s, m, v)
	}
	return v
}

const (
	scoreStride = 16 * 16 * 4 // bytes between the scores of two rows
	alphaStride = 2 * 16 * 4  // bytes between the alphas of two rows

	// Up to so many rows the kernel over V fetches K of the next partition beside
	// its own loads. With more rows, which compute for longer than memory takes, its
	// own next tiles.
	fewRows = 4

	nextTile = 16 * 8 // bytes from a tile's offset to that of the same tile in the next partition

	scaledStride = 2 * 16 * 4 // bytes between the scaled weights of two rows
)

// maxRows is how many query rows one call takes.
func maxRows(s *vec.ISA) int {
	if s.Wide {
		return 12
	}
	return 6
}

// breadth is how many vectors are worked on beside each other with that many
// rows: enough independent sums to hide the latency of FMA, few enough for the registers.
func breadth(s *vec.ISA, rows int) int {
	switch {
	case s.Wide && rows <= 4:
		return 4
	case s.Wide:
		return 2
	}
	return []int{4, 2, 2, 1, 1, 1}[rows-1]
}

// perRows emits body once for every number of rows, behind a jump on the parameter.
func perRows(s *vec.ISA, body func(rows int)) {
	n := Load(Param("rows"), GP64())
	for r := 1; r <= maxRows(s); r++ {
		CMPQ(n, U8(r))
		JE(LabelRef(fmt.Sprintf("rows%d", r)))
	}
	RET()
	for r := 1; r <= maxRows(s); r++ {
		Label(fmt.Sprintf("rows%d", r))
		body(r)
		s.Return()
	}
}

// param loads a parameter.
func param(name string) reg.GPVirtual { return Load(Param(name), GP64()).(reg.GPVirtual) }

// grid is rows × width sums.
func grid(rows, width int, each func(r, w int) vec.V) [][]vec.V {
	g := make([][]vec.V, rows)
	for r := range g {
		for w := range width {
			g[r] = append(g[r], each(r, w))
		}
	}
	return g
}

// scores: s[r][t][lane] = Σ_d q[d][r]·K_t[d][lane], d ascending.
func scores(s *vec.ISA, e element) {
	s.Func("scores"+e.name, "func(s, q *float32, pool *byte, offsets *int64, tiles, ahead, dim, rows int)",
		"writes the scores of rows against the tiles whose K lie at pool+offsets, and fetches what lies ahead of it.")
	perRows(s, func(rows int) {
		out, offsets, n := param("s"), param("offsets"), param("tiles")
		for _, width := range []int{breadth(s, rows), 1} {
			loop, next := s.Label("tiles"), s.Label("next")
			Label(loop)
			CMPQ(n, U8(width))
			JL(LabelRef(next))
			pool := param("pool")
			keys := tileKeys(pool, offsets, 0, width)
			acc := grid(rows, width, func(int, int) vec.V { return s.Zero() })
			qd, d, at := param("q"), param("dim"), GP64()
			XORQ(at, at)
			ahead := param("ahead")
			var soon []reg.GPVirtual
			if width <= 2 { // registers are few
				soon = tileKeys(pool, offsets, width, width)
			}
			dims := s.Label("dims")
			Label(dims)
			for _, k := range keys {
				PREFETCHT0(Mem{Base: k, Index: ahead, Scale: 1})
			}
			for _, k := range soon {
				PREFETCHT0(Mem{Base: k, Index: at, Scale: 1})
			}
			ADDQ(U8(e.unit), ahead)
			multiply(s, e, acc,
				func(t int) Mem { return Mem{Base: keys[t], Index: at, Scale: 1} },
				func(r, _ int) Mem { return Mem{Base: qd, Disp: 4 * r} })
			ADDQ(U8(e.unit), at)
			ADDQ(U8(4*rows), qd)
			DECQ(d)
			JNZ(LabelRef(dims))
			for r := range acc {
				for t, v := range acc[r] {
					s.Op(VMOVUPS, v, Mem{Base: out, Disp: scoreStride*r + 64*t})
				}
			}
			ADDQ(I32(64*width), out)
			ADDQ(U8(8*width), offsets)
			SUBQ(U8(width), n)
			JMP(LabelRef(loop))
			Label(next)
			if width == 1 {
				break
			}
		}
	})
}

// tileKeys are where K of tiles [from, from+n) lies.
func tileKeys(pool, offsets reg.Register, from, n int) (keys []reg.GPVirtual) {
	for t := from; t < from+n; t++ {
		k := GP64()
		MOVQ(Mem{Base: offsets, Disp: 8 * t}, k)
		ADDQ(pool, k)
		keys = append(keys, k)
	}
	return keys
}

// multiply adds the outer product of a column (one scalar a row) and a line of
// vectors to the grid: acc[r][w] = fma(line[w], column[r], acc[r][w]).
// The column of a scaled element changes every two vectors.
func multiply(s *vec.ISA, e element, acc [][]vec.V, line func(w int) Mem, column func(r, w int) Mem) {
	width := len(acc[0])
	fresh := func(w int) bool { return w == 0 || e.scaled() && w%2 == 0 }
	if !s.Wide && len(acc) != 2 && width > 1 { // 16 registers: one vector at a time
		var b vec.V // stays where there is one row
		for w := range width {
			x := e.load(s, line(w))
			for r := range acc {
				if len(acc) > 1 || fresh(w) {
					b = s.Broadcast(column(r, w))
				}
				s.Op(VFMADD231PS, b, x, acc[r][w])
			}
		}
		return
	}
	x := make([]vec.V, width)
	for w := range x {
		x[w] = e.load(s, line(w))
	}
	for r := range acc {
		var b reg.VecVirtual // one register serves the row, or what shares a scale
		for w := range x {
			if fresh(w) {
				b = s.New()[0]
				VBROADCASTSS(column(r, w), b)
			}
			VFMADD231PS(b, x[w][0], acc[r][w][0])
			if !s.Wide {
				VFMADD231PS(b, x[w][1], acc[r][w][1])
			}
		}
	}
}

// values: for each tile acc[r] = acc[r]·alpha[r][t], then for its visible j
// ascending acc[r][d] = fma(p[r][t][j], V_t[j][d], acc[r][d]).
func values(s *vec.ISA, e element) {
	signature, doc := "func(acc *float32, stride int, p, alpha *float32, pool *byte, offsets *int64, tiles, ahead, from, to, units, rows int)", ""
	if e.scaled() {
		signature = strings.Replace(signature, "alpha *", "alpha, scaled *", 1)
		doc = " scaled is room for p times the scales: rows·32."
	}
	s.Func("values"+e.name, signature,
		"adds p·V of the tiles whose V lie at pool+offsets; the first counts from position from, the last up to to; a V row is units·16 wide."+doc)
	perRows(s, func(rows int) {
		base, pool, left := param("acc"), param("pool"), param("units")
		rowBytes := GP64()
		MOVQ(left, rowBytes)
		IMUL3Q(I32(e.unit), rowBytes, rowBytes)
		for _, width := range []int{breadth(s, rows), 1} {
			loop, next := s.Label("units"), s.Label("next")
			Label(loop)
			CMPQ(left, U8(width))
			JL(LabelRef(next))
			column(s, e, base, pool, rowBytes, left, rows, width)
			ADDQ(I32(64*width), base)
			ADDQ(I32(e.unit*width), pool)
			SUBQ(U8(width), left)
			JMP(LabelRef(loop))
			Label(next)
			if width == 1 {
				break
			}
		}
	})
}

// nextKeys is where a column's share of a tile's K begins in the next
// partition, relative to that tile's offset.
func nextKeys(e element, left reg.Register) reg.Register {
	at := GP64()
	Load(Param("units"), at)
	SUBQ(left, at)
	IMUL3Q(I32(16*e.unit), at, at)
	ADDQ(param("pool"), at)
	SUBQ(param("ahead"), at)
	return at
}

// column takes width·16 dimensions of all rows through all tiles.
func column(s *vec.ISA, e element, base, pool, rowBytes, left reg.Register, rows, width int) {
	at, stride := GP64(), param("stride")
	MOVQ(base, at)
	acc := grid(rows, width, func(r, w int) vec.V {
		v := s.New()
		s.Op(VMOVUPS, Mem{Base: at, Disp: 64 * w}, v)
		if w == width-1 {
			ADDQ(stride, at)
		}
		return v
	})
	var scales reg.Register
	if e.scaled() {
		scales = scalesOf(rowBytes, left)
	}
	var next reg.Register
	if rows <= fewRows {
		next = nextKeys(e, left)
	}
	offsets, n, p, alpha, from := param("offsets"), param("tiles"), param("p"), param("alpha"), param("from")
	tile, lanes, whole := s.Label("tile"), s.Label("lane"), s.Label("whole")
	Label(tile)
	for r := range acc {
		a := s.Broadcast(Mem{Base: alpha, Disp: alphaStride * r})
		for _, v := range acc[r] {
			s.Op(VMULPS, a, v, v)
		}
	}
	count, v, pj, weights := GP64(), GP64(), GP64(), p
	if e.scaled() {
		weights = param("scaled")
		scaleWeights(s, p, weights, scales, offsets, rows, width)
	}
	if rows <= fewRows {
		k := GP64()
		MOVQ(Mem{Base: offsets, Disp: nextTile}, k)
		for line := range (16*e.unit*width + 63) / 64 {
			PREFETCHT0(Mem{Base: k, Index: next, Scale: 1, Disp: 64 * line})
		}
		if e.scaled() {
			ADDQ(scales, k)
			SUBQ(param("ahead"), k)
			PREFETCHT0(Mem{Base: k})
		}
	}
	MOVQ(U32(16), count)
	CMPQ(n, U8(1))
	JNE(LabelRef(whole))
	Load(Param("to"), count)
	Label(whole)
	SUBQ(from, count)
	LEAQ(Mem{Base: weights, Index: from, Scale: 4}, pj)
	IMULQ(rowBytes, from)
	ADDQ(Mem{Base: offsets}, from)
	MOVQ(pool, v)
	ADDQ(from, v)
	XORQ(from, from)
	var soon reg.GPVirtual // from this tile to the next
	if rows > fewRows && !e.scaled() {
		soon = GP64()
		MOVQ(Mem{Base: offsets, Disp: 8}, soon)
		SUBQ(Mem{Base: offsets}, soon)
	}
	Label(lanes)
	if soon != nil {
		for line := range (e.unit*width + 63) / 64 {
			PREFETCHT0(Mem{Base: v, Index: soon, Scale: 1, Disp: 64 * line})
		}
	}
	multiply(s, e, acc,
		func(w int) Mem { return Mem{Base: v, Disp: e.unit * w} },
		func(r, w int) Mem {
			if e.scaled() {
				return Mem{Base: pj, Disp: scaledStride*r + 64*(w/2)}
			}
			return Mem{Base: pj, Disp: scoreStride * r}
		})
	ADDQ(rowBytes, v)
	ADDQ(U8(4), pj)
	DECQ(count)
	JNZ(LabelRef(lanes))
	ADDQ(U8(8), offsets)
	ADDQ(U8(64), p)
	ADDQ(U8(4), alpha)
	DECQ(n)
	JNZ(LabelRef(tile))
	MOVQ(base, at)
	stride = param("stride")
	for r := range acc {
		for w, v := range acc[r] {
			s.Op(VMOVUPS, v, Mem{Base: at, Disp: 64 * w})
		}
		ADDQ(stride, at)
	}
}

// finish closes a row over its partitions.
func finish(s *vec.ISA) {
	s.Func("finish", "func(out, state *float32, step int, w *float32, parts int, sink float32, units int)",
		"writes 16·units elements of out: with l and then acc of the states, step bytes apart, each the fused sum over partitions of state·w, it is acc / (Tree16(l) + sink).")
	out, state, left := param("out"), param("state"), param("units")
	sum := func() vec.V { // of 16 lanes of all states
		at, w, n := GP64(), param("w"), param("parts")
		MOVQ(state, at)
		acc, loop := s.Zero(), s.Label("parts")
		Label(loop)
		s.Op(VFMADD231PS, s.Broadcast(Mem{Base: w}), s.Load(Mem{Base: at}, false), acc)
		ADDQ(param("step"), at)
		ADDQ(U8(4), w)
		DECQ(n)
		JNZ(LabelRef(loop))
		ADDQ(U8(64), state)
		return acc
	}
	total := s.Reduce(VADDPS, sum())
	m, _ := Param("sink").Resolve()
	sink := XMM()
	VMOVSS(m.Addr, sink)
	VADDPS(sink, total, total)
	by := s.New()
	s.Op(VBROADCASTSS, total, by)
	Label("units")
	v := sum()
	s.Op(VDIVPS, by, v, v)
	s.Store(v, Mem{Base: out}, false)
	ADDQ(U8(64), out)
	DECQ(left)
	JNZ(LabelRef("units"))
	s.Return()
}

// turn transposes queries.
func turn(s *vec.ISA) {
	s.Func("turn", "func(dst *float32, step int, a, b, c, d *float32, scale float32, quads int)",
		"writes elements 0 of four rows side by side, scaled, elements 1 step bytes behind, and so on for 4·quads of them.")
	dst, step, n := param("dst"), param("step"), param("quads")
	at, scale, rows := GP64(), XMM(), []reg.Register{param("a"), param("b"), param("c"), param("d")}
	m, _ := Param("scale").Resolve()
	VBROADCASTSS(m.Addr, scale)
	XORQ(at, at)
	Label("quads")
	var x, half [4]reg.VecVirtual
	for r := range x {
		x[r], half[r] = XMM(), XMM()
		VMULPS(Mem{Base: rows[r], Index: at, Scale: 1}, scale, x[r])
	}
	for i, order := range []uint8{0x44, 0xee} { // elements 0 and 1, 2 and 3
		VSHUFPS(U8(order), x[1], x[0], half[2*i])
		VSHUFPS(U8(order), x[3], x[2], half[2*i+1])
	}
	for d := range 4 {
		VSHUFPS(U8([]uint8{0x88, 0xdd}[d%2]), half[d/2*2+1], half[d/2*2], x[d])
		VMOVUPS(x[d], Mem{Base: dst})
		ADDQ(step, dst)
	}
	ADDQ(U8(16), at)
	DECQ(n)
	JNZ(LabelRef("quads"))
	s.Return()
}
