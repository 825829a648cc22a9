// Package kvcache is the logical side of the paged KV cache: which physical
// block holds which positions of which sequence. It deals in block numbers and
// token ids; the bytes live in the runner's pool.
//
// # Problem
//
// K and V of a sequence grow by one position a token, to an unknown length.
// One contiguous region per sequence, sized for the longest answer, wastes most
// of itself. So the pool is cut in blocks of BlockSize positions; a sequence
// owns a table of blocks and gets the next one when it needs it (Kwon et al.,
// "Efficient Memory Management for LLM Serving with PagedAttention", 2023). At
// most BlockSize-1 slots of a sequence are ever unused. Where layers differ in how
// far they see, there is a table for each group of them: see window.go.
//
// # A block is in exactly one state
//
//	Free, Idle ── taken ──▶ Referenced ── let go by all ──▶ Fenced ── step completed ──▶ Free or Idle
//	Idle, Fenced ── prefix hit ──▶ Referenced
//
// In words:
//
//   - Referenced: in at least one block table; refs counts the tables.
//   - Fenced: in no table, but a step that was handed out may still read or
//     write it. It becomes reusable when that step has completed, never before:
//     reuse while a step is in flight gives one request another's K/V, the
//     gravest bug of this field.
//   - Idle: reusable, with contents that the prefix cache can still hand out.
//   - Free: reusable, nothing in it.
//
// Free + Idle + Referenced + Fenced = NumBlocks, always; [BlockManager.Check]
// proves it and recounts refs from the tables.
//
// # Writing
//
// A block may be written only while one table holds it and it is unpublished.
// [BlockManager.Grow] copies on write: a fork shares its parent's blocks, and
// the partly filled tail becomes private before anything is written to it.
//
// # Order
//
// Reusable blocks form one list in eviction order: empty ones first, then
// cached ones by age, of one sequence the deepest first (a parent without its
// children is useful, a child without its parent is not). No decision depends
// on map order, time or chance, so a trace replays exactly.
//
// What else there is: window.go lets go of blocks that no layer can see any more
// and says how many a sequence needs, group by group of layers, tier.go saves what is evicted and brings it back, contiguous.go is the layout
// before paging, explain.go says why a prefix match ended.
//
// Tests: scheduler/sim drives this package with random traces (invariants I1 to
// I4, I10, I11, I14) and proves with mutants that each rule above is watched.
package kvcache

import (
	"errors"
	"fmt"

	"sestina/batch"
)

// Config sizes a BlockManager and names what its contents depend on.
type Config struct {
	NumBlocks     int // physical blocks in the pool, ≥ 1
	BlockSize     int // token positions per block, ≥ 1; 0 = 16
	PrefixCaching bool
	Contiguous    bool // one run of blocks per sequence, as long as it may ever get: see contiguous.go
	Tier          Tier // where evicted blocks go and come back from: see tier.go; nil = nowhere

	// The sliding window of each block group, 0 where it sees everything: see
	// window.go. nil is one group that does.
	Windows []int

	// What K and V depend on besides the tokens and the tenant's salt.
	Model, Adapter, KVDType string
}

// BlockManager hands out the blocks of one pool. It is not safe for concurrent
// use: the step goroutine owns it.
type BlockManager struct {
	cfg    Config
	blocks []block
	tokens []int32 // [NumBlocks·BlockSize] ids of the hashed blocks

	reusable  list // Idle and Free, head is taken first
	fenced    list // ascending by fence
	completed uint64

	chunk int // most tokens of a sequence that a step computes, see Chunks; 0 = any number

	index map[Hash]int32 // published blocks by key; looked up, never ranged over to decide
	whys  whys           // to explain what was not found
	buf   []byte         // scratch of the hash input
	warm  [][]int32      // scratch of Warm

	missed []int // scratch of matched: where each group's last gap ends

	stats Stats
}

