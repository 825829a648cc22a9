package chat

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// quoted reads a string literal with Python's escapes.
func (l *lexer) quoted(rest string, quote byte) error {
	end := 1
	for end < len(rest) && rest[end] != quote {
		if rest[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(rest) {
		return l.errorf("a string is never closed: %c missing", quote)
	}
	s, err := l.unescape(rest[1:end])
	if err != nil {
		return err
	}
	l.emit(tokString, s)
	l.advance(end + 1)
	return nil
}

var simpleEscapes = map[byte]string{'\n': "", '\\': "\\", '\'': "'", '"': "\"", 'a': "\a", 'b': "\b",
	'f': "\f", 'n': "\n", 'r': "\r", 't': "\t", 'v': "\v"}

var hexEscapes = map[byte]int{'x': 2, 'u': 4, 'U': 8}

func (l *lexer) unescape(s string) (string, error) {
	if strings.IndexByte(s, '\\') < 0 {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		c := s[i]
		if plain, ok := simpleEscapes[c]; ok {
			b.WriteString(plain)
			continue
		}
		if width, ok := hexEscapes[c]; ok {
			if i+width >= len(s) {
				return "", l.errorf("a \\%c escape is cut short", c)
			}
			r, err := strconv.ParseUint(s[i+1:i+1+width], 16, 32)
			if err != nil || !utf8.ValidRune(rune(r)) {
				return "", l.errorf("a \\%c escape is no character", c)
			}
			b.WriteRune(rune(r))
			i += width
			continue
		}
		if c >= '0' && c <= '7' {
			n := i
			for n < len(s) && n < i+3 && s[n] >= '0' && s[n] <= '7' {
				n++
			}
			r, _ := strconv.ParseUint(s[i:n], 8, 32)
			b.WriteRune(rune(r))
			i = n - 1
			continue
		}
		if c == 'N' {
			return "", l.errorf("\\N escapes are not supported; write the character")
		}
		b.WriteByte('\\')
		b.WriteByte(c)
	}
	return b.String(), nil
}
