//go:build !purego

package matmul

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"sestina/internal/cpuinfo"
)

// TestAVX2StaysVEX: the generator's register allocator would use registers 16-31 when it runs out, which only AVX-512
// has; this machine may well have it and not notice.
func TestAVX2StaysVEX(t *testing.T) {
	high := regexp.MustCompile(`\b([XY](1[6-9]|2[0-9]|3[01])|Z[0-9]+|K[0-7])\b`)
	functions := 0
	for _, file := range []string{"int8_avx2_amd64.s", "float_amd64.s", "bf16_amd64.s", "convert_amd64.s"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, body := range strings.Split(string(text), "\nTEXT ·")[1:] {
			name, _, _ := strings.Cut(body, "(")
			if !strings.HasSuffix(name, "AVX2") {
				continue
			}
			functions++
			if found := high.FindString(body); found != "" {
				t.Errorf("%s uses %s", name, found)
			}
		}
	}
	if functions < 40 {
		t.Errorf("only %d AVX2 functions found", functions)
	}
}

// TestBF16InstructionIsUsed: the self-test lets VDPBF16PS through where the processor has it, so the comparisons with the
// oracle were its own.
func TestBF16InstructionIsUsed(t *testing.T) {
	if !cpuinfo.AVX512VNNI {
		t.Skip("no AVX-512 VNNI here")
	}
	k, err := For(AVX512VNNI)
	if err != nil {
		t.Fatal(err)
	}
	if used := k.bf16[0].rows == avx512BF16[0].rows && k.bf16[0].rows != avx2BF16[0].rows; used != cpuinfo.AVX512BF16 {
		t.Errorf("VDPBF16PS used: %v; the processor has it: %v", used, cpuinfo.AVX512BF16)
	}
}
