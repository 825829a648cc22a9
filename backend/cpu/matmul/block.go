package matmul

import (
	"math"

	"sestina/tensor"
)

// block is a view of one packed block of 32 columns for scalar code.
type block struct {
	dtype       tensor.DType
	layout      *layout
	head, bytes []byte
}

// eachBlock calls f for every block of a panel, with the block's first column.
func (p *Packed) eachBlock(panel []byte, f func(b block, k int)) {
	l := p.layout
	for k := 0; k < p.Cols; panel = panel[l.groupBytes():] {
		b := block{dtype: p.DType, layout: l, head: panel[:l.head]}
		for i := range l.blocks {
			b.bytes = panel[l.head+i*l.blockBytes():][:l.blockBytes()]
			f(b, k)
			k += 32
		}
	}
}

// weights returns the unsigned weights of a row: byte i of word v is column 4v+i.
func (b *block) weights(lane int) (w [8]uint32) {
	word := func(line int) uint32 { return le.Uint32(b.bytes[line*lineBytes+4*lane:]) }
	if b.dtype == tensor.Q8_0 {
		for v := range w {
			w[v] = word(v)
		}
		return w
	}
	if b.layout.lines < 4 {
		for v := range w {
			w[v] = word(v/4) >> (v % 4 * 2) & lowPairs
			if b.layout.lines == 3 {
				w[v] |= word(2) >> v & lowBits << 2
			}
		}
		return w
	}
	for j := range 4 {
		w[j], w[j+4] = word(j)&lowNibbles, word(j)>>4&lowNibbles
	}
	switch b.layout.lines {
	case 5:
		for v := range w {
			w[v] |= word(4) >> v & lowBits << 4
		}
	case 6:
		for v := range w {
			w[v] |= word(4+v/4) >> (v % 4 * 2) & lowPairs << 4
		}
	}
	if b.layout.codes != nil {
		for v := range w {
			w[v] = b.layout.lookUp(w[v])
		}
	}
	return w
}

// lookUp replaces four codes by their unsigned weights.
func (l *layout) lookUp(codes uint32) (w uint32) {
	for shift := 0; shift < 32; shift += 8 {
		w |= uint32(int32(l.codes[codes>>shift&15])+l.offset) << shift
	}
	return w
}

// scales are the factors of one row of a block: value = d·(w-offset) + m. Q6_K, Q3_K and Q2_K have two integer scales, of
// columns 0-15 and 16-31, beside d: value = d·sc·(w-offset), less m·mn for Q2_K.
type scales struct {
	d, m   float32
	sc, mn [2]int32
}

// halves reports whether columns 0-15 and 16-31 have integer scales of their own.
func (l *layout) halves() bool { return l.lines == 2 || l.lines == 3 || l.lines == 6 }

func (b *block) scales(lane int) scales {
	tail := b.bytes[b.layout.lines*lineBytes:]
	switch b.dtype {
	case tensor.Q4_K, tensor.Q5_K:
		d, dmin := half(b.head, lane), half(b.head[32:], lane)
		return scales{d: float32(d * float32(tail[lane])), m: -float32(dmin * float32(tail[16+lane]))}
	case tensor.Q3_K, tensor.Q6_K:
		return scales{d: half(b.head, lane), sc: [2]int32{int32(int8(tail[lane])), int32(int8(tail[16+lane]))}}
	case tensor.Q2_K:
		s := scales{d: half(b.head, lane), m: half(b.head[32:], lane)}
		for h := range s.sc {
			s.sc[h], s.mn[h] = int32(tail[16*h+lane]&15), int32(tail[16*h+lane]>>4)
		}
		return s
	case tensor.MXFP4:
		return scales{d: exponent(tail[lane])}
	case tensor.Q4_1, tensor.Q5_1:
		return scales{d: half(tail, lane), m: half(tail[32:], lane)}
	}
	return scales{d: half(tail, lane)}
}

// decode writes a row's 32 values, equal to tensor.Decode's.
func (b *block) decode(lane int, dst []float32) {
	w, s := b.weights(lane), b.scales(lane)
	for k := range dst[:32] {
		d, m := s.d, s.m
		if b.layout.halves() {
			d *= float32(s.sc[k/16])
			m = -float32(m * float32(s.mn[k/16]))
		}
		q := int32(w[k/4]>>(k%4*8)&0xff) - b.layout.offset
		dst[k] = d * float32(q)
		if b.layout.min {
			dst[k] = float32(d*float32(q)) + m
		}
	}
}

// exponent is 2^(e-128), subnormal for e < 2.
func exponent(e byte) float32 { return float32(math.Ldexp(1, int(e)-128)) }

// half reads float16 number i of src.
func half(src []byte, i int) float32 { return tensor.Float16(le.Uint16(src[2*i:])).Float32() }

// widen reads column k of a row of a panel in a scalar format.
func widen(dt tensor.DType, src []byte, k, lane int) float32 {
	i := k*PanelRows + lane
	switch dt {
	case tensor.F16:
		return half(src, i)
	case tensor.BF16:
		return tensor.BFloat16(le.Uint16(src[k/2*lineBytes+4*lane+k%2*2:])).Float32()
	}
	return math.Float32frombits(le.Uint32(src[4*i:]))
}
