package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// A splitter cuts text into pieces; the model never merges across a cut.
//
// The published definitions are backtracking regular expressions with look-ahead, which Go's
// regexp does not have and a backtracking engine runs in quadratic time on hostile text. The
// common ones are few and nearly alike, so they are written out here. Each scans a run of
// characters at most a fixed number of times, hence linear. All of them are "isolated"
// splits: every byte of the text lands in exactly one piece.
//
// Proof: TestSplittersEqualTheirPattern compares each with its pattern in a regexp engine.
type splitter interface {
	// next returns the length of the first piece of s, which is not empty.
	next(s string) int
}

// A cutter cuts all of s at once, because finding its pieces one by one would repeat work. It may leave text out.
type cutter interface {
	pieces(s string) []span
}

// A stage is one step of a pre-tokeniser: a splitter, a cutter, or a normalizer that rewrites each piece.
type stage any

// gpt2 is
//
//	's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
type gpt2 struct{ *classTable }

func (g gpt2) next(s string) int {
	if n := contraction(s, 0, false); n > 0 {
		return n
	}
	i := 0
	if s[0] == ' ' {
		i = 1
	}
	if i < len(s) {
		c, _ := g.at(s, i)
		switch {
		case c&letter != 0:
			return g.run(s, i, letter)
		case c&number != 0:
			return g.run(s, i, number)
		case c&space == 0:
			return g.runNot(s, i, letter|number|space)
		}
	}
	return g.blanks(s, false)
}

// cl100k is the family of Llama 3 and Qwen:
//
//	(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}
//	| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//
// With marks, \p{L}+ is [\p{L}\p{M}]+ and the punctuation excludes \p{M}.
type cl100k struct {
	*classTable
	digits int
	marks  bool
}

func (g cl100k) next(s string) int {
	if n := contraction(s, 0, true); n > 0 {
		return n
	}
	word := letter
	if g.marks {
		word |= mark
	}
	c, width := g.at(s, 0)
	start := 0
	if c&(word|number) == 0 && !newline(s[0]) {
		start = width
	}
	if end := g.run(s, start, word); end > start {
		return end
	}
	if c&number != 0 {
		return g.upTo(s, number, g.digits)
	}
	if end := g.punctuation(s, word|number|space, "\r\n"); end > 0 {
		return end
	}
	return g.blanks(s, true)
}

// o200k is the family of GPT-4o and Mistral's Tekken, whose words know upper and lower case:
//
//	[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|…)?
//	|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|…)?
//	|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
type o200k struct {
	*classTable
	digits       int
	contractions bool
}

func (g o200k) next(s string) int {
	c, width := g.at(s, 0)
	prefix := 0
	if c&(letter|number) == 0 && !newline(s[0]) {
		prefix = width
	}
	end := g.capitalised(s, prefix)
	if end == 0 && prefix > 0 {
		end = g.capitalised(s, 0) // a mark may be the optional prefix or part of the word
	}
	if end == 0 {
		if caps := g.run(s, prefix, upper|other|mark); caps > prefix {
			end = caps
		}
	}
	if end > 0 {
		if g.contractions {
			end += contraction(s, end, true)
		}
		return end
	}
	if c&number != 0 {
		return g.upTo(s, number, g.digits)
	}
	if end := g.punctuation(s, letter|number|space, "\r\n/"); end > 0 {
		return end
	}
	return g.blanks(s, true)
}

// capitalised matches [upper other mark]*[lower other mark]+ from s[i] and returns its end, 0
// if it does not match. Greedy with backtracking: the first class takes its whole run; if no
// lower case letter follows, it gives back up to the last character both classes hold.
func (g o200k) capitalised(s string, i int) int {
	shared := 0
	for i < len(s) {
		c, width := g.at(s, i)
		if c&lower != 0 {
			return g.run(s, i, lower|other|mark)
		}
		if c&(upper|other|mark) == 0 {
			break
		}
		i += width
		if c&(other|mark) != 0 {
			shared = i
		}
	}
	return shared
}

// deepseekWords is the last of DeepSeek-V3's three patterns:
//
//	[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+
//	| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//
// It does not cover all text: what lies between two matches is a piece too.
type deepseekWords struct{ *classTable }

func (g deepseekWords) next(s string) int {
	if n := g.match(s); n > 0 {
		return n
	}
	for i := 1; i < len(s); i++ {
		if utf8.RuneStart(s[i]) && g.match(s[i:]) > 0 {
			return i
		}
	}
	return len(s)
}

