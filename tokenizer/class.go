package tokenizer

import (
	"sync"
	"unicode"
	"unicode/utf8"
)

// class is a set of Unicode properties that the pre-tokeniser patterns ask for.
type class uint8

const (
	upper  class = 1 << iota // \p{Lu} \p{Lt}
	lower                    // \p{Ll}
	other                    // \p{Lm} \p{Lo}
	mark                     // \p{M}
	number                   // \p{N}
	space                    // \s
	symbol                   // \p{P} \p{S}

	letter = upper | lower | other // \p{L}
)

// classes is a two-level table: pages of 256 runes, equal pages shared. Property look-ups
// by binary search (package unicode) would cost most of the time on non-Latin text.
var classes = sync.OnceValue(func() *classTable {
	flat := make([]class, unicode.MaxRune+1)
	for _, p := range []struct {
		bit   class
		table *unicode.RangeTable
	}{
		{upper, unicode.Lu}, {upper, unicode.Lt}, {lower, unicode.Ll}, {other, unicode.Lm}, {other, unicode.Lo},
		{mark, unicode.M}, {number, unicode.N}, {space, unicode.White_Space}, {symbol, unicode.P}, {symbol, unicode.S},
	} {
		for _, r := range p.table.R16 {
			for c := uint32(r.Lo); c <= uint32(r.Hi); c += uint32(r.Stride) {
				flat[c] |= p.bit
			}
		}
		for _, r := range p.table.R32 {
			for c := r.Lo; c <= r.Hi; c += r.Stride {
				flat[c] |= p.bit
			}
		}
	}
	for _, r := range unicode16 {
		for c := r.low; c <= r.high; c++ {
			flat[c] |= r.class
		}
	}
	t := &classTable{}
	seen := map[[256]class]uint16{}
	for i := range t.page {
		page := [256]class(flat[i*256:])
		at, ok := seen[page]
		if !ok {
			at = uint16(len(t.pages))
			t.pages = append(t.pages, page)
			seen[page] = at
		}
		t.page[i] = at
	}
	return t
})

type classTable struct {
	page  [(unicode.MaxRune + 1) / 256]uint16
	pages [][256]class
}

// at returns the class and width of the rune at s[i]. An invalid byte counts as
// U+FFFD, a symbol of width 1, so that it stays in one piece with punctuation.
func (t *classTable) at(s string, i int) (class, int) {
	if b := s[i]; b < utf8.RuneSelf {
		return t.pages[t.page[0]][b], 1
	}
	r, width := utf8.DecodeRuneInString(s[i:])
	return t.pages[t.page[r>>8]][r&255], width
}

// run returns the end of the longest run from s[i] of runes that have a property of set.
func (t *classTable) run(s string, i int, set class) int {
	for i < len(s) {
		c, width := t.at(s, i)
		if c&set == 0 {
			break
		}
		i += width
	}
	return i
}

// runNot returns the end of the longest run from s[i] of runes that have no property of set.
func (t *classTable) runNot(s string, i int, set class) int {
	for i < len(s) {
		c, width := t.at(s, i)
		if c&set != 0 {
			break
		}
		i += width
	}
	return i
}
