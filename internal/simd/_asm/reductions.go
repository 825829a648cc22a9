package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"sestina/internal/simd/asm/vec"
)

var minusInf = float32(math.Inf(-1))

func reductions(s *vec.ISA) {
	s.Func("sumSquares", "func(x []float32) float32", "is f32.SumSquares.")
	x, n := vec.Slice("x"), length("x")
	sum := s.Zero()
	s.Loop(n, []vec.Ptr{x}, func(tail bool) {
		v := s.Load(x.Mem(), tail)
		s.Op(VFMADD231PS, v, v, sum)
	})
	Store(s.Reduce(VADDPS, sum), ReturnIndex(0))
	s.Return()

	s.Func("maxNaN", "func(x []float32) (float32, bool)", "is maxNaNGeneric.", minusInf)
	x, n = vec.Slice("x"), length("x")
	m, nan := s.New(), GP32()
	s.Op(VMOVUPS, s.Const(minusInf), m)
	XORL(nan, nan)
	s.Loop(n, []vec.Ptr{x}, func(tail bool) {
		v := s.Load(x.Mem(), tail)
		s.KeepTail(v, s.Const(minusInf), tail)
		s.Op(VMAXPS, m, v, m) // a NaN in v gives m
		ORL(s.Compare(vec.UNORD, v, v, false), nan)
	})
	Store(s.Reduce(VMAXPS, m), ReturnIndex(0))
	TESTL(nan, nan)
	flag := GP8()
	SETNE(flag)
	Store(flag, ReturnIndex(1))
	s.Return()

	s.Func("softmaxWeights", "func(dst, x []float32, max, scale float32) float64", "is softmaxWeightsGeneric.", vec.ExpConstants...)
	dst, x, n := vec.Slice("dst"), vec.Slice("x"), length("x")
	top, f := broadcast(s, "max"), broadcast(s, "scale")
	var sums []reg.VecVirtual // float64 lanes, ascending
	for range 2 {
		if s.Wide {
			sums = append(sums, ZMM())
		} else {
			sums = append(sums, YMM(), YMM())
		}
	}
	for _, r := range sums {
		VXORPD(r, r, r)
	}
	s.Loop(n, []vec.Ptr{dst, x}, func(tail bool) {
		v := s.Load(x.Mem(), tail)
		s.Op(VSUBPS, top, v, v)
		s.Op(VMULPS, f, v, v)
		w := s.Exp(v)
		s.ZeroTail(w, tail)
		s.Store(w, dst.Mem(), tail)
		widenInto(s, sums, w)
	})
	Store(reduce64(s, sums), ReturnIndex(0))
	s.Return()
}

// widenInto adds the lanes of w to the float64 lanes of sums.
func widenInto(s *vec.ISA, sums []reg.VecVirtual, w vec.V) {
	if s.Wide {
		lo, hi, y := ZMM(), ZMM(), YMM()
		VCVTPS2PD(w[0].AsY(), lo)
		VEXTRACTF32X8(U8(1), w[0], y)
		VCVTPS2PD(y, hi)
		VADDPD(lo, sums[0], sums[0])
		VADDPD(hi, sums[1], sums[1])
		return
	}
	for h := range 2 {
		lo, hi, x := YMM(), YMM(), XMM()
		VCVTPS2PD(w[h].AsX(), lo)
		VEXTRACTF128(U8(1), w[h], x)
		VCVTPS2PD(x, hi)
		VADDPD(lo, sums[2*h], sums[2*h])
		VADDPD(hi, sums[2*h+1], sums[2*h+1])
	}
}

// reduce64 folds 16 float64 lanes in the tree of f32.Tree16.
func reduce64(s *vec.ISA, sums []reg.VecVirtual) reg.Register {
	y := sums[0].AsY()
	if s.Wide {
		VADDPD(sums[1], sums[0], sums[0])
		hi := YMM()
		VEXTRACTF64X4(U8(1), sums[0], hi)
		VADDPD(hi, y, y)
	} else {
		VADDPD(sums[2], sums[0], sums[0])
		VADDPD(sums[3], sums[1], sums[1])
		VADDPD(sums[1], sums[0], sums[0])
	}
	x, t := XMM(), XMM()
	VEXTRACTF128(U8(1), y, x)
	VADDPD(x, sums[0].AsX(), x)
	VPERMILPD(U8(1), x, t)
	VADDSD(t, x, x)
	return x
}

