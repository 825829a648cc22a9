package tokenizer

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"unicode/utf8"
)

// unigram chooses, of all ways to spell a piece with tokens, the one with the highest sum of
// scores (Kudo, "Subword Regularization", 2018; the Viterbi search of SentencePiece). A character
// without a token costs the worst score less unknownPenalty; neighbours without a token are one
// unknown stretch, spelled as <0xNN> bytes where the vocabulary has them.
//
// Time is O(n × longest token): each position walks the trie once.
type unigram struct {
	trie         matcher // tokens[i].id is the id
	scores       []float64
	unknownScore float64
	unk          int32
	bytes        [256]int32
	byteFallback bool
	vocab        *vocab
}

const unknownPenalty = 10

func newUnigram(v *vocab, scores []float64, unk int32, byteFallback bool) (*unigram, error) {
	if len(scores) != v.size() {
		return nil, fmt.Errorf("tokenizer: %d scores for %d tokens; a Unigram model needs one for each", len(scores), v.size())
	}
	if unk < 0 || int(unk) >= v.size() {
		return nil, fmt.Errorf("tokenizer: a Unigram model needs an unknown token; the file names %d of %d", unk, v.size())
	}
	m := &unigram{scores: scores, unk: unk, byteFallback: byteFallback, vocab: v, bytes: byteTokens(v)}
	worst := math.Inf(1)
	var tokens []addedToken
	var contents []string
	for id := range v.kinds {
		score := scores[id]
		if math.IsNaN(score) || math.IsInf(score, 0) {
			return nil, fmt.Errorf("tokenizer: token %d has score %v; scores must be finite", id, score)
		}
		worst = min(worst, score)
		if v.model[id] && !v.special(int32(id)) {
			tokens = append(tokens, addedToken{id: int32(id)})
			contents = append(contents, string(v.text.at(int32(id))))
		}
	}
	m.unknownScore = worst - unknownPenalty
	m.trie = newMatcher(tokens, contents)
	return m, nil
}

// path is the best way to reach a position: the token that ends there and where it starts.
type path struct {
	score float64
	start int32 // -1 = not reached
	id    int32
}

// lattice is the working memory of one search, reused between pieces and requests.
type lattice struct {
	best []path
	ends []int32
}

var latticePool = sync.Pool{New: func() any { return new(lattice) }}

func (m *unigram) appendPiece(dst []int32, piece string) []int32 {
	l := latticePool.Get().(*lattice)
	if cap(l.best) <= maxPooledSymbols {
		defer latticePool.Put(l)
	}
	l.best = slices.Grow(l.best[:0], len(piece)+1)[:len(piece)+1]
	best := l.best
	for i := range best {
		best[i] = path{start: -1}
	}
	for i := 0; i < len(piece); {
		_, width := utf8.DecodeRuneInString(piece[i:])
		single := false
		node := int32(0)
		for j := i; j < len(piece); j++ {
			edge := m.trie.edges.get(node, int32(piece[j]))
			if edge == nil {
				break
			}
			node = edge.id
			if at := m.trie.ends[node]; at > 0 {
				id := m.trie.tokens[at-1].id
				best[j+1].offer(best[i].score+m.scores[id], i, id)
				single = single || j+1-i == width
			}
		}
		if !single {
			best[i+width].offer(best[i].score+m.unknownScore, i, m.unk)
		}
		i += width
	}
	return m.backtrack(dst, piece, l)
}

func (p *path) offer(score float64, start int, id int32) {
	if p.start < 0 || score > p.score {
		*p = path{score, int32(start), id}
	}
}

// backtrack appends the ids of the best path.
func (m *unigram) backtrack(dst []int32, piece string, l *lattice) []int32 {
	best, ends := l.best, l.ends[:0] // ends of the tokens, last first
	for end := int32(len(piece)); end > 0; end = best[end].start {
		ends = append(ends, end)
	}
	l.ends = ends
	for i := len(ends) - 1; i >= 0; i-- {
		p := best[ends[i]]
		if p.id != m.unk {
			dst = append(dst, p.id)
			continue
		}
		for i > 0 && best[ends[i-1]].id == m.unk {
			i--
		}
		dst = m.appendUnknown(dst, piece[p.start:ends[i]])
	}
	return dst
}

func (m *unigram) appendUnknown(dst []int32, text string) []int32 {
	if !m.byteFallback {
		return append(dst, m.unk)
	}
	start := len(dst)
	for i := 0; i < len(text); i++ {
		id := m.bytes[text[i]]
		if id < 0 {
			return append(dst[:start], m.unk)
		}
		dst = append(dst, id)
	}
	return dst
}