// New makes a manager whose blocks are all free.
func New(cfg Config) (*BlockManager, error) {
	if cfg.BlockSize == 0 {
		cfg.BlockSize = 16
	}
	if len(cfg.Windows) == 0 {
		cfg.Windows = []int{0}
	}
	if cfg.NumBlocks < 1 || cfg.BlockSize < 1 {
		return nil, fmt.Errorf("kvcache: %d blocks of %d tokens: both must be at least 1; raise --kv-cache-memory-bytes or check --block-size", cfg.NumBlocks, cfg.BlockSize)
	}
	const maxSlots = 1<<31 - 1 // a slot number is an int32
	if cfg.NumBlocks > maxSlots/cfg.BlockSize {
		return nil, fmt.Errorf("kvcache: %d blocks of %d tokens exceed %d slots; lower --kv-cache-memory-bytes", cfg.NumBlocks, cfg.BlockSize, maxSlots)
	}
	if cfg.Contiguous && cfg.PrefixCaching {
		return nil, errors.New("kvcache: a contiguous layout shares no blocks; use --no-enable-prefix-caching with --kv-layout contiguous")
	}
	if cfg.Contiguous && len(cfg.Windows) > 1 {
		return nil, fmt.Errorf("kvcache: a contiguous layout with %d block groups; it lets nothing go, so one is enough", len(cfg.Windows))
	}
	for _, w := range cfg.Windows {
		if w < 0 {
			return nil, fmt.Errorf("kvcache: a window of %d tokens; it must be at least 1, or 0 for none", w)
		}
	}
	if cfg.Tier != nil && !cfg.PrefixCaching {
		return nil, errors.New("kvcache: a tier is found by prefix hashes; it needs prefix caching")
	}
	m := &BlockManager{cfg: cfg, blocks: make([]block, cfg.NumBlocks), warm: make([][]int32, len(cfg.Windows)), missed: make([]int, len(cfg.Windows))}
	if cfg.PrefixCaching {
		m.tokens = make([]int32, cfg.NumBlocks*cfg.BlockSize)
		m.index = make(map[Hash]int32, cfg.NumBlocks)
		m.whys.init(cfg.NumBlocks)
	}
	m.Reset()
	return m, nil
}

// Reset makes every block free and forgets all contents; the counters go on.
// Nothing may be in flight, and the caller empties the block tables.
func (m *BlockManager) Reset() {
	clear(m.blocks)
	clear(m.index)
	m.whys.reset()
	s := &m.stats
	s.Total, s.Free, s.Idle, s.Referenced, s.Fenced = len(m.blocks), 0, 0, 0, 0
	m.reusable.init(Free)
	m.fenced.init(Fenced)
	for id := range m.blocks {
		m.pushBack(&m.reusable, int32(id), Free)
	}
}

// Config returns the settings with defaults filled in.
func (m *BlockManager) Config() Config { return m.cfg }

// tables are the block tables of seq, one for each group.
func (m *BlockManager) tables(seq *batch.Sequence) [][]int32 {
	if seq.BlockTables == nil {
		seq.BlockTables = make([][]int32, len(m.cfg.Windows))
	}
	return seq.BlockTables
}

// BlocksFor is the number of blocks that n positions occupy in one group.
func (m *BlockManager) BlocksFor(n int) int { return (n + m.cfg.BlockSize - 1) / m.cfg.BlockSize }

// Available counts the blocks that can be taken at once: free and cached-idle.
func (m *BlockManager) Available() int { return m.reusable.len }

// Admit gives seq, which owns nothing, blocks for all of its committed tokens
// or for none of them: whole blocks from the prefix cache and the tier below it as
// far as chain (see [BlockManager.Chain]) matches, new ones for the rest; in a
// group with a window, those of its next chunk. It leaves at least
// reserve blocks available. It returns how many leading tokens are cached, and
// false, with nothing changed, when the pool is too full. The first time it
// writes down in seq.Match why the match went no further.
func (m *BlockManager) Admit(seq *batch.Sequence, chain []Hash, reserve int) (cached int, ok bool) {
	if seq.HasBlocks() {
		panic(fmt.Sprintf("kvcache: sequence %d admitted with blocks: %v", seq.ID, seq.BlockTables))
	}
	if m.cfg.Contiguous {
		return 0, m.admitRun(seq, reserve)
	}
	tables := m.tables(seq)
	hits := m.match(tables, chain, seq.Tokens)
	if m.demand(tables, hits, len(seq.Tokens))+reserve > m.Available() {
		empty(tables)
		return 0, false
	}
	first := seq.Preemptions == 0 // a recomputed sequence finding its own blocks is no hit
	if first {
		seq.Match = m.explain(seq, chain, hits) // before anything is evicted for it
	}
	m.hold(tables)
	n, _, _ := m.recall(tables, hits, chain, seq, len(chain)*len(tables))
	if first && n > hits {
		seq.Match = m.explain(seq, chain, n)
	}
	cached = n * m.cfg.BlockSize
	if first && m.cfg.PrefixCaching {
		m.stats.QueryTokens += uint64(len(seq.Tokens))
		m.stats.HitTokens += uint64(cached)
	}
	for g := range tables {
		m.extend(&tables[g], g, m.reach(g, cached, len(seq.Tokens)))
	}
	return cached, true
}

// empty forgets tables whose blocks nobody has taken.
func empty(tables [][]int32) {
	for g := range tables {
		tables[g] = tables[g][:0]
	}
}

