package matmul

import "sestina/tensor"

// layout is the extent of a packed format. Integer formats:
//
//	panel = groups;  group = head, blocks × block;  block = lines × 64 bytes, tail
//
//	format  blocks head            lines                                          tail             bytes/32 columns
//	Q4_0    1      -               4 (vector j low nibble, j+4 high)              16 f16 d         288
//	Q4_1    1      -               4                                              16 f16 d, m      320
//	Q5_0    1      -               4, 1 of fifth bits (bit v of a byte: vector v) 16 f16 d         352
//	Q5_1    1      -               4, 1                                           16 f16 d, m      384
//	Q8_0    1      -               8 (w+128)                                      16 f16 d         544
//	Q4_K    8      16 f16 d, dmin  4                                              16 u8 scale, min 296
//	Q5_K    8      16 f16 d, dmin  4, 1                                           16 u8 scale, min 360
//	Q6_K    8      16 f16 d        4, 2 of bits 4-5 (field i: vectors i, i+4)     2 × 16 s8 scale  420
//	Q2_K    8      16 f16 d, dmin  2 (field i of line h: vector 4h+i)             2 × 16 u4 scale, u4 min  168
//	Q3_K    8      16 f16 d        2, 1 of third bits                             2 × 16 s8 scale  228
//	IQ4_NL  1      -               4 of codes                                     16 f16 d         288
//	MXFP4   1      -               4 of codes                                     16 u8 exponent   272
//
// Scalar formats have no blocks: F32 and F16 hold column after column of 16 elements, BF16 two columns interleaved, so that
// row r's elements k and k+1 are the lower and upper half of the 32-bit word r of a line. A last odd column has zeros beside it.
type layout struct {
	blocks, head, lines, tail int
	cols                      int // of a group; scalar formats

	// Integer formats: value = d·(w-offset) [+ m].
	offset int32
	min    bool
	codes  *[16]int8 // what 4-bit weights stand for: w = codes[i] + offset

	// pack stores part of one row, whole groups in the file's format, as row lane of dst, the same groups of a panel.
	pack func(dst, row []byte, lane int)
}

const lineBytes = 64

var layouts = map[tensor.DType]*layout{
	tensor.F32:  {head: 16 * 4, cols: 1, pack: packF32},
	tensor.F16:  {head: 16 * 2, cols: 1, pack: packF16},
	tensor.BF16: {head: 16 * 4, cols: 2, pack: packBF16},
	tensor.Q4_0: {blocks: 1, lines: 4, tail: 32, offset: 8, pack: packQ4_0},
	tensor.Q4_1: {blocks: 1, lines: 4, tail: 64, min: true, pack: packQ4_1},
	tensor.Q5_0: {blocks: 1, lines: 5, tail: 32, offset: 16, pack: packQ5_0},
	tensor.Q5_1: {blocks: 1, lines: 5, tail: 64, min: true, pack: packQ5_1},
	tensor.Q8_0: {blocks: 1, lines: 8, tail: 32, offset: 128, pack: packQ8_0},
	tensor.Q4_K: {blocks: 8, head: 64, lines: 4, tail: 32, min: true, pack: packQ4_K},
	tensor.Q5_K: {blocks: 8, head: 64, lines: 5, tail: 32, min: true, pack: packQ5_K},
	tensor.Q6_K: {blocks: 8, head: 32, lines: 6, tail: 32, offset: 32, pack: packQ6_K},
	tensor.Q2_K: {blocks: 8, head: 64, lines: 2, tail: 32, min: true, pack: packQ2_K},
	tensor.Q3_K: {blocks: 8, head: 32, lines: 3, tail: 32, offset: 4, pack: packQ3_K},

	tensor.IQ4_NL: {blocks: 1, lines: 4, tail: 32, offset: 128, codes: &iq4Codes, pack: packQ4_0},
	tensor.MXFP4:  {blocks: 1, lines: 4, tail: 16, offset: 16, codes: &fp4Codes, pack: packMXFP4},
}

// The values of 4-bit codes: IQ4_NL's levels, and twice those of E2M1.
var (
	iq4Codes = [16]int8{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}
	fp4Codes = [16]int8{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}
)

// DTypes returns the formats that can be packed.
func DTypes() []tensor.DType {
	return []tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.Q8_0, tensor.Q4_0, tensor.Q4_1, tensor.Q5_0, tensor.Q5_1,
		tensor.Q4_K, tensor.Q5_K, tensor.Q6_K, tensor.Q2_K, tensor.Q3_K, tensor.IQ4_NL, tensor.MXFP4}
}

func layoutOf(dt tensor.DType) *layout { return layouts[dt] }

func (l *layout) scalar() bool { return l.blocks == 0 }

// blockBytes is the size of one packed block of 32 columns, without its group's head.
func (l *layout) blockBytes() int { return l.lines*lineBytes + l.tail }

// groupBytes is the size of one group; of one column or pair of columns for scalar formats.
func (l *layout) groupBytes() int { return l.head + l.blocks*l.blockBytes() }

// groupCols is the number of columns in a group.
func (l *layout) groupCols() int {
	if l.scalar() {
		return l.cols
	}
	return 32 * l.blocks
}

// groups is the number of groups in a panel of k columns.
func (l *layout) groups(k int) int {
	n := k / l.groupCols()
	if k%l.groupCols() != 0 {
		n++
	}
	return n
}
