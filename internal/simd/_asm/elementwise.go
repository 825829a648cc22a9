package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"sestina/internal/simd/asm/vec"
)

// broadcast loads a float32 parameter into every lane.
func broadcast(s *vec.ISA, name string) vec.V {
	m, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return s.Broadcast(m.Addr)
}

// length loads the length of a slice parameter.
func length(name string) reg.Register { return Load(Param(name).Len(), GP64()) }

func elementwise(s *vec.ISA) {
	s.Func("exp", "func(dst, x []float32)", "is expGeneric.", vec.ExpConstants...)
	dst, x, n := vec.Slice("dst"), vec.Slice("x"), length("x")
	s.Loop(n, []vec.Ptr{dst, x}, func(tail bool) {
		s.Store(s.Exp(s.Load(x.Mem(), tail)), dst.Mem(), tail)
	})
	s.Return()

	s.Func("scale", "func(dst, x []float32, s float32)", "is scaleGeneric.")
	dst, x, n = vec.Slice("dst"), vec.Slice("x"), length("x")
	f := broadcast(s, "s")
	s.Loop(n, []vec.Ptr{dst, x}, func(tail bool) {
		v := s.Load(x.Mem(), tail)
		s.Op(VMULPS, f, v, v)
		s.Store(v, dst.Mem(), tail)
	})
	s.Return()

	s.Func("add", "func(dst, x []float32)", "is addGeneric.")
	dst, x, n = vec.Slice("dst"), vec.Slice("x"), length("x")
	s.Loop(n, []vec.Ptr{dst, x}, func(tail bool) {
		v, d := s.Load(x.Mem(), tail), s.Load(dst.Mem(), tail)
		s.Op(VADDPS, v, d, d)
		s.Store(d, dst.Mem(), tail)
	})
	s.Return()

	s.Func("scaleMul", "func(dst, x, w []float32, s float32)", "is scaleMulGeneric.")
	dst, x, n = vec.Slice("dst"), vec.Slice("x"), length("x")
	w := vec.Slice("w")
	f = broadcast(s, "s")
	s.Loop(n, []vec.Ptr{dst, x, w}, func(tail bool) {
		v, u := s.Load(x.Mem(), tail), s.Load(w.Mem(), tail)
		s.Op(VMULPS, f, v, v)
		s.Op(VMULPS, u, v, v)
		s.Store(v, dst.Mem(), tail)
	})
	s.Return()

	s.Func("siluMul", "func(dst, gate, up []float32)", "is siluMulGeneric.", vec.ExpConstants...)
	s.Hoist(signBit)
	dst, n = vec.Slice("dst"), length("gate")
	gate, up := vec.Slice("gate"), vec.Slice("up")
	s.Loop(n, []vec.Ptr{dst, gate, up}, func(tail bool) {
		g := s.Load(gate.Mem(), tail)
		e := s.New()
		s.Op(VXORPS, s.Bits(signBit), g, e)
		e = s.Exp(e)
		s.Op(VADDPS, s.Const(1), e, e)
		s.Op(VDIVPS, e, g, g)
		u := s.Load(up.Mem(), tail)
		s.Op(VMULPS, u, g, g)
		s.Store(g, dst.Mem(), tail)
	})
	s.Return()
}

const signBit = 1 << 31

