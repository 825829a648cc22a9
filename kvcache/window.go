package kvcache

import "sestina/batch"

// Sliding windows. When every layer of a model sees only the last Window
// positions, position p reads the keys (p−Window, p], and a block that lies
// wholly before p−Window+1 is never read again, whatever comes. It goes back to
// the pool and its entry in the block table becomes −1; such entries are always
// the leading ones. A sequence then holds about Window/BlockSize + 2 blocks,
// however long it gets (Mistral 7B calls this the rolling buffer, Jiang et al. 2023).
//
//	window of 6, blocks of 4      0 0 0 0 │ 1 1 1 1 │ 2 2 2 2 │ 3
//	position 12 is next           gone    │       r   r r r r   p
//
// Which position comes next is counted in settled tokens only: a rejected draft
// takes the position back, but could not take back a block.
//
// # With the prefix cache
//
// A block that is let go stays cached as any other. Its hash stands for all ids
// before it, so a prefix of n tokens is a hit when the blocks that position n
// can see are cached, though earlier ones may have gone. One block more is kept
// than a very small window needs: the one before position n's own, whose hash
// the next one's is made from.
//
// A sequence is still admitted with blocks for all of its tokens, since each of
// them must be computed once; they go back as the chunks advance. With a
// contiguous layout, or without a cache, nothing is let go.
//
// The simulator's device reads only visible slots, and blocks that become free
// are poisoned: mutants M56 to M60.

// firstVisible is the first block that is still needed when position n is the
// next one to be computed.
func (m *BlockManager) firstVisible(n int) int {
	if m.cfg.Window == 0 {
		return 0
	}
	size := m.cfg.BlockSize
	return max(0, min((n-m.cfg.Window+1)/size, n/size-1))
}

// Prune lets go of the blocks that no position from seq.NumComputed on can see.
// They become reusable once step fence has completed.
func (m *BlockManager) Prune(seq *batch.Sequence, fence uint64) {
	if m.cfg.Contiguous {
		return
	}
	end := m.firstVisible(seq.NumComputed)
	begin := end
	for begin > 0 && seq.BlockTable[begin-1] != none {
		begin--
	}
	for i := begin; i < end; i++ { // to be evicted in this order too: of a long text the end is of use without the beginning
		m.unref(seq.BlockTable[i], fence)
		seq.BlockTable[i] = none
		m.stats.Pruned++
	}
}

// CanFork reports whether parent still has the blocks that a fork of its first
// n positions can see, and whether blocks can be shared at all.
func (m *BlockManager) CanFork(parent *batch.Sequence, n int) bool {
	i := m.firstVisible(n)
	return !m.cfg.Contiguous && (i >= m.BlocksFor(n) || parent.BlockTable[i] != none)
}
