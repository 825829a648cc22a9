package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"sestina/internal/simd/asm/vec"
)

var minusInf = float32(math.Inf(-1))

// softmax runs rows through the online softmax. A row's 16 maxima come from one
// tree that transposes as it folds, so that a lane is a tile and a scan over
// lanes gives every tile's running maximum. What lies behind the last tile goes
// through tree and scan as well, but reaches no earlier lane.
func softmax(s *vec.ISA) {
	s.Func("softmax", "func(s, alpha, state *float32, stride, m, tiles, rows int)",
		"turns the scores of rows into weights p and rescale factors alpha, and writes their denominators l and, at state+m, maxima. It reads 16 tiles, however many count.",
		vec.ExpConstants...)
	maxima := AllocLocal(64)
	out, alpha, state, rows := param("s"), param("alpha"), param("state"), param("rows")
	Label("row")
	after, before := scan(s, fold(s, out))
	s.Store(after, maxima, false)
	s.Op(VSUBPS, after, before, before)
	s.Store(s.Falls(before)[0], Mem{Base: alpha}, false)
	n, m, top := param("tiles"), param("m"), XMM()
	VMOVSS(maxima.Offset(-4).Idx(n, 4), top)
	VMOVSS(top, Mem{Base: state, Index: m, Scale: 1})

	l, at, i := s.Zero(), GP64(), GP64()
	MOVQ(out, at)
	XORQ(i, i)
	for _, width := range together(s) {
		loop, next := s.Label("weights"), s.Label("next")
		Label(loop)
		CMPQ(n, U8(width))
		JL(LabelRef(next))
		x := make([]vec.V, width)
		for t := range x {
			x[t] = s.Load(Mem{Base: at, Disp: 64 * t}, false)
			s.Op(VSUBPS, s.Broadcast(maxima.Offset(4*t).Idx(i, 4)), x[t], x[t])
		}
		for t, w := range s.Falls(x...) {
			s.Store(w, Mem{Base: at, Disp: 64 * t}, false)
			s.Op(VFMADD213PS, w, s.Broadcast(Mem{Base: alpha, Index: i, Scale: 4, Disp: 4 * t}), l)
		}
		ADDQ(I32(64*width), at)
		ADDQ(U8(width), i)
		SUBQ(U8(width), n)
		JMP(LabelRef(loop))
		Label(next)
	}
	s.Store(l, Mem{Base: state}, false)
	ADDQ(I32(scoreStride), out)
	ADDQ(I32(alphaStride), alpha)
	ADDQ(param("stride"), state)
	DECQ(rows)
	JNZ(LabelRef("row"))
	s.Return()
}

// together is how many tiles' weights are computed in step, then what is left.
func together(s *vec.ISA) []int {
	if s.Wide {
		return []int{4, 1}
	}
	return []int{1}
}

// fold is the maxima of the 16 tiles at p, a lane per tile.
func fold(s *vec.ISA, p reg.Register) (top vec.V) {
	tile := func(t int) reg.VecVirtual {
		v := s.New()[0]
		VMOVUPS(Mem{Base: p, Disp: 64 * t}, v)
		if !s.Wide {
			VMAXPS(Mem{Base: p, Disp: 64*t + 32}, v, v)
		}
		return v
	}
	quarter := func(t int) reg.VecVirtual { // four lanes of tile t, then of t+4, …
		if !s.Wide {
			return pair(s, halves, 0x20, 0x31, tile(t), tile(t+4))
		}
		low, high := pair(s, quarters, 0x44, 0xee, tile(t), tile(t+4)), pair(s, quarters, 0x44, 0xee, tile(t+8), tile(t+12))
		return pair(s, quarters, 0x88, 0xdd, low, high)
	}
	for h := range top {
		if h == 1 && s.Wide {
			break
		}
		low := pair(s, lanes, 0x44, 0xee, quarter(8*h), quarter(8*h+1))
		high := pair(s, lanes, 0x44, 0xee, quarter(8*h+2), quarter(8*h+3))
		top[h] = pair(s, lanes, 0x88, 0xdd, low, high)
	}
	return top
}

// pair folds a and b into one vector, the maxima of what two shuffles take of both.
func pair(s *vec.ISA, shuffle func(i, b, a, dst Op), one, other uint8, a, b reg.VecVirtual) reg.VecVirtual {
	v := s.New()[0]
	shuffle(U8(one), b, a, v)
	shuffle(U8(other), b, a, a)
	VMAXPS(v, a, a)
	return a
}

func halves(i, b, a, dst Op)   { VPERM2F128(i, b, a, dst) }
func quarters(i, b, a, dst Op) { VSHUFF32X4(i, b, a, dst) }
func lanes(i, b, a, dst Op)    { VSHUFPS(i, b, a, dst) }

// scan is the running maximum after each lane, and before it, which for lane 0 is -Inf.
func scan(s *vec.ISA, after vec.V) (vec.V, vec.V) {
	before, fill := s.New(), s.New()
	s.Op(VMOVUPS, s.Const(minusInf), fill)
	if s.Wide {
		for n := 1; n < 16; n *= 2 {
			VALIGND(U8(16-n), fill[0], after[0], before[0])
			VMAXPS(before[0], after[0], after[0])
		}
		VALIGND(U8(15), fill[0], after[0], before[0])
		return after, before
	}
	for h, v := range after {
		b, f := before[h], fill[h]
		for n := 1; n < 8; n *= 2 {
			shift(n, f, v, b)
			VMAXPS(b, v, v)
		}
		if h == 1 {
			VMAXPS(f, v, v)
		}
		shift(1, f, v, b)
		if h == 0 { // the second half goes on with the last lane of the first
			VPERM2F128(U8(0x11), v, v, fill[1])
			VPERMILPS(U8(0xff), fill[1], fill[1])
		}
	}
	return after, before
}

// shift moves the lanes of v up by 1, 2 or 4; fill, the same in all lanes, comes after.
func shift(n int, fill, v, dst reg.VecVirtual) {
	VPERM2F128(U8(0x02), fill, v, dst)
	if n < 4 {
		VPALIGNR(U8(16-4*n), dst, v, dst)
	}
}
