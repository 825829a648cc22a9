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
	return w
}

// scales are the factors of one row of a block: value = d·(w-offset) + m.
// Q6_K has two integer scales, of columns 0-15 and 16-31, instead of one in d.
type scales struct {
	d, m     float32
	sc0, sc1 int32
}

func (b *block) scales(lane int) scales {
	tail := b.bytes[b.layout.lines*lineBytes:]
	switch b.dtype {
	case tensor.Q4_K, tensor.Q5_K:
		d, dmin := half(b.head, lane), half(b.head[32:], lane)
		return scales{d: float32(d * float32(tail[lane])), m: -float32(dmin * float32(tail[16+lane]))}
	case tensor.Q6_K:
		return scales{d: half(b.head, lane), sc0: int32(int8(tail[lane])), sc1: int32(int8(tail[16+lane]))}
	case tensor.Q4_1, tensor.Q5_1:
		return scales{d: half(tail, lane), m: half(tail[32:], lane)}
	}
	return scales{d: half(tail, lane)}
}

// decode writes a row's 32 values, equal to tensor.Decode's.
func (b *block) decode(lane int, dst []float32) {
	w, s := b.weights(lane), b.scales(lane)
	for k := range dst[:32] {
		d := s.d
		switch {
		case b.dtype == tensor.Q6_K && k < 16:
			d *= float32(s.sc0)
		case b.dtype == tensor.Q6_K:
			d *= float32(s.sc1)
		}
		q := int32(w[k/4]>>(k%4*8)&0xff) - b.layout.offset
		dst[k] = d * float32(q)
		if b.layout.min {
			dst[k] = float32(d*float32(q)) + s.m
		}
	}
}

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
