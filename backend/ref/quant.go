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
	case tensor.Q8_0, tensor.Q4_0, tensor.Q4_1, tensor.Q5_0, tensor.Q5_1, tensor.Q4_K, tensor.Q5_K, tensor.Q6_K:
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

// block is 32 weights as exact integers: w = d·q + m. Q6_K's two 8-bit scales
// are folded into q.
type block struct {
	q    [32]int32
	d, m float32
	min  bool // the format has an offset m
}

// mulAdd is one step of the contract: acc = fma(Σ q·a, d·D, acc), then the offset's share.
func (w *block) mulAdd(a *Activation, acc float32) float32 {
	var s int32
	for k, q := range w.q {
		s += q * int32(a.Q[k])
	}
	acc = f32.FMA(float32(s), float32(w.d*a.D), acc)
	if w.min {
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
