// Package vec lets one description of a kernel become both AVX2 and AVX-512
// code: a [V] is 16 float32 lanes, one ZMM register or two YMM registers, and
// every operation is emitted once per register.
package vec

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// ISA emits for one instruction set.
type ISA struct {
	Suffix string
	Wide   bool // AVX-512

	consts map[uint32]V      // wide: constants held in registers, per function
	tail   operand.Mem       // narrow: lane mask of the tail; in memory, for registers are few
	ktail  reg.OpmaskVirtual // wide: the same
	labels int               // fresh label names, per function
}

// ISAs are the instruction sets that kernels are generated for.
func ISAs() []*ISA { return []*ISA{{Suffix: "AVX2"}, {Suffix: "AVX512", Wide: true}} }

// V is 16 lanes: V[0] is a ZMM, or V[0] and V[1] are YMMs with lanes 0–7 and 8–15.
type V [2]reg.VecVirtual

// same is a memory operand that serves both halves of a V.
type same struct{ operand.Mem }

// Func opens a function. Constants named in hoist are kept in registers where there are 32.
func (s *ISA) Func(name, signature, doc string, hoist ...float32) {
	TEXT(name+s.Suffix, 4 /* NOSPLIT */, signature)
	Pragma("noescape")
	Doc(name + s.Suffix + " " + doc)
	s.consts, s.labels = map[uint32]V{}, 0
	for _, c := range hoist {
		s.Hoist(math.Float32bits(c))
	}
}

// Hoist keeps a constant in a register for the rest of the function (AVX-512 only).
func (s *ISA) Hoist(bits uint32) {
	if _, ok := s.consts[bits]; s.Wide && !ok {
		v := s.New()
		VBROADCASTSS(constant(bits).Mem, v[0])
		s.consts[bits] = v
	}
}

// Return closes a function.
func (s *ISA) Return() {
	VZEROUPPER()
	RET()
}

// Label returns a label name that is fresh in the function.
func (s *ISA) Label(name string) string {
	s.labels++
	return fmt.Sprintf("%s%d", name, s.labels)
}

// New allocates 16 lanes.
func (s *ISA) New() V {
	if s.Wide {
		return V{ZMM()}
	}
	return V{YMM(), YMM()}
}

// Op emits f for every register of its operands: V and memory advance with the
// half, anything else is passed as it is.
func (s *ISA) Op(f any, args ...any) {
	for h := range 2 {
		if h == 1 && s.Wide {
			return
		}
		ops := make([]operand.Op, len(args))
		for i, a := range args {
			switch a := a.(type) {
			case V:
				ops[i] = a[h]
			case same:
				ops[i] = a.Mem
			case operand.Mem:
				ops[i] = a.Offset(32 * h)
			case operand.Op:
				ops[i] = a
			default:
				panic(fmt.Sprintf("vec: operand %T", a))
			}
		}
		switch f := f.(type) {
		case func(...operand.Op):
			f(ops...)
		case func(_, _, _ operand.Op):
			f(ops[0], ops[1], ops[2])
		case func(_, _, _, _ operand.Op):
			f(ops[0], ops[1], ops[2], ops[3])
		default:
			panic(fmt.Sprintf("vec: instruction %T", f))
		}
	}
}

// Const is a float32 constant in every lane.
func (s *ISA) Const(c float32) any { return s.Bits(math.Float32bits(c)) }

// Bits is an integer constant in every lane.
func (s *ISA) Bits(b uint32) any {
	if v, ok := s.consts[b]; ok {
		return v
	}
	return constant(b)
}

var constants = map[uint32]same{}

// constant is a 64-byte table that repeats b.
func constant(b uint32) same {
	if m, ok := constants[b]; ok {
		return m
	}
	m := GLOBL(fmt.Sprintf("c%08x", b), 8|16 /* RODATA|NOPTR */)
	for i := range 16 {
		DATA(4*i, operand.U32(b))
	}
	constants[b] = same{m}
	return constants[b]
}

var tailTable *operand.Mem

