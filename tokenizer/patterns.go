package tokenizer

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// The pre-tokenisers of the model families, as stages.

func gpt2Splitters() []splitter   { return []splitter{gpt2{classes()}} }
func smollmSplitters() []splitter { return []splitter{digitRuns{classes(), 1}, gpt2{classes()}} }
func llama3Splitters() []splitter { return []splitter{cl100k{classes(), 3, false}} }
func qwen2Splitters() []splitter  { return []splitter{cl100k{classes(), 1, false}} }
func qwen35Splitters() []splitter { return []splitter{cl100k{classes(), 1, true}} }
func o200kSplitters() []splitter  { return []splitter{o200k{classes(), 3, true}} }
func tekkenSplitters() []splitter { return []splitter{o200k{classes(), 1, false}} }
func deepseekSplitters() []splitter {
	return []splitter{digitRuns{classes(), 3}, cjkRuns{}, deepseekWords{classes()}}
}

// Patterns as tokenizer.json files write them.
const (
	apostrophes   = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
	blankPatterns = `|\s*[\r\n]+|\s+(?!\S)|\s+`

	gpt2Pattern   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	llama3Pattern = apostrophes + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*` + blankPatterns
	qwen2Pattern  = apostrophes + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*` + blankPatterns
	qwen35Pattern = apostrophes + `|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*` + blankPatterns

	capitals      = `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
	smalls        = `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
	o200kPattern  = `[^\r\n\p{L}\p{N}]?` + capitals + `*` + smalls + `+` + apostrophes + `?|[^\r\n\p{L}\p{N}]?` + capitals + `+` + smalls + `*` + apostrophes + `?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*` + blankPatterns
	tekkenPattern = `[^\r\n\p{L}\p{N}]?` + capitals + `*` + smalls + `+|[^\r\n\p{L}\p{N}]?` + capitals + `+` + smalls + `*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*` + blankPatterns

	deepseekDigits  = `\p{N}{1,3}`
	deepseekCJK     = `[一-龥぀-ゟ゠-ヿ]+`
	deepseekPattern = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+" + `|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*` + blankPatterns
)

// patternSplitter returns the splitter of a Split pre-tokeniser's regular expression. Known patterns have
// a hand-written linear splitter, others run in a backtracking engine.
func patternSplitter(pattern string) (splitter, error) {
	canonical := strings.NewReplacer(`\"`, `"`, "\r", `\r`, "\n", `\n`).Replace(pattern)
	switch canonical {
	case gpt2Pattern:
		return gpt2{classes()}, nil
	case llama3Pattern:
		return cl100k{classes(), 3, false}, nil
	case qwen2Pattern:
		return cl100k{classes(), 1, false}, nil
	case qwen35Pattern:
		return cl100k{classes(), 1, true}, nil
	case o200kPattern:
		return o200k{classes(), 3, true}, nil
	case tekkenPattern:
		return o200k{classes(), 1, false}, nil
	case deepseekDigits:
		return digitRuns{classes(), 3}, nil
	case `\p{N}`:
		return digitRuns{classes(), 1}, nil
	case deepseekCJK:
		return cjkRuns{}, nil
	case deepseekPattern:
		return deepseekWords{classes()}, nil
	}
	return newBacktracker(pattern)
}

// backtracker runs a pattern that has no hand-written splitter. Unlike those it may be slow on hostile text, so
// each look for a match stops after matchTimeout, and the rest of the text is then one piece.
type backtracker struct{ re *regexp2.Regexp }

const matchTimeout = 2 * time.Second

func newBacktracker(pattern string) (splitter, error) {
	re, err := regexp2.Compile(pattern, regexp2.None)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: the pre-tokenizer pattern %.60q is not supported (%w); use the GGUF form of the model", pattern, err)
	}
	re.MatchTimeout = matchTimeout
	return backtracker{re}, nil
}

func (b backtracker) next(s string) int { return b.cuts(s)[0] }

// cuts returns the ends of all pieces of s: matches, and what lies between them.
func (b backtracker) cuts(s string) []int {
	var ends []int
	runes, at := 0, 0 // the same position in runes and in bytes
	advance := func(to int) int {
		for ; runes < to; runes++ {
			_, width := utf8.DecodeRuneInString(s[at:])
			at += width
		}
		return at
	}
	m, err := b.re.FindStringMatch(s)
	for m != nil && err == nil {
		last := 0
		if len(ends) > 0 {
			last = ends[len(ends)-1]
		}
		if start := advance(m.Index); start > last {
			ends = append(ends, start)
		}
		if m.Length > 0 {
			ends = append(ends, advance(m.Index+m.Length))
		}
		m, err = b.re.FindNextMatch(m)
	}
	if len(ends) == 0 || ends[len(ends)-1] < len(s) {
		ends = append(ends, len(s))
	}
	return ends
}
