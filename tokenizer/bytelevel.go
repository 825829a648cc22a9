package tokenizer

import "unicode/utf8"

// Byte-level BPE (GPT-2) writes each byte as one printable character: the printable Latin-1 characters stand
// for themselves, the other 68 bytes for U+0100 upwards in order, so that a blank is "Ġ" (U+0120).

var byteToRune, runeToByte = byteAlphabet()

func byteAlphabet() (runes [256]rune, back map[rune]byte) {
	back = make(map[rune]byte, 256)
	next := rune(0x100)
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE) {
			r = next
			next++
		}
		runes[b] = r
		back[r] = byte(b)
	}
	return runes, back
}

// unmapBytes returns the bytes that a spelling stands for. A spelling with any other character
// (an added token with a blank, for example) stands for itself.
func unmapBytes(spelling []byte) []byte {
	out := make([]byte, 0, len(spelling))
	for i := 0; i < len(spelling); {
		r, width := utf8.DecodeRune(spelling[i:])
		b, ok := runeToByte[r]
		if !ok {
			return spelling
		}
		out = append(out, b)
		i += width
	}
	return out
}
