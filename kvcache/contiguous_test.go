package kvcache

import (
	"slices"
	"testing"

	"sestina/batch"
)

func newContiguous(t testing.TB, blocks, size int) *BlockManager {
	t.Helper()
	m, err := New(Config{NumBlocks: blocks, BlockSize: size, Contiguous: true})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// reserve admits a sequence that may get tokens long.
func reserve(m *BlockManager, id int64, tokens int) (*batch.Sequence, bool) {
	seq := newSeq(id, int(id), 1)
	seq.MaxTokens = tokens - 1
	_, ok := m.Admit(seq, nil, 0)
	return seq, ok
}

// The longest that a request may get is reserved at once: 2,048 slots for a
// prompt of 50, and 4 such requests fill 8,192.
func TestContiguousReservesTheLongest(t *testing.T) {
	for _, size := range []int{1, 4, 16} {
		m := newContiguous(t, 8192/size, size)
		for n := range 5 {
			seq := newSeq(int64(n+1), n, 50)
			seq.MaxTokens = 2048 - 50
			_, ok := m.Admit(seq, nil, 0)
			if ok != (n < 4) || ok && len(seq.BlockTables[0])*size != 2048 {
				t.Errorf("blocks of %d: request %d: %v, %d blocks", size, n, ok, len(seq.BlockTables[0]))
			}
		}
		if s := m.Stats(); s.Fragmented != 0 {
			t.Errorf("a full pool counts as fragmented: %+v", s)
		}
	}
}

// First fit takes the first hole that is long enough; holes that are not are
// counted when they would do together; a fenced block is no part of a hole.
func TestContiguousFirstFit(t *testing.T) {
	m := newContiguous(t, 10, 4)
	var seqs []*batch.Sequence
	for i, blocks := range []int{2, 3, 2, 3} {
		seq, ok := reserve(m, int64(i+1), 4*blocks)
		if !ok {
			t.Fatal("no room")
		}
		seqs = append(seqs, seq)
	}
	m.Free(seqs[0], 7)
	m.Free(seqs[2], 0)
	if _, ok := reserve(m, 5, 12); ok || m.Stats().Fragmented != 0 {
		t.Fatalf("a run of fenced blocks was taken: %+v", m.Stats())
	}
	m.Complete(7)
	check(t, m, seqs[1], seqs[3])
	before := m.Stats()
	if seq, ok := reserve(m, 6, 12); ok || seq.HasBlocks() {
		t.Fatalf("two holes of two blocks gave %v", seq.BlockTables)
	}
	before.Fragmented++
	if m.Stats() != before {
		t.Errorf("%+v, want %+v", m.Stats(), before)
	}
	seq, ok := reserve(m, 7, 8)
	if want := []int32{0, 1}; !ok || !slices.Equal(seq.BlockTables[0], want) {
		t.Errorf("first fit gave %v, want %v", seq.BlockTables[0], want)
	}
	check(t, m, seqs[1], seqs[3], seq)
	seq.BlockTables[0][0], seq.BlockTables[0][1] = 1, 0
	if m.Check([]*batch.Sequence{seqs[1], seqs[3], seq}) == nil {
		t.Error("a table out of order was not noticed")
	}
}

// A reservation neither grows nor shrinks, nor is it shared.
func TestContiguousStays(t *testing.T) {
	m := newContiguous(t, 10, 4)
	seq, _ := reserve(m, 1, 16)
	m.Truncate(seq, 2, 0)
	if m.Grow(&batch.Step{}, seq, 1, 17) || !m.Grow(&batch.Step{}, seq, 1, 16) || len(seq.BlockTables[0]) != 4 || m.CanFork(seq, 1) {
		t.Errorf("the reservation is now %v", seq.BlockTables[0])
	}
	m.Free(seq, 0)
	check(t, m)
	if m.Available() != 10 {
		t.Errorf("%d blocks are available", m.Available())
	}
}
