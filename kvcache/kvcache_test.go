package kvcache

import (
	"slices"
	"strings"
	"testing"

	"sestina/batch"
)

func newManager(t testing.TB, blocks, size int) *BlockManager {
	t.Helper()
	m, err := New(Config{NumBlocks: blocks, BlockSize: size, PrefixCaching: true})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// newSeq is a sequence whose prompt is n tokens of a text.
func newSeq(id int64, text, n int) *batch.Sequence {
	seq := &batch.Sequence{ID: id, PromptLen: n, MaxTokens: 100}
	for i := range n {
		seq.Tokens = append(seq.Tokens, int32(text*1000+i))
	}
	return seq
}

func admit(t testing.TB, m *BlockManager, seq *batch.Sequence) int {
	t.Helper()
	cached, ok := m.Admit(seq, m.Chain(nil, seq.Salt, seq.Tokens), 0)
	if !ok {
		t.Fatalf("sequence %d does not fit: %+v", seq.ID, m.Stats())
	}
	seq.NumComputed = cached
	return cached
}

// compute pretends that a step has computed all tokens of seq and completed.
func compute(m *BlockManager, seq *batch.Sequence) {
	from := seq.NumComputed
	seq.NumComputed = len(seq.Tokens)
	m.Publish(seq, from, seq.NumComputed)
}

func check(t testing.TB, m *BlockManager, live ...*batch.Sequence) {
	t.Helper()
	if err := m.Check(live); err != nil {
		t.Fatal(err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []Config{
		{}, {NumBlocks: -1, BlockSize: 16}, {NumBlocks: 4, BlockSize: -2}, {NumBlocks: 1 << 30, BlockSize: 16},
		{NumBlocks: 4, Windows: []int{-1}}, {NumBlocks: 4, Contiguous: true, PrefixCaching: true},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

// The seed article's example: 50 tokens in blocks of 4 take 13 blocks, 2 slots unused.
func TestBlocksFor(t *testing.T) {
	m := newManager(t, 20, 4)
	if n := m.BlocksFor(50); n != 13 || n*4-50 != 2 {
		t.Errorf("50 tokens take %d blocks", n)
	}
	for n, want := range map[int]int{0: 0, 1: 1, 3: 1, 4: 1, 5: 2, 8: 2} {
		if got := m.BlocksFor(n); got != want {
			t.Errorf("BlocksFor(%d) = %d, want %d", n, got, want)
		}
	}
}

// A prompt seen before is found up to the last whole block before its last token,
// by the same tenant, and not at all by another.
func TestPrefixLengths(t *testing.T) {
	for _, size := range []int{1, 4, 7, 16} {
		for n := 1; n <= 3*size+1; n++ {
			m := newManager(t, 32, size)
			first := newSeq(1, 1, n)
			if got := admit(t, m, first); got != 0 {
				t.Fatalf("an empty cache gave %d tokens", got)
			}
			compute(m, first)
			m.Free(first, 0)
			same, other := newSeq(2, 1, n), newSeq(3, 1, n)
			other.Salt = "another tenant"
			if got, want := admit(t, m, same), (n-1)/size*size; got != want {
				t.Errorf("blocks of %d, prompt of %d: %d tokens cached, want %d", size, n, got, want)
			}
			if got := admit(t, m, other); got != 0 {
				t.Errorf("another tenant got %d tokens", got)
			}
			check(t, m, same, other)
		}
	}
}

// Prompts that part at or beside a block edge share exactly the whole blocks before it.
func TestPrefixDivergence(t *testing.T) {
	for at := 0; at < 16; at++ {
		m := newManager(t, 32, 4)
		a, b := newSeq(1, 1, 17), newSeq(2, 1, 17)
		b.Tokens[at] = -1
		admit(t, m, a)
		compute(m, a)
		if why := m.Explain(b); why.Tokens != at/4*4 || at%4 > 0 && (why.Stop != batch.StopDiverged || why.At != at) {
			t.Errorf("parting at %d is explained as %+v", at, why)
		}
		if got := admit(t, m, b); got != at/4*4 {
			t.Errorf("parting at %d: %d tokens cached", at, got)
		}
		check(t, m, a, b)
	}
}

// Keys have types and lengths: no two configurations have the same root.
func TestKeysAreDistinct(t *testing.T) {
	seen := map[Hash]string{}
	for _, keys := range [][4]string{
		{}, {"a"}, {"", "a"}, {"", "", "a"}, {"", "", "", "a"}, {"ab"}, {"a", "b"}, {"", "ab"}, {"a", "", "b"}, {"a\x01", "b"},
	} {
		m, err := New(Config{NumBlocks: 1, PrefixCaching: true, Model: keys[0], Adapter: keys[1], KVDType: keys[2]})
		if err != nil {
			t.Fatal(err)
		}
		root := m.root(keys[3])
		if other, ok := seen[root]; ok {
			t.Errorf("%q and %q have one root", keys, other)
		}
		seen[root] = strings.Join(keys[:], ",")
	}
}

// A block let go while a step is in flight is nobody's until that step completes,
// whoever was the last to let go; but the cache may hand its contents out.
func TestFence(t *testing.T) {
	m := newManager(t, 4, 4)
	a, b := newSeq(1, 1, 9), newSeq(2, 1, 9)
	admit(t, m, a)
	compute(m, a)
	admit(t, m, b) // shares two blocks
	m.Free(a, 7)   // a is in step 7
	m.Free(b, 5)   // b was in step 5
	m.Complete(5)
	check(t, m)
	if s := m.Stats(); s.Fenced != 3 || m.Available() != 1 {
		t.Errorf("after step 5: %+v", s)
	}
	c := newSeq(3, 1, 9)
	if got := admit(t, m, c); got != 8 {
		t.Errorf("fenced blocks gave %d cached tokens", got)
	}
	m.Free(c, 0)
	if s := m.Stats(); s.Fenced != 3 {
		t.Errorf("a hit broke the fence: %+v", s)
	}
	m.Complete(7)
	check(t, m)
	if s := m.Stats(); s.Fenced != 0 || s.Free != 2 || s.Idle != 2 {
		t.Errorf("after step 7: %+v", s)
	}
}

// Empty blocks go first, then the least recently used, the deepest of it first.
func TestEvictionOrder(t *testing.T) {
	m := newManager(t, 5, 4)
	old, young := newSeq(1, 1, 8), newSeq(2, 2, 8)
	for _, seq := range []*batch.Sequence{old, young} {
		admit(t, m, seq)
		compute(m, seq)
	}
	tables := [][]int32{slices.Clone(old.BlockTables[0]), slices.Clone(young.BlockTables[0])}
	m.Free(old, 0)
	m.Free(young, 0)
	want := []int32{4, tables[0][1], tables[0][0], tables[1][1], tables[1][0]}
	all := newSeq(3, 3, 20)
	admit(t, m, all)
	if !slices.Equal(all.BlockTables[0], want) {
		t.Errorf("blocks were taken in the order %v, want %v", all.BlockTables[0], want)
	}
	if s := m.Stats(); s.Evictions != 4 {
		t.Errorf("%d evictions", s.Evictions)
	}
}

// Admit and Fork take all they need or nothing.
func TestAllOrNothing(t *testing.T) {
	m := newManager(t, 4, 4)
	a := newSeq(1, 1, 9)
	admit(t, m, a)
	compute(m, a)
	before := m.Stats()
	b := newSeq(2, 2, 8)
	if _, ok := m.Admit(b, m.Chain(nil, "", b.Tokens), 0); ok || len(b.BlockTables[0]) != 0 || m.Stats() != before {
		t.Errorf("admitted %v: %+v", b.BlockTables[0], m.Stats())
	}
	c := newSeq(3, 1, 9)
	if _, ok := m.Admit(c, m.Chain(nil, "", c.Tokens), 1); ok || m.Stats() != before {
		t.Errorf("the reserve was not kept: %+v", m.Stats())
	}
	if admit(t, m, c) != 8 {
		t.Error("a shared prefix did not fit")
	}
	d := newSeq(4, 1, 9)
	if m.Fork(&batch.Step{}, a, d, 8, 0) || d.HasBlocks() {
		t.Errorf("forked into a full pool: %v", d.BlockTables)
	}
	check(t, m, a, c)
}

// A fork's tail is copied, its whole blocks are shared, and the source of the copy
// stays until the copying step has completed.
func TestForkCopiesTheTail(t *testing.T) {
	for _, n := range []int{6, 8, 9} {
		m := newManager(t, 8, 4)
		parent, child := newSeq(1, 1, n), newSeq(2, 1, n)
		admit(t, m, parent)
		compute(m, parent)
		step := &batch.Step{ID: 3}
		if !m.Fork(step, parent, child, n-1, 0) {
			t.Fatal("no room")
		}
		child.NumComputed = n - 1
		check(t, m, parent, child)
		shared := (n - 1) / 4
		if !slices.Equal(parent.BlockTables[0][:shared], child.BlockTables[0][:shared]) || parent.BlockTables[0][shared%len(parent.BlockTables[0])] == child.BlockTables[0][shared] {
			t.Errorf("parent %v, child %v", parent.BlockTables[0], child.BlockTables[0])
		}
		if copied := len(step.Copies) == 1; copied != ((n-1)%4 != 0) {
			t.Errorf("prompt of %d: copies %v", n, step.Copies)
		}
		m.Free(parent, 0)
		if want := len(step.Copies); m.Stats().Fenced != want {
			t.Errorf("%d blocks fenced, want %d", m.Stats().Fenced, want)
		}
		m.Complete(3)
		check(t, m, child)
	}
}

func TestTruncate(t *testing.T) {
	m := newManager(t, 8, 4)
	seq := newSeq(1, 1, 5)
	admit(t, m, seq)
	compute(m, seq)
	if !m.Grow(&batch.Step{ID: 1}, seq, 5, 14) || len(seq.BlockTables[0]) != 4 {
		t.Fatalf("grown to %v", seq.BlockTables[0])
	}
	m.Truncate(seq, 9, 1)
	if s := m.Stats(); len(seq.BlockTables[0]) != 3 || s.Fenced != 1 || s.Referenced != 3 {
		t.Errorf("table %v, %+v", seq.BlockTables[0], s)
	}
	m.Truncate(seq, 100, 1) // nothing beyond
	m.Complete(1)
	check(t, m, seq)
	if len(seq.BlockTables[0]) != 3 || m.Available() != 5 {
		t.Errorf("table %v, %d available", seq.BlockTables[0], m.Available())
	}
}

func TestClearCache(t *testing.T) {
	m := newManager(t, 8, 4)
	a, b := newSeq(1, 1, 9), newSeq(2, 2, 9)
	for _, seq := range []*batch.Sequence{a, b} {
		admit(t, m, seq)
		compute(m, seq)
	}
	m.Free(b, 0)
	m.ClearCache()
	check(t, m, a)
	if s := m.Stats(); s.Idle != 0 || s.Free != 5 {
		t.Errorf("%+v", s)
	}
	if n := m.Match(m.Chain(nil, "", a.Tokens), a.Tokens); n != 0 {
		t.Errorf("%d tokens are still cached", n)
	}
}

// Check is the judge of every other test: each kind of damage must be noticed.
func TestCheckNotices(t *testing.T) {
	damage := map[string]func(m *BlockManager, seq *batch.Sequence){
		"a reference too many":    func(m *BlockManager, seq *batch.Sequence) { m.blocks[seq.BlockTables[0][0]].refs++ },
		"a foreign table":         func(m *BlockManager, seq *batch.Sequence) { seq.BlockTables[0][0] = 7 },
		"a block out of range":    func(m *BlockManager, seq *batch.Sequence) { seq.BlockTables[0][0] = 8 },
		"a wrong state":           func(m *BlockManager, seq *batch.Sequence) { m.blocks[seq.BlockTables[0][0]].state = Free },
		"a wrong count":           func(m *BlockManager, seq *batch.Sequence) { m.stats.Free++ },
		"other tokens":            func(m *BlockManager, seq *batch.Sequence) { seq.Tokens[2]++ },
		"other contents":          func(m *BlockManager, seq *batch.Sequence) { m.ids(seq.BlockTables[0][0])[1]++ },
		"a lost index entry":      func(m *BlockManager, seq *batch.Sequence) { delete(m.index, m.blocks[seq.BlockTables[0][0]].hash) },
		"a stale index entry":     func(m *BlockManager, seq *batch.Sequence) { m.index[Hash{1}] = 7 },
		"too few blocks":          func(m *BlockManager, seq *batch.Sequence) { seq.NumComputed += 4 },
		"a published tail":        func(m *BlockManager, seq *batch.Sequence) { m.blocks[seq.BlockTables[0][2]].hashed = true },
		"a broken list":           func(m *BlockManager, seq *batch.Sequence) { m.blocks[m.reusable.head].prev = 1 },
		"a block freed too early": func(m *BlockManager, seq *batch.Sequence) { m.blocks[m.reusable.head].fence = 9 },
		"a hole in the table":     func(m *BlockManager, seq *batch.Sequence) { seq.BlockTables[0][0] = -1 },
		"a lost sibling":          func(m *BlockManager, seq *batch.Sequence) { delete(m.whys.newest, m.root("")) },
		"another group's":         func(m *BlockManager, seq *batch.Sequence) { m.blocks[seq.BlockTables[0][2]].group = 1 },
		"a late fence":            func(m *BlockManager, seq *batch.Sequence) { m.completed = 5 },
	}
	for name, spoil := range damage {
		m := newManager(t, 8, 4)
		seq, gone := newSeq(1, 1, 9), newSeq(2, 2, 6)
		admit(t, m, seq)
		compute(m, seq)
		admit(t, m, gone)
		m.Free(gone, 3)
		check(t, m, seq)
		spoil(m, seq)
		if m.Check([]*batch.Sequence{seq}) == nil {
			t.Errorf("%s was not noticed", name)
		}
	}
}

// In steady state the manager allocates nothing: blocks are taken, published,
// evicted and let go.
func TestNoAllocation(t *testing.T) {
	m := newManager(t, 64, 4)
	seq := newSeq(1, 1, 200)
	seq.BlockTables = [][]int32{make([]int32, 0, 64)}
	chain := make([]Hash, 0, 64)
	step := &batch.Step{}
	text := int32(0)
	n := testing.AllocsPerRun(100, func() {
		text++
		for i := range seq.Tokens {
			seq.Tokens[i] = text<<16 + int32(i)
		}
		chain = m.Chain(chain[:0], "tenant", seq.Tokens)
		if _, ok := m.Admit(seq, chain, 0); !ok || !m.Grow(step, seq, 200, 210) {
			t.Fatal("no room")
		}
		m.Publish(seq, 0, 200)
		m.Free(seq, 0)
	})
	if n != 0 {
		t.Errorf("%v allocations a round", n)
	}
}

// FuzzManager drives the manager with arbitrary calls and checks it after each.
func FuzzManager(f *testing.F) {
	f.Add([]byte{3, 4, 0, 9, 1, 0, 2, 0, 0, 9, 3, 1, 4, 0, 5, 1})
	f.Add([]byte{1, 9, 0, 1, 0, 2, 0, 3, 2, 0, 2, 1, 2, 2, 5, 0, 6, 0})
	f.Add([]byte{0x53, 0x44, 0, 9, 1, 0, 7, 0, 3, 0, 3, 0, 7, 0, 5, 1, 2, 0, 6, 0, 0, 12})
	f.Add([]byte{0x53, 0xc4, 0, 9, 1, 0, 7, 0, 3, 0, 3, 0, 7, 0, 5, 1, 2, 0, 6, 0, 0, 12})
	f.Add([]byte{3, 0x84, 0, 3, 1, 0, 4, 2, 0, 4, 2, 0, 6, 0, 0, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) < 2 || len(ops) > 400 {
			return
		}
		cfg := Config{NumBlocks: 4 + int(ops[1]%16), BlockSize: 1 + int(ops[0]%5), PrefixCaching: true}
		switch ops[1] >> 6 {
		case 1:
			cfg.Windows = []int{1 + int(ops[0]>>4)}
		case 2:
			cfg.Contiguous, cfg.PrefixCaching = true, false
		case 3:
			cfg.NumBlocks, cfg.Windows = 3*cfg.NumBlocks, []int{0, 1 + int(ops[0]>>4), 5}
		}
		m, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		m.Chunks(int(ops[0] >> 5))
		var live []*batch.Sequence
		step := &batch.Step{ID: 1}
		for i := 2; i+1 < len(ops); i += 2 {
			live = fuzzOp(m, step, live, ops[i], int(ops[i+1]))
			check(t, m, live...)
		}
		for _, seq := range live {
			m.Free(seq, 0)
		}
		m.Complete(step.ID)
		check(t, m)
		if s := m.Stats(); s.Free+s.Idle != s.Total {
			t.Fatalf("at the end %+v", s)
		}
	})
}

func fuzzOp(m *BlockManager, step *batch.Step, live []*batch.Sequence, op byte, n int) []*batch.Sequence {
	if op%8 != 0 && len(live) == 0 {
		return live
	}
	var seq *batch.Sequence
	at := 0
	if len(live) > 0 {
		at = n % len(live)
		seq = live[at]
	}
	switch op % 8 {
	case 0: // arrive
		s := newSeq(int64(n), n%3, 1+n%24)
		s.MaxTokens = n % 9
		if cached, ok := m.Admit(s, m.Chain(nil, "", s.Tokens), 0); ok {
			s.NumComputed = cached
			live = append(live, s)
		}
	case 1: // compute what is missing
		if m.Grow(step, seq, seq.NumComputed, len(seq.Tokens)) {
			compute(m, seq)
		}
	case 2: // leave, with a step in flight
		m.Free(seq, step.ID)
		live = slices.Delete(live, at, at+1)
	case 3: // commit a token and compute it
		if m.Grow(step, seq, seq.NumComputed, len(seq.Tokens)+1) {
			seq.Tokens = append(seq.Tokens, int32(n))
			compute(m, seq)
		}
	case 4: // drafts, all rejected
		if m.Grow(step, seq, seq.NumComputed, len(seq.Tokens)+n%9) {
			m.Truncate(seq, len(seq.Tokens), step.ID)
		}
	case 5: // fork
		child := newSeq(int64(n), 0, 0)
		child.Tokens = slices.Clone(seq.Tokens)
		if seq.NumComputed == len(seq.Tokens) && m.CanFork(seq, seq.NumComputed-1) && m.Fork(step, seq, child, seq.NumComputed-1, 0) {
			child.NumComputed = seq.NumComputed - 1
			live = append(live, child)
		}
	case 6:
		m.Complete(step.ID)
		step.ID++
	case 7: // the window moves on
		m.Prune(seq, step.ID)
	}
	return live
}

// BenchmarkChain is the cost of naming a prompt of 4096 tokens, 256 blocks.
func BenchmarkChain(b *testing.B) {
	m := newManager(b, 1, 16)
	seq := newSeq(1, 1, 4097)
	var chain []Hash
	b.ReportAllocs()
	for b.Loop() {
		chain = m.Chain(chain[:0], "", seq.Tokens)
	}
}
