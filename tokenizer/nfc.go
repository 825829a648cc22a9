package tokenizer

import (
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// unicodeForm is one of Unicode's normal forms (UAX #15): NFC, NFD, NFKC, NFKD.
//
// golang.org/x/text/unicode/norm does the common case, text that is already in the form, and
// supplies the data. It cannot do the rest here: it implements the Stream-Safe Text Process and
// inserts U+034F after 30 combining marks, which the reference tokenizers do not. So the parts
// that need work are decomposed, ordered and composed below; they end at a character that
// cannot interact with what is before it, so each part is normalised alone.
type unicodeForm struct {
	decomposition norm.Form // canonical or compatible
	composed      bool
}

const canonical, compatible = norm.NFD, norm.NFKD

// form is the library's name of f.
func (f unicodeForm) form() norm.Form {
	switch {
	case !f.composed:
		return f.decomposition
	case f.decomposition == compatible:
		return norm.NFKC
	}
	return norm.NFC
}

func (f unicodeForm) apply(s string, spans []span) (string, []span) {
	form := f.form()
	if form.IsNormalString(s) {
		return s, spans
	}
	var b strings.Builder
	m := mover{in: spans}
	for at := 0; at < len(s); {
		n := form.QuickSpanString(s[at:])
		m.same(at, at+n, b.Len())
		b.WriteString(s[at : at+n])
		at += n
		if at == len(s) {
			break
		}
		end := partEnd(form, s, at)
		part := f.rewrite(s[at:end])
		m.changed(at, end, b.Len(), b.Len()+len(part))
		b.WriteString(part)
		at = end
	}
	return b.String(), m.out
}

// partEnd returns the end of the part of s that begins at i.
func partEnd(form norm.Form, s string, i int) int {
	for {
		_, width := utf8.DecodeRuneInString(s[i:])
		i += width
		if i == len(s) || form.PropertiesString(s[i:]).BoundaryBefore() {
			return i
		}
	}
}

func (f unicodeForm) rewrite(s string) string {
	if !utf8.ValidString(s) {
		return s
	}
	var runes []rune
	for i := 0; i < len(s); {
		p := f.decomposition.PropertiesString(s[i:])
		if d := p.Decomposition(); d != nil {
			runes = append(runes, []rune(string(d))...)
			i += p.Size()
			continue
		}
		r, width := utf8.DecodeRuneInString(s[i:])
		runes = appendHangul(runes, r)
		i += width
	}
	orderMarks(runes)
	if f.composed {
		runes = compose(runes)
	}
	return string(runes)
}

// orderMarks sorts each run of combining marks by combining class, stably.
func orderMarks(runes []rune) {
	for i := 0; i < len(runes); i++ {
		if combiningClass(runes[i]) == 0 {
			continue
		}
		j := i
		for j < len(runes) && combiningClass(runes[j]) != 0 {
			j++
		}
		slices.SortStableFunc(runes[i:j], func(a, b rune) int {
			return int(combiningClass(a)) - int(combiningClass(b))
		})
		i = j
	}
}

// compose joins each starter with the following characters that are not blocked from it.
func compose(runes []rune) []rune {
	out := runes[:0]
	starter := -1     // index in out
	last := uint8(0)  // class of the previous character kept after the starter
	adjacent := false // nothing kept between the starter and here
	for _, r := range runes {
		class := combiningClass(r)
		if starter >= 0 && (adjacent || last < class) {
			if joined, ok := composePair(out[starter], r); ok {
				out[starter] = joined
				continue
			}
		}
		out = append(out, r)
		if class == 0 {
			starter, adjacent = len(out)-1, true
		} else {
			adjacent = false
		}
		last = class
	}
	return out
}

func combiningClass(r rune) uint8 {
	if r < 0x300 {
		return 0
	}
	var buf [utf8.UTFMax]byte
	return norm.NFD.Properties(buf[:utf8.EncodeRune(buf[:], r)]).CCC()
}

// Hangul syllables compose by arithmetic (Unicode 3.12).
const (
	hangulS, hangulL, hangulV, hangulT = 0xAC00, 0x1100, 0x1161, 0x11A7
	countL, countV, countT             = 19, 21, 28
)

// appendHangul appends r, a syllable as its letters.
func appendHangul(runes []rune, r rune) []rune {
	i := r - hangulS
	if i < 0 || i >= countL*countV*countT {
		return append(runes, r)
	}
	runes = append(runes, hangulL+i/(countV*countT), hangulV+i/countT%countV)
	if i%countT > 0 {
		runes = append(runes, hangulT+i%countT)
	}
	return runes
}

func composePair(a, b rune) (rune, bool) {
	switch {
	case a >= hangulL && a < hangulL+countL && b >= hangulV && b < hangulV+countV:
		return hangulS + ((a-hangulL)*countV+(b-hangulV))*countT, true
	case a >= hangulS && a < hangulS+countL*countV*countT && (a-hangulS)%countT == 0 && b > hangulT && b < hangulT+countT:
		return a + b - hangulT, true
	}
	r, ok := compositions()[[2]rune{a, b}]
	return r, ok
}

// compositions maps the canonical pairs to their primary composites (about 1000).
var compositions = sync.OnceValue(func() map[[2]rune]rune {
	pairs := map[[2]rune]rune{}
	for r := rune(0xC0); r <= unicode.MaxRune; r++ {
		if r == hangulS {
			r += countL * countV * countT
		}
		if !utf8.ValidRune(r) {
			continue
		}
		whole := string(r)
		d := norm.NFD.PropertiesString(whole).Decomposition()
		if d == nil || norm.NFC.String(string(d)) != whole {
			continue // no decomposition, or excluded from composition
		}
		_, width := utf8.DecodeLastRune(d)
		first := []rune(norm.NFC.String(string(d[:len(d)-width])))
		second, _ := utf8.DecodeLastRune(d)
		if len(first) == 1 {
			pairs[[2]rune{first[0], second}] = r
		}
	}
	return pairs
})
