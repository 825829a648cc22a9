package kvcache

import (
	"encoding/binary"

	"sestina/batch"
)

// Explain looks the tokens of seq up in the pool as [BlockManager.Admit] would now,
// not in the tier, and says why the match ends. It costs a few microseconds. StopSalt is for operators:
// see [batch.MatchStop.Public].
func (m *BlockManager) Explain(seq *batch.Sequence) batch.PrefixMatch {
	chain := m.Chain(nil, seq.Salt, seq.Tokens)
	return m.explain(seq, chain, m.matched(chain, seq.Tokens))
}

// explain says why only the first n blocks of chain were found.
func (m *BlockManager) explain(seq *batch.Sequence, chain []Hash, n int) batch.PrefixMatch {
	why := batch.PrefixMatch{Tokens: n * m.cfg.BlockSize, At: n * m.cfg.BlockSize}
	switch {
	case !m.cfg.PrefixCaching:
		why.Stop = batch.StopDisabled
	case n >= len(chain):
		why.Stop = batch.StopBlockEdge
	case m.cachedBeyond(chain[n:]):
		why.Stop = batch.StopWindow
	case m.cachedInPart(chain[n]):
		why.Stop = batch.StopEvicted
	default:
		why.Stop = batch.StopUnseen
		parent := m.root(seq.Salt)
		if n > 0 {
			parent = chain[n-1]
		}
		ids := m.blockIDs(seq.Tokens, n)
		if common := m.commonWithSibling(parent, ids); common > 0 {
			why.Stop, why.At = batch.StopDiverged, why.At+common
		} else if m.whys.haunted(chain[n]) {
			why.Stop = batch.StopEvicted
		} else if n == 0 && m.whys.openings[m.opening(ids)] > 0 {
			why.Stop = batch.StopSalt
		}
	}
	return why
}

// cachedBeyond reports whether any of the blocks that were not used would be but
// for a window before it that is not cached.
func (m *BlockManager) cachedBeyond(chain []Hash) bool {
	for _, h := range chain {
		any := false
		for g, w := range m.cfg.Windows {
			_, ok := m.index[h.In(g)]
			if !ok && w == 0 {
				return false
			}
			any = any || ok
		}
		if any {
			return true
		}
	}
	return false
}

// cachedInPart reports whether some group has a block and, as it was not used, not all.
func (m *BlockManager) cachedInPart(h Hash) bool {
	for g := range m.cfg.Windows {
		if _, ok := m.index[h.In(g)]; ok {
			return true
		}
	}
	return false
}

// maxSiblings bounds the search for a text that parts within a block: of more
// cached continuations than that only the newest are looked at.
const maxSiblings = 256

// commonWithSibling is the length of the longest prefix that ids share with a
// cached child of parent.
func (m *BlockManager) commonWithSibling(parent Hash, ids []int32) int {
	best := 0
	id, ok := m.whys.newest[parent]
	for n := 0; ok && id != none && n < maxSiblings; n++ {
		same := 0
		for same < len(ids) && m.ids(id)[same] == ids[same] {
			same++
		}
		best = max(best, same)
		id = m.blocks[id].older
	}
	return best
}

// whys is what is known only to explain: nothing is decided by it.
type whys struct {
	newest   map[Hash]int32   // of the cached children of a parent; older ones hang on it
	openings map[uint64]int32 // how many tenants have a text that begins with these ids cached
	ghosts   []uint64         // evicted blocks
}

func (w *whys) init(blocks int) {
	w.newest = make(map[Hash]int32, blocks)
	w.openings = map[uint64]int32{}
	w.ghosts = make([]uint64, ceilPow2(blocks))
}

func (w *whys) reset() {
	clear(w.newest)
	clear(w.openings)
	clear(w.ghosts)
}

// remember notes a block that has come into the index.
func (m *BlockManager) remember(id int32) {
	b := &m.blocks[id]
	b.older, b.newer = none, none
	if older, ok := m.whys.newest[b.parent]; ok {
		b.older = older
		m.blocks[older].newer = id
	}
	m.whys.newest[b.parent] = id
	if b.opening {
		m.whys.openings[m.opening(m.ids(id))]++
	}
}

// forget undoes remember.
func (m *BlockManager) forget(id int32) {
	b := &m.blocks[id]
	if b.older != none {
		m.blocks[b.older].newer = b.newer
	}
	switch {
	case b.newer != none:
		m.blocks[b.newer].older = b.older
	case b.older != none:
		m.whys.newest[b.parent] = b.older
	default:
		delete(m.whys.newest, b.parent)
	}
	if !b.opening {
		return
	}
	key := m.opening(m.ids(id))
	if m.whys.openings[key]--; m.whys.openings[key] == 0 {
		delete(m.whys.openings, key)
	}
}

// opening names the first block of a text, whoever's it is.
func (m *BlockManager) opening(ids []int32) uint64 { return fingerprint(m.link(Hash{}, ids)) }

// Ghosts remember evicted blocks by 64 bits of their hash, one per place of a
// table as large as the pool; a newer ghost takes an older one's place.
func (w *whys) haunt(h Hash) { w.ghosts[w.grave(h)] = fingerprint(h) }

func (w *whys) haunted(h Hash) bool { return w.ghosts[w.grave(h)] == fingerprint(h) }

func (w *whys) grave(h Hash) uint64 { return fingerprint(h) & uint64(len(w.ghosts)-1) }

func fingerprint(h Hash) uint64 { return binary.LittleEndian.Uint64(h[:]) }
