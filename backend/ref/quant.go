package ref

import (
	"encoding/binary"
	"math"

	"sestina/internal/f32"
	"sestina/tensor"
)

// HasIntegerPath reports whether a weight format multiplies int8 activations
// directly; the others are widened to float32.
func HasIntegerPath(d tensor.DType) bool {
	switch d {
	case tensor.Q8_0, tensor.Q4_0, tensor.Q4_1, tensor.Q5_0, tensor.Q5_1, tensor.Q4_K, tensor.Q5_K, tensor.Q6_K,
		tensor.Q2_K, tensor.Q3_K, tensor.IQ4_NL, tensor.MXFP4:
		return true
	}
	return false
}

// Activation is 32 values of an activation row as int8: x ≈ D·Q.
type Activation struct {
	Q   [32]int8
	D   float32
	Sum int32 // Σ Q
}

// Quantize splits a row into int8 blocks: D = max|x|/127, Q rounded half to even.
func Quantize(x []float32) []Activation {
	out := make([]Activation, len(x)/32)
	for i := range out {
		a, v := &out[i], x[i*32:][:32]
		var amax float32
		for _, f := range v {
			amax = max(amax, float32(math.Abs(float64(f))))
		}
		if !(amax >= 1e-30) {
			continue
		}
		a.D = amax / 127
		id := 1 / a.D
		for k, f := range v {
			a.Q[k] = int8(math.RoundToEven(float64(float32(f * id))))
			a.Sum += int32(a.Q[k])
		}
	}
	return out
}

// block is 32 weights as exact integers: w = d·q + m. The two integer scales of
// Q6_K, Q3_K and Q2_K are folded into q. Q2_K has integer minima as well:
// w = d·q - m·mins[k/16].
type block struct {
	q    [32]int32
	d, m float32
	min  bool // the format has an offset m
	mins *[2]int32
}

// mulAdd is one step of the contract: acc = fma(Σ q·a, d·D, acc), then the offset's share.
func (w *block) mulAdd(a *Activation, acc float32) float32 {
	var s int32
	for k, q := range w.q {
		s += q * int32(a.Q[k])
	}
	acc = f32.FMA(float32(s), float32(w.d*a.D), acc)
	switch {
	case w.mins != nil:
		var low int32
		for k, q := range a.Q {
			low -= w.mins[k/16] * int32(q)
		}
		acc = f32.FMA(float32(low), float32(w.m*a.D), acc)
	case w.min:
		acc = f32.FMA(w.m, float32(a.D*float32(a.Sum)), acc)
	}
	return acc
}

func half(b []byte) float32 { return tensor.Float16(binary.LittleEndian.Uint16(b)).Float32() }

// appendBlocks reads the integers and scales of whole blocks of one format.
func appendBlocks(out []block, d tensor.DType, raw []byte) []block {
	for size := d.BlockBytes(); len(raw) >= size; raw = raw[size:] {
		switch d {
		case tensor.Q8_0:
			w := block{d: half(raw)}
			for k := range w.q {
				w.q[k] = int32(int8(raw[2+k]))
			}
			out = append(out, w)
		case tensor.Q4_0:
			out = append(out, nibbles(block{d: half(raw)}, raw[2:], nil, 8))
		case tensor.Q4_1:
			out = append(out, nibbles(block{d: half(raw), m: half(raw[2:]), min: true}, raw[4:], nil, 0))
		case tensor.Q5_0:
			out = append(out, nibbles(block{d: half(raw)}, raw[6:], raw[2:6], 16))
		case tensor.Q5_1:
			out = append(out, nibbles(block{d: half(raw), m: half(raw[2:]), min: true}, raw[8:], raw[4:8], 0))
		case tensor.Q4_K, tensor.Q5_K:
			out = appendK45(out, d, raw)
		case tensor.Q6_K:
			out = appendQ6(out, raw)
		case tensor.Q2_K, tensor.Q3_K:
			out = appendK23(out, d, raw)
		case tensor.IQ4_NL:
			out = append(out, codes(nibbles(block{d: half(raw)}, raw[2:], nil, 0), &iq4))
		case tensor.MXFP4:
			d := float32(math.Ldexp(1, int(raw[0])-128))
			out = append(out, codes(nibbles(block{d: d}, raw[1:], nil, 0), &fp4))
		}
	}
	return out
}

