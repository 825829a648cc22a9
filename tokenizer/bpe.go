package tokenizer

import (
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

// Byte-pair encoding (Sennrich et al., "Neural Machine Translation of Rare Words with
// Subword Units", 2016).
//
// Problem: a piece starts as a row of symbols (bytes, or characters); while any two
// neighbours have a merge, the one of lowest rank is done, leftmost first on ties.
//
// Done naively this is O(n²), and pieces may be as long as the text: SentencePiece
// models do not cut text into words, and "\p{L}+" eats a megabyte of "a". So:
//
//   - up to shortPiece symbols: find the minimum by scanning (fits two cache lines);
//   - beyond: a binary heap of (rank, position) packed in one uint64, symbols in a doubly
//     linked list of array indexes. Entries are not removed when a neighbour changes; on
//     popping, an entry counts only if the pair now at its position still has its rank.
//     Each merge adds at most two entries: O(n log n) in all.
//
// Most words of ordinary text are single tokens. pieces finds those by one hash look-up.
// Whether merging a token's own text really leads to that token is not certain, so it is
// tried once, on first use, and remembered in whole (0 unknown, 1 yes, 2 no).
//
// Proof: TestMergeOrderMatchesNaive, TestGoldens, TestEncodeTimeIsLinearOnHostileText.
type bpe struct {
	merges       mergeTable
	pieces       strtab     // text of a piece → id (byte-level: decoded bytes; else the spelling)
	whole        []uint32   // per id, atomic: does its own text encode to it alone?
	bytes        [256]int32 // byte-level: the byte's token; else <0xNN>; -1 = none
	byteLevel    bool
	byteFallback bool
	ignoreMerges bool // a piece that is in the vocabulary is that token, whatever the merges say
	unk          int32
	fuseUnk      bool
}

const shortPiece = 32

// scratch is the working memory of one merge, reused between pieces and requests.
type scratch struct {
	ids, prev, next []int32
	heap            []uint64
}

var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

// maxPooledSymbols keeps one huge text from pinning its scratch for ever.
const maxPooledSymbols = 1 << 20

// appendPiece appends the ids of one piece to dst.
func (m *bpe) appendPiece(dst []int32, piece string) []int32 {
	id := m.pieces.find(piece)
	if id < 0 {
		return m.merge(dst, piece)
	}
	if m.ignoreMerges {
		return append(dst, id)
	}
	switch atomic.LoadUint32(&m.whole[id]) {
	case 1:
		return append(dst, id)
	case 2:
		return m.merge(dst, piece)
	}
	start := len(dst)
	dst = m.merge(dst, piece)
	state := uint32(2)
	if len(dst) == start+1 && dst[start] == id {
		state = 1
	}
	atomic.StoreUint32(&m.whole[id], state)
	return dst
}

func (m *bpe) merge(dst []int32, piece string) []int32 {
	s := scratchPool.Get().(*scratch)
	s.ids = m.symbols(slices.Grow(s.ids[:0], len(piece)), piece)
	if len(s.ids) <= shortPiece {
		dst = m.mergeShort(dst, s.ids)
	} else {
		dst = m.mergeLong(dst, s)
	}
	if cap(s.ids) <= maxPooledSymbols {
		scratchPool.Put(s)
	}
	return dst
}

// symbols appends the starting symbols of piece. What has no token becomes <0xNN> tokens,
// else the unknown token, else nothing, as in Hugging Face tokenizers. (A pending unknown
// token is written when the next known symbol or the end comes, bytes do not flush it.)
func (m *bpe) symbols(dst []int32, piece string) []int32 {
	pending := false
	for i := 0; i < len(piece); {
		width, id := 1, int32(-1)
		if m.byteLevel {
			id = m.bytes[piece[i]]
		} else {
			_, width = utf8.DecodeRuneInString(piece[i:])
			id = m.pieces.find(piece[i : i+width])
		}
		char := piece[i : i+width]
		i += width
		if id >= 0 {
			if pending {
				dst, pending = append(dst, m.unk), false
			}
			dst = append(dst, id)
			continue
		}
		if m.byteFallback && m.hasBytes(char) {
			for _, b := range []byte(char) {
				dst = append(dst, m.bytes[b])
			}
			continue
		}
		if m.unk < 0 {
			continue
		}
		if pending && !m.fuseUnk {
			dst = append(dst, m.unk)
		}
		pending = true
	}
	if pending {
		dst = append(dst, m.unk)
	}
	return dst
}

func (m *bpe) hasBytes(char string) bool {
	for i := 0; i < len(char); i++ {
		if m.bytes[char[i]] < 0 {
			return false
		}
	}
	return true
}

const noRank = ^uint32(0)

func (m *bpe) rank(left, right int32) uint32 {
	if found := m.merges.get(left, right); found != nil {
		return found.rank
	}
	return noRank
}

// mergeShort merges ids (at most shortPiece) in place and appends the result to dst.
func (m *bpe) mergeShort(dst []int32, ids []int32) []int32 {
	var ranks [shortPiece]uint32 // ranks[i] is that of (ids[i], ids[i+1])
	for i := 0; i+1 < len(ids); i++ {
		ranks[i] = m.rank(ids[i], ids[i+1])
	}
	for len(ids) > 1 {
		best, at := noRank, 0
		for i, r := range ranks[:len(ids)-1] {
			if r < best {
				best, at = r, i
			}
		}
		if best == noRank {
			break
		}
		ids[at] = m.merges.get(ids[at], ids[at+1]).id
		copy(ids[at+1:], ids[at+2:])
		copy(ranks[at+1:], ranks[at+2:len(ids)])
		ids = ids[:len(ids)-1]
		if at > 0 {
			ranks[at-1] = m.rank(ids[at-1], ids[at])
		}
		if at+1 < len(ids) {
			ranks[at] = m.rank(ids[at], ids[at+1])
		}
	}
	return append(dst, ids...)
}

// mergeLong merges s.ids with a heap and appends the result to dst.
func (m *bpe) mergeLong(dst []int32, s *scratch) []int32 {
	n := int32(len(s.ids))
	s.prev, s.next, s.heap = slices.Grow(s.prev[:0], int(n)), slices.Grow(s.next[:0], int(n)), slices.Grow(s.heap[:0], int(n))
	for i := range n {
		s.prev = append(s.prev, i-1)
		s.next = append(s.next, i+1)
		if i+1 < n {
			if r := m.rank(s.ids[i], s.ids[i+1]); r != noRank {
				s.heap = append(s.heap, uint64(r)<<32|uint64(i))
			}
		}
	}
	heapify(s.heap)
	for len(s.heap) > 0 {
		top := s.heap[0]
		s.heap = popHeap(s.heap)
		i := int32(uint32(top))
		if s.ids[i] < 0 || s.next[i] == n {
			continue
		}
		j := s.next[i]
		found := m.merges.get(s.ids[i], s.ids[j])
		if found == nil || found.rank != uint32(top>>32) {
			continue
		}
		s.ids[i], s.ids[j] = found.id, -1
		k := s.next[j]
		s.next[i] = k
		if k < n {
			s.prev[k] = i
			s.push(m, i, k)
		}
		if p := s.prev[i]; p >= 0 {
			s.push(m, p, i)
		}
	}
	for i := int32(0); i < n; i = s.next[i] {
		dst = append(dst, s.ids[i])
	}
	return dst
}

func (s *scratch) push(m *bpe, i, j int32) {
	if r := m.rank(s.ids[i], s.ids[j]); r != noRank {
		s.heap = pushHeap(s.heap, uint64(r)<<32|uint64(i))
	}
}

// A binary min-heap of uint64, without container/heap's interface calls.

func heapify(h []uint64) {
	for i := len(h)/2 - 1; i >= 0; i-- {
		siftDown(h, i)
	}
}

func pushHeap(h []uint64, x uint64) []uint64 {
	h = append(h, x)
	i := len(h) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if h[parent] <= x {
			break
		}
		h[i] = h[parent]
		i = parent
	}
	h[i] = x
	return h
}

func popHeap(h []uint64) []uint64 {
	last := len(h) - 1
	h[0] = h[last]
	h = h[:last]
	if last > 1 {
		siftDown(h, 0)
	}
	return h
}

func siftDown(h []uint64, i int) {
	x := h[i]
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1] < h[child] {
			child++
		}
		if x <= h[child] {
			break
		}
		h[i] = h[child]
		i = child
	}
	h[i] = x
}
