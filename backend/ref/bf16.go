package ref

import (
	"math"
	"math/big"

	"sestina/internal/f32"
	"sestina/tensor"
)

// dotBF16 is the sum of w·x with x rounded to bf16, in the order and rounding of
// the instruction VDPBF16PS: of each pair of columns the odd one first, each
// product added by an FMA that treats subnormal operands as zero and flushes
// subnormal results. A row of odd length is continued by a zero.
func dotBF16(w, x []float32) float32 {
	acc := float32(0)
	for k := 0; k < len(w); k += 2 {
		acc = addProduct(w, x, k+1, acc)
		acc = addProduct(w, x, k, acc)
	}
	return acc
}

// dotBF16Blocks is the same sum in the order of TDPBF16PS: of each 32 columns
// (the last may be fewer) all even ones in one chain of such FMAs and all odd
// ones in another, both from 0; the two sums are added, then that to the total,
// by additions that flush as the FMAs do.
func dotBF16Blocks(w, x []float32) float32 {
	const block = 32
	acc := float32(0)
	for first := 0; first < len(w); first += block {
		even, odd := float32(0), float32(0)
		for k := first; k < min(first+block, len(w)); k += 2 {
			even = addProduct(w, x, k, even)
			odd = addProduct(w, x, k+1, odd)
		}
		acc = flushedAdd(acc, flushedAdd(even, odd))
	}
	return acc
}

// addProduct adds column k to a sum; the column after the last is 0.
func addProduct(w, x []float32, k int, acc float32) float32 {
	if k == len(w) {
		return flushedFMA(0, 0, acc)
	}
	return flushedFMA(w[k], tensor.ToBFloat16(x[k]).Float32(), acc)
}

// flushedAdd is x+y without subnormal numbers. Sums near the smallest normal
// number are exact, so there is no question of what is too small.
func flushedAdd(x, y float32) float32 { return flush(flush(x) + flush(y)) }

// flushedFMA is x·y+z without subnormal numbers. A result is too small if it is
// below 2^-126 after rounding to 24 bits as if smaller exponents existed; so it
// is when it is less than 2^-126 - 2^-151 to begin with.
func flushedFMA(x, y, z float32) float32 {
	x, y, z = flush(x), flush(y), flush(z)
	r := f32.FMA(x, y, z)
	if size := math.Abs(float64(r)); size == 0x1p-126 && belowHalfway(x, y, z) {
		return r * 0
	}
	return flush(r)
}

// belowHalfway compares |x·y+z| with 2^-126 - 2^-151 in exact arithmetic.
func belowHalfway(x, y, z float32) bool {
	exact := func(v float32) *big.Float { return new(big.Float).SetPrec(1000).SetFloat64(float64(v)) }
	sum := exact(x)
	sum.Mul(sum, exact(y)).Add(sum, exact(z))
	return sum.Abs(sum).Cmp(big.NewFloat(0x1p-126-0x1p-151)) < 0
}

// flush makes a subnormal value a zero of the same sign.
func flush(x float32) float32 {
	if math.Abs(float64(x)) < 0x1p-126 {
		return x * 0
	}
	return x
}
