package kvcache

import (
	"math/rand/v2"
	"slices"
	"testing"

	"sestina/batch"
)

func newGrouped(t testing.TB, blocks, size int, windows ...int) *BlockManager {
	t.Helper()
	m, err := New(Config{NumBlocks: blocks, BlockSize: size, PrefixCaching: true, Windows: windows})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A long sequence, computed in chunks, keeps in each group what it needs, no more and
// no fewer, and Need is the most that it ever holds.
func TestGroupsHoldWhatTheyNeed(t *testing.T) {
	for _, size := range []int{1, 4, 16} {
		for _, chunk := range []int{1, 3, size, 2*size + 1, 100} {
			for w := 1; w <= 2*size+2; w++ {
				windows := []int{0, w, 3 * w}
				m := newGrouped(t, 2000, size, windows...)
				m.Chunks(chunk)
				n := 12*size + 3*w + 4*chunk
				seq := newSeq(1, 1, n)
				admit(t, m, seq)
				most := m.Stats().Referenced
				for seq.NumComputed < n {
					from := seq.NumComputed
					to := min(n, from+chunk)
					if !m.Grow(&batch.Step{}, seq, from, to) {
						t.Fatalf("no room for [%d,%d)", from, to)
					}
					most = max(most, m.Stats().Referenced)
					seq.NumComputed = to
					m.Publish(seq, from, to)
					m.Prune(seq, 0)
					check(t, m, seq)
					for g, table := range seq.BlockTables {
						for i, id := range table[:to/size] {
							want := windows[g] == 0 || slices.Contains(needs(to, windows[g], size), i)
							if (id != none) != want {
								t.Fatalf("blocks of %d, windows %v, next %d: group %d has %v", size, windows, to, g, table)
							}
						}
					}
				}
				c := m.Config()
				if need := c.Need(n, chunk); most > need || most < need-2 { // the worst moments of two groups need not meet
					t.Errorf("blocks of %d, windows %v, chunks of %d: %d blocks held of %d", size, windows, chunk, most, need)
				}
			}
		}
	}
}

// Longest undoes Need.
func TestLongestFits(t *testing.T) {
	for _, windows := range [][]int{{0}, {0, 9}, {0, 9, 9, 40}, {0, 0, 5}} {
		for _, chunk := range []int{0, 1, 7, 64} {
			c := Config{BlockSize: 4, Windows: windows}
			for blocks := len(windows); blocks < 200; blocks++ {
				n := c.Longest(blocks, chunk)
				if c.Need(n, chunk) > blocks || c.Need(n+1, chunk) <= blocks {
					t.Fatalf("windows %v, chunks of %d: %d blocks are said to hold %d tokens, which need %d, and one more %d",
						windows, chunk, blocks, n, c.Need(n, chunk), c.Need(n+1, chunk))
				}
			}
		}
	}
	c := Config{BlockSize: 4, Windows: []int{9}}
	if n := c.Longest(c.Need(1000, 8), 8); n < 1<<30 {
		t.Errorf("with a window in every layer a sequence can have %d tokens", n)
	}
	c.Contiguous = true
	if n := c.Longest(250, 8); n != 1000 {
		t.Errorf("a run of 250 blocks holds %d tokens", n)
	}
}

// A hit needs, in every group, the blocks that its next position sees there; why the
// match ends is told.
func TestGroupHits(t *testing.T) {
	const size, blocks = 4, 5
	windows := []int{0, 6}
	for missing := 0; missing < 1<<(2*blocks); missing++ {
		m := newGrouped(t, 2048, size, windows...) // many, so that no ghost takes another's place
		first := newSeq(1, 1, blocks*size+1)
		admit(t, m, first)
		compute(m, first)
		tables := [][]int32{slices.Clone(first.BlockTables[0]), slices.Clone(first.BlockTables[1])}
		m.Free(first, 0)
		gone := func(g, i int) bool { return missing>>(g*blocks+i)&1 == 1 }
		for g, table := range tables {
			for i := range blocks {
				if gone(g, i) {
					m.evict(table[i])
					m.unlink(&m.reusable, table[i])
					m.pushFront(&m.reusable, table[i], Free)
				}
			}
		}
		full, want := 0, 0 // what the group that sees everything has, and both
		for full < blocks && !gone(0, full) {
			full++
		}
		for k := 1; k <= full; k++ {
			if !slices.ContainsFunc(needs(k*size, windows[1], size), func(i int) bool { return gone(1, i) }) {
				want = k * size
			}
		}
		stop := batch.StopEvicted
		switch {
		case want == blocks*size:
			stop = batch.StopBlockEdge
		case want < full*size:
			stop = batch.StopWindow
		}
		seq := newSeq(2, 1, blocks*size+1)
		if got := admit(t, m, seq); got != want || seq.Match.Stop != stop || seq.Match.Tokens != want || seq.Match.At != want {
			t.Fatalf("without blocks %010b: %d tokens cached, want %d; told %+v, want %v", missing, got, want, seq.Match, stop)
		}
		check(t, m, seq)
		compute(m, seq)
		m.Prune(seq, 0)
		check(t, m, seq)
	}
}

// A fork shares what it sees in each group and copies the tail of each.
func TestGroupFork(t *testing.T) {
	m := newGrouped(t, 40, 4, 0, 6)
	parent, child := newSeq(1, 1, 18), newSeq(2, 1, 18)
	admit(t, m, parent)
	compute(m, parent)
	m.Prune(parent, 0)
	step := &batch.Step{ID: 1}
	if !m.CanFork(parent, 17) || !m.Fork(step, parent, child, 17, 0) {
		t.Fatalf("no fork of %v", parent.BlockTables)
	}
	child.NumComputed = 17
	check(t, m, parent, child)
	if len(step.Copies) != 2 || child.BlockTables[0][0] != parent.BlockTables[0][0] || child.BlockTables[1][0] != none || child.BlockTables[1][3] != parent.BlockTables[1][3] {
		t.Errorf("%d copies; the child has %v, the parent %v", len(step.Copies), child.BlockTables, parent.BlockTables)
	}
	for range 12 {
		m.Grow(&batch.Step{ID: 2}, parent, parent.NumComputed, len(parent.Tokens)+1)
		parent.Tokens = append(parent.Tokens, 1)
		compute(m, parent)
		m.Prune(parent, 0)
	}
	if m.CanFork(parent, 17) {
		t.Errorf("a fork of %v at position 17", parent.BlockTables)
	}
	m.Free(parent, 0)
	m.Free(child, 0)
	m.Complete(2)
	check(t, m)
	if m.Available() != 40 {
		t.Errorf("%d blocks are available", m.Available())
	}
}

// What the tier brings back comes back in every group, and no more is held meanwhile
// than the sequence was admitted for.
func TestGroupsComeBack(t *testing.T) {
	s := &shelf{map[int32]string{}, map[[32]byte]string{}, 0, false}
	cfg := Config{NumBlocks: 14, BlockSize: 4, PrefixCaching: true, Tier: s, Windows: []int{0, 6}}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.Chunks(4)
	rng := rand.New(rand.NewPCG(4, 4))
	tokens, came := [][]int32{text(1, 33), text(2, 33), text(3, 17), text(1, 25)}, 0
	for n := range 60 {
		ids := tokens[rng.IntN(len(tokens))]
		seq := &batch.Sequence{ID: int64(n + 1), Tokens: ids, PromptLen: len(ids), MaxTokens: 1}
		if need := cfg.Need(len(ids), 4); need > cfg.NumBlocks {
			t.Fatalf("%d tokens need %d blocks", len(ids), need)
		}
		cached, ok := m.Admit(seq, m.Chain(nil, "", ids), 0)
		if !ok {
			t.Fatalf("no room for %d tokens: %+v", len(ids), m.Stats())
		}
		came += cached
		seq.NumComputed = cached
		for {
			check(t, m, seq)
			for g, table := range seq.BlockTables {
				for i, id := range table[:seq.NumComputed/4] {
					if want := string(rune(ids[4*i])) + string(rune('a'+g)); id != none && s.pool[id] != want {
						t.Fatalf("block %d of group %d holds %q, not %q", i, g, s.pool[id], want)
					}
				}
			}
			from := seq.NumComputed
			if from == len(ids) {
				break
			}
			to := min(from+4, len(ids))
			if !m.Grow(&batch.Step{}, seq, from, to) {
				t.Fatalf("no room for [%d,%d): %+v", from, to, m.Stats())
			}
			for g, table := range seq.BlockTables {
				s.pool[table[from/4]] = string(rune(ids[from/4*4])) + string(rune('a'+g))
			}
			seq.NumComputed = to
			m.Publish(seq, from, to)
			m.Prune(seq, 0)
		}
		m.Free(seq, 0)
	}
	if s.loads < 100 || came < 500 {
		t.Errorf("%d blocks came back, %d tokens were cached: the test shows little", s.loads, came)
	}
}

// Hits that others hold cost nothing, but the window leaves them behind: a sequence is
// admitted only if what comes back from the tier behind them has room too.
func TestWindowLeavesSharedHitsBehind(t *testing.T) {
	for room := range 8 {
		s := &shelf{map[int32]string{}, map[[32]byte]string{}, 0, false}
		m, err := New(Config{NumBlocks: 16, BlockSize: 4, PrefixCaching: true, Tier: s, Windows: []int{6}})
		if err != nil {
			t.Fatal(err)
		}
		run := func(id int64, tokens []int32) *batch.Sequence {
			seq := &batch.Sequence{ID: id, Tokens: tokens, PromptLen: len(tokens), MaxTokens: 1}
			admit(t, m, seq)
			compute(m, seq)
			m.Prune(seq, 0)
			return seq
		}
		long := text(1, 41)
		m.Free(run(1, long), 0)
		m.Free(run(2, text(2, 64)), 0) // pushes all of the long text out
		m.Chunks(2)
		seq, other, hog := newSeq(3, 0, 0), run(4, long[:17]), newSeq(5, 0, 0)
		m.Grow(&batch.Step{}, hog, 0, 4*(m.Available()-room))
		seq.Tokens = long
		cached, ok := m.Admit(seq, m.Chain(nil, "", long), 0)
		if ok != (room >= 3) || ok && cached != 40 {
			t.Errorf("with %d blocks left: admitted %v with %d tokens from the tier", room, ok, cached)
		}
		seq.NumComputed = cached
		check(t, m, seq, other, hog)
	}
}