// Mask sets the tail mask to the first n lanes, 0 ≤ n ≤ 15.
func (s *ISA) Mask(n reg.Register) {
	if s.Wide {
		s.ktail = K()
		one := GP64()
		MOVQ(operand.U32(1), one)
		SHLXQ(n, one, one)
		DECQ(one)
		KMOVW(one.As32(), s.ktail)
		return
	}
	if tailTable == nil {
		m := GLOBL("tail", 8|16)
		for i := range 32 {
			DATA(4*i, operand.U32(uint32(0xffffffff*(1-uint64(i)/16))))
		}
		tailTable = &m
	}
	p, back := GP64(), GP64()
	LEAQ(tailTable.Offset(64), p)
	MOVQ(n, back)
	SHLQ(operand.U8(2), back)
	SUBQ(back, p)
	s.tail = operand.Mem{Base: p}
}

// narrowMask loads the tail mask for an instruction that wants it in registers.
func (s *ISA) narrowMask() V {
	m := s.New()
	s.Op(VMOVUPS, s.tail, m)
	return m
}

// Load reads 16 lanes; masked lanes read as 0.
func (s *ISA) Load(m operand.Mem, tail bool) V {
	v := s.New()
	switch {
	case !tail:
		s.Op(VMOVUPS, m, v)
	case s.Wide:
		VMOVUPS_Z(m, s.ktail, v[0])
	default:
		s.Op(VMASKMOVPS, m, s.narrowMask(), v)
	}
	return v
}

// Store writes 16 lanes, or the unmasked ones.
func (s *ISA) Store(v V, m operand.Mem, tail bool) {
	switch {
	case !tail:
		s.Op(VMOVUPS, v, m)
	case s.Wide:
		VMOVUPS(v[0], s.ktail, m)
	default:
		s.Op(VMASKMOVPS, v, s.narrowMask(), m)
	}
}

// ZeroTail clears the masked lanes of v.
func (s *ISA) ZeroTail(v V, tail bool) {
	switch {
	case !tail:
	case s.Wide:
		VMOVAPS_Z(v[0], s.ktail, v[0])
	default:
		s.Op(VANDPS, s.tail, v, v)
	}
}

// KeepTail puts other into the masked lanes of v.
func (s *ISA) KeepTail(v V, other any, tail bool) {
	switch {
	case !tail:
	case s.Wide:
		t := s.New()
		s.Op(VMOVAPS, other, t)
		VMOVAPS(v[0], s.ktail, t[0])
		VMOVAPS(t[0], v[0])
	default:
		t := s.New()
		s.Op(VMOVUPS, other, t)
		s.Op(VBLENDVPS, s.narrowMask(), v, t, v)
	}
}

// Ptr is a pointer that a loop moves on by Step bytes per 16 lanes.
type Ptr struct {
	reg.Register
	Step int
}

// Slice loads the base of a parameter as a pointer over float32.
func Slice(name string) Ptr { return Ptr{Load(Param(name).Base(), GP64()), 64} }

// Mem is the memory that p points at.
func (p Ptr) Mem() operand.Mem { return operand.Mem{Base: p.Register} }

// Loop emits body for every 16 of n elements, then once more, masked, for the rest.
func (s *ISA) Loop(n reg.Register, ptrs []Ptr, body func(tail bool)) {
	tail, done := s.Label("tail"), s.Label("done")
	s.Whole(n, ptrs, tail, func() { body(false) })
	Label(tail)
	TESTQ(n, n)
	JZ(operand.LabelRef(done))
	s.Mask(n)
	body(true)
	Label(done)
}

// Whole emits body for every whole 16 of n elements and then jumps to next.
func (s *ISA) Whole(n reg.Register, ptrs []Ptr, next string, body func()) {
	loop := s.Label("loop")
	Label(loop)
	CMPQ(n, operand.U8(16))
	JL(operand.LabelRef(next))
	body()
	for _, p := range ptrs {
		ADDQ(operand.U8(p.Step), p.Register)
	}
	SUBQ(operand.U8(16), n)
	JMP(operand.LabelRef(loop))
}

// Broadcast loads a float32 into every lane. The result, one register even
// where a V has two, is to be read only.
func (s *ISA) Broadcast(m operand.Mem) V {
	var v V
	if s.Wide {
		v[0] = ZMM()
	} else {
		v[0] = YMM()
		v[1] = v[0]
	}
	VBROADCASTSS(m, v[0])
	return v
}

// Zero returns 16 zeros.
func (s *ISA) Zero() V {
	v := s.New()
	s.Op(VXORPS, v, v, v)
	return v
}
