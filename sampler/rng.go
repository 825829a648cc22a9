package sampler

import "math/bits"

// Lane separates the uses of randomness at one output index, so that adding
// one never shifts another.
type Lane uint32

const (
	LaneDraw     Lane = iota // which token
	LaneXTC                  // whether XTC acts on this token
	LaneAccept               // rejection sampling: accept the draft's token?
	LaneResidual             // rejection sampling: the draw from the residual
	LaneDraft                // rejection sampling: the draft model's own draw
)

// Uniform returns a number in [0, 1) with 53 random bits that depends on its
// arguments alone: no state, no order of calls. output is the index of the
// token among the outputs, from 0.
func Uniform(seed uint64, choice, output int, lane Lane) float64 {
	r := philox4x32(
		[4]uint32{uint32(output), uint32(choice), uint32(lane), 0},
		[2]uint32{uint32(seed), uint32(seed >> 32)})
	return float64((uint64(r[1])<<32|uint64(r[0]))>>11) * 0x1p-53
}

// philox4x32 is Philox4x32-10, a counter-based generator: ten rounds of a
// bijection of the 128-bit counter, keyed by 64 bits (Salmon, Moraes, Dror and
// Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11). It passes
// BigCrush. TestPhiloxKnownAnswers holds it to Random123's vectors.
func philox4x32(c [4]uint32, k [2]uint32) [4]uint32 {
	for range 10 {
		hi0, lo0 := bits.Mul32(0xd2511f53, c[0])
		hi1, lo1 := bits.Mul32(0xcd9e8d57, c[2])
		c = [4]uint32{hi1 ^ c[1] ^ k[0], lo1, hi0 ^ c[3] ^ k[1], lo0}
		k[0] += 0x9e3779b9 // golden ratio
		k[1] += 0xbb67ae85 // √3 − 1
	}
	return c
}
