// Package cpuinfo says which instruction sets the kernels may use: what the processor has and the operating system saves
// on a context switch. Features come in the bundles that kernels are written for, so that a processor with half of a
// bundle takes the next lower path.
package cpuinfo

import "strings"

// The bundles. All are false on other architectures and in builds with the purego tag.
var (
	AVX2       bool // AVX2, FMA, F16C, BMI1, BMI2 and POPCNT
	AVX512     bool // AVX2's bundle and AVX-512 F, BW, DQ and VL
	AVX512VNNI bool // AVX512's bundle and VPDPBUSD on 512 bits
	AVX512BF16 bool // AVX512's bundle and VDPBF16PS
	AMXInt8    bool // AVX512VNNI's bundle and tiles of int8; RequestTiles comes before their first use
	AMXBF16    bool // AMXInt8's bundle and tiles of bf16
	AVXVNNI    bool // AVX2's bundle and VPDPBUSD on 256 bits, VEX encoded
)

// Features returns the names of the bundles that are there, lowest first; empty when the machine takes the pure Go path.
func Features() []string {
	var names []string
	for _, f := range []struct {
		name string
		has  bool
	}{{"avx2", AVX2}, {"avx_vnni", AVXVNNI}, {"avx512", AVX512}, {"avx512_vnni", AVX512VNNI}, {"avx512_bf16", AVX512BF16}, {"amx_int8", AMXInt8}, {"amx_bf16", AMXBF16}} {
		if f.has {
			names = append(names, f.name)
		}
	}
	return names
}

// Name returns the processor's own name for itself, such as "AMD EPYC 9755 128-Core Processor", and "" where it cannot
// be asked.
func Name() string { return strings.TrimSpace(strings.TrimRight(brand(), "\x00")) }
