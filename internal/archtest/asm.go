package archtest

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

// Assembly runs only where the processor has its instructions, and a dispatcher asks internal/cpuinfo for one bundle
// before it takes a kernel. That a kernel keeps to its bundle shows on no machine that has more, so it is checked in the
// text: the last part of a function's name, or a row below, says which bundle it may use; every mnemonic has to be in
// that bundle or a lower one; and below AVX-512 the registers are sixteen and have at most 256 bits. The assembler picks
// EVEX by itself for Y16 or for VPDPBUSD, without a word.

// A bundle is what one answer of internal/cpuinfo promises.
type bundle int

const (
	base       bundle = iota // GOAMD64=v1
	avx2                     // AVX2, FMA, F16C, BMI1, BMI2, POPCNT
	avx512                   // F, BW, DQ, VL
	avx512VNNI               // and VPDPBUSD, VPDPWSSD
	avx512BF16               // and VDPBF16PS
	amx                      // avx512VNNI, and tiles of int8
	amxBF16                  // and tiles of bf16
)

var bundleNames = []string{"baseline", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx", "amx_bf16"}

func (b bundle) String() string { return bundleNames[b] }

// wideFiles says what else a file's AVX512 or AMX functions may use: their dispatcher asks for it.
var wideFiles = map[string]bundle{
	"backend/cpu/attention/attention_amd64.s": avx512VNNI, // scores of quantised K; attention.go
	"backend/cpu/matmul/int8_avx512_amd64.s":  avx512VNNI,
	"backend/cpu/matmul/int8_wide_amd64.s":    avx512VNNI,
	"backend/cpu/matmul/bf16_amd64.s":         avx512BF16,
	"backend/cpu/matmul/bf16_amx_amd64.s":     amxBF16,
}

// mnemonics are all that the kernels use, each under the lowest bundle that has it in the encoding that the assembler
// picks. A new one is entered after a look into the manual; VNNI, VBMI, IFMA and the like have no place under avx512.
var mnemonics = bundles(map[bundle]string{
	base: `ADDL ADDQ ANDL ANDQ CMOVQGT CMPQ CPUID DECQ IMUL3Q IMULQ INCQ JE JG JL JMP JNE JNZ JZ LEAQ MOVB MOVL MOVQ MOVSD MOVSS ORL
		PAUSE PREFETCHT0 PREFETCHT1 RET SETNE SHLL SHLQ SHRQ SUBQ TESTL TESTQ XGETBV XORL XORQ`,
	avx2: `BLSRL POPCNTL SHLXQ TZCNTL
		VADDPD VADDPS VADDSD VANDPS VBLENDVPS VBROADCASTSS VCMPPS VCVTDQ2PS VCVTPH2PS VCVTPS2DQ VCVTPS2PD VCVTPS2PH VDIVPS
		VDIVSS VEXTRACTF128 VEXTRACTI128 VFMADD213PS VFMADD231PS VFMADDSUB213PS VFMSUB213PS VFNMADD231PS VLDMXCSR VMASKMOVPS
		VMAXPS VMAXSS VMINPS VMOVAPS VMOVD VMOVDQA VMOVDQU VMOVMSKPS VMOVQ VMOVSLDUP VMOVSS VMOVUPS VMULPS VMULSS VORPS VPABSB VPABSD VPALIGNR
		VPACKSSDW VPACKSSWB VPACKUSDW VPADDB VPADDD VPADDW VPAND VPBLENDVB VPBROADCASTB VPBROADCASTD VPBROADCASTQ VPCMPGTD VPERM2F128 VPERMD
		VPERMILPD VPERMILPS VPERMPS VPERMQ VPHADDD VPMADDUBSW VPMADDWD VPMAXSB VPMAXSD VPMAXUD VPMINSB VPMINUD VPMOVSXBD
		VPMOVZXBD VPMOVZXDQ VPMOVZXWD VPMULLD VPMULLW VPOR VPSHUFB VPSHUFD VPSIGNB VPSLLD VPSLLVD VPSLLW VPSRAD VPSRLD VPSRLVD VPSRLW
		VPSUBB VPSUBD VPXOR VROUNDPS VSHUFPS VSTMXCSR VSUBPS VXORPD VXORPS VZEROUPPER`,
	avx512: `KMOVW VALIGND VEXTRACTF32X8 VEXTRACTF64X4 VMOVDQA32 VMOVDQU32 VMOVDQU64 VPANDD VPCOMPRESSD VPMOVDW VPORD VPTERNLOGD VPXORD
		VRNDSCALEPS VSCALEFPS VSHUFF32X4`,
	avx512VNNI: `VPDPBUSD VPDPWSSD`,
	avx512BF16: `VDPBF16PS`,
	amx:        `LDTILECFG TDPBSSD TILELOADD TILERELEASE TILESTORED TILEZERO`,
	amxBF16:    `TDPBF16PS`,
})

func bundles(lists map[bundle]string) map[string]bundle {
	all := map[string]bundle{}
	for b, list := range lists {
		for _, m := range strings.Fields(list) {
			all[m] = b
		}
	}
	return all
}

var (
	asmText     = regexp.MustCompile(`^TEXT ·(\w+)\(SB\)`)
	asmCode     = regexp.MustCompile(`^\t([A-Z][A-Z0-9]*)((?:\.[A-Z]+)*)(.*)$`)
	asmEncoded  = regexp.MustCompile(`^\t(?:BYTE|WORD|LONG|QUAD) .*// ([A-Z][A-Z0-9]*)((?: .*)?)$`)
	wideOnly    = regexp.MustCompile(`\b(Z\d+|K[0-7]|[XY](1[6-9]|2\d|3[01]))\b`)
	bundleOf    = map[string]bundle{"AVX2": avx2, "AVX512": avx512, "AMX": amx}
	bundleNamed = regexp.MustCompile(`(AVX2|AVX512|[A-Z0-9]*VNNI[A-Z0-9]*|AMX[A-Z0-9]*|SSE\d*)$`)
)

// Asm checks every amd64 assembly file.
func (t *Tree) Asm() (found []string) {
	for _, f := range t.Files {
		if !strings.HasSuffix(f.Path, "_amd64.s") {
			continue
		}
		data, err := fs.ReadFile(t.fsys, f.Path)
		if err != nil {
			return append(found, err.Error())
		}
		found = append(found, asmFile(f.Path, string(data))...)
	}
	return found
}

// asmFile reports each function's foreign instructions, each once.
func asmFile(path, text string) (found []string) {
	var function string
	var may bundle
	report := func(format string, args ...any) {
		if line := fmt.Sprintf("%s: %s (%v) ", path, function, may) + fmt.Sprintf(format, args...); !slices.Contains(found, line) {
			found = append(found, line)
		}
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if m := asmText.FindStringSubmatch(line); m != nil {
			function, may = m[1], base
			if name := bundleNamed.FindString(function); name != "" {
				b, ok := bundleOf[name]
				if !ok {
					report("has a bundle in its name, %s, that the check does not know", name)
				}
				if may = b; b >= avx512 {
					may = max(b, wideFiles[path])
				}
			}
			continue
		}
		m := asmEncoded.FindStringSubmatch(line)
		if m == nil {
			if c := asmCode.FindStringSubmatch(line); c != nil {
				if m = []string{c[0], c[1], c[3]}; c[2] != "" && may < avx512 {
					report("uses the suffix of %s%s, which is EVEX", c[1], c[2])
				}
			}
		}
		if m == nil {
			continue
		}
		switch b, ok := mnemonics[m[1]]; {
		case !ok:
			report("uses %s, which no bundle is known to have", m[1])
		case b > may:
			report("uses %s, which needs %v", m[1], b)
		}
		if r := wideOnly.FindString(m[2]); r != "" && may < avx512 {
			report("uses %s, which needs avx512", r)
		}
	}
	return found
}
