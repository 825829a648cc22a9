package tokenizer

import (
	"sort"
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

// next finds the first token that may be recognised in s[from:]. start and stop include blanks that
// it swallows, but never before from.
func (m *matcher) next(s string, from int, g guard) (token *addedToken, start, stop int) {
	if len(m.tokens) == 0 {
		return nil, 0, 0
	}
	for i := from; i < len(s); {
		if !m.first[s[i]] {
			i++
			continue
		}
		found, end := m.longest(s, i)
		switch {
		case found == nil:
			i++
		case found.special && !g.parseSpecial:
			i = end
		case found.special && g.overlap(i, end):
			i++ // a trusted token may begin inside the refused match
		case found.singleWord && !standsAlone(s, i, end):
			i = end
		default:
			start, stop = i, end
			if found.lstrip {
				start = blanksBefore(s, from, i)
			}
			if found.rstrip {
				stop = classes().run(s, end, space)
			}
			return found, start, stop
		}
	}
	return nil, 0, 0
}

func standsAlone(s string, start, end int) bool {
	before, _ := utf8.DecodeLastRuneInString(s[:start])
	after, _ := utf8.DecodeRuneInString(s[end:])
	return (start == 0 || !wordRune(before)) && (end == len(s) || !wordRune(after))
}

// wordRune is \w.
func wordRune(r rune) bool {
	c, _ := classes().at(string(r), 0)
	return r == '_' || c&(letter|mark) != 0 || c&number != 0 && isDecimal(r)
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
