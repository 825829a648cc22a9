package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"sestina/internal/simd/asm/vec"
)

// A query block: s8 codes, their scale, and what makes up for the offset of the
// keys' unsigned codes.
const (
	queryBytes = 40
	queryScale = 32
	queryComp  = 36
)

var tables = map[string]Mem{}

// table is a constant of 16 words.
func table(name string, word func(i int) uint32) Mem {
	if m, ok := tables[name]; ok {
		return m
	}
	m := GLOBL(name, 8|16 /* RODATA|NOPTR */)
	for i := range 16 {
		DATA(4*i, U32(word(i)))
	}
	tables[name] = m
	return m
}

// repeat is a constant that repeats one word.
func repeat(word uint32) Mem {
	return table(fmt.Sprintf("w%08x", word), func(int) uint32 { return word })
}

// nibbles widens 16 four-bit codes, 8 bytes: element 2i is nibble i of the
// first word, element 2i+1 of the second, in two's complement.
func nibbles(s *vec.ISA, m Mem, v vec.V) {
	VPBROADCASTQ(m, v[0])
	if s.Wide { // by table: VPERMPS looks at the low four bits
		VPSRLVD(table("right", func(i int) uint32 { return uint32(i / 2 * 4) }), v[0], v[0])
		values := ZMM()
		VMOVUPS(table("nibbles", func(i int) uint32 { return math.Float32bits(float32((i+8)%16 - 8)) }), values)
		VPERMPS(values, v[0], v[0])
		return
	}
	VMOVDQA(v[0], v[1])
	s.Op(VPSLLVD, table("left", func(i int) uint32 { return uint32(28 - i/2*4) }), v, v)
	s.Op(VPSRAD, U8(28), v, v)
	s.Op(VCVTDQ2PS, v, v)
}

// scalesOf is where the scales of the current column begin in a tile's V,
// relative to the tile: after 16 rows of codes, a line of 16 per 32 dimensions.
func scalesOf(rowBytes, left reg.Register) reg.Register {
	at, rows := GP64(), GP64()
	Load(Param("units"), at)
	SUBQ(left, at)
	SHRQ(U8(1), at)
	SHLQ(U8(5), at)
	MOVQ(rowBytes, rows)
	SHLQ(U8(4), rows)
	ADDQ(rows, at)
	Load(Param("pool"), rows)
	ADDQ(rows, at)
	return at
}

// scaleWeights writes p·d of a tile's 16 positions for each row and scale of a column.
func scaleWeights(s *vec.ISA, p, scaled, scales, offsets reg.Register, rows, width int) {
	at := GP64()
	MOVQ(Mem{Base: offsets}, at)
	ADDQ(scales, at)
	for i := range (width + 1) / 2 {
		d := element{"F16", 32}.load(s, Mem{Base: at, Disp: 32 * i})
		for r := range rows {
			x := s.New()
			s.Op(VMULPS, Mem{Base: p, Disp: scoreStride * r}, d, x)
			s.Op(VMOVUPS, x, Mem{Base: scaled, Disp: scaledStride*r + 64*i})
		}
	}
}

