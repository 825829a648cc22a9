package tensor

// The "k" formats: super-blocks of 256 elements with one or two float16 scales and small integer scales for sub-blocks of
// 16 or 32. Bits of neighbouring sub-blocks share bytes: plane p (a shift of p·width) of 32 bytes holds sub-block p of a
// group of 32·planes elements.

// Q2_K, 84 bytes: scales [16]u8, low nibble scale, high nibble min, of 16 elements each; qs [64]u2x4; d f16; dmin f16.
// Value d·scale·q - dmin·min.
func decodeQ2_K(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[256:], x[84:] {
		scales, qs, d, dmin := x[:16], x[16:80], f16(x[80:]), f16(x[82:])
		for i := range 256 {
			q := qs[i/128*32+i%32] >> (i / 32 % 4 * 2) & 3
			s := scales[i/16]
			dl, ml := d*float32(s&15), dmin*float32(s>>4)
			y[i] = float32(dl*float32(q)) - ml
		}
	}
}

// Q3_K, 110 bytes: hmask [32]u1x8; qs [64]u2x4; scales [12] = 16 of 6 bits, offset 32; d f16.
// Value d·(scale-32)·(q-4), where the high bit of q is hmask's.
func decodeQ3_K(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[256:], x[110:] {
		hmask, qs, scales, d := x[:32], x[32:96], x[96:108], f16(x[108:])
		var dl [16]float32
		for i := range dl {
			lo := scales[i%8] >> (i / 8 * 4) & 15
			hi := scales[8+i%4] >> (i / 4 * 2) & 3
			dl[i] = d * float32(int(lo|hi<<4)-32)
		}
		for i := range 256 {
			lo := qs[i/128*32+i%32] >> (i / 32 % 4 * 2) & 3
			hi := hmask[i%32] >> (i / 32) & 1
			y[i] = dl[i/16] * float32(int(lo|hi<<2)-4)
		}
	}
}

// ScaleMinK4 unpacks the 12 bytes that hold eight 6-bit scales and eight 6-bit mins in Q4_K and Q5_K: bytes 0-3 and 4-7
// hold scales and mins 0-3 in their low six bits; bytes 8-11 hold the low nibbles of scales and mins 4-7, whose upper two
// bits are the top bits of bytes 0-3 and 4-7.
func ScaleMinK4(packed []byte) (scales, mins [8]uint8) {
	for i := range 4 {
		s, m, sm := packed[i], packed[4+i], packed[8+i]
		scales[i], mins[i] = s&63, m&63
		scales[4+i], mins[4+i] = sm&15|s>>6<<4, sm>>4|m>>6<<4
	}
	return scales, mins
}

// Q4_K, 144 bytes: d f16; dmin f16; scales [12] (see ScaleMinK4), of 32 elements each; qs [128]u4x2.
// Value d·scale·q - dmin·min.
func decodeQ4_K(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[256:], x[144:] {
		d, dmin, qs := f16(x), f16(x[2:]), x[16:144]
		scales, mins := ScaleMinK4(x[4:16])
		for b := range 8 {
			dl, ml := d*float32(scales[b]), dmin*float32(mins[b])
			for k, q := range qs[b/2*32:][:32] {
				q = q >> (b % 2 * 4) & 15
				y[b*32+k] = float32(dl*float32(q)) - ml
			}
		}
	}
}

// Q5_K, 176 bytes: d f16; dmin f16; scales [12]; qh [32]u1x8, bit b of byte k is the fifth bit of element 32b+k;
// qs [128]u4x2. Value d·scale·q - dmin·min.
func decodeQ5_K(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[256:], x[176:] {
		d, dmin, qh, qs := f16(x), f16(x[2:]), x[16:48], x[48:176]
		scales, mins := ScaleMinK4(x[4:16])
		for b := range 8 {
			dl, ml := d*float32(scales[b]), dmin*float32(mins[b])
			for k, q := range qs[b/2*32:][:32] {
				q = q>>(b%2*4)&15 | qh[k]>>b&1<<4
				y[b*32+k] = float32(dl*float32(q)) - ml
			}
		}
	}
}

// Q6_K, 210 bytes: ql [128]u4x2, planes of 64; qh [64]u2x4; scales [16]i8, of 16 elements each; d f16.
// Value d·scale·(q-32).
func decodeQ6_K(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[256:], x[210:] {
		ql, qh, scales, d := x[:128], x[128:192], x[192:208], f16(x[208:])
		for i := range 256 {
			lo := ql[i/128*64+i%64] >> (i / 64 % 2 * 4) & 15
			hi := qh[i/128*32+i%32] >> (i / 32 % 4 * 2) & 3
			dl := d * float32(int8(scales[i/16]))
			y[i] = dl * float32(int(lo|hi<<4)-32)
		}
	}
}
