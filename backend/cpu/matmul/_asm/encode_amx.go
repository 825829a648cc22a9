package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Tile instructions. All are VEX encoded in map 0F38 with three-byte prefixes; avo writes a tile register as the number it is.

// vex is such an instruction: its mandatory prefix (pp) and opcode.
type vex struct{ prefix, opcode byte }

var tileInstructions = map[string]vex{
	"LDTILECFG":   {0, 0x49}, // memory
	"TILERELEASE": {0, 0x49}, // nothing
	"TILEZERO":    {3, 0x49}, // tile
	"TILELOADD":   {3, 0x4b}, // memory with an index, tile
	"TILESTORED":  {2, 0x4b}, // tile, memory with an index
	"TDPBSSD":     {3, 0x5e}, // tile of B, tile of A, tile of C
	"TDPBF16PS":   {2, 0x5c}, // the same
}

// encodeTile returns the bytes of an instruction and its operands in Go's order, tiles named T0 to T7.
func encodeTile(name, operands string) (code []byte, text string, err error) {
	e := tileInstructions[name]
	var tiles []int
	var memory string
	var fields []string
	for _, f := range strings.Split(operands, ", ") {
		switch {
		case strings.HasPrefix(f, "$"):
			t, err := strconv.ParseUint(f[1:], 0, 8)
			if err != nil || t > 7 {
				return nil, "", fmt.Errorf("%s: no tile %s", name, f)
			}
			tiles = append(tiles, int(t))
			f = fmt.Sprintf("T%d", t)
		case f != "":
			memory = f
		}
		fields = append(fields, f)
	}
	var shape string
	switch {
	case memory == "":
		shape = strings.Repeat("tile ", len(tiles))
	case strings.HasPrefix(fields[0], "T"):
		shape = "store"
	default:
		shape = strings.Repeat("tile ", len(tiles)) + "load"
	}
	want := map[string]string{"LDTILECFG": "load", "TILERELEASE": "", "TILEZERO": "tile ", "TILELOADD": "tile load",
		"TILESTORED": "store", "TDPBSSD": "tile tile tile ", "TDPBF16PS": "tile tile tile "}[name]
	if shape != want {
		return nil, "", fmt.Errorf("%s does not take %q", name, operands)
	}
	switch len(tiles) {
	case 0:
		if memory == "" {
			return append(vexPrefix(e, 0, 0, 0, 0), e.opcode, 0xc0), "", nil
		}
		code, err = withMemory(e, 0, memory, false)
	case 1:
		if memory == "" {
			return append(vexPrefix(e, 0, 0, 0, 0), e.opcode, 0xc0|byte(tiles[0])<<3), fields[0], nil
		}
		code, err = withMemory(e, tiles[0], memory, true)
	case 3:
		b, a, c := tiles[0], tiles[1], tiles[2]
		code = append(vexPrefix(e, 0, 0, 0, b), e.opcode, 0xc0|byte(c)<<3|byte(a))
	}
	return code, strings.Join(fields, ", "), err
}

// vexPrefix is the three bytes in front of the opcode: W = 0, 128 bits; r, x and b are register numbers whose bit 3 goes into it.
func vexPrefix(e vex, r, x, b, vvvv int) []byte {
	high := func(register int) byte { return byte(^register>>3) & 1 } // inverted
	return []byte{0xc4, high(r)<<7 | high(x)<<6 | high(b)<<5 | 2, byte(^vvvv&15)<<3 | e.prefix}
}

var (
	memoryOperand = regexp.MustCompile(`^(-?\d*)\((\w+)\)(?:\((\w+)\*1\))?$`)
	gpRegisters   = strings.Fields("AX CX DX BX SP BP SI DI R8 R9 R10 R11 R12 R13 R14 R15")
)

// withMemory encodes a memory operand: a base, a displacement and, if so asked, an index.
func withMemory(e vex, tile int, memory string, indexed bool) ([]byte, error) {
	m := memoryOperand.FindStringSubmatch(memory)
	if m == nil || (m[3] != "") != indexed {
		return nil, fmt.Errorf("the operand %s is not encoded", memory)
	}
	disp, _ := strconv.Atoi(m[1])
	base, index := slices.Index(gpRegisters, m[2]), 4
	if indexed {
		index = slices.Index(gpRegisters, m[3])
	}
	if base < 0 || index < 0 || indexed && index == 4 {
		return nil, fmt.Errorf("the registers of %s cannot address", memory)
	}
	mod, tail := byte(2), le32(disp)
	switch {
	case disp == 0 && base%8 != 5:
		mod, tail = 0, nil
	case int(int8(disp)) == disp:
		mod, tail = 1, []byte{byte(disp)}
	}
	code := append(vexPrefix(e, 0, index, base, 0), e.opcode)
	if !indexed {
		code = append(vexPrefix(e, 0, 0, base, 0), e.opcode)
	}
	if !indexed && base%8 != 4 { // no SIB byte is needed
		code = append(code, mod<<6|byte(tile)<<3|byte(base&7))
	} else {
		code = append(code, mod<<6|byte(tile)<<3|4, byte(index&7)<<3|byte(base&7))
	}
	return append(code, tail...), nil
}

func le32(x int) []byte { return []byte{byte(x), byte(x >> 8), byte(x >> 16), byte(x >> 24)} }
