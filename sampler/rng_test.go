package sampler

import (
	"math"
	"testing"
)

// The philox4x32 lines with 10 rounds of Random123's tests/kat_vectors:
// counter, key, output.
func TestPhiloxKnownAnswers(t *testing.T) {
	for _, v := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{[4]uint32{}, [2]uint32{}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{
			[4]uint32{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, [2]uint32{0xffffffff, 0xffffffff},
			[4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
		},
		{
			[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0},
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
		},
	} {
		if got := philox4x32(v.counter, v.key); got != v.want {
			t.Errorf("philox4x32(%x, %x) = %x, want %x", v.counter, v.key, got, v.want)
		}
	}
}

// Seeded outputs of released versions rest on which argument goes where.
func TestUniformIsFrozen(t *testing.T) {
	for _, v := range []struct {
		seed           uint64
		choice, output int
		lane           Lane
		want           float64
	}{
		{0, 0, 0, LaneDraw, float64(uint64(0xe169c58d6627e8d5)>>11) / (1 << 53)}, // the first known answer
		{1 << 32, 0, 0, LaneDraw, 0.978490395236684},
		{7, 0, 0, LaneDraw, 0.7501522221031126},
		{7, 1, 0, LaneDraw, 0.14305054866305844},
		{7, 0, 1, LaneDraw, 0.7952840373401903},
		{7, 0, 0, LaneXTC, 0.17173538717791426},
		{7, 2, 3, LaneResidual, 0.1620398527228306},
	} {
		if got := Uniform(v.seed, v.choice, v.output, v.lane); got != v.want {
			t.Errorf("Uniform(%d, %d, %d, %d) = %v, want %v", v.seed, v.choice, v.output, v.lane, got, v.want)
		}
	}
}

func TestUniformIsUniform(t *testing.T) {
	const n, bins = 200000, 64
	counts := make([]int, bins)
	for i := range n {
		u := Uniform(42, 0, i, LaneDraw)
		if u < 0 || u >= 1 {
			t.Fatalf("Uniform = %v, outside [0, 1)", u)
		}
		counts[int(u*bins)]++
	}
	expected := make([]float64, bins)
	for i := range expected {
		expected[i] = n / bins
	}
	if p := chiSquareP(counts, expected); p < 1e-3 {
		t.Fatalf("p = %g: not uniform", p)
	}
}

// Lanes, choices, seeds and neighbouring indices share nothing: the correlation
// of n independent pairs stays within 4/√n.
func TestStreamsAreIndependent(t *testing.T) {
	const n = 100000
	base := func(i int) float64 { return Uniform(1, 0, i, LaneDraw) }
	for name, other := range map[string]func(i int) float64{
		"lane":   func(i int) float64 { return Uniform(1, 0, i, LaneXTC) },
		"choice": func(i int) float64 { return Uniform(1, 1, i, LaneDraw) },
		"seed":   func(i int) float64 { return Uniform(2, 0, i, LaneDraw) },
		"index":  func(i int) float64 { return Uniform(1, 0, i+1, LaneDraw) },
	} {
		r := correlation(n, base, other)
		if math.Abs(r) > 4/math.Sqrt(n) {
			t.Errorf("%s: correlation %g", name, r)
		}
	}
	if r := correlation(n, base, base); r < 0.99 {
		t.Errorf("the measure is blind: a stream with itself gives %g", r)
	}
}

func correlation(n int, a, b func(i int) float64) float64 {
	sum := 0.0
	for i := range n {
		sum += (a(i) - 0.5) * (b(i) - 0.5)
	}
	return sum / float64(n) * 12 // the variance of a uniform number is 1/12
}
