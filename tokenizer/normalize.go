package tokenizer

import (
	"regexp"
	"strings"
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

// replace rewrites each occurrence of a fixed text, or each match of a regular expression.
type replace struct {
	old string
	re  *regexp.Regexp // instead of old
	new string
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
	if r.re == nil && len(spans) == 0 {
		return strings.ReplaceAll(s, r.old, r.new), nil
	}
	var b strings.Builder
	m := mover{in: spans}
	at := 0
	for at <= len(s) {
		start, end := r.find(s, at)
		if start < 0 {
			break
		}
		m.same(at, start, b.Len())
		b.WriteString(s[at:start])
		m.changed(start, end, b.Len(), b.Len()+len(r.new))
		b.WriteString(r.new)
		at = end
	}
	m.same(at, len(s), b.Len())
	b.WriteString(s[at:])
	return b.String(), m.out
}

// find returns the first non-empty match in s[at:].
func (r replace) find(s string, at int) (start, end int) {
	if r.re == nil {
		i := strings.Index(s[at:], r.old)
		if i < 0 {
			return -1, -1
		}
		return at + i, at + i + len(r.old)
	}
	loc := r.re.FindStringIndex(s[at:])
	if loc == nil || loc[0] == loc[1] {
		return -1, -1
	}
	return at + loc[0], at + loc[1]
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
