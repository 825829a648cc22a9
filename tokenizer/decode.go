package tokenizer

import (
	"bytes"
	"unicode/utf8"
)

// decoderKind is how the texts of tokens join.
type decoderKind uint8

const (
	// byteLevelDecoder: tokens are byte strings; the whole is made valid UTF-8, one U+FFFD for each
	// maximal broken sequence.
	byteLevelDecoder decoderKind = iota
	// fallbackDecoder: tokens are text with "▁" for a blank; a maximal run of <0xNN> tokens is
	// decoded as a whole, and if it is not valid UTF-8 every byte of it becomes U+FFFD. Then up to
	// strip leading blanks go.
	fallbackDecoder
	// metaspaceDecoder: as fallbackDecoder, but "▁" is replaced after bytes are decoded, and
	// those of the first token are dropped.
	metaspaceDecoder
)

// decoder holds the decoding rules of one tokenizer.
type decoder struct {
	kind      decoderKind
	strip     int  // leading blanks to remove (fallbackDecoder)
	bytes     bool // <0xNN> tokens are bytes (all but byteLevelDecoder)
	keepFirst bool // the first token's "▁" are blanks like any other (metaspaceDecoder)
}

const replacement = "\uFFFD"

// Decode returns the text of ids. skipSpecial leaves special tokens out. Ids outside the vocabulary
// decode to nothing. The result is valid UTF-8.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	s := t.Stream(skipSpecial)
	var out []byte
	for _, id := range ids {
		out = s.push(out, id)
	}
	return string(s.flush(out))
}

// Stream decodes ids one by one. The concatenation of what Push and Flush return equals Decode of all
// the ids. What cannot be known yet is held back: an incomplete character, and with byte
// fallback a whole run of byte tokens, because a bad byte later would change all of it.
type Stream struct {
	t           *Tokenizer
	skipSpecial bool
	pending     []byte // bytes held back
	checked     int    // pending[:checked] is valid UTF-8 (byte runs)
	broken      bool   // the current byte run is known to be invalid
	started     bool   // a token was written (metaspaceDecoder)
	strip       int
	out         []byte // Push's buffer
}

// Stream returns a new incremental decoder.
func (t *Tokenizer) Stream(skipSpecial bool) *Stream {
	return &Stream{t: t, skipSpecial: skipSpecial, strip: t.decoder.strip, started: t.decoder.keepFirst}
}

// Push adds one id and returns the text that is now certain, possibly "".
func (s *Stream) Push(id int32) string {
	s.out = s.push(s.out[:0], id)
	return string(s.out)
}

// Flush returns what was held back. After it the Stream continues as at its beginning.
func (s *Stream) Flush() string {
	out := string(s.flush(nil))
	*s = *s.t.Stream(s.skipSpecial)
	return out
}

func (s *Stream) push(dst []byte, id int32) []byte {
	v := s.t.vocab
	if !v.valid(id) || s.skipSpecial && v.special(id) {
		return dst
	}
	text := v.bytes.at(id)
	switch {
	case s.t.decoder.kind == byteLevelDecoder:
		return s.pushBytes(dst, text)
	case v.kinds[id] == Byte:
		return s.pushByte(dst, text[0])
	}
	dst = s.endRun(dst)
	if s.t.decoder.kind == metaspaceDecoder {
		return s.writeMetaspace(dst, v.text.at(id))
	}
	return s.write(dst, text)
}

func (s *Stream) flush(dst []byte) []byte {
	if s.t.decoder.kind == byteLevelDecoder {
		dst, s.pending = appendValid(dst, s.pending), s.pending[:0]
		return dst
	}
	return s.endRun(dst)
}

// pushBytes appends text to the bytes held back and writes all but an incomplete last character.
func (s *Stream) pushBytes(dst, text []byte) []byte {
	if len(s.pending) > 0 {
		s.pending = append(s.pending, text...)
		text = s.pending
	}
	hold := len(text) - incompleteTail(text)
	dst = appendValid(dst, text[:hold])
	s.pending = append(s.pending[:0], text[hold:]...)
	return dst
}

// pushByte adds one byte token to the current run.
func (s *Stream) pushByte(dst []byte, b byte) []byte {
	if s.broken {
		return s.write(dst, []byte(replacement))
	}
	s.pending = append(s.pending, b)
	for s.checked < len(s.pending) {
		tail := s.pending[s.checked:]
		r, width := utf8.DecodeRune(tail)
		if r == utf8.RuneError && width == 1 {
			if incompleteTail(tail) == len(tail) {
				return dst
			}
			s.broken = true
			return s.writeBroken(dst)
		}
		s.checked += width
	}
	return dst
}

// endRun writes the byte run that ends here.
func (s *Stream) endRun(dst []byte) []byte {
	if len(s.pending) > 0 {
		if s.checked < len(s.pending) {
			dst = s.writeBroken(dst)
		} else if s.t.decoder.kind == metaspaceDecoder {
			dst = s.writeMetaspace(dst, s.pending)
		} else {
			dst = s.write(dst, s.pending)
		}
	}
	s.pending, s.checked, s.broken = s.pending[:0], 0, false
	return dst
}

func (s *Stream) writeBroken(dst []byte) []byte {
	for range s.pending {
		dst = s.write(dst, []byte(replacement))
	}
	s.pending, s.checked = s.pending[:0], 0
	return dst
}

// write appends text less the leading blanks still to be stripped.
func (s *Stream) write(dst, text []byte) []byte {
	s.started = true
	for s.strip > 0 && len(text) > 0 {
		if text[0] != ' ' {
			s.strip = 0
			break
		}
		text = text[1:]
		s.strip--
	}
	return append(dst, text...)
}

func (s *Stream) writeMetaspace(dst, text []byte) []byte {
	blank := " "
	if !s.started {
		blank = ""
	}
	if !utf8.Valid(text) {
		text = appendValid(nil, text)
	}
	return s.write(dst, bytes.ReplaceAll(text, []byte(underline), []byte(blank)))
}

// incompleteTail returns the length of the end of p that more bytes could complete to a character.
func incompleteTail(p []byte) int {
	for n := 1; n <= min(len(p), utf8.UTFMax-1); n++ {
		tail := p[len(p)-n:]
		if !utf8.RuneStart(tail[0]) {
			continue
		}
		if !utf8.FullRune(tail) {
			return n
		}
		return 0
	}
	return 0
}

// appendValid appends p, each maximal broken sequence replaced by U+FFFD (Unicode 3.9, "substitution of
// maximal subparts", as Rust's from_utf8_lossy and the web do it).
func appendValid(dst, p []byte) []byte {
	for len(p) > 0 {
		r, width := utf8.DecodeRune(p)
		if r == utf8.RuneError && width == 1 {
			dst = append(dst, replacement...)
			p = p[brokenLength(p):]
			continue
		}
		dst = append(dst, p[:width]...)
		p = p[width:]
	}
	return dst
}

// brokenLength returns the length of the broken sequence at the start of p: the longest prefix that
// some character begins with, at least 1.
func brokenLength(p []byte) int {
	n := 1
	for n < len(p) && n < utf8.UTFMax-1 && !utf8.FullRune(p[:n+1]) {
		n++
	}
	return n
}
