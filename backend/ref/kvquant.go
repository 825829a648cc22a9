package ref

import (
	"math"

	"sestina/internal/f32"
	"sestina/tensor"
)

// Quantised K and V: codes of 8 bits (Q8_0) or 4 bits (Q4_0) and a float16 scale
// for every 32 dimensions of one position's K or V of one head.

// entry is one K or V of one head and position: element d is values[d], or
// scales[d/32]·values[d] where values are codes.
type entry struct{ values, scales []float32 }

func (e entry) at(d int) float64 {
	if e.scales == nil {
		return float64(e.values[d])
	}
	return float64(e.values[d]) * float64(e.scales[d/32])
}

// quantise fills an entry. With x the value of greatest magnitude among 32 (the
// negative of two), the scale is f16(|x|/127), or f16(x/-8) for Q4_0; codes are
// round-half-even(v/scale), the division as a product with the inverse. What holds
// NaN, an infinity or more than float16's range reads as NaN.
func (e entry) quantise(x []float32, d tensor.DType) {
	for g := range e.scales {
		v, codes := x[g*32:][:32], e.values[g*32:][:32]
		top, low, high := extreme(v), float32(-127), float32(127)
		scale := float32(math.Abs(float64(top))) / 127
		if d == tensor.Q4_0 {
			scale, low, high = top/-8, -8, 7
		}
		e.scales[g] = tensor.ToFloat16(scale).Float32()
		roundCodes(codes, v, e.scales[g], low, high)
	}
}

// extreme is the value of greatest magnitude, the negative of two; NaN before all.
func extreme(x []float32) (top float32) {
	for _, v := range x {
		switch a, b := math.Abs(float64(v)), math.Abs(float64(top)); {
		case v != v:
			return v
		case a > b || a == b && v < 0:
			top = v
		}
	}
	return top
}

// roundCodes is round-half-even(x·(1/scale)) within [low, high]; zeros for a
// scale of 0, an infinite one or NaN.
func roundCodes(codes, x []float32, scale, low, high float32) {
	var inverse float32
	if a := math.Abs(float64(scale)); a > 0 && a <= math.MaxFloat32 {
		inverse = 1 / scale
	}
	for i, v := range x {
		if codes[i] = 0; inverse != 0 {
			codes[i] = min(high, max(low, float32(math.RoundToEven(float64(float32(v*inverse))))))
		}
	}
}

// quantiseQuery makes codes of a scaled query as Quantize does of activations,
// but NaN of 32 values that are not all finite.
func quantiseQuery(q []float32) entry {
	e := entry{make([]float32, len(q)), make([]float32, len(q)/32)}
	for g := range e.scales {
		x := q[g*32:][:32]
		switch top := math.Abs(float64(extreme(x))); {
		case !(top <= math.MaxFloat32):
			e.scales[g] = float32(math.NaN())
		case top >= 1e-30:
			e.scales[g] = float32(top) / 127
			roundCodes(e.values[g*32:][:32], x, e.scales[g], -127, 127)
		}
	}
	return e
}

// dotFloats is the score of a query with float keys: fma over ascending dimensions.
func dotFloats(q []float32) func(key entry) float32 {
	return func(key entry) (s float32) {
		for d, v := range q {
			s = f32.FMA(v, key.values[d], s)
		}
		return s
	}
}

// dotCodes is the same with codes: an exact integer sum per 32 dimensions, then
// fma with the product of both scales.
func dotCodes(q entry) func(key entry) float32 {
	return func(key entry) (s float32) {
		for g := range q.scales {
			var sum int32
			for d := g * 32; d < g*32+32; d++ {
				sum += int32(q.values[d]) * int32(key.values[d])
			}
			s = f32.FMA(float32(sum), float32(q.scales[g]*key.scales[g]), s)
		}
		return s
	}
}
