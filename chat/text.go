package chat

import (
	"sort"
	"strings"
	"unicode/utf8"
)

// text is a string that remembers which of its bytes are trusted: written by
// the template's author or the operator, never by a user. The zero mark is
// untrusted, so an operation that forgets provenance errs on the safe side.
type text struct {
	s       string
	trusted []span // sorted, disjoint, not touching; byte offsets into s
}

type span struct{ start, end int }

// literal is text the template wrote.
func literal(s string) text {
	if s == "" {
		return text{}
	}
	return text{s, []span{{0, len(s)}}}
}

// foreign is text that came from the conversation.
func foreign(s string) text { return text{s: s} }

func (t text) allTrusted() bool {
	return t.s == "" || len(t.trusted) == 1 && t.trusted[0] == span{0, len(t.s)}
}

// weight is what copying t costs, in bytes.
func (t text) weight() int { return len(t.s) + 16*len(t.trusted) }

// with gives s the provenance of a transformation of all of t: trusted only if
// every byte of t was.
func (t text) with(s string) text {
	if t.allTrusted() {
		return literal(s)
	}
	return foreign(s)
}

// slice returns bytes [i, j) of t with their marks.
func (t text) slice(i, j int) text {
	out := text{s: t.s[i:j]}
	first := sort.Search(len(t.trusted), func(k int) bool { return t.trusted[k].end > i })
	for _, sp := range t.trusted[first:] {
		if sp.start >= j {
			break
		}
		out.trusted = append(out.trusted, span{max(sp.start, i) - i, min(sp.end, j) - i})
	}
	return out
}

// trustedRange reports whether all bytes [i, j) are trusted.
func (t text) trustedRange(i, j int) bool {
	k := sort.Search(len(t.trusted), func(k int) bool { return t.trusted[k].end >= j })
	return k < len(t.trusted) && t.trusted[k].start <= i
}

// runes is the length as Python counts it.
func (t text) runes() int { return utf8.RuneCountInString(t.s) }

// segments splits t at every change of trust.
func (t text) segments() []Segment {
	var segs []Segment
	pos := 0
	for _, sp := range t.trusted {
		if sp.start > pos {
			segs = append(segs, Segment{Text: t.s[pos:sp.start]})
		}
		segs = append(segs, Segment{Text: t.s[sp.start:sp.end], Trusted: true})
		pos = sp.end
	}
	if pos < len(t.s) {
		segs = append(segs, Segment{Text: t.s[pos:]})
	}
	return segs
}

// textBuilder concatenates texts and keeps their marks.
type textBuilder struct {
	b       strings.Builder
	trusted []span
}

func (b *textBuilder) add(t text) {
	base := b.b.Len()
	b.b.WriteString(t.s)
	for _, sp := range t.trusted {
		sp.start, sp.end = sp.start+base, sp.end+base
		if n := len(b.trusted); n > 0 && b.trusted[n-1].end == sp.start {
			b.trusted[n-1].end = sp.end
			continue
		}
		b.trusted = append(b.trusted, sp)
	}
}

func (b *textBuilder) len() int   { return b.b.Len() }
func (b *textBuilder) text() text { return text{b.b.String(), b.trusted} }
