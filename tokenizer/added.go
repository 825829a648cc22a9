package tokenizer

import (
	"sort"
	"unicode"
	"unicode/utf8"
)

// addedToken is a token that is cut out of the text before the model sees it.
type addedToken struct {
	id         int32
	special    bool // Control or Unknown
	normalized bool // matched after the normaliser, else on the raw text
	singleWord bool // only if no word character touches it
	lstrip     bool // swallows the blanks before it
	rstrip     bool // swallows the blanks after it
}

// matcher finds added tokens: the leftmost, and of those the longest. It is a trie over bytes
// whose edges lie in one hash table: (node, byte) → node.
type matcher struct {
	tokens []addedToken
	edges  mergeTable
	ends   []int32 // node → index in tokens + 1
	first  [256]bool
}

func newMatcher(tokens []addedToken, contents []string) matcher {
	total := 0
	for _, c := range contents {
		total += len(c)
	}
	m := matcher{tokens: tokens, edges: newMergeTable(total), ends: make([]int32, 1)}
	for i, content := range contents {
		node := int32(0)
		for j := 0; j < len(content); j++ {
			b := int32(content[j])
			edge := m.edges.get(node, b)
			if edge == nil {
				m.ends = append(m.ends, 0)
				m.edges.put(merge{left: node, right: b, id: int32(len(m.ends) - 1)})
				edge = m.edges.get(node, b)
			}
			node = edge.id
		}
		if node != 0 && m.ends[node] == 0 {
			m.ends[node] = int32(i) + 1
			m.first[content[0]] = true
		}
	}
	return m
}

// longest returns the longest token at s[i] and its end, or nil.
func (m *matcher) longest(s string, i int) (*addedToken, int) {
	var found *addedToken
	end, node := 0, int32(0)
	for ; i < len(s); i++ {
		edge := m.edges.get(node, int32(s[i]))
		if edge == nil {
			break
		}
		node = edge.id
		if at := m.ends[node]; at > 0 {
			found, end = &m.tokens[at-1], i+1
		}
	}
	return found, end
}

// span is a range of bytes of a text, [start, end).
type span struct{ start, end int }

// guard says where special tokens may be recognised.
type guard struct {
	parseSpecial bool
	untrusted    []span // ascending, not touching
}

// overlap reports whether an untrusted byte lies in [start, end).
func (g guard) overlap(start, end int) bool {
	i := sort.Search(len(g.untrusted), func(i int) bool { return g.untrusted[i].end > start })
	return i < len(g.untrusted) && g.untrusted[i].start < end
}

// found is an added token in a text. start and stop include the blanks it swallows, end does not.
type found struct {
	*addedToken
	start, end, stop int
}

// next finds the first token after last that may be recognised. As in Hugging Face tokenizers the search goes
// on behind the last token itself, so that blanks it swallowed may still begin another token.
func (m *matcher) next(s string, last found, g guard) (found, bool) {
	if len(m.tokens) == 0 {
		return found{}, false
	}
	for i := last.end; i < len(s); {
		if !m.first[s[i]] {
			i++
			continue
		}
		token, end := m.longest(s, i)
		switch {
		case token == nil:
			i++
		case token.special && !g.parseSpecial:
			i = end
		case token.special && g.overlap(i, end):
			i++ // a trusted token may begin inside the refused match
		case token.singleWord && !standsAlone(s, i, end):
			i = end
		default:
			f := found{token, i, end, end}
			if token.lstrip {
				f.start = blanksBefore(s, last.stop, i)
			}
			if token.rstrip {
				f.stop = classes().run(s, end, space)
			}
			return f, true
		}
	}
	return found{}, false
}

func standsAlone(s string, start, end int) bool {
	before, _ := utf8.DecodeLastRuneInString(s[:start])
	after, _ := utf8.DecodeRuneInString(s[end:])
	return (start == 0 || !wordRune(before)) && (end == len(s) || !wordRune(after))
}

// wordRune is \w (Unicode UTS #18, annex C).
func wordRune(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic, unicode.Join_Control)
}

func blanksBefore(s string, from, i int) int {
	for i > from {
		r, width := utf8.DecodeLastRuneInString(s[:i])
		if c, _ := classes().at(string(r), 0); c&space == 0 {
			break
		}
		i -= width
	}
	return i
}
