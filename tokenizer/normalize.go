package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// A normalizer rewrites text before it is cut into pieces. spans are positions in the text
// (untrusted ranges); they are returned as positions in the result, widened where a boundary
// falls inside a rewritten part.
type normalizer interface {
	apply(s string, spans []span) (string, []span)
}

// prepend puts a fixed text before every non-empty segment.
type prepend struct{ text string }

func (p prepend) apply(s string, spans []span) (string, []span) {
	if s == "" {
		return s, nil
	}
	m := mover{in: spans}
	m.same(0, len(s), len(p.text))
	return p.text + s, m.out
}

// replace rewrites each match.
type replace struct {
	old  string // a fixed text, or
	find finder // what a pattern matches
	new  string
}

// squeeze makes each run of two or more blanks one (" {2,}" in T5's files).
type squeeze struct{}

func (squeeze) apply(s string, spans []span) (string, []span) {
	if !strings.Contains(s, "  ") {
		return s, spans
	}
	var b strings.Builder
	m := mover{in: spans}
	for at := 0; at < len(s); {
		end := at
		for end < len(s) && s[end] == ' ' {
			end++
		}
		if end > at {
			m.changed(at, end, b.Len(), b.Len()+1)
			b.WriteByte(' ')
			at = end
		}
		for end < len(s) && s[end] != ' ' {
			end++
		}
		m.same(at, end, b.Len())
		b.WriteString(s[at:end])
		at = end
	}
	return b.String(), m.out
}

func (r replace) apply(s string, spans []span) (string, []span) {
	if r.find == nil && len(spans) == 0 {
		return strings.ReplaceAll(s, r.old, r.new), nil
	}
	find := r.find
	if find == nil {
		find = literals(r.old)
	}
	found := find(s)
	if len(found) == 0 {
		return s, spans
	}
	var b strings.Builder
	m := mover{in: spans}
	at := 0
	for _, f := range found {
		if f.start == f.end {
			continue
		}
		m.same(at, f.start, b.Len())
		b.WriteString(s[at:f.start])
		m.changed(f.start, f.end, b.Len(), b.Len()+len(r.new))
		b.WriteString(r.new)
		at = f.end
	}
	m.same(at, len(s), b.Len())
	b.WriteString(s[at:])
	return b.String(), m.out
}

// eachRune rewrites character by character.
type eachRune func(r rune) string

func (f eachRune) apply(s string, spans []span) (string, []span) {
	var b strings.Builder
	m := mover{in: spans}
	for i, r := range s {
		_, width := utf8.DecodeRuneInString(s[i:])
		new := s[i : i+width]
		if r != utf8.RuneError {
			new = f(r)
		}
		m.changed(i, i+width, b.Len(), b.Len()+len(new))
		b.WriteString(new)
	}
	return b.String(), m.out
}

func lowercase(r rune) string {
	if r == 'İ' {
		return "i\u0307"
	}
	return string(unicode.ToLower(r))
}

func withoutMark(r rune) string {
	if unicode.Is(unicode.M, r) {
		return ""
	}
	return string(r)
}

// trim removes the blanks at the ends.
type trim struct{ left, right bool }

func (t trim) apply(s string, spans []span) (string, []span) {
	start, end := 0, len(s)
	if t.right {
		end = len(strings.TrimRightFunc(s, unicode.IsSpace))
	}
	if t.left {
		start = end - len(strings.TrimLeftFunc(s[:end], unicode.IsSpace))
	}
	m := mover{in: spans}
	m.same(start, end, 0)
	return s[start:end], m.out
}

// metaspace is the first half of the Metaspace pre-tokeniser: blanks become "▁", and one is put
// before the text unless there is one. (The second half, the cut, is literal{"▁", withNext}.)
type metaspace struct{ mark string }

func (p metaspace) apply(s string, spans []span) (string, []span) {
	s, spans = replace{old: " ", new: p.mark}.apply(s, spans)
	if strings.HasPrefix(s, p.mark) {
		return s, spans
	}
	return prepend{p.mark}.apply(s, spans)
}

// prefixBlank is ByteLevel's add_prefix_space.
type prefixBlank struct{}

func (prefixBlank) apply(s string, spans []span) (string, []span) {
	if strings.HasPrefix(s, " ") {
		return s, spans
	}
	return prepend{" "}.apply(s, spans)
}

// mover carries spans through a rewriting; calls go from left to right.
type mover struct {
	in, out []span
	i       int
}

// same says that in[start:end] was copied to out[at:].
func (m *mover) same(start, end, at int) {
	m.visit(start, end, func(s span) span {
		return span{max(s.start, start) - start + at, min(s.end, end) - start + at}
	})
}

// changed says that in[start:end] became out[outStart:outEnd].
func (m *mover) changed(start, end, outStart, outEnd int) {
	m.visit(start, end, func(span) span { return span{outStart, outEnd} })
}

func (m *mover) visit(start, end int, move func(span) span) {
	for m.i < len(m.in) && m.in[m.i].start < end {
		if m.in[m.i].end > start {
			s := move(m.in[m.i])
			if n := len(m.out); n > 0 && m.out[n-1].end >= s.start {
				m.out[n-1].end = max(m.out[n-1].end, s.end)
			} else {
				m.out = append(m.out, s)
			}
		}
		if m.in[m.i].end > end {
			return // reaches into the next part
		}
		m.i++
	}
}
