package tensor

// Blocks of 32 elements with one scale. Element k of a 4-bit block is the low nibble of qs[k] for k < 16 and the high
// nibble of qs[k-16] above. Products are rounded to float32 before an addition, as the reference does.

// Q4_0, 18 bytes: d f16; qs [16]u4x2. Value d·(q-8).
func decodeQ4_0(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[32:], x[18:] {
		d := f16(x)
		for k, q := range x[2:18] {
			y[k] = d * float32(int(q&15)-8)
			y[k+16] = d * float32(int(q>>4)-8)
		}
	}
}

// Q4_1, 20 bytes: d f16; m f16; qs [16]u4x2. Value d·q + m.
func decodeQ4_1(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[32:], x[20:] {
		d, m := f16(x), f16(x[2:])
		for k, q := range x[4:20] {
			y[k] = float32(d*float32(q&15)) + m
			y[k+16] = float32(d*float32(q>>4)) + m
		}
	}
}

// Q5_0, 22 bytes: d f16; qh u32, bit k is the fifth bit of element k; qs [16]u4x2. Value d·(q-16).
func decodeQ5_0(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[32:], x[22:] {
		d, qh := f16(x), le.Uint32(x[2:])
		for k, q := range x[6:22] {
			y[k] = d * float32(int(q&15|fifth(qh, k))-16)
			y[k+16] = d * float32(int(q>>4|fifth(qh, k+16))-16)
		}
	}
}

// Q5_1, 24 bytes: d f16; m f16; qh u32; qs [16]u4x2. Value d·q + m.
func decodeQ5_1(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[32:], x[24:] {
		d, m, qh := f16(x), f16(x[2:]), le.Uint32(x[4:])
		for k, q := range x[8:24] {
			y[k] = float32(d*float32(q&15|fifth(qh, k))) + m
			y[k+16] = float32(d*float32(q>>4|fifth(qh, k+16))) + m
		}
	}
}

// fifth returns bit k of qh in the place of bit 4.
func fifth(qh uint32, k int) byte { return byte(qh>>k&1) << 4 }

// Q8_0, 34 bytes: d f16; qs [32]i8. Value d·q.
func decodeQ8_0(y []float32, x []byte) {
	for ; len(x) > 0; y, x = y[32:], x[34:] {
		d := f16(x)
		for k, q := range x[2:34] {
			y[k] = d * float32(int8(q))
		}
	}
}
