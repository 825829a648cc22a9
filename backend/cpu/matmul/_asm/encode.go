package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// Instructions that Go's assembler lacks. The kernels use them like any other, so that avo allocates their registers; then
// encodeFile replaces their lines by bytes. This file has the form with three ZMM registers, encode_amx.go those of tiles.

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

var (
	lackingLine = regexp.MustCompile(`(?m)^\t(` + strings.Join(names(), "|") + `)(?: +(.*))?$`)
	zRegisters  = regexp.MustCompile(`^Z(\d+), Z(\d+), Z(\d+)$`)
)

func names() (n []string) {
	for name := range lacking {
		n = append(n, name)
	}
	for name := range tileInstructions {
		n = append(n, name)
	}
	return n
}

// encodeText replaces the lines that the assembler would not know.
func encodeText(text string) (out string, err error) {
	out = lackingLine.ReplaceAllStringFunc(text, func(line string) string {
		m := lackingLine.FindStringSubmatch(line)
		code, operands, e := encodeLine(m[1], m[2])
		if e != nil {
			err = fmt.Errorf("%s: %w", strings.TrimSpace(line), e)
			return line
		}
		return "\t" + data(code) + strings.TrimRight(" // "+m[1]+" "+operands, " ")
	})
	return out, err
}

func encodeLine(name, operands string) (code []byte, text string, err error) {
	if _, ok := tileInstructions[name]; ok {
		return encodeTile(name, operands)
	}
	m := zRegisters.FindStringSubmatch(operands)
	if m == nil {
		return nil, "", fmt.Errorf("only three ZMM registers are encoded")
	}
	var r [3]int
	for i := range r {
		r[i], _ = strconv.Atoi(m[i+1])
	}
	code, err = encode(name, r[0], r[1], r[2])
	return code, operands, err
}

// data writes bytes as the assembler takes them.
func data(code []byte) string {
	var parts []string
	for len(code) > 0 {
		n, name := 1, "BYTE"
		if len(code) >= 4 {
			n, name = 4, "LONG"
		} else if len(code) >= 2 {
			n, name = 2, "WORD"
		}
		word := ""
		for i := n - 1; i >= 0; i-- {
			word += fmt.Sprintf("%02x", code[i])
		}
		parts, code = append(parts, name+" $0x"+word), code[n:]
	}
	return strings.Join(parts, "; ")
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
