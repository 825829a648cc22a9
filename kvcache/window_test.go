package kvcache

import (
	"slices"
	"testing"

	"sestina/batch"
)

func newWindowed(t testing.TB, blocks, size, window int) *BlockManager {
	t.Helper()
	m, err := New(Config{NumBlocks: blocks, BlockSize: size, PrefixCaching: true, Windows: []int{window}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// needs is the definition: the blocks of the positions that n can see before
// itself, and the one that the hash of n's own block is made from.
func needs(n, window, size int) []int {
	var out []int
	for j := max(0, n-window+1); j < n; j++ {
		if b := j / size; !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	if b := n/size - 1; b >= 0 && !slices.Contains(out, b) {
		out = append([]int{b}, out...)
	}
	return out
}

// A long answer keeps the blocks that it still needs, no more and no fewer, for
// every window, block size and length.
func TestWindowKeepsWhatIsSeen(t *testing.T) {
	for _, size := range []int{1, 3, 4, 16} {
		for window := 1; window <= 3*size+2; window++ {
			m := newWindowed(t, 40, size, window)
			seq := newSeq(1, 1, 5)
			admit(t, m, seq)
			compute(m, seq)
			m.Prune(seq, 0)
			most := 0
			for n := 5; n < 30*size; n++ {
				if !m.Grow(&batch.Step{}, seq, n, n+1) {
					t.Fatalf("blocks of %d, window %d: no block for position %d: %+v", size, window, n, m.Stats())
				}
				most = max(most, m.Stats().Referenced)
				seq.Tokens = append(seq.Tokens, int32(n))
				compute(m, seq)
				m.Prune(seq, 0)
				check(t, m, seq)
				want := needs(n+1, window, size)
				for i, id := range seq.BlockTables[0] {
					if own := i == (n+1)/size; (id != none) != (own || slices.Contains(want, i)) {
						t.Fatalf("blocks of %d, window %d, next %d: table %v, needed %v", size, window, n+1, seq.BlockTables[0], want)
					}
				}
			}
			if limit := (window+size-2)/size + 2; most > limit {
				t.Errorf("blocks of %d, window %d: %d blocks at once, more than %d", size, window, most, limit)
			}
		}
	}
}

// A hit needs the blocks that its next position sees; whatever else was evicted
// does not matter, and what is missing is named.
func TestWindowHits(t *testing.T) {
	const size, window, blocks = 4, 6, 6
	for missing := 0; missing < 1<<blocks; missing++ {
		m := newWindowed(t, 1024, size, window) // many, so that no ghost takes another's place
		first := newSeq(1, 1, blocks*size+1)
		admit(t, m, first)
		compute(m, first)
		table := slices.Clone(first.BlockTables[0])
		m.Free(first, 0)
		gone := func(i int) bool { return missing>>i&1 == 1 }
		for i := range blocks {
			if gone(i) {
				m.evict(table[i])
				m.unlink(&m.reusable, table[i])
				m.pushFront(&m.reusable, table[i], Free)
			}
		}
		want := 0
		for k := 1; k <= blocks; k++ {
			if !slices.ContainsFunc(needs(k*size, window, size), gone) {
				want = k * size
			}
		}
		seq := newSeq(2, 1, blocks*size+1)
		if got := admit(t, m, seq); got != want {
			t.Fatalf("without blocks %06b: %d tokens cached, want %d", missing, got, want)
		}
		stop := batch.StopEvicted
		if want == blocks*size {
			stop = batch.StopBlockEdge
		} else if missing>>(want/size) != 1<<(blocks-want/size)-1 {
			stop = batch.StopWindow // something later is still there
		}
		if seq.Match.Stop != stop || seq.Match.Tokens != want {
			t.Fatalf("without blocks %06b: %+v, want %v", missing, seq.Match, stop)
		}
		check(t, m, seq)
		compute(m, seq)
		m.Prune(seq, 0)
		check(t, m, seq)
	}
}

// A fork takes the part of the window that it sees, or is refused.
func TestWindowFork(t *testing.T) {
	m := newWindowed(t, 16, 4, 6)
	parent, child, late := newSeq(1, 1, 18), newSeq(2, 1, 18), newSeq(3, 1, 18)
	admit(t, m, parent)
	compute(m, parent)
	m.Prune(parent, 0)
	if !m.CanFork(parent, 17) || !m.Fork(&batch.Step{ID: 1}, parent, child, 17, 0) {
		t.Fatalf("no fork of %v", parent.BlockTables[0])
	}
	child.NumComputed = 17
	check(t, m, parent, child)
	if want := []int32{-1, -1, -1, parent.BlockTables[0][3]}; !slices.Equal(child.BlockTables[0][:4], want) {
		t.Errorf("the child has %v, the parent %v", child.BlockTables[0], parent.BlockTables[0])
	}
	for range 12 {
		m.Grow(&batch.Step{ID: 1}, parent, parent.NumComputed, len(parent.Tokens)+1)
		parent.Tokens = append(parent.Tokens, 1)
		compute(m, parent)
		m.Prune(parent, 0)
	}
	if m.CanFork(parent, 17) {
		t.Errorf("a fork of %v at position 17", parent.BlockTables[0])
	}
	m.Free(parent, 0)
	m.Free(child, 0)
	m.Complete(1)
	admit(t, m, late)
	check(t, m, late)
}
