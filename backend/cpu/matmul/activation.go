package matmul

import (
	"fmt"
	"math"
)

// Activations for integer weights: blocks of 32 values in 64 bytes.
//
//	0  s8[32] q    32  f32 d    36  f32 ds = d·Σq    40  s32 -Σq    44  s32 -Σq[:16]    48  s32 -Σq[16:]
//	52 s16[2], of which one sums the q that stand first or second of four, negated, the other those third or fourth; 56 the
//	same of q[:16]; 60 of q[16:]
//
// d = max|x|/127 and q = round-half-even(x·(1/d)), so |q| ≤ 127. A block whose largest value is below 1e-30 is zero: 1/d
// would overflow. A block with an infinity or a NaN gets a d that is not finite, so that no product of it is.
const (
	ActBlock = 64 // bytes per 32 activations

	actD, actDS, actNeg, actNeg0, actNeg1, actPairs = 32, 36, 40, 44, 48, 52

	tiny = 1e-30
)

// ActBytes returns the bytes that a row of k quantised activations takes; k is a multiple of 32.
func ActBytes(k int) int { return k / 32 * ActBlock }

func checkQuantize(dst []byte, x []float32) {
	if len(x)%32 != 0 || len(dst) != ActBytes(len(x)) {
		panic(fmt.Sprintf("matmul: %d activations do not quantise into %d bytes", len(x), len(dst)))
	}
}

func quantizeGeneric(dst []byte, x []float32) {
	for ; len(x) > 0; dst, x = dst[ActBlock:], x[32:] {
		quantizeBlock(dst[:ActBlock], x[:32])
	}
}

func quantizeBlock(dst []byte, x []float32) {
	var bits uint32 // of max|x|; as integers a NaN is above infinity
	for _, v := range x {
		bits = max(bits, math.Float32bits(v)&0x7fffffff)
	}
	var d, id float32
	if amax := math.Float32frombits(bits); !(amax < tiny) {
		d = amax / 127
		id = 1 / d
	}
	var sum [2]int32
	var pairs [2][2]int32
	for i, v := range x {
		q := int32(-127) // what remains of a NaN
		if r := math.RoundToEven(float64(float32(v * id))); r > -127 {
			q = int32(r)
		}
		dst[i] = byte(q)
		sum[i/16] += q
		pairs[i/16][i%4/2] -= q
	}
	le.PutUint32(dst[actD:], math.Float32bits(d))
	le.PutUint32(dst[actDS:], math.Float32bits(d*float32(sum[0]+sum[1])))
	le.PutUint32(dst[actNeg:], uint32(-sum[0]-sum[1]))
	le.PutUint32(dst[actNeg0:], uint32(-sum[0]))
	le.PutUint32(dst[actNeg1:], uint32(-sum[1]))
	for j := range 2 {
		le.PutUint16(dst[actPairs+2*j:], uint16(pairs[0][j]+pairs[1][j]))
		le.PutUint16(dst[actPairs+4+2*j:], uint16(pairs[0][j]))
		le.PutUint16(dst[actPairs+8+2*j:], uint16(pairs[1][j]))
	}
}
