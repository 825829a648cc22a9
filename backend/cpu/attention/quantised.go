package attention

import (
	"encoding/binary"
	"math"

	"sestina/internal/simd"
	"sestina/tensor"
)

// Quantised K and V: Q8_0 and Q4_0, whose arithmetic attention.go defines.
//
// A head's part of a tile is codes, then scales:
//
//	K   words of 4 bytes [words][16]: 4 dimensions of a position (Q8_0, code+128),
//	    or 8, the first four in the low nibbles (Q4_0, code+8)
//	V   a row per position: bytes (Q8_0), or 8 bytes per 16 dimensions, element 2i
//	    in nibble i of the first word, 2i+1 of the second (Q4_0, two's complement)
//	    scales, float16 [HeadDim/32][16], of both
//
// so that a line of K is an operand of VPDPBUSD, lane = position, and a row of V
// widens to floats in order, lane = dimension. In a block that is no multiple of
// 16 positions a slot's codes and scales lie side by side, and words keep their form.

// group is the elements that share a scale.
const group = 32

// quantised says whether elements are codes.
func (l Layout) quantised() bool { return l.DType == tensor.Q8_0 || l.DType == tensor.Q4_0 }

func (l Layout) groups() int { return l.HeadDim / group }

// codeBytes is the codes of one K or V of one head and position; headBytes adds its scales.
func (l Layout) codeBytes() int {
	if l.DType == tensor.Q4_0 {
		return l.HeadDim / 2
	}
	return l.HeadDim
}

// groupWords is how many words of 4 bytes hold 32 codes.
func (l Layout) groupWords() int { return l.codeBytes() / l.groups() / 4 }

// limits are the least and the greatest code.
func (l Layout) limits() (low, high int8) {
	if l.DType == tensor.Q4_0 {
		return -8, 7
	}
	return -127, 127
}

// place is where the codes and scales of one K or V of one head and slot lie.
type place struct{ codes, wordStep, scales, scaleStep int }

func (l Layout) place(slot, head int, value bool) place {
	if !l.tiled() {
		at := slot/l.BlockSize*l.BlockBytes() + (head*l.BlockSize+slot%l.BlockSize)*l.headBytes()
		if value {
			at += l.KVHeads * l.BlockSize * l.headBytes()
		}
		return place{at, 4, at + l.codeBytes(), 2}
	}
	at, lane := l.tileOffset(slot)+head*l.keyBytes(), slot%Tile
	p := place{at + 4*lane, 4 * Tile, at + Tile*l.codeBytes() + 2*lane, 2 * Tile}
	if value {
		at += l.KVHeads * l.keyBytes()
		p = place{at + l.codeBytes()*lane, 4, at + Tile*l.codeBytes() + 2*lane, 2 * Tile}
	}
	return p
}

// storeQuantised writes one K or V of one head.
func (l Layout) storeQuantised(pool []byte, p place, x []float32, value bool) {
	low, high := l.limits()
	var codes [group]int8
	for g := range l.groups() {
		x := (*[group]float32)(x[g*group:])
		scale, inverse := l.scale(x)
		quantise(&codes, x, inverse, low, high)
		for w := range l.groupWords() {
			binary.LittleEndian.PutUint32(pool[p.codes:], l.word(&codes, w, value))
			p.codes += p.wordStep
		}
		binary.LittleEndian.PutUint16(pool[p.scales:], scale)
		p.scales += p.scaleStep
	}
}

// scale is a group's scale and the inverse that codes are rounded with.
func (l Layout) scale(x *[group]float32) (scale uint16, inverse float32) {
	top := peak(x)
	if l.DType == tensor.Q4_0 {
		scale = simd.ToF16(top / -8)
	} else {
		scale = simd.ToF16(float32(math.Abs(float64(top))) / 127)
	}
	if d := simd.FromF16(scale); d != 0 && !math.IsInf(float64(d), 0) && d == d {
		inverse = 1 / d
	}
	return scale, inverse
}

// word packs word w of a group's codes.
func (l Layout) word(codes *[group]int8, w int, value bool) uint32 {
	if l.DType == tensor.Q8_0 {
		q := codes[4*w : 4*w+4 : 4*w+4]
		v := uint32(uint8(q[0])) | uint32(uint8(q[1]))<<8 | uint32(uint8(q[2]))<<16 | uint32(uint8(q[3]))<<24
		if !value {
			v ^= 0x80808080
		}
		return v
	}
	var v uint32
	for i := range 8 { // nibble i
		d, offset := 8*w+i>>1+i&1*4, int8(8)
		if value {
			d, offset = w>>1*16+2*i+w&1, 0
		}
		v |= uint32(codes[d]+offset) & 15 << (4 * i)
	}
	return v
}

