package ngram

import "math/bits"

// index finds the longest earlier occurrence of the end of a token stream. It is
// the hash chain of LZ77 compressors (Deflate's; RFC 1951, section 4), over tokens:
//
//	position   0  1  2  3  4  5  6  7  8
//	token      a  b  c  d  x  a  b  c  ?       grams of min = 2 end at 1, 2, …
//	head[hash(b c)] = 7, prev[7] = 2           → match ends at 2, length 3 (a b c): guess d
//
// append costs one hash and two stores. A search walks the chain of the last
// gram, newest first, through at most maxChain candidates, and compares each
// backwards for at most maxMatch tokens: constant time, exact unless one gram
// occurs more often than that. Hashes only choose candidates; tokens are compared.
//
// In long texts the newest maxChain occurrences of a common gram are not all, and
// the longest match may be older: whoever searches therefore keeps what it found,
// moves it on while the next token is the one that followed, and brings it along.
// A suffix automaton would find all of them at 20 times the time and twice the
// memory, without forgetting (TestIndexAgainstSuffixAutomaton).
//
// The stream is a ring: beyond limit tokens the oldest is forgotten, and chains
// end where they leave the ring. It starts small and doubles; 12 bytes a slot.
type index struct {
	min   int      // tokens of a gram, the shortest match
	limit int      // most tokens kept, a power of two
	ring  []int32  // [power of two] token at position p is ring[p & mask]
	prev  []uint32 // position before p with the same hash, plus one
	head  []uint32 // newest position by hash, plus one; 0 = none
	shift uint     // 64 − log2(len(head))
	end   uint32   // tokens ever appended; positions wrap, distances do not
	run   int      // tokens since the last gap: grams do not cross one
}

const (
	maxChain = 64  // candidates looked at
	maxMatch = 64  // longest match told apart
	leastCap = 256 // slots to begin with
	gap      = -1  // between two sequences in a pool: never matched, never proposed
	mix      = 0x9e3779b97f4a7c15
)

func (x *index) init(min, limit int) {
	*x = index{min: min, limit: limit}
	x.resize(leastCap)
}

// resize gives the ring n slots, a power of two, and enters its tokens again.
func (x *index) resize(n int) {
	old, from := *x, x.end-uint32(min(x.len(), len(x.ring)))
	x.ring, x.prev, x.head = make([]int32, n), make([]uint32, n), make([]uint32, n)
	x.shift = uint(64 - bits.TrailingZeros(uint(n)))
	x.end, x.run = from, 0
	for ; from != old.end; from++ {
		x.append(old.ring[int(from)&(len(old.ring)-1)])
	}
}

// len is the number of tokens that can be looked at.
func (x *index) len() int {
	if x.end < uint32(len(x.ring)) {
		return int(x.end)
	}
	return len(x.ring)
}

// bytes is what the index occupies.
func (x *index) bytes() int { return 12 * len(x.ring) }

func (x *index) at(pos uint32) int32 { return x.ring[int(pos)&(len(x.ring)-1)] }

// append adds a token to the stream.
func (x *index) append(token int32) {
	if int(x.end) == len(x.ring) && len(x.ring) < x.limit {
		x.resize(2 * len(x.ring))
	}
	p := x.end
	x.ring[int(p)&(len(x.ring)-1)] = token
	x.end++
	if token == gap {
		x.run = 0
		return
	}
	if x.run++; x.run < x.min {
		return
	}
	h := x.hashAt(p)
	x.prev[int(p)&(len(x.prev)-1)] = x.head[h]
	x.head[h] = p + 1
}

// hashAt is the hash of the gram that ends at p.
func (x *index) hashAt(p uint32) uint64 {
	h := uint64(0)
	for i := range uint32(x.min) {
		h = (h + uint64(uint32(x.at(p-i))) + 1) * mix
	}
	return h >> x.shift
}

// hash is hashAt for the end of a foreign stream.
func (x *index) hash(tail []int32) uint64 {
	h := uint64(0)
	for i := range x.min {
		h = (h + uint64(uint32(tail[len(tail)-1-i])) + 1) * mix
	}
	return h >> x.shift
}

// match is an earlier occurrence: of the last length tokens, followed by what is
// at next.
type match struct {
	next   uint32
	length int // 0: none
}

// moved is a match after one more token, if that is what followed it.
func (x *index) moved(m match, token int32) match {
	if m.length == 0 || token == gap || x.at(m.next) != token {
		return match{}
	}
	return match{m.next + 1, min(m.length+1, maxMatch)}
}

// search finds the longest match of the end of tail in the stream, the newest
// among equals, which is followed by at least one token. self says that tail is
// the end of the stream, which does not match itself. known is a match of tail
// that may be better than those which are found now, or none.
func (x *index) search(tail []int32, self bool, known match) (best match) {
	if len(tail) < x.min {
		return match{}
	}
	tail = tail[max(0, len(tail)-maxMatch):]
	p := x.head[x.hash(tail)]
	for range maxChain {
		if p == 0 {
			break
		}
		next := p // the position after the occurrence: p is one more than its last
		age := x.end - next
		if age >= uint32(x.len()) {
			break // it has left the ring, and so have those before it
		}
		if age > 0 || !self {
			if n := x.common(tail, next-1); n > best.length && age > 0 && x.at(next) != gap {
				best = match{next, n}
				if n == len(tail) {
					break
				}
			}
		}
		p = x.prev[int(next-1)&(len(x.prev)-1)]
	}
	if kept := x.len() - int(x.end-known.next); known.length > 0 && kept > 0 && x.end != known.next && x.at(known.next) != gap {
		if known.length = min(known.length, kept); known.length > best.length { // the rest is forgotten
			best = known
		}
	}
	if best.length < x.min {
		return match{}
	}
	return best
}

// common is the length of the common end of tail and the stream up to p.
func (x *index) common(tail []int32, p uint32) int {
	most := min(len(tail), x.len()-int(x.end-1-p))
	n := 0
	for n < most && x.at(p-uint32(n)) == tail[len(tail)-1-n] {
		n++
	}
	return n
}

// follow appends to dst up to k tokens that followed a match. Where the stream
// ends they follow themselves: a match at distance d goes on with period d, as
// an overlapping copy does in LZ77.
func (x *index) follow(dst []int32, m match, k int) []int32 {
	from := len(dst)
	for i := range k {
		pos := m.next + uint32(i)
		if int32(x.end-pos) <= 0 { // at or past the end
			period := int(x.end - m.next)
			dst = append(dst, dst[from+i-period])
			continue
		}
		token := x.at(pos)
		if token == gap {
			break
		}
		dst = append(dst, token)
	}
	return dst
}
