package main

import (
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
