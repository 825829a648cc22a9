package tokenizer

import (
	"fmt"
	"strings"
)

// The pre-tokenisers of the model families, as stages.

func gpt2Splitters() []stage   { return []stage{gpt2{classes()}} }
func smollmSplitters() []stage { return []stage{digitRuns{classes(), 1}, gpt2{classes()}} }
func llama3Splitters() []stage { return []stage{cl100k{classes(), 3, false}} }
func qwen2Splitters() []stage  { return []stage{cl100k{classes(), 1, false}} }
func qwen35Splitters() []stage { return []stage{cl100k{classes(), 1, true}} }
func o200kSplitters() []stage  { return []stage{o200k{classes(), 3, true}} }
func tekkenSplitters() []stage { return []stage{o200k{classes(), 1, false}} }
func deepseekSplitters() []stage {
	return []stage{digitRuns{classes(), 3}, cjkRuns{}, deepseekWords{classes()}}
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
func patternSplitter(pattern string) (stage, error) {
	canonical := strings.NewReplacer(`\"`, `"`, "\r", `\r`, "\n", `\n`,
		// Possessive where giving back would not help: the same matches.
		`[^\r\n\p{L}\p{N}]?+`, `[^\r\n\p{L}\p{N}]?`, `[^\s\p{L}\p{N}]++`, `[^\s\p{L}\p{N}]+`).Replace(pattern)
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
	find, err := patternFinder(pattern)
	return cut{find: find}, err
}

const maxPatternBytes = 16 << 10

// patternFinder is regexFinder for patterns from files.
func patternFinder(pattern string) (finder, error) {
	if len(pattern) > maxPatternBytes {
		return nil, fmt.Errorf("tokenizer: a pattern of %d bytes, more than the limit of %d", len(pattern), maxPatternBytes)
	}
	find, err := regexFinder(pattern)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: the pattern %.60q is not supported (%w); use the GGUF form of the model", pattern, err)
	}
	return find, nil
}
