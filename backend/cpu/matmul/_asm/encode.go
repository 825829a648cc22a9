package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// Instructions that Go's assembler lacks. The kernels use them like any other, so that avo allocates their registers; then
// encodeFile replaces their lines by bytes. Only the form with three ZMM registers is known.

// evex is an instruction of the EVEX map 0F38 without W: its mandatory prefix (pp) and opcode.
type evex struct{ prefix, opcode byte }

var lacking = map[string]evex{
	"VDPBF16PS": {prefix: 2, opcode: 0x52}, // EVEX.512.F3.0F38.W0 52 /r
}

// encode returns the bytes of name src2, src1, dst (Go's order: the destination last).
func encode(name string, src2, src1, dst int) ([]byte, error) {
	e, ok := lacking[name]
	if !ok {
		return nil, fmt.Errorf("no encoding of %s", name)
	}
	for _, r := range []int{src2, src1, dst} {
		if r < 0 || r > 31 {
			return nil, fmt.Errorf("%s: no register Z%d", name, r)
		}
	}
	bit := func(register, i int) byte { return byte(^register>>i) & 1 } // inverted, as EVEX has them
	return []byte{
		0x62,
		bit(dst, 3)<<7 | bit(src2, 4)<<6 | bit(src2, 3)<<5 | bit(dst, 4)<<4 | 2, // R X B R' and map 0F38
		byte(^src1&15)<<3 | 1<<2 | e.prefix,                                     // W=0 vvvv
		2<<5 | bit(src1, 4)<<3,                                                  // 512 bits, V', no mask
		e.opcode,
		3<<6 | byte(dst&7)<<3 | byte(src2&7),
	}, nil
}

var lackingLine = regexp.MustCompile(`(?m)^\t(` + strings.Join(names(), "|") + `) +(.*)$`)

func names() (n []string) {
	for name := range lacking {
		n = append(n, name)
	}
	return n
}

var zRegisters = regexp.MustCompile(`^Z(\d+), Z(\d+), Z(\d+)$`)

// encodeText replaces the lines that the assembler would not know.
func encodeText(text string) (out string, err error) {
	out = lackingLine.ReplaceAllStringFunc(text, func(line string) string {
		m := lackingLine.FindStringSubmatch(line)
		registers := zRegisters.FindStringSubmatch(m[2])
		if registers == nil {
			err = fmt.Errorf("%s: only three ZMM registers are encoded", strings.TrimSpace(line))
			return line
		}
		var r [3]int
		for i := range r {
			r[i], _ = strconv.Atoi(registers[i+1])
		}
		code, e := encode(m[1], r[0], r[1], r[2])
		if e != nil {
			err = e
			return line
		}
		return fmt.Sprintf("\tLONG $0x%02x%02x%02x%02x; WORD $0x%02x%02x // %s %s",
			code[3], code[2], code[1], code[0], code[5], code[4], m[1], m[2])
	})
	return out, err
}

func encodeFile(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	encoded, err := encodeText(string(text))
	if err != nil {
		return err
	}
	return os.WriteFile(name, []byte(encoded), 0o644)
}
