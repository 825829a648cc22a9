package tokenizer

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
)

// What both loaders share: from a checked vocabulary to a model.

// pair is a merge as the file lists it.
type pair struct{ left, right string }

// newBPE builds the merge tables. Each pair must consist of tokens and join to a token, as Hugging Face
// tokenizers demand. Pairs that would make a special token are left out: text never spells one.
func newBPE(v *vocab, pairs []pair, byteLevel bool) (*bpe, error) {
	if len(pairs) > maxMerges {
		return nil, fmt.Errorf("tokenizer: %d merges, more than the limit of %d", len(pairs), maxMerges)
	}
	m := &bpe{merges: newMergeTable(len(pairs)), byteLevel: byteLevel, unk: -1}
	for rank, p := range pairs {
		left, right, id := v.find(p.left), v.find(p.right), v.find(p.left+p.right)
		for _, part := range []struct {
			id   int32
			text string
		}{{left, p.left}, {right, p.right}, {id, p.left + p.right}} {
			if part.id < 0 {
				return nil, fmt.Errorf("tokenizer: merge %d (%.40q %.40q) needs the token %.40q, which the vocabulary lacks; the file is damaged or was cut down, fetch or convert it again",
					rank, p.left, p.right, part.text)
			}
		}
		if !v.special(id) {
			m.merges.put(merge{left, right, uint32(rank), id})
		}
	}
	m.index(v)
	return m, nil
}

// newScoredBPE builds the merges of a SentencePiece model, which lists none: any two neighbours that
// join to a token may merge, the best score first. Equal scores have equal rank (leftmost first).
func newScoredBPE(v *vocab, scores []float32) (*bpe, error) {
	var pieces []int32
	for id, k := range v.kinds {
		if math.IsNaN(float64(scores[id])) {
			return nil, fmt.Errorf("tokenizer: token %d has no score (NaN); the file is damaged, fetch or convert it again", id)
		}
		if k == Normal {
			pieces = append(pieces, int32(id))
		}
	}
	slices.SortStableFunc(pieces, func(a, b int32) int {
		switch {
		case scores[a] > scores[b]:
			return -1
		case scores[a] < scores[b]:
			return 1
		}
		return 0
	})
	var merges []merge
	rank := uint32(0)
	for i, id := range pieces {
		if i > 0 && scores[id] != scores[pieces[i-1]] {
			rank++
		}
		if merges = appendSplits(merges, v, id, rank); len(merges) > maxMerges {
			return nil, fmt.Errorf("tokenizer: the vocabulary implies more than %d merges", maxMerges)
		}
	}
	m := &bpe{merges: newMergeTable(len(merges)), unk: -1}
	for _, x := range merges {
		m.merges.put(x)
	}
	m.index(v)
	return m, nil
}

// appendSplits appends a merge for each way to cut token id into two normal tokens. Only cuts between
// characters count. Long tokens would make this quadratic; SentencePiece's have at most a few dozen characters.
func appendSplits(merges []merge, v *vocab, id int32, rank uint32) []merge {
	const maxSplitBytes = 1 << 10
	text := string(v.text.at(id))
	if len(text) > maxSplitBytes {
		return merges
	}
	for i := range text {
		left, right := v.find(text[:i]), v.find(text[i:])
		if left >= 0 && right >= 0 && v.kinds[left] == Normal && v.kinds[right] == Normal {
			merges = append(merges, merge{left, right, rank, id})
		}
	}
	return merges
}

// index prepares the look-up of whole pieces and of single bytes.
func (m *bpe) index(v *vocab) {
	keys := &v.text
	if m.byteLevel {
		keys = &v.bytes
	} else {
		m.bytes = byteTokens(v)
	}
	m.pieces = newStrtab(keys, v.size())
	m.whole = make([]uint32, v.size())
	for id, k := range v.kinds {
		if v.model[id] && !v.special(int32(id)) && k != Byte && len(keys.at(int32(id))) > 0 {
			m.pieces.insert(int32(id))
		}
	}
	if m.byteLevel {
		for b := range m.bytes {
			m.bytes[b] = v.find(string(byteToRune[b]))
			if id := m.bytes[b]; id >= 0 && v.special(id) {
				m.bytes[b] = -1
			}
		}
	}
}

// spaceStartsWord reports whether in every token that merges can make "▁" stands only at the start or behind
// another "▁". Then no merge spans such a place and text may be cut there.
func spaceStartsWord(v *vocab) bool {
	for id := range v.kinds {
		text := v.text.at(int32(id))
		if v.special(int32(id)) || v.kinds[id] == Byte {
			continue
		}
		inner := bytes.TrimLeft(text, underline)
		if strings.Contains(string(inner), underline) {
			return false
		}
	}
	return true
}

// setFallbackBytes records token texts for decoders with "▁" blanks and <0xNN> bytes.
func setFallbackBytes(v *vocab) {
	v.setBytes(func(text []byte, id int32) []byte {
		if v.kinds[id] == Byte {
			b, _ := parseByte(string(text))
			return []byte{b}
		}
		return appendValid(nil, bytes.ReplaceAll(text, []byte(underline), []byte(" ")))
	})
}
