package matmul

import "sestina/tensor"

// Packing: one function per family of formats, each for one row of one panel. The words of a row lie 64 bytes (16 rows of
// 4 bytes) apart in the packed lines. File formats are described beside their decoders in package tensor.

const (
	lowNibbles = 0x0f0f0f0f
	lowPairs   = 0x03030303
	lowBits    = 0x01010101
)

func (p *Packed) packPanel(dst, raw []byte, rowBytes int) {
	// A stretch of columns of all 16 rows at a time, so that packed lines are completed while they are in the cache.
	const stretch = 32
	fileBytes := p.layout.groupCols() / p.DType.BlockSize() * p.DType.BlockBytes()
	groupBytes, groups := p.layout.groupBytes(), p.groups()
	for g := 0; g < groups; g += stretch {
		n := min(stretch, groups-g)
		part := dst[g*groupBytes : (g+n)*groupBytes]
		for lane := 0; lane*rowBytes < len(raw); lane++ {
			row := raw[lane*rowBytes:]
			p.layout.pack(part, row[g*fileBytes:min((g+n)*fileBytes, rowBytes)], lane)
		}
	}
}

func packF32(dst, row []byte, lane int) {
	for dst = dst[4*lane:]; len(row) > 0; row = row[4:] {
		le.PutUint32(dst, le.Uint32(row))
		dst = dst[min(len(dst), 64):]
	}
}

func packF16(dst, row []byte, lane int) {
	for dst = dst[2*lane:]; len(row) > 0; row = row[2:] {
		le.PutUint16(dst, le.Uint16(row))
		dst = dst[min(len(dst), 32):]
	}
}

func packBF16(dst, row []byte, lane int) {
	for dst = dst[4*lane:]; len(row) >= 4; row = row[4:] {
		le.PutUint32(dst, le.Uint32(row))
		dst = dst[min(len(dst), 64):]
	}
	if len(row) > 0 { // an odd column
		le.PutUint32(dst, uint32(le.Uint16(row)))
	}
}

// put16 stores a float16 of the file as lane's entry in a vector of scales.
func put16(dst []byte, lane int, src []byte) { le.PutUint16(dst[2*lane:], le.Uint16(src)) }

// putWords stores the words of 4-bit lines.
func putWords(lines []byte, lane int, qs []byte) {
	for j := range 4 {
		le.PutUint32(lines[j*lineBytes+4*lane:], le.Uint32(qs[4*j:]))
	}
}

// putPairs stores two bits of 32 elements, shift bits up in their bytes, in two lines: vector 4h+i in field i of line h.
func putPairs(lines []byte, lane int, qs []byte, shift int) {
	for h := range 2 {
		var word uint32
		for i := range 4 {
			word |= le.Uint32(qs[16*h+4*i:]) >> shift & lowPairs << (2 * i)
		}
		le.PutUint32(lines[h*lineBytes+4*lane:], word)
	}
}

// planeBits gathers bit b of 32 bytes: bit v of byte i is that of byte 4v+i.
func planeBits(plane []byte, b int) (word uint32) {
	for v := range 8 {
		word |= le.Uint32(plane[4*v:]) >> b & lowBits << v
	}
	return word
}

func packQ4_0(dst, row []byte, lane int) {
	for ; len(row) > 0; dst, row = dst[288:], row[18:] {
		putWords(dst, lane, row[2:])
		put16(dst[256:], lane, row)
	}
}

func packQ4_1(dst, row []byte, lane int) {
	for ; len(row) > 0; dst, row = dst[320:], row[20:] {
		putWords(dst, lane, row[4:])
		put16(dst[256:], lane, row)
		put16(dst[288:], lane, row[2:])
	}
}

func packQ5_0(dst, row []byte, lane int) {
	for ; len(row) > 0; dst, row = dst[352:], row[22:] {
		putWords(dst, lane, row[6:])
		le.PutUint32(dst[256+4*lane:], fifthBits(le.Uint32(row[2:])))
		put16(dst[320:], lane, row)
	}
}

func packQ5_1(dst, row []byte, lane int) {
	for ; len(row) > 0; dst, row = dst[384:], row[24:] {
		putWords(dst, lane, row[8:])
		le.PutUint32(dst[256+4*lane:], fifthBits(le.Uint32(row[4:])))
		put16(dst[320:], lane, row)
		put16(dst[352:], lane, row[2:])
	}
}

// fifthBits turns bit k = 4v+i of a block into bit v of byte i: a transposition of 8 × 4 bits.
func fifthBits(qh uint32) (word uint32) {
	for i := range 4 {
		x := qh >> i & 0x11111111 // bit 4v: gather those eight bits
		x = (x | x>>3) & lowPairs
		x = (x | x>>6) & 0x000f000f
		x = (x | x>>12) & 0xff
		word |= x << (8 * i)
	}
	return word
}

