//go:build !purego

package matmul

import (
	"os"
	"regexp"
	"strings"
	"testing"
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