// extend appends blocks to a group's table until it has n positions.
func (m *BlockManager) extend(table *[]int32, group, n int) {
	for len(*table)*m.cfg.BlockSize < n {
		*table = append(*table, m.take(group))
	}
}

// Lacks is how many blocks seq needs to have n positions.
func (m *BlockManager) Lacks(seq *batch.Sequence, n int) (blocks int) {
	for _, table := range m.tables(seq) {
		blocks += max(0, m.BlocksFor(n)-len(table))
	}
	return blocks
}

// Room is how many positions the blocks of seq have.
func (m *BlockManager) Room(seq *batch.Sequence) int {
	least := len(m.tables(seq)[0])
	for _, table := range seq.BlockTables {
		least = min(least, len(table))
	}
	return least * m.cfg.BlockSize
}

// Grow makes positions [from, to) of seq writable: it appends blocks to the
// tables and, where the block of position from is shared or published, replaces
// it by a private copy, noted in step.Copies. All or nothing.
func (m *BlockManager) Grow(step *batch.Step, seq *batch.Sequence, from, to int) bool {
	tail, tables, need := from/m.cfg.BlockSize, m.tables(seq), m.Lacks(seq, to)
	for _, table := range tables {
		if m.copyTail(table, tail) {
			need++
		}
	}
	if need > m.Available() || need > 0 && m.cfg.Contiguous {
		return false
	}
	for g := range tables {
		if m.copyTail(tables[g], tail) {
			m.copyOnWrite(step, tables[g], tail)
		}
		m.extend(&tables[g], g, to)
	}
	return true
}

// copyTail reports whether block i of a table is there and may not be written.
func (m *BlockManager) copyTail(table []int32, i int) bool {
	return i < len(table) && !m.private(table[i])
}

func (m *BlockManager) private(id int32) bool {
	b := &m.blocks[id]
	return b.refs == 1 && !b.hashed
}

func (m *BlockManager) copyOnWrite(step *batch.Step, table []int32, i int) {
	src := table[i]
	dst := m.take(int(m.blocks[src].group))
	step.Copies = append(step.Copies, batch.BlockCopy{Src: src, Dst: dst})
	table[i] = dst
	m.stats.Copies++
	m.unref(src, step.ID) // the step reads src, whoever else lets go of it
}

// Fork gives child, which owns nothing, the first n positions of parent's K/V
// and room for all of its own tokens; the tail is copied (see [BlockManager.Grow]).
// It leaves at least reserve blocks available; false means that nothing changed.
// The parent must still have what the child's window reaches, see [BlockManager.CanFork].
func (m *BlockManager) Fork(step *batch.Step, parent, child *batch.Sequence, n, reserve int) bool {
	tables := m.tables(child)
	need := len(tables) * (m.BlocksFor(len(child.Tokens)) - n/m.cfg.BlockSize) // the shared full blocks cost nothing
	if child.HasBlocks() || need+reserve > m.Available() {
		return false
	}
	for g := range tables {
		tables[g] = append(tables[g], parent.BlockTables[g][:m.BlocksFor(n)]...)
		for i := range min(m.firstVisible(g, n), len(tables[g])) {
			tables[g][i] = none
		}
	}
	m.hold(tables)
	return m.Grow(step, child, n, len(child.Tokens))
}

// Truncate lets go of the blocks past the first n positions of seq: the slots
// of rejected drafts. The blocks become reusable once step fence has completed.
func (m *BlockManager) Truncate(seq *batch.Sequence, n int, fence uint64) {
	keep := m.BlocksFor(n)
	if m.cfg.Contiguous && n > 0 {
		return // a reservation stays whole
	}
	m.letGo(m.tables(seq), keep, fence)
}

// letGo cuts tables to so many blocks, the deepest going first.
func (m *BlockManager) letGo(tables [][]int32, keep int, fence uint64) {
	deepest := 0
	for _, table := range tables {
		deepest = max(deepest, len(table))
	}
	for i := deepest - 1; i >= keep; i-- {
		for g, table := range tables {
			if i < len(table) {
				if table[i] != none {
					m.unref(table[i], fence)
				}
				tables[g] = table[:i]
			}
		}
	}
}

// Free lets go of all blocks of seq, the deepest first. They become reusable
// once step fence, the last one that computes seq, has completed.
func (m *BlockManager) Free(seq *batch.Sequence, fence uint64) { m.Truncate(seq, 0, fence) }

// Complete says that the device has finished step and every step before it.
func (m *BlockManager) Complete(step uint64) {
	m.completed = max(m.completed, step)
	for m.fenced.head != none && m.blocks[m.fenced.head].fence <= m.completed {
		id := m.fenced.head
		m.unlink(&m.fenced, id)
		m.park(id)
	}
}
