package kvcache

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"sestina/batch"
)

// Hash names the contents of one full block: everything that its K and V depend
// on, but for the block group. All 256 bits are kept, and ids are compared on a hit
// besides, because a forged or accidental collision would show one tenant another's text.
type Hash [sha256.Size]byte

// In is the key of the block of a group that holds the K and V named by h. To find
// two hashes that differ in so few bits is as hard as to find two that are equal.
func (h Hash) In(group int) Hash {
	h[0] ^= byte(group)
	h[1] ^= byte(group >> 8)
	return h
}

// The chain is
//
//	root    = SHA-256( "sestina kv 1" ‖ (tag ‖ length ‖ bytes) for model, adapter, KV dtype, salt )
//	hash(i) = SHA-256( hash(i−1) ‖ ids of block i ), hash(−1) = root
//
// Each key has a tag and a length, so that no salt can pass for an adapter and
// no pair of keys can be cut differently. Cost: two SHA-256 rounds per block of
// 16 tokens, 0.2 to 0.4 µs (BenchmarkChain), once when a sequence is first
// considered and once when the block is published.
func (m *BlockManager) root(salt string) Hash {
	m.buf = append(m.buf[:0], "sestina kv 1"...)
	for tag, key := range [...]string{m.cfg.Model, m.cfg.Adapter, m.cfg.KVDType, salt} {
		m.buf = append(m.buf, byte(tag))
		m.buf = binary.LittleEndian.AppendUint64(m.buf, uint64(len(key)))
		m.buf = append(m.buf, key...)
	}
	return sha256.Sum256(m.buf)
}

func (m *BlockManager) link(parent Hash, ids []int32) Hash {
	m.buf = append(m.buf[:0], parent[:]...)
	for _, id := range ids {
		m.buf = binary.LittleEndian.AppendUint32(m.buf, uint32(id))
	}
	return sha256.Sum256(m.buf)
}

// Chain appends to dst the hashes of the leading blocks of tokens that a prefix
// match may use. The last token is always left to compute, for its logits:
// n·BlockSize tokens have n−1 usable blocks. Without prefix caching there are none.
func (m *BlockManager) Chain(dst []Hash, salt string, tokens []int32) []Hash {
	if !m.cfg.PrefixCaching {
		return dst
	}
	size := m.cfg.BlockSize
	h := m.root(salt)
	for end := size; end < len(tokens); end += size {
		h = m.link(h, tokens[end-size:end])
		dst = append(dst, h)
	}
	return dst
}

// Match counts the leading tokens for which the prefix cache holds blocks now.
func (m *BlockManager) Match(chain []Hash, tokens []int32) int {
	return m.matched(chain, tokens) * m.cfg.BlockSize
}

// matched is Match in blocks: the most for which in every group each block that the
// next position can see is cached. Without a window that is all of them.
func (m *BlockManager) matched(chain []Hash, tokens []int32) (best int) {
	for i, h := range chain {
		whole := true
		for g, w := range m.cfg.Windows {
			if m.lookup(h, g, m.blockIDs(tokens, i)) == none {
				if m.missed[g] = i + 1; w == 0 {
					clear(m.missed)
					return best
				}
			}
			whole = whole && m.missed[g] <= m.firstVisible(g, (i+1)*m.cfg.BlockSize)
		}
		if whole {
			best = i + 1
		}
	}
	clear(m.missed)
	return best
}

// match appends the cached blocks of the longest matching prefix to the tables, −1
// for those behind a group's window, and returns how many blocks long the prefix is.
func (m *BlockManager) match(tables [][]int32, chain []Hash, tokens []int32) int {
	n := m.matched(chain, tokens)
	for g := range tables {
		first := m.firstVisible(g, n*m.cfg.BlockSize)
		for i, h := range chain[:n] {
			id := int32(none)
			if i >= first {
				id = m.lookup(h, g, m.blockIDs(tokens, i))
			}
			tables[g] = append(tables[g], id)
		}
	}
	return n
}

// lookup finds a group's published block with this hash and these ids.
func (m *BlockManager) lookup(h Hash, group int, ids []int32) int32 {
	id, ok := m.index[h.In(group)]
	if !ok || !slices.Equal(m.ids(id), ids) {
		return none
	}
	return id
}

// ids are the tokens whose K/V a hashed block holds.
func (m *BlockManager) ids(id int32) []int32 {
	at := int(id) * m.cfg.BlockSize
	return m.tokens[at : at+m.cfg.BlockSize]
}

// blockIDs are the tokens of logical block i.
func (m *BlockManager) blockIDs(tokens []int32, i int) []int32 {
	return tokens[i*m.cfg.BlockSize : (i+1)*m.cfg.BlockSize]
}

// Publish offers to the prefix cache the blocks of seq that became full when its
// computed tokens went from position from to position to. Call it only once the
// step that filled them has completed, and only with committed tokens.
func (m *BlockManager) Publish(seq *batch.Sequence, from, to int) {
	if !m.cfg.PrefixCaching {
		return
	}
	for _, table := range m.tables(seq) {
		for i := from / m.cfg.BlockSize; i < to/m.cfg.BlockSize; i++ {
			if m.blocks[table[i]].hashed {
				continue // came from the cache or from a fork
			}
			parent := Hash{}
			if i == 0 {
				parent = m.root(seq.Salt)
			} else {
				parent = m.blocks[table[i-1]].hash
			}
			m.publish(table[i], parent, m.blockIDs(seq.Tokens, i), i == 0)
		}
	}
}

func (m *BlockManager) publish(id int32, parent Hash, ids []int32, opening bool) {
	b := &m.blocks[id]
	b.parent, b.hash, b.hashed, b.opening = parent, m.link(parent, ids), true, opening
	copy(m.ids(id), ids)
	key := b.key()
	if _, taken := m.index[key]; !taken { // two may have computed the same prefix at once
		m.index[key] = id
		b.indexed = true
		m.remember(id)
	}
}

// evict forgets the contents of a block; the tier may keep them.
func (m *BlockManager) evict(id int32) {
	m.save(id)
	m.unindex(id)
	m.stats.Evictions++
	m.whys.haunt(m.blocks[id].hash)
}

func (m *BlockManager) unindex(id int32) {
	delete(m.index, m.blocks[id].key())
	m.blocks[id].indexed = false
	m.forget(id)
}

// ClearCache forgets all published contents; blocks in use stay with their owners.
func (m *BlockManager) ClearCache() {
	for id := range m.blocks {
		b := &m.blocks[id]
		if !b.indexed {
			continue
		}
		m.unindex(int32(id))
		if b.state == Idle {
			m.unlink(&m.reusable, int32(id))
			m.pushFront(&m.reusable, int32(id), Free)
		}
	}
	clear(m.whys.ghosts)
}
