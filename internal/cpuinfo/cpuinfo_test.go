package cpuinfo

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestBundlesNest: a kernel for a higher bundle may use everything of the lower ones.
func TestBundlesNest(t *testing.T) {
	for _, c := range []struct {
		name          string
		higher, lower bool
	}{
		{"avx512 without avx2", AVX512, AVX2},
		{"avx512_vnni without avx512", AVX512VNNI, AVX512},
		{"avx512_bf16 without avx512", AVX512BF16, AVX512},
		{"amx_int8 without avx512_vnni", AMXInt8, AVX512VNNI},
		{"amx_bf16 without amx_int8", AMXBF16, AMXInt8},
		{"avx_vnni without avx2", AVXVNNI, AVX2},
	} {
		if c.higher && !c.lower {
			t.Error(c.name)
		}
	}
}

// TestAgreesWithKernel compares with what Linux reports of the same processor.
func TestAgreesWithKernel(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("/proc/cpuinfo of Linux on amd64 is the second opinion")
	}
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Skip("no /proc/cpuinfo: ", err)
	}
	flags := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "flags":
			for _, f := range strings.Fields(value) {
				flags[f] = true
			}
		case "model name":
			if name := strings.TrimSpace(value); brand() != "" && Name() != name {
				t.Errorf("name %q, the kernel says %q", Name(), name)
			}
		}
	}
	has := func(names ...string) bool {
		for _, n := range names {
			if !flags[n] {
				return false
			}
		}
		return brand() != "" // a purego build reports nothing
	}
	avx2 := []string{"avx2", "fma", "f16c", "bmi1", "bmi2", "popcnt"}
	avx512 := slices.Concat(avx2, []string{"avx512f", "avx512bw", "avx512dq", "avx512vl"})
	for _, c := range []struct {
		name      string
		got, want bool
	}{
		{"AVX2", AVX2, has(avx2...)},
		{"AVXVNNI", AVXVNNI, has(append(avx2, "avx_vnni")...)},
		{"AVX512", AVX512, has(avx512...)},
		{"AVX512VNNI", AVX512VNNI, has(append(avx512, "avx512_vnni")...)},
		{"AVX512BF16", AVX512BF16, has(append(avx512, "avx512_bf16")...)},
		{"AMXInt8", AMXInt8, has(append(avx512, "avx512_vnni", "amx_tile", "amx_int8")...)},
		{"AMXBF16", AMXBF16, has(append(avx512, "avx512_vnni", "amx_tile", "amx_int8", "amx_bf16")...)},
	} {
		if c.got != c.want {
			t.Errorf("%s = %v, the kernel says %v", c.name, c.got, c.want)
		}
	}
}
