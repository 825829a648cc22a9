//go:build !purego

package cpuinfo

import (
	"encoding/binary"

	"golang.org/x/sys/cpu"
)

func init() {
	x := &cpu.X86 // HasAVX2 and HasAVX512F include the operating system's consent (XGETBV)
	AVX2 = x.HasAVX2 && x.HasFMA && x.HasF16C && x.HasBMI1 && x.HasBMI2 && x.HasPOPCNT
	AVXVNNI = AVX2 && x.HasAVXVNNI
	AVX512 = AVX2 && x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL
	AVX512VNNI = AVX512 && x.HasAVX512VNNI
	AVX512BF16 = AVX512 && x.HasAVX512BF16
	AMXInt8 = AVX512VNNI && x.HasAMXTile && x.HasAMXInt8 && savesTiles()
	AMXBF16 = AMXInt8 && x.HasAMXBF16
}

// savesTiles reports whether the operating system keeps the tile registers and their shapes: XCR0 bits 17 and 18, which
// x/sys does not look at.
func savesTiles() bool {
	const tiles = 1<<17 | 1<<18
	low, _ := xgetbv()
	return low&tiles == tiles
}

// xgetbv reads XCR0. The caller knows that AVX is usable, so the instruction is there.
func xgetbv() (low, high uint32)

// cpuid executes CPUID with the given leaf and sub-leaf 0.
func cpuid(leaf uint32) (eax, ebx, ecx, edx uint32)

// brand reads the 48 bytes of leaves 0x80000002 to 0x80000004.
func brand() string {
	const first, last = 0x80000002, 0x80000004
	if highest, _, _, _ := cpuid(0x80000000); highest < last {
		return ""
	}
	var text []byte
	for leaf := uint32(first); leaf <= last; leaf++ {
		a, b, c, d := cpuid(leaf)
		for _, r := range []uint32{a, b, c, d} {
			text = binary.LittleEndian.AppendUint32(text, r)
		}
	}
	return string(text)
}