func (g deepseekWords) match(s string) int {
	c, width := g.at(s, 0)
	if s[0] < utf8.RuneSelf && c&symbol != 0 {
		end := 1
		for end < len(s) && asciiLetter(s[end]) {
			end++
		}
		if end > 1 {
			return end
		}
	}
	start := 0
	if c&(letter|mark|symbol) == 0 && !newline(s[0]) {
		start = width
	}
	if end := g.run(s, start, letter|mark); end > start {
		return end
	}
	start = 0
	if s[0] == ' ' {
		start = 1
	}
	if end := g.run(s, start, symbol); end > start {
		return skip(s, end, "\r\n")
	}
	if c&space != 0 {
		return g.blanks(s, true)
	}
	return 0
}

// digitRuns isolates \p{N}{1,max}.
type digitRuns struct {
	*classTable
	max int
}

func (g digitRuns) next(s string) int {
	if end := g.runNot(s, 0, number); end > 0 {
		return end
	}
	return g.upTo(s, number, g.max)
}

// cjkRuns isolates [一-龥぀-ゟ゠-ヿ]+.
type cjkRuns struct{}

func (cjkRuns) next(s string) int {
	first := true
	var in bool
	for i, r := range s {
		cjk := r >= 0x4E00 && r <= 0x9FA5 || r >= 0x3040 && r <= 0x30FF
		if !first && cjk != in {
			return i
		}
		first, in = false, cjk
	}
	return len(s)
}

// literal splits at a fixed string.
type literal struct {
	sep   string
	merge cutRule // isolated, withPrevious or withNext
}

func (l literal) next(s string) int {
	n := len(l.sep)
	if strings.HasPrefix(s, l.sep) {
		if l.merge != withNext || len(s) == n || strings.HasPrefix(s[n:], l.sep) {
			return n
		}
		if i := strings.Index(s[n:], l.sep); i >= 0 {
			return n + i
		}
		return len(s)
	}
	i := strings.Index(s, l.sep)
	switch {
	case i < 0:
		return len(s)
	case l.merge == withPrevious:
		return i + n
	}
	return i
}

// wordStarts cuts before each "▁" that follows something else. It is used for SentencePiece
// models, which define no cuts, when no token holds such a place inside: then no merge can
// span one, and short words are much faster than one long text (see spaceStartsWord).
type wordStarts struct{}

const underline = "▁" // U+2581, SentencePiece's visible space

func (wordStarts) next(s string) int {
	i := 0
	for strings.HasPrefix(s[i:], underline) {
		i += len(underline)
	}
	if n := strings.Index(s[i:], underline); n >= 0 {
		return i + n
	}
	return len(s)
}

// Parts that the patterns share.

// contraction returns the length of 's 't 're 've 'm 'll 'd at s[i], else 0. Folding is Unicode's:
// the long s "ſ" (U+017F) is an s.
func contraction(s string, i int, fold bool) int {
	if i+1 >= len(s) || s[i] != '\'' {
		return 0
	}
	a, b := s[i+1], byte(0)
	if i+2 < len(s) {
		b = s[i+2]
	}
	if fold {
		if a == "ſ"[0] && b == "ſ"[1] {
			return 3
		}
		a, b = toLower(a), toLower(b)
	}
	switch {
	case a == 's' || a == 't' || a == 'm' || a == 'd':
		return 2
	case a == 'r' && b == 'e' || a == 'v' && b == 'e' || a == 'l' && b == 'l':
		return 3
	}
	return 0
}

func toLower(b byte) byte {
	if b >= 'A' && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}

func asciiLetter(b byte) bool { b = toLower(b); return b >= 'a' && b <= 'z' }

func newline(b byte) bool { return b == '\r' || b == '\n' }

// skip returns the end of the run from s[i] of bytes in set.
func skip(s string, i int, set string) int {
	for i < len(s) && strings.IndexByte(set, s[i]) >= 0 {
		i++
	}
	return i
}

// upTo returns the end of the first 1 to limit runes of class set.
func (t *classTable) upTo(s string, set class, limit int) int {
	end := 0
	for n := 0; n < limit && end < len(s); n++ {
		c, width := t.at(s, end)
		if c&set == 0 {
			break
		}
		end += width
	}
	return end
}

// punctuation matches " ?[^not]+[tail]*" and returns its end, 0 if it does not match.
func (t *classTable) punctuation(s string, not class, tail string) int {
	start := 0
	if s[0] == ' ' {
		start = 1
	}
	end := t.runNot(s, start, not)
	if end == start {
		return 0
	}
	return skip(s, end, tail)
}

// blanks matches \s+(?!\S)|\s+, preceded by \s*[\r\n]+ if lines: a run of blanks up to its last
// line break, else all but the blank before a word, else all.
func (t *classTable) blanks(s string, lines bool) int {
	end, last, broken := 0, 0, 0 // end of the run, start of its last blank, end of its last line break
	for end < len(s) {
		c, width := t.at(s, end)
		if c&space == 0 {
			break
		}
		last = end
		end += width
		if newline(s[last]) {
			broken = end
		}
	}
	switch {
	case lines && broken > 0:
		return broken
	case end < len(s) && last > 0:
		return last
	}
	return end
}
