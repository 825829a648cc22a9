package kvcache

import "sestina/batch"

// Tiers. A cached block that is evicted need not be computed again: its contents
// may wait in a tier below the pool (host memory, disk) under the hash that names
// them, and come back when a prompt's chain asks for them.
//
// # Who decides what
//
// The block manager decides which block is saved (the one it evicts, at that
// moment) and which is loaded (the next of a chain that the pool has no more of,
// at admission). The tier decides what it keeps, and moves the bytes. Both
// directions are calls that have happened when they return, because neither can
// meet a step in flight: a block that is evicted or filled has been reusable, so
// every step that may touch it has completed, and no step that was handed out
// names it. So nothing has to be remembered until a step, and a load that fails
// is a miss like any other: the tokens are computed.
//
// # What a hit is
//
// A hash stands for all that K and V depend on, the tenant's salt included, so
// isolation holds across tiers as it does in the pool. What a tier hands back for
// a hash and its ids must be, to the bit, what was saved for them; the block is
// published at once and shared like any other. A tier that outlives the process
// needs a root that does too: Config.Model is then a digest of the model's contents.
//
// # How much at once
//
// What is copied between two steps, running streams wait for. So a prompt that would
// bring back more than the scheduler's bound waits some steps longer, and its blocks
// come a few at a time ([BlockManager.Warm]): cached, held by nobody, the last to be
// evicted. When nobody runs, all of it comes at once.
//
// With a window a match is continued from what the pool has; blocks are brought
// back one after the other in all groups, and let go as the window passes them.
//
// Tests: the simulator's tier holds slots, forgets and fails as it likes; mutants
// M68 to M74 and M79.

// A Tier keeps what the pool has no room for. It is called by the step goroutine.
type Tier interface {
	// Save offers a block's contents, which are about to be overwritten. The tier
	// has copied them when it returns, or does without.
	Save(block int32, key [32]byte, ids []int32)
	// Load fills a block with the contents saved under key for these ids, or says
	// that it cannot; what the block holds is then of no worth.
	Load(block int32, key [32]byte, ids []int32) bool
}

// Warm brings up to limit blocks of the chain of a sequence that waits back into
// the pool, where they are cached like any others, the last to be evicted. It returns
// how many they were and whether there may be more; none when the sequence does not
// fit the pool now. So what is copied between two steps has a bound.
func (m *BlockManager) Warm(seq *batch.Sequence, chain []Hash, reserve, limit int) (loaded int, more bool) {
	if m.cfg.Tier == nil {
		return 0, false
	}
	hits := m.match(m.warm, chain, seq.Tokens)
	if m.demand(m.warm, hits, len(seq.Tokens))+reserve > m.Available() {
		empty(m.warm)
		return 0, false
	}
	m.hold(m.warm)
	_, loaded, more = m.recall(m.warm, hits, chain, seq, limit)
	m.letGo(m.warm, 0, 0) // the deepest is evicted first
	return loaded, more
}

// hold takes a reference to each block of the tables.
func (m *BlockManager) hold(tables [][]int32) {
	for _, table := range tables {
		for _, id := range table {
			if id != none {
				m.ref(id)
			}
		}
	}
}

// recall continues the tables, which hold the first n blocks of chain, with what the
// tier has, limit blocks of it at most; more says that the limit ended it. It returns
// how far they reach then. The pool has room for all blocks that the sequence still needs.
func (m *BlockManager) recall(tables [][]int32, n int, chain []Hash, seq *batch.Sequence, limit int) (_, loaded int, more bool) {
	for m.cfg.Tier != nil && n < len(chain) {
		before := loaded
		whole, more := m.recallBlock(tables, n, chain, seq, limit, &loaded)
		if !whole {
			m.letGo(tables, n, 0)
			return n, loaded, more
		}
		n++
		for g, table := range tables {
			m.prune(table, m.firstVisible(g, n*m.cfg.BlockSize), 0)
		}
		if loaded > before {
			m.stats.TierTokens += uint64(m.cfg.BlockSize)
		}
	}
	return n, loaded, false
}

// recallBlock appends block i of chain to every group's table and counts those that
// were loaded; false if one is nowhere, or is one more than the limit.
func (m *BlockManager) recallBlock(tables [][]int32, i int, chain []Hash, seq *batch.Sequence, limit int, loaded *int) (whole, more bool) {
	ids := m.blockIDs(seq.Tokens, i)
	for g := range tables {
		id := m.lookup(chain[i], g, ids) // of a chain with a hole the pool may have the end
		if id != none {
			m.ref(id)
		} else if *loaded == limit {
			return false, true
		} else if id = m.load(seq.Salt, chain, i, g, ids); id == none {
			return false, false
		} else {
			*loaded++
		}
		tables[g] = append(tables[g], id)
	}
	return true, false
}

// load brings a group's block i of chain back into the pool, with one reference, or returns −1.
func (m *BlockManager) load(salt string, chain []Hash, i, group int, ids []int32) int32 {
	id := m.take(group)
	if !m.cfg.Tier.Load(id, chain[i].In(group), ids) {
		m.unref(id, 0) // to be taken again at once
		return none
	}
	parent := Hash{}
	if i == 0 {
		parent = m.root(salt)
	} else {
		parent = chain[i-1]
	}
	m.publish(id, parent, ids, i == 0)
	return id
}

// save offers the contents of a cached block to the tier.
func (m *BlockManager) save(id int32) {
	if m.cfg.Tier != nil {
		m.cfg.Tier.Save(id, m.blocks[id].key(), m.ids(id))
	}
}

// Spill offers all that is cached and not in use to the tier, in the order in
// which it would be evicted: before the pool's memory goes.
func (m *BlockManager) Spill() {
	for id := m.reusable.head; id != none; id = m.blocks[id].next {
		if m.blocks[id].indexed {
			m.save(id)
		}
	}
}

// Chain is what [BlockManager.Chain] of a manager so configured appends. It needs
// no manager, so any goroutine may look ahead.
func Chain(cfg Config, salt string, tokens []int32) []Hash {
	m := BlockManager{cfg: cfg}
	return m.Chain(nil, salt, tokens)
}
