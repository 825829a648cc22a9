package kvcache

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"sestina/batch"
)

// Hash names the contents of one full block: everything that its K and V depend
// on. All 256 bits are kept, and ids are compared on a hit besides, because a
// forged or accidental collision would show one tenant another's text.
type Hash [sha256.Size]byte

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

// matched is Match in blocks: the most for which every block that the next
// position can see is cached. Without a window that is all of them.
func (m *BlockManager) matched(chain []Hash, tokens []int32) (best int) {
	missing := -1 // the last block that is not cached
	for i, h := range chain {
		if m.lookup(h, m.blockIDs(tokens, i)) == none {
			if missing = i; m.cfg.Window == 0 {
				return best
			}
		} else if missing < m.firstVisible((i+1)*m.cfg.BlockSize) {
			best = i + 1
		}
	}
	return best
}

// match appends the cached blocks of the longest matching prefix to table, −1
// for those behind its window, and counts those that nobody uses (taking them
// uses up the pool).
func (m *BlockManager) match(table []int32, chain []Hash, tokens []int32) (_ []int32, fromPool int) {
	n := m.matched(chain, tokens)
	first := m.firstVisible(n * m.cfg.BlockSize)
	for i, h := range chain[:n] {
		id := int32(none)
		if i >= first {
			id = m.lookup(h, m.blockIDs(tokens, i))
			if m.blocks[id].state == Idle {
				fromPool++
			}
		}
		table = append(table, id)
	}
	return table, fromPool
}

// lookup finds the published block with this hash and these ids.
func (m *BlockManager) lookup(h Hash, ids []int32) int32 {
	id, ok := m.index[h]
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
	for i := from / m.cfg.BlockSize; i < to/m.cfg.BlockSize; i++ {
		if m.blocks[seq.BlockTable[i]].hashed {
			continue // came from the cache or from a fork
		}
		parent := Hash{}
		if i == 0 {
			parent = m.root(seq.Salt)
		} else {
			parent = m.blocks[seq.BlockTable[i-1]].hash
		}
		m.publish(seq.BlockTable[i], parent, m.blockIDs(seq.Tokens, i), i == 0)
	}
}

func (m *BlockManager) publish(id int32, parent Hash, ids []int32, opening bool) {
	b := &m.blocks[id]
	b.parent, b.hash, b.hashed, b.opening = parent, m.link(parent, ids), true, opening
	copy(m.ids(id), ids)
	if _, taken := m.index[b.hash]; !taken { // two may have computed the same prefix at once
		m.index[b.hash] = id
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
	delete(m.index, m.blocks[id].hash)
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
