package serve

import (
	"math"
	"math/rand/v2"
	"time"
)

// Streams of the seed: each purpose and repetition draws from its own.
const (
	streamArrivals = iota
	streamLengths
	streamWords
	streamMix
	numStreams
)

func (c *Config) rng(purpose, rep int) *rand.Rand {
	return rand.New(rand.NewPCG(c.Seed, uint64(rep)*numStreams+uint64(purpose)))
}

// arrivals plans when each of n requests leaves, from the start of the load.
//
// Intervals are gamma distributed with shape Burstiness and mean 1/rate: shape 1
// is a Poisson process, below 1 clumps, above 1 is more even. At a fixed rate the plan is
// scaled so that the last request leaves at exactly n/rate, as vLLM does: the
// offered rate is then the asked one for small n too.
func (c *Config) arrivals(rep, n int) []time.Duration {
	rng := c.rng(streamArrivals, rep)
	at := make([]float64, n) // seconds
	sum := 0.0
	for i := range at {
		if rate := c.rate(i, n); !math.IsInf(rate, 1) {
			sum += interval(rng, float64(c.Burstiness)) / rate
		}
		at[i] = sum
	}
	scale := 1.0
	if c.RampUp == "" && sum > 0 {
		scale = float64(n) / float64(c.RequestRate) / sum
	}
	plan := make([]time.Duration, n)
	for i, s := range at {
		// A plan past 290 years is one that never comes.
		plan[i] = time.Duration(min(s*scale*float64(time.Second), math.MaxInt64/2))
	}
	return plan
}

// rate is the request rate in force when request i of n is planned.
func (c *Config) rate(i, n int) float64 {
	progress := float64(i) / float64(max(n-1, 1))
	switch c.RampUp {
	case "linear":
		return c.RampStart + (c.RampEnd-c.RampStart)*progress
	case "exponential":
		return c.RampStart * math.Pow(c.RampEnd/c.RampStart, progress)
	default:
		return float64(c.RequestRate)
	}
}

// interval draws a gamma variate of this shape and mean 1.
func interval(rng *rand.Rand, shape float64) float64 {
	switch {
	case math.IsInf(shape, 1):
		return 1
	case shape == 1:
		return rng.ExpFloat64()
	default:
		return gamma(rng, shape) / shape
	}
}

// gamma draws from Gamma(shape, 1) by rejection: Marsaglia and Tsang, "A simple
// method for generating gamma variables", ACM TOMS 26(3), 2000. Shapes below 1
// use Gamma(a) = Gamma(a+1)·U^(1/a).
func gamma(rng *rand.Rand, shape float64) float64 {
	if shape < 1 {
		return gamma(rng, shape+1) * math.Pow(1-rng.Float64(), 1/shape)
	}
	d := shape - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := rng.NormFloat64()
		v := 1 + c*x
		if v <= 0 {
			continue
		}
		v = v * v * v
		u := 1 - rng.Float64()
		if math.Log(u) < x*x/2+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}