// dots: s[r][t][lane] = Σ_b f32(Σ_d q[b][r][d]·K_t[b][d][lane]) · (d_q·d_K),
// blocks b of 32 dimensions ascending, the inner sum exact.
func dots(s *vec.ISA, e element) {
	s.Func("scores"+e.name, "func(s *float32, q, pool *byte, offsets *int64, tiles, ahead, blocks, rows int)",
		"writes the scores of rows against the tiles whose K lie at pool+offsets, and fetches what lies ahead of it.")
	perRows(s, func(rows int) {
		out, q, offsets, n := param("s"), param("q"), param("offsets"), param("tiles")
		for _, width := range []int{dotBreadth(s, rows), 1} {
			loop, next := s.Label("tiles"), s.Label("next")
			Label(loop)
			CMPQ(n, U8(width))
			JL(LabelRef(next))
			keys := make([]reg.Register, width)
			for t := range keys {
				k := GP64()
				MOVQ(Mem{Base: offsets, Disp: 8 * t}, k)
				ADDQ(param("pool"), k)
				keys[t] = k
			}
			if s.Wide {
				dotBlocks(s, e, out, q, keys, rows, 0)
			} else { // half a tile at a time leaves registers for six rows
				dotBlocks(s, e, out, q, keys, rows, 0)
				dotBlocks(s, e, out, q, keys, rows, 1)
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

// dotBreadth is how many tiles are worked on beside each other.
func dotBreadth(s *vec.ISA, rows int) int {
	switch {
	case s.Wide && rows <= 2:
		return 4
	case s.Wide && rows <= 4:
		return 2
	}
	return 1
}

// dotBlocks takes rows and tiles through all blocks: whole tiles in ZMM
// registers, or half of one in YMM registers.
func dotBlocks(s *vec.ISA, e element, out, q reg.Register, keys []reg.Register, rows, half int) {
	sum := registers(s, rows, len(keys))
	for r := range sum {
		for _, v := range sum[r] {
			VXORPS(v, v, v)
		}
	}
	qb, at, scales, left, ahead := GP64(), GP64(), GP64(), param("blocks"), param("ahead")
	MOVQ(q, qb)
	XORQ(at, at)
	MOVQ(left, scales)
	IMUL3Q(I32(32*e.unit), scales, scales)
	loop := s.Label("blocks")
	Label(loop)
	code := func(t, line int) Mem {
		return Mem{Base: keys[t], Index: at, Scale: 1, Disp: 64*line + 32*half}
	}
	if half == 0 {
		beyond := param("ahead") // of the scales
		ADDQ(scales, beyond)
		for t := range keys {
			for line := range e.unit / 2 {
				PREFETCHT0(Mem{Base: keys[t], Index: ahead, Scale: 1, Disp: 64 * line})
			}
			PREFETCHT0(Mem{Base: keys[t], Index: beyond, Scale: 1})
		}
	}
	query := func(r, at int) Mem { return Mem{Base: qb, Disp: queryBytes*r + at} }
	var dot [][]reg.VecVirtual
	if s.Wide {
		dot = dotVNNI(s, e, code, query, rows, len(keys))
	} else {
		dot = [][]reg.VecVirtual{}
		for _, v := range dotAVX2(s, e, code, query, rows) {
			dot = append(dot, []reg.VecVirtual{v})
		}
	}
	for t := range keys {
		d := s.New()[0]
		VCVTPH2PS(Mem{Base: keys[t], Index: scales, Scale: 1, Disp: 16 * half}, d)
		for r := range sum {
			VCVTDQ2PS(dot[r][t], dot[r][t])
			x := s.New()[0]
			VBROADCASTSS(query(r, queryScale), x)
			VMULPS(d, x, x)
			VFMADD231PS(x, dot[r][t], sum[r][t])
		}
	}
	ADDQ(I32(32*e.unit), at)
	ADDQ(I32(32*e.unit), ahead)
	ADDQ(U8(32), scales)
	ADDQ(I32(queryBytes*rows), qb)
	DECQ(left)
	JNZ(LabelRef(loop))
	for r := range sum {
		for t, v := range sum[r] {
			VMOVUPS(v, Mem{Base: out, Disp: scoreStride*r + 64*t + 32*half})
		}
	}
}

// registers are rows × width registers, the widest there are.
func registers(s *vec.ISA, rows, width int) [][]reg.VecVirtual {
	g := make([][]reg.VecVirtual, rows)
	for r := range g {
		for range width {
			g[r] = append(g[r], s.New()[0])
		}
	}
	return g
}

// dotVNNI sums a block of 32 dimensions: keys are the unsigned operand of
// VPDPBUSD, and the sum starts at what makes up for their offset.
func dotVNNI(s *vec.ISA, e element, code, query func(i, at int) Mem, rows, width int) [][]reg.VecVirtual {
	dot := registers(s, rows, width)
	for r := range dot {
		VPBROADCASTD(query(r, queryComp), dot[r][0])
		for _, v := range dot[r][1:] {
			VMOVDQA32(dot[r][0], v)
		}
	}
	var low reg.VecVirtual
	if e.name == "Q4_0" {
		low = ZMM()
		VPBROADCASTD(repeat(0x0f0f0f0f), low)
	}
	for g := range 8 {
		k := make([]reg.VecVirtual, width)
		for t := range k {
			k[t] = ZMM()
			switch {
			case e.name == "Q8_0":
				VMOVDQU32(code(t, g), k[t])
			case g%2 == 0:
				VPANDD(code(t, g/2), low, k[t])
			default:
				VPSRLW(U8(4), code(t, g/2), k[t])
				VPANDD(low, k[t], k[t])
			}
		}
		for r := range dot {
			if width == 1 {
				VPDPBUSD_BCST(query(r, 4*g), k[0], dot[r][0])
				continue
			}
			x := ZMM()
			VPBROADCASTD(query(r, 4*g), x)
			for t := range k {
				VPDPBUSD(x, k[t], dot[r][t])
			}
		}
	}
	return dot
}

// dotAVX2 is the same for 8 positions. VPMADDUBSW would saturate on eight-bit
// codes: those give their sign to the query and multiply as magnitudes.
func dotAVX2(s *vec.ISA, e element, code, query func(i, at int) Mem, rows int) []reg.VecVirtual {
	dot := make([]reg.VecVirtual, rows)
	for r := range dot {
		dot[r] = YMM()
		if e.name == "Q8_0" {
			VPXOR(dot[r], dot[r], dot[r])
		}
	}
	for g := range 8 {
		k, magnitude := YMM(), YMM()
		if e.name == "Q8_0" {
			VMOVDQU(code(0, g), k)
			VPXOR(repeat(0x80808080), k, k)
			VPABSB(k, magnitude)
		} else if magnitude = k; g%2 == 0 {
			VMOVDQU(code(0, g/2), k)
			VPAND(repeat(0x0f0f0f0f), k, k)
		} else {
			VMOVDQU(code(0, g/2), k)
			VPSRLW(U8(4), k, k)
			VPAND(repeat(0x0f0f0f0f), k, k)
		}
		for r := range dot {
			x := YMM()
			VPBROADCASTD(query(r, 4*g), x)
			switch {
			case e.name == "Q8_0":
				VPSIGNB(k, x, x)
				VPMADDUBSW(x, magnitude, x)
				VPMADDWD(repeat(0x00010001), x, x)
				VPADDD(x, dot[r], dot[r])
			case g == 0:
				VPMADDUBSW(x, magnitude, dot[r])
			default: // 16 products of at most 15·127 fit 16 bits
				VPMADDUBSW(x, magnitude, x)
				VPADDW(x, dot[r], dot[r])
			}
		}
	}
	if e.name == "Q4_0" {
		for r, v := range dot {
			x := YMM()
			VPBROADCASTD(query(r, queryComp), x)
			VPMADDWD(repeat(0x00010001), v, v)
			VPADDD(x, v, v)
		}
	}
	return dot
}

// quantize holds the two steps that turn 32 values into codes.
func quantize(s *vec.ISA) {
	// The bits with the sign moved to the end order by magnitude, NaN above all.
	s.Func("peak", "func(x *float32) float32", "returns the value of greatest magnitude of 32, the negative of two; a NaN before all.")
	x := param("x")
	var top vec.V
	for i := range 2 {
		v, sign := s.New(), s.New()
		s.Op(VMOVUPS, Mem{Base: x, Disp: 64 * i}, v)
		s.Op(VPSRLD, U8(31), v, sign)
		s.Op(VPADDD, v, v, v)
		s.Op(VPOR, sign, v, v)
		if i == 0 {
			top = v
		} else {
			s.Op(VPMAXUD, v, top, top)
		}
	}
	VPMAXUD(top[1], top[0], top[0])
	m, t := top[0].AsX(), XMM()
	VEXTRACTI128(U8(1), top[0], t)
	VPMAXUD(t, m, m)
	VPSHUFD(U8(0x0e), m, t)
	VPMAXUD(t, m, m)
	VPSHUFD(U8(0x01), m, t)
	VPMAXUD(t, m, m)
	VPSLLD(U8(31), m, t)
	VPSRLD(U8(1), m, m)
	VPOR(t, m, m)
	result, _ := ReturnIndex(0).Resolve()
	VMOVSS(m, result.Addr)
	s.Return()

	s.Func("codes", "func(q *int8, x *float32, inverse float32, low, high int8) int32",
		"rounds 32 values times inverse to even, within [low, high], and returns the sum.")
	x = param("x")
	inverse := YMM()
	b, _ := Param("inverse").Resolve()
	VBROADCASTSS(b.Addr, inverse)
	words := make([]reg.VecVirtual, 4)
	for i := range words {
		words[i] = YMM()
		VMULPS(Mem{Base: x, Disp: 32 * i}, inverse, words[i])
		VCVTPS2DQ(words[i], words[i])
	}
	VPACKSSDW(words[1], words[0], words[0])
	VPACKSSDW(words[3], words[2], words[2])
	c, order, bound, sum := words[0], YMM(), YMM(), XMM()
	VPACKSSWB(words[2], c, c)
	VMOVDQU(table("unpack", func(i int) uint32 { return uint32(i%8/2 + i%2*4) }), order)
	VPERMD(c, order, c)
	b, _ = Param("low").Resolve()
	VPBROADCASTB(b.Addr, bound)
	VPMAXSB(bound, c, c)
	b, _ = Param("high").Resolve()
	VPBROADCASTB(b.Addr, bound)
	VPMINSB(bound, c, c)
	VMOVDQU(c, Mem{Base: param("q")})
	ones := YMM()
	VMOVDQU(repeat(0x01010101), ones)
	VPMADDUBSW(c, ones, c)
	VPMADDWD(repeat(0x00010001), c, c)
	VEXTRACTI128(U8(1), c, sum)
	VPADDD(c.AsX(), sum, sum)
	t = XMM()
	VPSHUFD(U8(0x0e), sum, t)
	VPADDD(t, sum, sum)
	VPSHUFD(U8(0x01), sum, t)
	VPADDD(t, sum, sum)
	total := GP32()
	VMOVD(sum, total)
	Store(total, ReturnIndex(0))
	s.Return()
}
