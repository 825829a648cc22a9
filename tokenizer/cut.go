package tokenizer

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// General splits: any pattern, any rule for its matches. The hand-written splitters of split.go are the fast path for
// what models of the families above use; these are what else a tokenizer.json may ask for.

// cut finds matches and cuts the text at them, as Hugging Face's Split does.
type cut struct {
	find   finder
	rule   cutRule
	invert bool // the text between the matches counts as matched
}

// A finder returns the matches in s: ascending, not overlapping. An empty one, of a look-ahead, cuts too.
type finder func(s string) []span

// cutRule says what becomes of a match: "a--b" cut at "-".
type cutRule uint8

const (
	isolated     cutRule = iota // a - - b
	removed                     // a b
	withPrevious                // a- - b
	withNext                    // a - -b
	contiguous                  // a -- b
)

var cutRules = map[string]cutRule{
	"Isolated": isolated, "Removed": removed, "MergedWithPrevious": withPrevious, "MergedWithNext": withNext, "Contiguous": contiguous,
}

func (c cut) pieces(s string) []span {
	var out []span
	at, before := 0, false // where the next part starts; whether the one before it was matched
	add := func(end int, matched bool) {
		if end == at {
			return
		}
		switch {
		case c.rule == removed && matched:
		case at > 0 && c.rule.joins(before, matched):
			out[len(out)-1].end = end
		default:
			out = append(out, span{at, end})
		}
		at, before = end, matched
	}
	for _, m := range c.find(s) {
		add(m.start, c.invert)
		add(m.end, !c.invert)
		before = !c.invert
	}
	add(len(s), c.invert)
	return out
}

// joins reports whether a part belongs to the piece of the part before it.
func (r cutRule) joins(before, matched bool) bool {
	switch r {
	case withPrevious:
		return matched && !before
	case withNext:
		return before && !matched
	case contiguous:
		return before == matched
	}
	return false
}

// literals finds a fixed string.
func literals(text string) finder {
	return func(s string) (found []span) {
		for at := 0; ; {
			i := strings.Index(s[at:], text)
			if i < 0 {
				return found
			}
			found = append(found, span{at + i, at + i + len(text)})
			at += i + len(text)
		}
	}
}

// runes finds each character that has a property.
func runes(has func(rune) bool) finder {
	return func(s string) (found []span) {
		for i, r := range s {
			if has(r) {
				_, width := utf8.DecodeRuneInString(s[i:])
				found = append(found, span{i, i + width})
			}
		}
		return found
	}
}

// words finds \w+|[^\w\s]+ as Rust's regular expressions mean it.
func words(s string) (found []span) {
	last := 0 // kind of the character before: 0 blank, 1 of a word, 2 other
	for i, r := range s {
		kind := 2
		switch {
		case unicode.IsSpace(r):
			kind = 0
		case wordRune(r):
			kind = 1
		}
		_, width := utf8.DecodeRuneInString(s[i:])
		switch {
		case kind == 0:
		case kind == last:
			found[len(found)-1].end = i + width
		default:
			found = append(found, span{i, i + width})
		}
		last = kind
	}
	return found
}

// punctuation is Hugging Face's: ASCII's with its symbols, Unicode's without.
func punctuation(r rune) bool {
	return unicode.IsPunct(r) || r < utf8.RuneSelf && unicode.IsSymbol(r)
}

// matchTimeout bounds one look for a match: patterns come from model files and a backtracking engine may be slow on
// hostile text. What follows then counts as unmatched.
const matchTimeout = 2 * time.Second

// regexFinder runs a pattern in a backtracking engine, which has the look-ahead that package regexp lacks.
func regexFinder(pattern string) (finder, error) {
	re, err := regexp2.Compile(translate(pattern), regexp2.None)
	if err != nil {
		return nil, err
	}
	re.MatchTimeout = matchTimeout
	return func(s string) (found []span) {
		runes, at := 0, 0 // the same position in runes and in bytes
		advance := func(to int) int {
			for ; runes < to; runes++ {
				_, width := utf8.DecodeRuneInString(s[at:])
				at += width
			}
			return at
		}
		m, err := re.FindStringMatch(s)
		for m != nil && err == nil {
			start := advance(m.Index)
			found = append(found, span{start, advance(m.Index + m.Length)})
			m, err = re.FindNextMatch(m)
		}
		return found
	}, nil
}

// mapped is a stage behind ByteLevel: it sees every byte as a character of GPT-2's alphabet, so that "²", which spells
// the byte B2, is a number to it.
type mapped struct{ stage stage }

func (m mapped) pieces(s string) []span {
	ends := make([]int, 0, len(s)) // of each byte's character
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		b.WriteRune(byteToRune[s[i]])
		ends = append(ends, b.Len())
	}
	out := piecesOf(m.stage, b.String())
	bytes, chars := 0, 0
	back := func(to int) int {
		for chars < to {
			chars = ends[bytes]
			bytes++
		}
		return bytes
	}
	for i, p := range out {
		out[i].start = back(p.start)
		out[i].end = back(p.end)
	}
	return out
}

// piecesOf returns all pieces that a stage cuts s into.
func piecesOf(st stage, s string) []span {
	if c, ok := st.(cutter); ok {
		return c.pieces(s)
	}
	var out []span
	for at := 0; at < len(s); {
		n := st.(splitter).next(s[at:])
		out = append(out, span{at, at + n})
		at += n
	}
	return out
}
