//go:build !amd64 || purego

package simd

import "sestina/internal/f32"

func best() Level { return Generic }

func exp(dst, x []float32)                            { expGeneric(dst, x) }
func scale(dst, x []float32, s float32)               { scaleGeneric(dst, x, s) }
func add(dst, x []float32)                            { addGeneric(dst, x) }
func scaleMul(dst, x, w []float32, s float32)         { scaleMulGeneric(dst, x, w, s) }
func siluMul(dst, gate, up []float32)                 { siluMulGeneric(dst, gate, up) }
func rope(a, b, cos, sin []float32)                   { ropeGeneric(a, b, cos, sin) }
func ropeInterleaved(x, cos, sin []float32)           { ropeInterleavedGeneric(x, cos, sin) }
func maxNaN(x []float32) (float32, bool)              { return maxNaNGeneric(x) }
func indexEqual(x []float32, v float32) int           { return indexEqualGeneric(x, v) }
func countGE(x []float32, t float32) int              { return countGEGeneric(x, t) }
func collectGE(d []int32, x []float32, t float32) int { return collectGEFrom(d, x, t, 0, 0) }
func f32ToF16(dst []uint16, x []float32)              { f32ToF16Generic(dst, x) }
func f16ToF32(dst []float32, x []uint16)              { f16ToF32Generic(dst, x) }
func f32ToBF16(dst []uint16, x []float32)             { f32ToBF16Generic(dst, x) }
func bf16ToF32(dst []float32, x []uint16)             { bf16ToF32Generic(dst, x) }

func sumSquares(x []float32) float32 { return f32.SumSquares(x) }

func softmaxWeights(dst, x []float32, max, scale float32) float64 {
	return softmaxWeightsGeneric(dst, x, max, scale)
}
