package kvcache

import (
	"fmt"
	"slices"

	"sestina/batch"
)

// Stats are the pool's state (blocks; the four states sum to Total) and its
// counters since the start.
type Stats struct {
	Total, Free, Idle, Referenced, Fenced int

	QueryTokens uint64 // tokens looked up in the prefix cache by first admissions
	HitTokens   uint64 // of these, found
	TierTokens  uint64 // brought back from the tier, also for recomputed sequences
	Evictions   uint64 // cached blocks given to someone else
	Copies      uint64 // copy-on-write
	Pruned      uint64 // blocks let go because they fell behind the window
	Fragmented  uint64 // admissions that failed although enough blocks were free, for want of a run of them; every try counts
}

// Stats returns the current figures.
func (m *BlockManager) Stats() Stats { return m.stats }

// AppendStates appends the state of every block, for a map of the pool.
func (m *BlockManager) AppendStates(dst []State) []State {
	for id := range m.blocks {
		dst = append(dst, m.blocks[id].state)
	}
	return dst
}

// Check walks everything and returns the first broken invariant: each block in
// one state and the states summing to the total, refs equal to the number of
// tables of live sequences that name the block, tables naming blocks of their own
// group, shared and published blocks full and holding what their hash says. live is every sequence that owns blocks.
func (m *BlockManager) Check(live []*batch.Sequence) error {
	if err := m.checkStates(); err != nil {
		return err
	}
	refs := make([]int32, len(m.blocks))
	for _, seq := range live {
		for g, table := range m.tables(seq) {
			if err := m.checkTable(seq, g, table, refs); err != nil {
				return err
			}
		}
	}
	for id := range m.blocks {
		if got := m.blocks[id].refs; got != refs[id] {
			return fmt.Errorf("kvcache: block %d counts %d references, %d tables name it", id, got, refs[id])
		}
	}
	return nil
}

func (m *BlockManager) checkStates() error {
	var seen [4]int
	indexed := 0
	for id := range m.blocks {
		b := &m.blocks[id]
		seen[b.state]++
		if (b.refs > 0) != (b.state == Referenced) {
			return fmt.Errorf("kvcache: block %d is %v with %d references", id, b.state, b.refs)
		}
		if b.indexed {
			indexed++
			newest, ok := m.whys.newest[b.parent]
			if b.newer == none && (!ok || newest != int32(id)) || b.newer != none && m.blocks[b.newer].older != int32(id) {
				return fmt.Errorf("kvcache: block %d is not among its parent's children", id)
			}
			if at, ok := m.index[b.key()]; !ok || at != int32(id) || !b.hashed {
				return fmt.Errorf("kvcache: block %d is marked as cached but the index says otherwise", id)
			}
		}
		if b.hashed && b.indexed && m.link(b.parent, m.ids(int32(id))) != b.hash {
			return fmt.Errorf("kvcache: block %d does not hold what its hash says", id)
		}
		if (b.state == Idle && !b.indexed) || (b.state == Free && b.indexed) {
			return fmt.Errorf("kvcache: block %d is %v, cached = %v", id, b.state, b.indexed)
		}
	}
	s := m.stats
	if want := [4]int{s.Free, s.Idle, s.Referenced, s.Fenced}; seen != want {
		return fmt.Errorf("kvcache: blocks by state (free, idle, referenced, fenced) are %v, counted %v", seen, want)
	}
	if s.Free+s.Idle+s.Referenced+s.Fenced != s.Total {
		return fmt.Errorf("kvcache: %d+%d+%d+%d blocks are not %d", s.Free, s.Idle, s.Referenced, s.Fenced, s.Total)
	}
	if indexed != len(m.index) {
		return fmt.Errorf("kvcache: the index has %d entries, %d blocks are cached", len(m.index), indexed)
	}
	if err := m.checkList(&m.reusable, s.Free+s.Idle); err != nil {
		return err
	}
	return m.checkList(&m.fenced, s.Fenced)
}

func (m *BlockManager) checkList(l *list, want int) error {
	n, prev := 0, int32(none)
	for id := l.head; id != none; id = m.blocks[id].next {
		b := &m.blocks[id]
		if b.prev != prev || n > len(m.blocks) {
			return fmt.Errorf("kvcache: the list of %v blocks is broken at block %d", l.holds, id)
		}
		if (b.state == Fenced) != (l.holds == Fenced) || b.state == Referenced {
			return fmt.Errorf("kvcache: block %d is %v in the list of %v blocks", id, b.state, l.holds)
		}
		if l.holds == Fenced && (b.fence <= m.completed || prev != none && m.blocks[prev].fence > b.fence) {
			return fmt.Errorf("kvcache: block %d is out of order in the fence, at step %d of %d", id, b.fence, m.completed)
		}
		if l.holds != Fenced && b.fence > m.completed {
			return fmt.Errorf("kvcache: block %d is reusable before step %d has completed", id, b.fence)
		}
		n, prev = n+1, id
	}
	if n != want || n != l.len {
		return fmt.Errorf("kvcache: %d blocks in the list of %v blocks, counted %d and %d", n, l.holds, l.len, want)
	}
	return nil
}

func (m *BlockManager) checkTable(seq *batch.Sequence, group int, table []int32, refs []int32) error {
	size := m.cfg.BlockSize
	if len(table) < m.BlocksFor(seq.NumComputed) {
		return fmt.Errorf("kvcache: sequence %d has %d blocks for %d computed tokens", seq.ID, len(table), seq.NumComputed)
	}
	reaches := m.firstVisible(group, seq.NumComputed)
	for i, id := range table {
		if id == none && i < reaches {
			continue // behind the window
		}
		if m.cfg.Contiguous && id != table[0]+int32(i) {
			return fmt.Errorf("kvcache: sequence %d is not contiguous: %v", seq.ID, table)
		}
		if id < 0 || int(id) >= len(m.blocks) {
			return fmt.Errorf("kvcache: sequence %d names block %d of %d", seq.ID, id, len(m.blocks))
		}
		refs[id]++
		b := &m.blocks[id]
		if b.group != int32(group) {
			return fmt.Errorf("kvcache: sequence %d names block %d of group %d in the table of group %d", seq.ID, id, b.group, group)
		}
		full := (i+1)*size <= seq.NumComputed
		if !full && (b.refs > 1 || b.hashed) {
			return fmt.Errorf("kvcache: sequence %d may write block %d, which is shared or published", seq.ID, id)
		}
		if full && b.hashed && !slices.Equal(m.ids(id), m.blockIDs(seq.Tokens, i)) {
			return fmt.Errorf("kvcache: sequence %d reads block %d, which holds other tokens", seq.ID, id)
		}
	}
	return nil
}
