package archtest

import (
	"strings"
	"testing"
)

// TestAssemblyKeepsToItsBundle: no kernel has an instruction or a register that its dispatcher did not ask the processor for.
func TestAssemblyKeepsToItsBundle(t *testing.T) {
	tree := load(t)
	for _, line := range tree.Asm() {
		t.Error(line)
	}
	functions := 0
	for _, f := range tree.Files {
		if strings.HasSuffix(f.Path, "_amd64.s") {
			functions++
		}
	}
	if functions < 5 {
		t.Errorf("only %d files of assembly were read: the check looks in the wrong place", functions)
	}
}

// TestForeignInstructionsAreReported plants one at a time.
func TestForeignInstructionsAreReported(t *testing.T) {
	const simd, vnni, bf16 = "internal/simd/simd_amd64.s", "backend/cpu/matmul/int8_avx512_amd64.s", "backend/cpu/matmul/bf16_amd64.s"
	const tiles, bf16Tiles = "backend/cpu/matmul/int8_amx_amd64.s", "backend/cpu/matmul/bf16_amx_amd64.s"
	for _, c := range []struct{ file, function, line, want string }{
		{simd, "addAVX2", "VADDPS Y1, Y2, Y15", ""},
		{simd, "addAVX2", "VADDPS Y1, Y2, Y16", "uses Y16, which needs avx512"},
		{simd, "addAVX2", "VMOVSS X31, (AX)", "uses X31"},
		{simd, "addAVX2", "VADDPS Z1, Z2, Z3", "uses Z1"},
		{simd, "addAVX2", "VCMPPS $0x05, Y0, Y1, K1", "uses K1"},
		{simd, "addAVX2", "VADDPS.BCST (AX), Y2, Y3", "suffix of VADDPS.BCST"},
		{simd, "addAVX2", "VPXORD Y1, Y2, Y3", "uses VPXORD, which needs avx512"},
		{simd, "addAVX2", "VPDPBUSD Y1, Y2, Y3", "uses VPDPBUSD, which needs avx512_vnni"},
		{simd, "add", "VADDPS Y1, Y2, Y3", "uses VADDPS, which needs avx2"},
		{simd, "add", "TZCNTL AX, AX", "needs avx2"},
		{simd, "addAVX512", "VADDPS Z1, Z2, K1, Z31", ""},
		{simd, "addAVX512", "VPDPBUSD Z1, Z2, Z3", "needs avx512_vnni"},
		{simd, "addAVX512", "VPERMB Z1, Z2, Z3", "uses VPERMB, which no bundle is known to have"},
		{simd, "dotAVXVNNI", "RET", "AVXVNNI, that the check does not know"},
		{vnni, "dotAVX512", "VPDPBUSD.BCST (AX), Z2, Z3", ""},
		{vnni, "dotAVX512", "LONG $0x52766a62; WORD $0xc352 // VDPBF16PS Z3, Z2, Z1", "needs avx512_bf16"},
		{bf16, "dotAVX512", "LONG $0x52766a62; WORD $0xc352 // VDPBF16PS Z3, Z2, Z1", ""},
		{bf16, "dotAVX512", "LONG $0x52766a62; WORD $0xc352", "uses LONG"},
		{tiles, "dotAMX", "LONG $0x5c4ae2c4; BYTE $0xc4 // TDPBF16PS T6, T4, T0", "needs amx_bf16"},
		{bf16Tiles, "dotAMX", "LONG $0x5c4ae2c4; BYTE $0xc4 // TDPBF16PS T6, T4, T0", ""},
		{bf16Tiles, "dotAVX2", "LONG $0x5c4ae2c4; BYTE $0xc4 // TDPBF16PS T6, T4, T0", "needs amx_bf16"},
	} {
		got := strings.Join(asmFile(c.file, "TEXT ·"+c.function+"(SB), NOSPLIT, $0\nloop:\n\t"+c.line+"\n"), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s %q: want %q, got %q", c.function, c.line, c.want, got)
		}
	}
}