// packQuantised copies positions [from, to) of one partition from a token-major pool.
func (k *Kernel) packQuantised(one Layout, packed, pool []byte, q *Query, from, to int) {
	for j := from; j < to; j++ {
		slot := int(q.Table[j/k.BlockSize])*k.BlockSize + j%k.BlockSize
		for _, value := range []bool{false, true} {
			src, dst := k.place(slot, q.KVHead, value), one.place(j%Partition, 0, value)
			codes, scales := pool[src.codes:][:k.codeBytes()], pool[src.scales:][:2*k.groups()]
			if value {
				copy(packed[dst.codes:], codes)
			} else {
				scatter(view[[4]byte](packed[dst.codes:]), dst.wordStep/4, view[[4]byte](codes))
			}
			scatter(view[[2]byte](packed[dst.scales:]), dst.scaleStep/2, view[[2]byte](scales))
		}
	}
}

// queryBlock is 32 dimensions of a scaled query row as codes. Kernels know its layout.
type queryBlock struct {
	codes  [group]int8
	scale  float32
	offset int32 // what makes up for the offset of the keys' codes: -128·Σ or -8·Σ
}

// quantiseQuery makes a block of float32 values, by the rule of activations.
func (k *Kernel) quantiseQuery(b *queryBlock, x *[group]float32) {
	var inverse float32
	switch top := float32(math.Abs(float64(peak(x)))); {
	case !(top <= math.MaxFloat32): // a row with NaN or an infinity gives NaN
		b.scale = float32(math.NaN())
	case top < 1e-30:
		b.scale = 0
	default:
		b.scale = top / 127
		inverse = 1 / b.scale
	}
	b.offset = -128 * quantise(&b.codes, x, inverse, -127, 127)
	if k.DType == tensor.Q4_0 {
		b.offset /= 16
	}
}

// quantiseQueries is transpose for quantised keys: each pass is [block][rows].
func (k *Kernel) quantiseQueries(q *Query, s *Scratch) {
	D, n, rows := k.HeadDim, k.groups(), q.Rows*q.Group
	blocks, x := grow(&s.codes, rows*n), grow(&s.q, D)
	k.passes(rows, func(a, b int) {
		dst := blocks[a*n : b*n]
		for r := a; r < b; r++ {
			simd.Scale(x, q.Q[r/q.Group*q.Stride+r%q.Group*D:][:D], q.Scale)
			for g := range n {
				k.quantiseQuery(&dst[g*(b-a)+r-a], (*[group]float32)(x[g*group:]))
			}
		}
	})
}

// quantise rounds x·inverse to codes and returns their sum; inverse 0 gives zeros.
func quantise(codes *[group]int8, x *[group]float32, inverse float32, low, high int8) int32 {
	if inverse == 0 {
		*codes = [group]int8{}
		return 0
	}
	return round(codes, x, inverse, low, high)
}

// The scalar twins.

// peakGeneric is the value of greatest magnitude, the negative of two, a NaN
// before all: bits with the sign moved to the end are in that order.
func peakGeneric(x *[group]float32) float32 {
	var top uint32
	for _, v := range x {
		bits := math.Float32bits(v)
		top = max(top, bits<<1|bits>>31)
	}
	return math.Float32frombits(top>>1 | top<<31)
}

func roundGeneric(codes *[group]int8, x *[group]float32, inverse float32, low, high int8) (sum int32) {
	for i, v := range x {
		q := math.RoundToEven(float64(float32(v * inverse)))
		codes[i] = int8(max(float64(low), min(float64(high), q)))
		sum += int32(codes[i])
	}
	return sum
}

// keyCode and valueCode read a code from one head's K or V of a tile.
func (l Layout) keyCode(tile []byte, d, lane int) int32 {
	if l.DType == tensor.Q8_0 {
		return int32(tile[(d/4*Tile+lane)*4+d%4]) - 128
	}
	return int32(tile[(d/8*Tile+lane)*4+d%4]>>(d/4%2*4)&15) - 8
}

func (l Layout) valueCode(tile []byte, d, lane int) int32 {
	row := tile[lane*l.codeBytes():]
	if l.DType == tensor.Q8_0 {
		return int32(int8(row[d]))
	}
	i := d % 16 / 2 // nibble of its word
	return int32(int8(row[d/16*8+d%2*4+i/2]<<(4-i%2*4)) >> 4)
}

// tileScale reads a scale from one head's K or V of a tile.
func (l Layout) tileScale(tile []byte, g, lane int) float32 {
	return simd.FromF16(binary.LittleEndian.Uint16(tile[Tile*l.codeBytes()+(g*Tile+lane)*2:]))
}
