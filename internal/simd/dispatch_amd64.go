//go:build amd64 && !purego

package simd

import (
	"sestina/internal/cpuinfo"
	"sestina/internal/f32"
)

// Direct calls in a switch, not function variables: so escape analysis sees
// that no kernel keeps its slices.

func best() Level {
	switch {
	case cpuinfo.AVX512:
		return AVX512
	case cpuinfo.AVX2:
		return AVX2
	}
	return Generic
}

func exp(dst, x []float32) {
	switch level {
	case AVX512:
		expAVX512(dst, x)
	case AVX2:
		expAVX2(dst, x)
	default:
		expGeneric(dst, x)
	}
}

func scale(dst, x []float32, s float32) {
	switch level {
	case AVX512:
		scaleAVX512(dst, x, s)
	case AVX2:
		scaleAVX2(dst, x, s)
	default:
		scaleGeneric(dst, x, s)
	}
}

func add(dst, x []float32) {
	switch level {
	case AVX512:
		addAVX512(dst, x)
	case AVX2:
		addAVX2(dst, x)
	default:
		addGeneric(dst, x)
	}
}

func sumSquares(x []float32) float32 {
	switch level {
	case AVX512:
		return sumSquaresAVX512(x)
	case AVX2:
		return sumSquaresAVX2(x)
	}
	return f32.SumSquares(x)
}

func scaleMul(dst, x, w []float32, s float32) {
	switch level {
	case AVX512:
		scaleMulAVX512(dst, x, w, s)
	case AVX2:
		scaleMulAVX2(dst, x, w, s)
	default:
		scaleMulGeneric(dst, x, w, s)
	}
}

func siluMul(dst, gate, up []float32) {
	switch level {
	case AVX512:
		siluMulAVX512(dst, gate, up)
	case AVX2:
		siluMulAVX2(dst, gate, up)
	default:
		siluMulGeneric(dst, gate, up)
	}
}

func rope(a, b, cos, sin []float32) {
	switch level {
	case AVX512:
		ropeAVX512(a, b, cos, sin)
	case AVX2:
		ropeAVX2(a, b, cos, sin)
	default:
		ropeGeneric(a, b, cos, sin)
	}
}

func maxNaN(x []float32) (float32, bool) {
	switch level {
	case AVX512:
		return maxNaNAVX512(x)
	case AVX2:
		return maxNaNAVX2(x)
	}
	return maxNaNGeneric(x)
}

func indexEqual(x []float32, v float32) int {
	switch level {
	case AVX512:
		return indexEqualAVX512(x, v)
	case AVX2:
		return indexEqualAVX2(x, v)
	}
	return indexEqualGeneric(x, v)
}

func softmaxWeights(dst, x []float32, max, scale float32) float64 {
	switch level {
	case AVX512:
		return softmaxWeightsAVX512(dst, x, max, scale)
	case AVX2:
		return softmaxWeightsAVX2(dst, x, max, scale)
	}
	return softmaxWeightsGeneric(dst, x, max, scale)
}

func countGE(x []float32, threshold float32) int {
	switch level {
	case AVX512:
		return countGEAVX512(x, threshold)
	case AVX2:
		return countGEAVX2(x, threshold)
	}
	return countGEGeneric(x, threshold)
}

// The kernels below take whole groups of 16; what is left over is the scalar twin's.

func ropeInterleaved(x, cos, sin []float32) {
	n := 0
	switch level {
	case AVX512:
		n = len(cos) &^ 7
		ropeInterleavedAVX512(x[:2*n], cos, sin)
	case AVX2:
		n = len(cos) &^ 7
		ropeInterleavedAVX2(x[:2*n], cos, sin)
	}
	ropeInterleavedGeneric(x[2*n:], cos[n:], sin[n:])
}

func collectGE(dst []int32, x []float32, threshold float32) int {
	var from, n int
	switch level {
	case AVX512:
		from, n = collectGEAVX512(dst, x, threshold)
	case AVX2:
		from, n = collectGEAVX2(dst, x, threshold)
	}
	return collectGEFrom(dst, x, threshold, from, n)
}

func f32ToF16(dst []uint16, x []float32) {
	n := 0
	switch level {
	case AVX512:
		n = len(x) &^ 15
		f32ToF16AVX512(dst[:n], x)
	case AVX2:
		n = len(x) &^ 15
		f32ToF16AVX2(dst[:n], x)
	}
	f32ToF16Generic(dst[n:], x[n:])
}

func f16ToF32(dst []float32, x []uint16) {
	n := 0
	switch level {
	case AVX512:
		n = len(x) &^ 15
		f16ToF32AVX512(dst[:n], x)
	case AVX2:
		n = len(x) &^ 15
		f16ToF32AVX2(dst[:n], x)
	}
	f16ToF32Generic(dst[n:], x[n:])
}

func f32ToBF16(dst []uint16, x []float32) {
	n := 0
	switch level {
	case AVX512:
		n = len(x) &^ 15
		f32ToBF16AVX512(dst[:n], x)
	case AVX2:
		n = len(x) &^ 15
		f32ToBF16AVX2(dst[:n], x)
	}
	f32ToBF16Generic(dst[n:], x[n:])
}

func bf16ToF32(dst []float32, x []uint16) {
	n := 0
	switch level {
	case AVX512:
		n = len(x) &^ 15
		bf16ToF32AVX512(dst[:n], x)
	case AVX2:
		n = len(x) &^ 15
		bf16ToF32AVX2(dst[:n], x)
	}
	bf16ToF32Generic(dst[n:], x[n:])
}
