package vec

import (
	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Predicates of VCMPPS (quiet).
const (
	UNORD = operand.U8(0x03)
	NLT   = operand.U8(0x15)
	GE    = operand.U8(0x1d)
	EQ    = operand.U8(0x00)
)

// The constants of f32.Exp.
const (
	log2E = 1.44269504088896341
	ln2Hi = 0.693359375
	ln2Lo = -2.12194440e-4
	c2    = 5.0000001201e-1
	c3    = 1.6666665459e-1
	c4    = 4.1665795894e-2
	c5    = 8.3334519073e-3
	c6    = 1.3981999507e-3
	c7    = 1.9875691500e-4

	expMin = -87
	expMax = 88
)

// ExpConstants are worth keeping in registers around a loop of Exp.
var ExpConstants = []float32{log2E, ln2Hi, ln2Lo, c2, c3, c4, c5, c6, c7, expMin, expMax, 1}

// Exp is f32.Exp in every lane; x is left alone.
func (s *ISA) Exp(x V) V {
	t, n, p, rr := s.New(), s.New(), s.New(), s.New()
	s.Op(VMOVUPS, s.Const(expMax), t)
	s.Op(VMINPS, x, t, t) // a NaN in x is returned
	s.Op(VMULPS, s.Const(log2E), t, n)
	s.powers([]V{t}, []V{n}, []V{p}, []V{rr})
	s.Op(VCVTPS2DQ, n, n)
	s.Op(VPSLLD, operand.U8(23), n, n)
	s.Op(VPADDD, n, p, p)
	if s.Wide {
		k := K()
		s.Op(VCMPPS, NLT, s.Const(expMin), x, k)
		VMOVAPS_Z(p[0], k, p[0])
	} else {
		s.Op(VCMPPS, NLT, s.Const(expMin), x, n)
		s.Op(VANDPS, n, p, p)
	}
	return p
}

// Compare returns a bit per lane where "a pred b" holds; masked lanes give 0.
func (s *ISA) Compare(pred operand.U8, a V, b any, tail bool) reg.GPVirtual {
	bits := GP32()
	if s.Wide {
		k := K()
		if tail {
			s.Op(VCMPPS, pred, b, a, s.ktail, k)
		} else {
			s.Op(VCMPPS, pred, b, a, k)
		}
		KMOVW(k, bits)
		return bits
	}
	m, hi := s.New(), GP32()
	s.Op(VCMPPS, pred, b, a, m)
	if tail {
		s.Op(VANDPS, s.tail, m, m)
	}
	VMOVMSKPS(m[0], bits)
	VMOVMSKPS(m[1], hi)
	SHLL(operand.U8(8), hi)
	ORL(hi, bits)
	return bits
}

// Reduce folds 16 lanes into the lowest of an XMM register in the tree of
// f32.Tree16: packed is VADDPS or VMAXPS. v is destroyed.
func (s *ISA) Reduce(packed func(...operand.Op), v V) reg.VecVirtual {
	y := v[1]
	if s.Wide {
		y = YMM()
		VEXTRACTF32X8(operand.U8(1), v[0], y)
	}
	packed(y, v[0].AsY(), y)
	x, t := XMM(), XMM()
	VEXTRACTF128(operand.U8(1), y, x)
	packed(x, y.AsX(), x)
	VPERMILPS(operand.U8(0x0e), x, t)
	packed(t, x, x)
	VPERMILPS(operand.U8(0x01), x, t)
	packed(t, x, x)
	return x.(reg.VecVirtual)
}

func eachOf(x []V, step func(i int)) {
	for i := range x {
		step(i)
	}
}

// powers is the middle of Exp, a step of each x after the other: n, on entry x·log2(e), is rounded, x becomes what is left of
// it, and p is e to the power of that.
func (s *ISA) powers(x, n, p, rr []V) {
	each := func(step func(i int)) { eachOf(x, step) }
	each(func(i int) {
		if s.Wide {
			s.Op(VRNDSCALEPS, operand.U8(8), n[i], n[i])
		} else {
			s.Op(VROUNDPS, operand.U8(8), n[i], n[i])
		}
	})
	each(func(i int) { s.Op(VFNMADD231PS, s.Const(ln2Hi), n[i], x[i]) })
	each(func(i int) { s.Op(VFNMADD231PS, s.Const(ln2Lo), n[i], x[i]) })
	each(func(i int) { s.Op(VMOVUPS, s.Const(c7), p[i]) })
	for _, c := range []float32{c6, c5, c4, c3, c2} {
		each(func(i int) { s.Op(VFMADD213PS, s.Const(c), x[i], p[i]) })
	}
	each(func(i int) { s.Op(VMULPS, x[i], x[i], rr[i]) })
	each(func(i int) { s.Op(VFMADD213PS, x[i], rr[i], p[i]) })
	each(func(i int) { s.Op(VADDPS, s.Const(1), p[i], p[i]) })
}

// Falls is Exp of several x that are all 0, below or NaN, a step of each after
// the other: their latencies hide each other. Destroys x.
func (s *ISA) Falls(x ...V) []V {
	n, p, rr, keep, kept := make([]V, len(x)), make([]V, len(x)), make([]V, len(x)), make([]V, len(x)), make([]reg.OpmaskVirtual, len(x))
	each := func(step func(i int)) { eachOf(x, step) }
	each(func(i int) {
		if s.Wide {
			kept[i] = K()
			s.Op(VCMPPS, NLT, s.Const(expMin), x[i], kept[i])
			return
		}
		keep[i] = s.New()
		s.Op(VCMPPS, NLT, s.Const(expMin), x[i], keep[i])
	})
	each(func(i int) { n[i] = s.New(); s.Op(VMULPS, s.Const(log2E), x[i], n[i]) })
	for i := range x {
		p[i] = s.New()
	}
	for i := range x {
		rr[i] = s.New()
	}
	s.powers(x, n, p, rr)
	if s.Wide { // p·2ⁿ is never subnormal: x ≥ -87
		each(func(i int) { VSCALEFPS_Z(n[i][0], p[i][0], kept[i], p[i][0]) })
		return p
	}
	each(func(i int) { s.Op(VCVTPS2DQ, n[i], n[i]) })
	each(func(i int) { s.Op(VPSLLD, operand.U8(23), n[i], n[i]) })
	each(func(i int) { s.Op(VPADDD, n[i], p[i], p[i]) })
	each(func(i int) { s.Op(VANDPS, keep[i], p[i], p[i]) })
	return p
}
