package simd

import "fmt"

// Level is an instruction set that this package has kernels for.
type Level uint8

const (
	Generic Level = iota // scalar Go
	AVX2                 // AVX2, FMA and F16C
	AVX512               // AVX-512 F, BW, DQ and VL
)

func (l Level) String() string {
	return [...]string{"generic", "avx2", "avx512"}[l]
}

var level = best()

// Current is the level in use: the best one the processor has, unless [Use] chose another.
func Current() Level { return level }

// Levels lists what this machine can run, slowest first.
func Levels() []Level {
	var all []Level
	for l := Generic; l <= best(); l++ {
		all = append(all, l)
	}
	return all
}

// Use chooses a level for the whole process and returns a function that goes
// back. It is for start-up and tests: no other goroutine may be inside this package.
func Use(l Level) (restore func(), err error) {
	if l > best() {
		return nil, fmt.Errorf("instruction set %s is not available here: the best is %s", l, best())
	}
	old := level
	level = l
	return func() { level = old }, nil
}
