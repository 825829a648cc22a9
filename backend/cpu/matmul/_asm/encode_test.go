package main

import (
	"encoding/hex"
	"strings"
	"testing"
)

// TestEncode compares with what GNU as 2.38 makes of the same instructions.
func TestEncode(t *testing.T) {
	for line, want := range map[string]string{
		"\tVDPBF16PS Z1, Z2, Z3":    "LONG $0x486ef262; WORD $0xd952", // 62 f2 6e 48 52 d9
		"\tVDPBF16PS  Z31, Z16, Z8": "LONG $0x407e1262; WORD $0xc752", // 62 12 7e 40 52 c7
		"\tVDPBF16PS Z7, Z30, Z23":  "LONG $0x400ee262; WORD $0xff52", // 62 e2 0e 40 52 ff
	} {
		got, err := encodeText("\tRET\n" + line + "\n\tRET\n")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(got, "\tRET\n\t"+want+" // VDPBF16PS ") || !strings.HasSuffix(got, "\n\tRET\n") {
			t.Errorf("%s became %q, want %s", line, got, want)
		}
	}
	for _, line := range []string{"\tVDPBF16PS (AX), Z1, Z2", "\tVDPBF16PS Y0, Y1, Y2", "\tVDPBF16PS Z32, Z0, Z0"} {
		if got, err := encodeText(line); err == nil {
			t.Errorf("%s became %q, want an error", line, got)
		}
	}
}

// TestEncodeTiles compares with what GNU as 2.40 makes of the same instructions.
func TestEncodeTiles(t *testing.T) {
	for line, want := range map[string]string{
		"LDTILECFG (AX)":                   "c4e2784900",
		"LDTILECFG (R12)":                  "c4c278490424",
		"LDTILECFG 64(SP)":                 "c4e27849442440",
		"TILERELEASE":                      "c4e27849c0",
		"TILEZERO $0x00":                   "c4e27b49c0",
		"TILEZERO $0x07":                   "c4e27b49f8",
		"TILELOADD (AX)(BX*1), $0x00":      "c4e27b4b0418",
		"TILELOADD (R8)(R9*1), $0x06":      "c4827b4b3408",
		"TILELOADD (R13)(R15*1), $0x05":    "c4827b4b6c3d00",
		"TILELOADD 64(SI)(R10*1), $0x03":   "c4a27b4b5c1640",
		"TILELOADD 4672(SI)(DX*1), $0x03":  "c4e27b4b9c1640120000",
		"TILELOADD (SP)(BX*1), $0x01":      "c4e27b4b0c1c",
		"TILESTORED $0x02, (AX)(BX*1)":     "c4e27a4b1418",
		"TILESTORED $0x07, (R8)(R9*1)":     "c4827a4b3c08",
		"TILESTORED $0x01, -64(CX)(R11*1)": "c4a27a4b4c19c0",
		"TILESTORED $0x01, 1024(CX)(DX*1)": "c4e27a4b8c1100040000",
		"TDPBSSD $0x01, $0x02, $0x03":      "c4e2735eda",
		"TDPBSSD $0x07, $0x06, $0x00":      "c4e2435ec6",
		"TDPBF16PS $0x01, $0x02, $0x03":    "c4e2725cda",
		"TDPBF16PS $0x07, $0x06, $0x00":    "c4e2425cc6",
	} {
		name, operands, _ := strings.Cut(line, " ")
		if code, _, err := encodeLine(name, operands); err != nil || hex.EncodeToString(code) != want {
			t.Errorf("%s: %x, %v; want %s", line, code, err, want)
		}
	}
	const text = "\tTILESTORED $0x01, -64(CX)(R11*1)\n\tTILERELEASE\n"
	const want = "\tLONG $0x4b7aa2c4; WORD $0x194c; BYTE $0xc0 // TILESTORED T1, -64(CX)(R11*1)\n\tLONG $0x4978e2c4; BYTE $0xc0 // TILERELEASE\n"
	if got, err := encodeText(text); got != want || err != nil {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for _, line := range []string{"TILEZERO $0x08", "TILEZERO (AX)", "TILELOADD (AX), $0x01", "TILELOADD (AX)(SP*1), $0x01", "TDPBSSD $0x01, $0x02", "TDPBF16PS $0x01, $0x02, $0x08",
		"TILELOADD $0x01, (AX)(BX*1)", "TILESTORED $0x01, (AX)(BX*2)", "TILERELEASE $0x01", "LDTILECFG (AX)(BX*1)"} {
		name, operands, _ := strings.Cut(line, " ")
		if code, _, err := encodeLine(name, operands); err == nil {
			t.Errorf("%s became %x, want an error", line, code)
		}
	}
}
