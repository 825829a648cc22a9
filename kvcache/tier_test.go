package kvcache

import (
	"slices"
	"testing"

	"sestina/batch"
)

// shelf is a tier that notes what it is asked, and has the bytes of a block as a
// string that says which they are.
type shelf struct {
	pool   map[int32]string // what the blocks of the pool hold
	held   map[[32]byte]string
	loads  int
	refuse bool
}

func (s *shelf) Save(block int32, key [32]byte, _ []int32) { s.held[key] = s.pool[block] }

func (s *shelf) Load(block int32, key [32]byte, _ []int32) bool {
	text, ok := s.held[key]
	if ok = ok && !s.refuse; ok {
		s.pool[block] = text
		s.loads++
	}
	return ok
}

// tiered is a manager of a few blocks of 4 over a shelf.
type tiered struct {
	*BlockManager
	shelf *shelf
	t     *testing.T
	step  uint64
	ids   int64
}

func newTiered(t *testing.T, blocks int) *tiered {
	s := &shelf{map[int32]string{}, map[[32]byte]string{}, 0, false}
	m, err := New(Config{NumBlocks: blocks, BlockSize: 4, PrefixCaching: true, Tier: s})
	if err != nil {
		t.Fatal(err)
	}
	return &tiered{m, s, t, 0, 0}
}

// text is n tokens, different in every text.
func text(which, n int) (tokens []int32) {
	for i := range n {
		tokens = append(tokens, int32(1000*which+i))
	}
	return tokens
}

// run admits a prompt, "computes" what is missing and lets go of it. It returns
// how many tokens were not computed.
func (m *tiered) run(salt string, tokens []int32) (*batch.Sequence, int) {
	m.t.Helper()
	m.ids++
	seq := &batch.Sequence{ID: m.ids, Salt: salt, Tokens: tokens, PromptLen: len(tokens), MaxTokens: 1}
	cached, ok := m.Admit(seq, m.Chain(nil, salt, tokens), 0)
	if !ok {
		m.t.Fatalf("no room for %d tokens", len(tokens))
	}
	for i, id := range seq.BlockTables[0] {
		want := salt + string(rune(tokens[4*i]))
		if i < cached/4 && m.shelf.pool[id] != want {
			m.t.Fatalf("block %d of a hit holds %q, not %q", i, m.shelf.pool[id], want)
		}
		m.shelf.pool[id] = want
	}
	m.step++
	m.Complete(m.step)
	seq.NumComputed = len(tokens)
	m.Publish(seq, cached, len(tokens))
	if err := m.Check([]*batch.Sequence{seq}); err != nil {
		m.t.Fatal(err)
	}
	m.Free(seq, m.step)
	return seq, cached
}

func (m *tiered) cached(salt string, tokens []int32, want int) *batch.Sequence {
	m.t.Helper()
	seq, got := m.run(salt, tokens)
	if got != want {
		m.t.Errorf("%d of %d tokens were cached, want %d", got, len(tokens), want)
	}
	return seq
}

func TestEvictedBlocksComeBack(t *testing.T) {
	m := newTiered(t, 4)
	for round := range 3 {
		for which := range 5 { // five texts of four blocks through a pool of four
			want := 0
			if round > 0 {
				want = 12 // all but the last block, whose last token is computed for its logits
			}
			seq := m.cached("", text(which, 16), want)
			if round > 0 && (seq.Match.Tokens != 12 || seq.Match.Stop != batch.StopBlockEdge) {
				t.Errorf("match %+v", seq.Match)
			}
		}
	}
	if st := m.Stats(); st.TierTokens != 2*5*12 || st.HitTokens != st.TierTokens {
		t.Errorf("%+v", st)
	}
}

// TestPoolBeforeTier: what the pool has is not loaded, in the middle of a chain either.
func TestPoolBeforeTier(t *testing.T) {
	m := newTiered(t, 8)
	a := text(1, 17)
	m.cached("", a, 0)
	m.cached("", a, 16)
	if m.shelf.loads != 0 {
		t.Fatalf("%d loads although the pool had all", m.shelf.loads)
	}
	m.cached("", text(2, 25), 0) // takes seven of eight blocks: of a the first is left
	m.cached("", a, 16)
	if m.shelf.loads != 3 {
		t.Errorf("%d loads, want 3", m.shelf.loads)
	}
}

func TestTierKeepsTenantsApart(t *testing.T) {
	m := newTiered(t, 4)
	a := text(1, 16)
	m.cached("alice", a, 0)
	m.cached("alice", text(2, 16), 0)
	m.cached("bob", a, 0)
	m.cached("alice", a, 12)
	m.cached("bob", a, 12)
}

func TestRefusedLoadIsComputed(t *testing.T) {
	m := newTiered(t, 4)
	m.cached("", text(1, 16), 0)
	m.cached("", text(2, 16), 0)
	m.shelf.refuse = true
	if seq := m.cached("", text(1, 16), 0); seq.Match.Stop != batch.StopEvicted {
		t.Errorf("match %+v", seq.Match)
	}
	m.shelf.refuse = false
	m.cached("", text(2, 16), 12)
}

// TestWarm: a chain comes back a few blocks at a time, and what has come back is
// not pushed out by what comes next, though the pool has no room for more.
func TestWarm(t *testing.T) {
	m := newTiered(t, 8)
	a := text(1, 32)
	m.cached("", a, 0)
	m.cached("", text(2, 32), 0) // pushes all of a out
	seq := &batch.Sequence{ID: 99, Tokens: a, PromptLen: len(a), MaxTokens: 1}
	chain := m.Chain(nil, "", a)
	if n, more := m.Warm(seq, chain, 1, 3); n != 0 || more {
		t.Errorf("%d blocks for a sequence that does not fit beside the reserve", n)
	}
	for i, want := range []struct {
		loaded int
		more   bool
	}{{3, true}, {3, true}, {1, false}, {0, false}} {
		n, more := m.Warm(seq, chain, 0, 3)
		if n != want.loaded || more != want.more {
			t.Errorf("call %d brings %d blocks, more %v; want %+v", i, n, more, want)
		}
		if err := m.Check(nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.Match(chain, a); got != 28 || m.shelf.loads != 7 {
		t.Errorf("%d tokens are cached after %d loads", got, m.shelf.loads)
	}
	m.cached("", a, 28)
}

func TestSpillOffersAllThatIsIdle(t *testing.T) {
	m := newTiered(t, 8)
	a := text(1, 20)
	m.cached("", a, 0)
	m.Spill()
	m.Reset()
	m.cached("", a, 16)
	if m.shelf.loads != 4 {
		t.Errorf("%d loads", m.shelf.loads)
	}
}

func TestChainNeedsNoManager(t *testing.T) {
	m := newTiered(t, 4)
	if a := text(1, 50); !slices.Equal(Chain(m.Config(), "x", a), m.Chain(nil, "x", a)) {
		t.Error("two chains of one text")
	}
}

func TestTierNeedsPrefixCaching(t *testing.T) {
	if _, err := New(Config{NumBlocks: 4, Tier: &shelf{}}); err == nil {
		t.Error("accepted")
	}
}