func packQ8_0(dst, row []byte, lane int) {
	for ; len(row) > 0; dst, row = dst[544:], row[34:] {
		for v := range 8 {
			le.PutUint32(dst[v*lineBytes+4*lane:], le.Uint32(row[2+4*v:])^0x80808080)
		}
		put16(dst[512:], lane, row)
	}
}

func packQ4_K(dst, row []byte, lane int) {
	for ; len(row) > 0; dst, row = dst[64+8*288:], row[144:] {
		packHeadK(dst, row, lane, 288)
		packNibblesK(dst[64:], row[16:], lane, 288)
	}
}

func packQ5_K(dst, row []byte, lane int) {
	for ; len(row) > 0; dst, row = dst[64+8*352:], row[176:] {
		packHeadK(dst, row, lane, 352)
		packNibblesK(dst[64:], row[48:], lane, 352)
		for b := range 8 {
			le.PutUint32(dst[64+b*352+256+4*lane:], planeBits(row[16:], b))
		}
	}
}

// packHeadK stores the two float16 of a Q4_K or Q5_K group and, at the end of each block, its scale and min.
func packHeadK(dst, row []byte, lane, blockBytes int) {
	put16(dst, lane, row)
	put16(dst[32:], lane, row[2:])
	scales, mins := tensor.ScaleMinK4(row[4:16])
	for b := range 8 {
		tail := dst[64+(b+1)*blockBytes-32:]
		tail[lane], tail[16+lane] = scales[b], mins[b]
	}
}

// packNibblesK re-splits nibbles: the file pairs element k of block 2i with element k of block 2i+1.
func packNibblesK(blocks, qs []byte, lane, blockBytes int) {
	for b := range 8 {
		src, shift := qs[b/2*32:], b%2*4
		for j := range 4 {
			lo := le.Uint32(src[4*j:]) >> shift & lowNibbles
			hi := le.Uint32(src[16+4*j:]) >> shift & lowNibbles
			le.PutUint32(blocks[b*blockBytes+j*lineBytes+4*lane:], lo|hi<<4)
		}
	}
}

func packQ6_K(dst, row []byte, lane int) {
	for ; len(row) > 0; dst, row = dst[32+8*416:], row[210:] {
		put16(dst, lane, row[208:])
		for b := range 8 {
			packBlockQ6(dst[32+b*416:], row, lane, b)
		}
	}
}

// packBlockQ6 packs block b of a Q6_K group. In the file a nibble's byte pairs element k of block b with that of block
// b+2, and a byte of upper bits serves four blocks.
func packBlockQ6(dst, row []byte, lane, b int) {
	ql, qh := row[b/4*64+b%2*32:], row[128+b/4*32:]
	nibbleShift, pairShift := b/2%2*4, b%4*2
	for j := range 4 {
		lo := le.Uint32(ql[4*j:]) >> nibbleShift & lowNibbles
		hi := le.Uint32(ql[16+4*j:]) >> nibbleShift & lowNibbles
		le.PutUint32(dst[j*lineBytes+4*lane:], lo|hi<<4)
	}
	putPairs(dst[4*lineBytes:], lane, qh, pairShift)
	dst[384+lane], dst[400+lane] = row[192+2*b], row[193+2*b]
}

func packQ2_K(dst, row []byte, lane int) {
	for ; len(row) > 0; dst, row = dst[64+8*160:], row[84:] {
		put16(dst, lane, row[80:])
		put16(dst[32:], lane, row[82:])
		for b := range 8 {
			block := dst[64+b*160:]
			putPairs(block, lane, row[16+b/4*32:], b%4*2)
			block[128+lane], block[144+lane] = row[2*b], row[2*b+1]
		}
	}
}

func packQ3_K(dst, row []byte, lane int) {
	for ; len(row) > 0; dst, row = dst[32+8*224:], row[110:] {
		put16(dst, lane, row[108:])
		for b := range 8 {
			block := dst[32+b*224:]
			putPairs(block, lane, row[32+b/4*32:], b%4*2)
			le.PutUint32(block[128+4*lane:], planeBits(row, b))
			for h := range 2 {
				block[192+16*h+lane] = scaleQ3(row[96:108], 2*b+h)
			}
		}
	}
}

// scaleQ3 is scale i of a Q3_K group as a signed byte: low nibbles in bytes 0-7, upper pairs of bits in bytes 8-11.
func scaleQ3(packed []byte, i int) byte {
	return (packed[i%8]>>(i/8*4)&15 | packed[8+i%4]>>(i/4*2)&3<<4) - 32
}

func packMXFP4(dst, row []byte, lane int) {
	for ; len(row) > 0; dst, row = dst[272:], row[17:] {
		putWords(dst, lane, row[1:])
		dst[256+lane] = row[0]
	}
}