func selection(s *vec.ISA) {
	s.Func("indexEqual", "func(x []float32, v float32) int", "is indexEqualGeneric.")
	x, n := vec.Slice("x"), length("x")
	v := broadcast(s, "v")
	start, bits := GP64(), GP32()
	MOVQ(x.Register, start)
	s.Loop(n, []vec.Ptr{x}, func(tail bool) {
		e := s.Load(x.Mem(), tail)
		MOVL(s.Compare(vec.EQ, e, v, tail), bits)
		TESTL(bits, bits)
		JNZ(LabelRef("found"))
	})
	i := GP64()
	MOVQ(I32(-1), i)
	Store(i, ReturnIndex(0))
	s.Return()
	Label("found")
	TZCNTL(bits, bits)
	SUBQ(start, x.Register)
	SHRQ(U8(2), x.Register)
	ADDQ(bits.As64(), x.Register)
	Store(x.Register, ReturnIndex(0))
	s.Return()

	s.Func("countGE", "func(x []float32, threshold float32) int", "is countGEGeneric.")
	x, n = vec.Slice("x"), length("x")
	thr, count := broadcast(s, "threshold"), GP64()
	XORQ(count, count)
	s.Loop(n, []vec.Ptr{x}, func(tail bool) {
		b := s.Compare(vec.GE, s.Load(x.Mem(), tail), thr, tail)
		POPCNTL(b, b)
		ADDQ(b.As64(), count)
	})
	Store(count, ReturnIndex(0))
	s.Return()

	collectGE(s)
}

// collectGE takes whole groups of 16 while dst has room for 16 more indices.
func collectGE(s *vec.ISA) {
	s.Func("collectGE", "func(dst []int32, x []float32, threshold float32) (from, count int)",
		"collects from whole groups of 16 while dst has room for 16, and returns where it stopped and how many it wrote.")
	dst, x, n, room := vec.Slice("dst"), vec.Slice("x"), length("x"), length("dst")
	thr, from, count := broadcast(s, "threshold"), GP64(), GP64()
	XORQ(from, from)
	XORQ(count, count)
	SUBQ(U8(16), room)
	Label("loop")
	CMPQ(n, U8(16))
	JL(LabelRef("done"))
	CMPQ(count, room)
	JG(LabelRef("done"))
	e := s.Load(x.Mem(), false)
	if s.Wide {
		collectWide(dst, e, thr, from, count)
	} else {
		b := s.Compare(vec.GE, e, thr, false)
		TESTL(b, b)
		JZ(LabelRef("next"))
		Label("bit")
		i := GP32()
		TZCNTL(b, i)
		ADDL(from.As32(), i)
		MOVL(i, Mem{Base: dst.Register, Index: count, Scale: 4})
		INCQ(count)
		BLSRL(b, b)
		JNZ(LabelRef("bit"))
	}
	Label("next")
	ADDQ(U8(64), x.Register)
	ADDQ(U8(16), from)
	SUBQ(U8(16), n)
	JMP(LabelRef("loop"))
	Label("done")
	Store(from, ReturnIndex(0))
	Store(count, ReturnIndex(1))
	s.Return()
}

// collectWide compresses the indices of one group in a register and stores all
// 16 lanes: the ones past the end are overwritten by the next group.
func collectWide(dst vec.Ptr, e, thr vec.V, from, count reg.GPVirtual) {
	k, bits, index := K(), GP32(), ZMM()
	VCMPPS(vec.GE, thr[0], e[0], k)
	KMOVW(k, bits)
	TESTL(bits, bits)
	JZ(LabelRef("next"))
	VPBROADCASTD(from.As32(), index)
	iota := GLOBL("iota", 8|16)
	for i := range 16 {
		DATA(4*i, U32(uint32(i)))
	}
	VPADDD(iota, index, index)
	VPCOMPRESSD_Z(index, k, index)
	VMOVDQU32(index, Mem{Base: dst.Register, Index: count, Scale: 4})
	POPCNTL(bits, bits)
	ADDQ(bits.As64(), count)
}