func rotations(s *vec.ISA) {
	s.Func("rope", "func(a, b, cos, sin []float32)", "is ropeGeneric.")
	pa, pb, cos, sin, n := vec.Slice("a"), vec.Slice("b"), vec.Slice("cos"), vec.Slice("sin"), length("cos")
	s.Loop(n, []vec.Ptr{pa, pb, cos, sin}, func(tail bool) {
		a, b := s.Load(pa.Mem(), tail), s.Load(pb.Mem(), tail)
		c, t := s.Load(cos.Mem(), tail), s.Load(sin.Mem(), tail)
		bs := s.New()
		s.Op(VMULPS, t, b, bs)
		s.Op(VMULPS, t, a, t)
		s.Op(VFMSUB213PS, bs, c, a)
		s.Op(VFMADD213PS, t, c, b)
		s.Store(a, pa.Mem(), tail)
		s.Store(b, pb.Mem(), tail)
	})
	s.Return()

	s.Func("ropeInterleaved", "func(x, cos, sin []float32)", "is ropeInterleavedGeneric for whole groups of 8 pairs.")
	x, n := vec.Slice("x"), length("x")
	cos, sin = vec.Slice("cos"), vec.Slice("sin")
	cos.Step, sin.Step = 32, 32
	s.Whole(n, []vec.Ptr{x, cos, sin}, "done", func() {
		v, c, t, swapped := s.Load(x.Mem(), false), s.New(), s.New(), s.New()
		for h := range v {
			if v[h] != nil { // element i of cos and sin into lanes 2i and 2i+1
				VPMOVZXDQ(cos.Mem().Offset(16*h), c[h])
				VPMOVZXDQ(sin.Mem().Offset(16*h), t[h])
			}
		}
		s.Op(VMOVSLDUP, c, c)
		s.Op(VMOVSLDUP, t, t)
		s.Op(VPERMILPS, U8(0xb1), v, swapped)
		s.Op(VMULPS, t, swapped, swapped)
		s.Op(VFMADDSUB213PS, swapped, c, v)
		s.Store(v, x.Mem(), false)
	})
	Label("done")
	s.Return()
}

func conversions(s *vec.ISA) {
	half := func(name string) vec.Ptr { p := vec.Slice(name); p.Step = 32; return p }

	s.Func("f32ToF16", "func(dst []uint16, x []float32)", "is f32ToF16Generic for the whole groups of 16 in dst.")
	dst, x, n := half("dst"), vec.Slice("x"), length("dst")
	s.Whole(n, []vec.Ptr{dst, x}, "done", func() {
		v := s.Load(x.Mem(), false)
		for h := range v {
			if v[h] != nil {
				VCVTPS2PH(U8(0), v[h], dst.Mem().Offset(16*h))
			}
		}
	})
	Label("done")
	s.Return()

	s.Func("f16ToF32", "func(dst []float32, x []uint16)", "is f16ToF32Generic for the whole groups of 16 in dst.")
	dst, x, n = vec.Slice("dst"), half("x"), length("dst")
	s.Whole(n, []vec.Ptr{dst, x}, "done", func() {
		v := s.New()
		for h := range v {
			if v[h] != nil {
				VCVTPH2PS(x.Mem().Offset(16*h), v[h])
			}
		}
		s.Store(v, dst.Mem(), false)
	})
	Label("done")
	s.Return()

	s.Func("bf16ToF32", "func(dst []float32, x []uint16)", "is bf16ToF32Generic for the whole groups of 16 in dst.")
	dst, x, n = vec.Slice("dst"), half("x"), length("dst")
	s.Whole(n, []vec.Ptr{dst, x}, "done", func() {
		v := s.New()
		for h := range v {
			if v[h] != nil {
				VPMOVZXWD(x.Mem().Offset(16*h), v[h])
			}
		}
		s.Op(VPSLLD, U8(16), v, v)
		s.Store(v, dst.Mem(), false)
	})
	Label("done")
	s.Return()

	s.Func("f32ToBF16", "func(dst []uint16, x []float32)", "is f32ToBF16Generic for the whole groups of 16 in dst.")
	for _, c := range []uint32{1, 0x7fff, 0x40} {
		s.Hoist(c)
	}
	dst, x, n = half("dst"), vec.Slice("x"), length("dst")
	s.Whole(n, []vec.Ptr{dst, x}, "done", func() {
		v, r, nan := s.Load(x.Mem(), false), s.New(), s.New()
		s.Op(VPSRLD, U8(16), v, nan)
		s.Op(VANDPS, s.Bits(1), nan, r)
		s.Op(VORPS, s.Bits(0x40), nan, nan)
		s.Op(VPADDD, s.Bits(0x7fff), r, r)
		s.Op(VPADDD, v, r, r)
		s.Op(VPSRLD, U8(16), r, r)
		if s.Wide {
			k := K()
			VCMPPS(vec.UNORD, v[0], v[0], k)
			VMOVAPS(nan[0], k, r[0])
			VPMOVDW(r[0], dst.Mem())
			return
		}
		s.Op(VCMPPS, vec.UNORD, v, v, v)
		s.Op(VBLENDVPS, v, nan, r, r)
		VPACKUSDW(r[1], r[0], r[0])
		VPERMQ(U8(0xd8), r[0], r[0])
		VMOVDQU(r[0], dst.Mem())
	})
	Label("done")
	s.Return()
}
