package simd

import (
	"fmt"

	"sestina/internal/f32"
)

// Exp writes dst[i] = e^x[i] (f32.Exp).
func Exp(dst, x []float32) {
	same(len(dst), len(x))
	exp(dst, x)
}

// Scale writes dst[i] = x[i]·s.
func Scale(dst, x []float32, s float32) {
	same(len(dst), len(x))
	scale(dst, x, s)
}

// Add adds x to dst.
func Add(dst, x []float32) {
	same(len(dst), len(x))
	add(dst, x)
}

// SumSquares returns Σ x[i]² in 16 lanes closed by f32.Tree16.
func SumSquares(x []float32) float32 { return sumSquares(x) }

// RMSNorm writes dst[i] = x[i]·r·w[i], r = 1/√(mean x² + eps), each step rounded.
func RMSNorm(dst, x, w []float32, eps float32) {
	same(len(dst), len(x))
	same(len(dst), len(w))
	scaleMul(dst, x, w, InverseRMS(x, eps))
}

// InverseRMS returns 1/√(mean x² + eps), the factor of [RMSNorm].
func InverseRMS(x []float32, eps float32) float32 {
	mean := sumSquares(x) / float32(len(x))
	return 1 / f32.Sqrt(float32(mean+eps))
}

// ScaleMul writes dst[i] = (x[i]·s)·w[i], both products rounded.
func ScaleMul(dst, x, w []float32, s float32) {
	same(len(dst), len(x))
	same(len(dst), len(w))
	scaleMul(dst, x, w, s)
}

// SiLUMul writes dst[i] = SiLU(gate[i])·up[i], the activation of SwiGLU.
func SiLUMul(dst, gate, up []float32) {
	same(len(dst), len(gate))
	same(len(dst), len(up))
	siluMul(dst, gate, up)
}

// RoPE rotates the pairs (k, k+n) of x by the angles whose n cosines and sines
// are given, in place; elements from 2n on stay (partial rotation).
func RoPE(x, cos, sin []float32) {
	n := len(cos)
	same(n, len(sin))
	rope(x[:n:n], x[n:2*n:2*n], cos, sin)
}

// RoPEInterleaved is [RoPE] on the pairs (2k, 2k+1).
func RoPEInterleaved(x, cos, sin []float32) {
	n := len(cos)
	same(n, len(sin))
	ropeInterleaved(x[:2*n], cos, sin)
}

// Max returns the largest element; NaNs are passed over, zeros are +0, and a
// vector without numbers gives -Inf.
func Max(x []float32) float32 {
	m, _ := maxNaN(x)
	return m + 0 // -0 becomes +0: lanes do not know which zero came first
}

// ArgMax returns the lowest index of the largest element and its value. The
// index is -1 if x is empty or holds a NaN: its sender computed nonsense, and
// the caller should end that request.
func ArgMax(x []float32) (int, float32) {
	m, nan := maxNaN(x)
	if nan || len(x) == 0 {
		return -1, m
	}
	i := indexEqual(x, m)
	return i, x[i]
}

// SoftmaxWeights writes dst[i] = e^((x[i]-max)·scale) and returns their sum, in
// 16 float64 lanes closed by the tree of f32.Tree16. With max the largest
// element (finite) and scale = 1/temperature the weights are in [0, 1], 1 for
// the largest; an x of -Inf weighs 0.
func SoftmaxWeights(dst, x []float32, max, scale float32) float64 {
	same(len(dst), len(x))
	return softmaxWeights(dst, x, max, scale)
}

// CountGE returns how many elements are ≥ threshold; a NaN is not.
func CountGE(x []float32, threshold float32) int { return countGE(x, threshold) }

// CollectGE writes the indices of the elements ≥ threshold to dst, ascending,
// until dst is full, and returns how many it wrote; what is in dst after them
// is unspecified.
func CollectGE(dst []int32, x []float32, threshold float32) int {
	return collectGE(dst, x, threshold)
}

// F32ToF16 rounds x to IEEE half precision, to nearest even; a NaN stays a
// (quiet) NaN, overflow becomes infinity.
func F32ToF16(dst []uint16, x []float32) {
	same(len(dst), len(x))
	f32ToF16(dst, x)
}

// F16ToF32 widens halves exactly.
func F16ToF32(dst []float32, x []uint16) {
	same(len(dst), len(x))
	f16ToF32(dst, x)
}

// F32ToBF16 rounds x to bfloat16, to nearest even; a NaN stays a (quiet) NaN.
func F32ToBF16(dst []uint16, x []float32) {
	same(len(dst), len(x))
	f32ToBF16(dst, x)
}

// BF16ToF32 widens bfloat16 exactly.
func BF16ToF32(dst []float32, x []uint16) {
	same(len(dst), len(x))
	bf16ToF32(dst, x)
}

func same(a, b int) {
	if a != b {
		panic(fmt.Sprintf("simd: vectors of %d and %d elements", a, b))
	}
}
