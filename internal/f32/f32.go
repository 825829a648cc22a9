// Package f32 defines, in scalar Go, the float32 arithmetic that every kernel
// family must reproduce bit for bit: the numerics contract.
//
//   - FMA rounds once, as the hardware instruction does.
//   - Sums over a vector run in 16 lanes: lane i takes elements i, i+16, i+32 …
//     in ascending order, then [Tree16] adds the lanes in a fixed tree.
//   - [Exp] is one polynomial with a fixed order of FMAs, so exp(0) is exactly 1
//     and everything below -87 is exactly 0.
//
// Nothing here is fast: SIMD twins live beside the kernels and are compared
// with these functions by their bits.
package f32

import "math"

// FMA returns x·y+z rounded once to float32.
//
// The product of two float32 is exact in float64 (48 bits). The float64 sum may
// round; TwoSum recovers what it lost, and forcing the last bit to odd when
// something was lost makes the second rounding, to float32, correct
// (round-to-odd; Boldo and Melquiond 2008).
func FMA(x, y, z float32) float32 {
	p := float64(x) * float64(y)
	c := float64(z)
	s := p + c
	bb := s - p
	e := (p - (s - bb)) + (c - bb)
	if e != 0 {
		if b := math.Float64bits(s); b&1 == 0 && !math.IsInf(s, 0) && e == e {
			// s is even and inexact: step towards the exact sum to an odd neighbour.
			if (e > 0) == (s > 0) {
				b++
			} else {
				b--
			}
			s = math.Float64frombits(b)
		}
	}
	return float32(s)
}

// Tree16 adds 16 lanes: halves first (i + i+8), then 4, 2, 1.
func Tree16(v *[16]float32) float32 {
	var a [8]float32
	for i := range a {
		a[i] = v[i] + v[i+8]
	}
	var b [4]float32
	for i := range b {
		b[i] = a[i] + a[i+4]
	}
	return (b[0] + b[2]) + (b[1] + b[3])
}

// Constants of Exp, as bits so that every twin holds the same numbers.
// Log2E = log2(e); Ln2Hi + Ln2Lo = ln 2, Ln2Hi with 9 trailing zero bits so
// that n·Ln2Hi is exact; C2…C6 are minimax coefficients of
// e^r = 1 + r + C2·r² + … + C6·r⁶ on |r| ≤ ln2/2 (Cephes expf).
const (
	Log2E float32 = 1.44269504088896341
	Ln2Hi float32 = 0.693359375
	Ln2Lo float32 = -2.12194440e-4
	C2    float32 = 5.0000001201e-1
	C3    float32 = 1.6666665459e-1
	C4    float32 = 4.1665795894e-2
	C5    float32 = 8.3334519073e-3
	C6    float32 = 1.3981999507e-3
	C7    float32 = 1.9875691500e-4

	ExpMin float32 = -87 // below: exactly 0
	ExpMax float32 = 88  // above: clamped
)

// Exp returns e^x within 2 ulp; 0 below [ExpMin], e^[ExpMax] above ExpMax, NaN
// for NaN. Fixed order:
//
//	n = round-half-even(x·Log2E)
//	r = fma(n, -Ln2Hi, x); r = fma(n, -Ln2Lo, r)
//	p = C7; p = fma(p, r, C6) … fma(p, r, C2)
//	y = fma(p, r·r, r) + 1
//	2^n · y by adding n to the exponent field
func Exp(x float32) float32 {
	if x != x {
		return x
	}
	if x < ExpMin {
		return 0
	}
	if x > ExpMax {
		x = ExpMax
	}
	n := float32(math.RoundToEven(float64(float32(x * Log2E))))
	r := FMA(n, -Ln2Hi, x)
	r = FMA(n, -Ln2Lo, r)
	p := C7
	for _, c := range [...]float32{C6, C5, C4, C3, C2} {
		p = FMA(p, r, c)
	}
	rr := float32(r * r)
	y := float32(FMA(p, rr, r) + 1)
	return math.Float32frombits(math.Float32bits(y) + uint32(int32(n))<<23)
}

// SiLU returns x / (1 + e^-x).
func SiLU(x float32) float32 { return x / float32(1+Exp(-x)) }

// SumSquares returns Σ x² in the contract's order.
func SumSquares(x []float32) float32 {
	var lane [16]float32
	for i, v := range x {
		lane[i&15] = FMA(v, v, lane[i&15])
	}
	return Tree16(&lane)
}

// Sqrt is the correctly rounded float32 square root (a float64 root of a
// float32 rounds innocuously).
func Sqrt(x float32) float32 { return float32(math.Sqrt(float64(x))) }
