package kvcache

import "sestina/batch"

// Sliding windows and block groups. A layer with a window of W sees only the last
// W positions: position p reads the keys (p−W, p], and a block that lies wholly
// before p−W+1 is never read again, whatever comes. It goes back to the pool and
// its entry in the block table becomes −1; such entries are always the leading ones.
//
//	window of 6, blocks of 4      0 0 0 0 │ 1 1 1 1 │ 2 2 2 2 │ 3
//	position 12 is next           gone    │       r   r r r r   p
//
// # Groups
//
// Layers that see everything need their blocks to the end. So that the others'
// can go, a model's layers are dealt into groups of one window each, every group
// with a block table of its own (package runner deals them). All groups draw from
// the one pool: a block holds the K and V of BlockSize positions in the layers of
// one group, and any block will do for any group, as groups have as many layers as
// one another. A model whose layers are all alike has one group, and a block then
// holds all layers.
//
//	group 0, full          0 1 2 3 4 5 6 7        8 layers of 1 kind: 1 group
//	group 1, window 6      - - - - - 8 9 10       of 2 kinds, 4 and 4: 2 groups of 4
//
// # What a sequence holds
//
// With a window about (W + chunk)/BlockSize + 2 blocks of that group, however long
// it gets, where a chunk is what one step computes of it at most. A group that sees
// everything holds a block for every BlockSize tokens. [Config.Need] is the exact
// bound. Admission looks whether there is room for all of it but takes, of a windowed
// group, only what the first chunk needs; the scheduler grows the tables chunk by
// chunk, and where others have taken that room meanwhile, it preempts.
//
// Which position comes next is counted in settled tokens only: a rejected draft
// takes the position back, but could not take back a block.
//
// # With the prefix cache
//
// A block that is let go stays cached as any other, under its hash and group. Its
// hash stands for all ids before it, so a prefix of n tokens is a hit when in every
// group the blocks that position n can see are cached, though earlier ones may have
// gone. One block more is kept than a very small window needs: the one before
// position n's own, whose hash the next one's is made from.
//
// With a contiguous layout, or without a cache, nothing is let go.
//
// The simulator's device reads only visible slots of each group, and blocks that
// become free are poisoned: mutants M56 to M60 and M75 to M81. The rolling buffer of
// one window is in Jiang et al. 2023 (Mistral 7B); groups of layers over one pool are
// how vLLM manages hybrid models.

// firstVisible is a group's first block that is still needed when position n is
// the next one to be computed.
func (m *BlockManager) firstVisible(group, n int) int {
	return m.cfg.firstVisible(group, n)
}

func (c *Config) firstVisible(group, n int) int {
	w, size := c.Windows[group], c.BlockSize
	if w == 0 {
		return 0
	}
	return max(0, min((n-w+1)/size, n/size-1))
}

// Chunks says how many tokens of a sequence a step computes at most; 0, to begin
// with, is any number, and admission then takes blocks for all of them.
func (m *BlockManager) Chunks(most int) { m.chunk = most }

// reach is how many positions of n a group has blocks for when position next is
// the next one to be computed.
func (m *BlockManager) reach(group, next, n int) int {
	if m.cfg.Windows[group] == 0 || m.chunk == 0 {
		return n
	}
	return min(n, next+m.chunk)
}

// demand is the most blocks that a sequence of n tokens will have taken from the pool
// at once, tables being the hits that it begins with: those that nobody uses, and
// new ones. (Hits that others use cost nothing, but with a window they are left behind.)
func (m *BlockManager) demand(tables [][]int32, hits, n int) (blocks int) {
	for g, table := range tables {
		idle := 0
		for _, id := range table {
			if id != none && m.blocks[id].state == Idle {
				idle++
			}
		}
		blocks += min(m.BlocksFor(n)-hits+idle, m.cfg.most(g, m.chunk))
	}
	return blocks
}

// most bounds the blocks of a group between the first visible one and the end of a chunk.
func (c *Config) most(group, chunk int) int {
	w, size := c.Windows[group], c.BlockSize
	if w == 0 || chunk == 0 || c.Contiguous {
		return 1<<31 - 1
	}
	return max((w+chunk+2*size-3)/size, (chunk+2*size-2)/size+1)
}

// Need is the most blocks that a sequence of n tokens ever holds at once when a
// step computes at most chunk of them; 0 = any number.
func (c *Config) Need(n, chunk int) (blocks int) {
	for g := range c.Windows {
		blocks += min((n+c.BlockSize-1)/c.BlockSize, c.most(g, chunk))
	}
	return blocks
}

// Longest is the most tokens of a sequence for which so many blocks are enough.
func (c *Config) Longest(blocks, chunk int) int {
	low, high := 0, 1<<31/c.BlockSize // blocks of its longest table: low are enough, high are too many
	for low+1 < high {
		if mid := (low + high) / 2; c.Need(mid*c.BlockSize, chunk) <= blocks {
			low = mid
		} else {
			high = mid
		}
	}
	return low * c.BlockSize
}

// Longest is the longest sequence that can be served, alone.
func (m *BlockManager) Longest() int { return m.cfg.Longest(m.cfg.NumBlocks, m.chunk) }

// Prune lets go of the blocks that no position from seq.NumComputed on can see.
// They become reusable once step fence has completed.
func (m *BlockManager) Prune(seq *batch.Sequence, fence uint64) {
	if m.cfg.Contiguous {
		return
	}
	for g, table := range m.tables(seq) {
		m.stats.Pruned += uint64(m.prune(table, m.firstVisible(g, seq.NumComputed), fence))
	}
}

// prune lets go of the blocks of a table before the first visible one.
func (m *BlockManager) prune(table []int32, visible int, fence uint64) (n int) {
	begin := visible
	for begin > 0 && table[begin-1] != none {
		begin--
	}
	for i := begin; i < visible; i++ { // to be evicted in this order too: of a long text the end is of use without the beginning
		m.unref(table[i], fence)
		table[i] = none
	}
	return visible - begin
}

// CanFork reports whether parent still has the blocks that a fork of its first
// n positions can see, and whether blocks can be shared at all.
func (m *BlockManager) CanFork(parent *batch.Sequence, n int) bool {
	for g, table := range m.tables(parent) {
		if i := m.firstVisible(g, n); i < m.BlocksFor(n) && table[i] == none {
			return false
		}
	}
	return !m.cfg.Contiguous
}