// nibbles fills a block of the 32-value formats: element k in the low nibble of
// byte k, element k+16 in its high one, a fifth bit from high when present.
func nibbles(w block, qs, high []byte, offset int32) block {
	for k := range 32 {
		q := int32(qs[k&15]>>(4*(k>>4))) & 15
		if high != nil {
			q |= int32(high[k>>3]>>(k&7)&1) << 4
		}
		w.q[k] = q - offset
	}
	return w
}

// appendK45 reads a Q4_K or Q5_K super-block: 8 blocks with 6-bit scales and mins.
func appendK45(out []block, dt tensor.DType, raw []byte) []block {
	d, dmin := half(raw), half(raw[2:])
	scales, mins := tensor.ScaleMinK4(raw[4:16])
	qs, qh := raw[16:], []byte(nil)
	if dt == tensor.Q5_K {
		qh, qs = raw[16:48], raw[48:]
	}
	for j := range 8 {
		w := block{d: float32(d * float32(scales[j])), m: -float32(dmin * float32(mins[j])), min: true}
		for k := range 32 {
			w.q[k] = int32(qs[j/2*32+k]>>(4*(j&1))) & 15
			if qh != nil {
				w.q[k] |= int32(qh[k]>>j&1) << 4
			}
		}
		out = append(out, w)
	}
	return out
}

// appendQ6 reads a Q6_K super-block: 16 runs of 16 values with 8-bit scales.
func appendQ6(out []block, raw []byte) []block {
	ql, qh, sc, d := raw[:128], raw[128:192], raw[192:208], half(raw[208:])
	for j := range 8 {
		w := block{d: d}
		for k := range 32 {
			e := j*32 + k
			h, l := e/128, e%128 // half, index within it
			q := int32(ql[h*64+l%64]>>(4*(l/64)))&15 | int32(qh[h*32+l%32]>>(2*(l/32))&3)<<4
			w.q[k] = (q - 32) * int32(int8(sc[e/16]))
		}
		out = append(out, w)
	}
	return out
}

// appendK23 reads a Q2_K or Q3_K super-block: 16 runs of 16 values of two bits,
// for Q3_K with a third one from a mask.
func appendK23(out []block, dt tensor.DType, raw []byte) []block {
	scales, qs := raw[:16], raw[16:]
	d, dmin := half(raw[80:]), half(raw[82:])
	if dt == tensor.Q3_K {
		scales, qs, d = raw[96:108], raw[32:], half(raw[108:])
	}
	for j := range 8 {
		w := block{d: d}
		if dt == tensor.Q2_K {
			w.m, w.mins = dmin, &[2]int32{int32(scales[2*j] >> 4), int32(scales[2*j+1] >> 4)}
		}
		for k := range 32 {
			q := int32(qs[j/4*32+k]>>(2*(j%4))) & 3
			switch run := 2*j + k/16; dt {
			case tensor.Q2_K:
				w.q[k] = q * int32(scales[run]&15)
			case tensor.Q3_K:
				q |= int32(raw[k]>>j&1) << 2
				low, high := scales[run%8]>>(4*(run/8))&15, scales[8+run%4]>>(2*(run/4))&3
				w.q[k] = (q - 4) * (int32(low|high<<4) - 32)
			}
		}
		out = append(out, w)
	}
	return out
}

// The values that the codes of IQ4_NL and MXFP4 stand for, the latter doubled.
var (
	iq4 = [16]int32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}
	fp4 = [16]int32{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}
)

// codes replaces codes by what they stand for.
func codes(w block, values *[16]int32) block {
	for k, q := range w.q {
		w.q[k] = values[q]
	}
	return w
}
