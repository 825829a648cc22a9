package kvcache

import (
	"encoding/binary"
	"slices"

	"sestina/batch"
)

// MatchStop says why a prefix match went no further.
type MatchStop uint8

const (
	StopBlockEdge MatchStop = iota // all whole blocks matched; the rest of the prompt fills none, or is the last token
	StopDiverged                   // a cached prompt is the same up to token At
	StopEvicted                    // the next block was cached once and has been evicted
	StopSalt                       // the next block is cached, for another tenant, model, adapter or dtype
	StopUnseen                     // nothing like the next block is known
	StopDisabled                   // prefix caching is off
)

func (s MatchStop) String() string {
	return [...]string{"block edge", "diverged", "evicted", "salt", "unseen", "disabled"}[s]
}

// Match is the outcome of looking a prompt up in the prefix cache.
type Match struct {
	Tokens int // leading tokens found
	Stop   MatchStop
	At     int // first token that is not found; for StopDiverged the first that differs
}

// Explain looks the tokens of seq up as [BlockManager.Admit] would and says why
// the match ends. It walks all blocks, which is cheap but not free: it is for
// operators, not for each step, and StopSalt is not to be shown to a tenant.
func (m *BlockManager) Explain(seq *batch.Sequence) Match {
	if !m.cfg.PrefixCaching {
		return Match{Stop: StopDisabled}
	}
	chain := m.Chain(nil, seq.Salt, seq.Tokens)
	n := m.Match(chain, seq.Tokens)
	next := n / m.cfg.BlockSize
	if next == len(chain) {
		return Match{Tokens: n, Stop: StopBlockEdge, At: n}
	}
	parent := m.root(seq.Salt)
	if next > 0 {
		parent = chain[next-1]
	}
	ids := m.blockIDs(seq.Tokens, next)
	if common := m.longestSibling(parent, ids); common > 0 {
		return Match{Tokens: n, Stop: StopDiverged, At: n + common}
	}
	if m.haunted(chain[next]) {
		return Match{Tokens: n, Stop: StopEvicted, At: n}
	}
	if next == 0 && m.elsewhere(ids) {
		return Match{Tokens: n, Stop: StopSalt, At: n}
	}
	return Match{Tokens: n, Stop: StopUnseen, At: n}
}

// longestSibling is the length of the longest prefix that ids share with a
// cached child of parent.
func (m *BlockManager) longestSibling(parent Hash, ids []int32) int {
	best := 0
	for id := range m.blocks {
		b := &m.blocks[id]
		if !b.indexed || b.parent != parent {
			continue
		}
		n := 0
		for n < len(ids) && m.ids(int32(id))[n] == ids[n] {
			n++
		}
		best = max(best, n)
	}
	return best
}

// elsewhere reports whether a block with these ids is cached under other keys.
func (m *BlockManager) elsewhere(ids []int32) bool {
	for id := range m.blocks {
		if m.blocks[id].indexed && slices.Equal(m.ids(int32(id)), ids) {
			return true
		}
	}
	return false
}

// Ghosts remember evicted blocks by 64 bits of their hash, one per place of a
// table as large as the pool; a newer ghost takes an older one's place.
func (m *BlockManager) haunt(h Hash) { m.ghosts[m.grave(h)] = fingerprint(h) }

func (m *BlockManager) haunted(h Hash) bool { return m.ghosts[m.grave(h)] == fingerprint(h) }

func (m *BlockManager) grave(h Hash) uint64 { return fingerprint(h) & uint64(len(m.ghosts)-1) }

func fingerprint(h Hash) uint64 { return binary.LittleEndian.Uint64(h[:]) }
