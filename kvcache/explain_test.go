package kvcache

import (
	"testing"

	"sestina/batch"
)

// What a match is told survives eviction, and what only explains is forgotten
// with the blocks: nothing leaks and nothing is told of a block that has gone.
func TestExplainForgets(t *testing.T) {
	m := newManager(t, 8, 4)
	for n := range 100 {
		seq := newSeq(int64(n), n%7, 9+n%20)
		seq.Salt = string(rune('a' + n%3))
		if n%2 == 0 {
			seq.Tokens[5] = -1
		}
		admit(t, m, seq)
		compute(m, seq)
		check(t, m, seq)
		m.Free(seq, 0)
		check(t, m)
		if len(m.whys.newest) > 8 || len(m.whys.openings) > 8 {
			t.Fatalf("%d parents, %d openings are known of 8 blocks", len(m.whys.newest), len(m.whys.openings))
		}
	}
	m.ClearCache()
	if len(m.whys.newest)+len(m.whys.openings) != 0 {
		t.Errorf("after a clear %d parents and %d openings are known", len(m.whys.newest), len(m.whys.openings))
	}
}

// Why a match ends, told when a sequence is first admitted and not again.
func TestMatchIsKept(t *testing.T) {
	m := newManager(t, 16, 4)
	first := newSeq(1, 1, 13)
	first.Salt = "a"
	admit(t, m, first)
	compute(m, first)
	for _, c := range []struct {
		name string
		seq  func() *batch.Sequence
		want batch.PrefixMatch
	}{
		{"repeated", func() *batch.Sequence { s := newSeq(2, 1, 13); s.Salt = "a"; return s }, batch.PrefixMatch{Tokens: 12, At: 12, Stop: batch.StopBlockEdge}},
		{"parting", func() *batch.Sequence { s := newSeq(2, 1, 13); s.Salt = "a"; s.Tokens[6] = -1; return s }, batch.PrefixMatch{Tokens: 4, At: 6, Stop: batch.StopDiverged}},
		{"another tenant's", func() *batch.Sequence { s := newSeq(2, 1, 13); s.Salt = "b"; return s }, batch.PrefixMatch{Stop: batch.StopSalt}},
		{"new", func() *batch.Sequence { s := newSeq(2, 9, 13); s.Salt = "a"; return s }, batch.PrefixMatch{Stop: batch.StopUnseen}},
	} {
		seq := c.seq()
		if why := m.Explain(seq); why != c.want {
			t.Errorf("%s: explained as %+v, want %+v", c.name, why, c.want)
		}
		admit(t, m, seq)
		if seq.Match != c.want {
			t.Errorf("%s: told %+v, want %+v", c.name, seq.Match, c.want)
		}
		m.Free(seq, 0)
		seq.Preemptions++
		seq.Match = batch.PrefixMatch{}
		if admit(t, m, seq); seq.Match != (batch.PrefixMatch{}) {
			t.Errorf("%s: told again: %+v", c.name, seq.Match)
		}
		m.Free(seq, 0)
	}
	for stop := batch.StopNone; stop <= batch.StopDisabled; stop++ {
		if public := stop.Public(); public == batch.StopSalt || stop != batch.StopSalt && public != stop {
			t.Errorf("%v is told to a client as %v", stop, public)
		}
	}
}

// BenchmarkExplain is the worst case: as many texts that part in the first block
// as are looked at, of a pool of 64 Ki blocks.
func BenchmarkExplain(b *testing.B) {
	m := newManager(b, 1<<16, 16)
	for n := range 2 * maxSiblings {
		seq := newSeq(int64(n), 1, 17)
		seq.Tokens[15] = int32(-n - 1)
		admit(b, m, seq)
		compute(m, seq)
		m.Free(seq, 0)
	}
	seq := newSeq(1, 1, 4097)
	chain := m.Chain(nil, "", seq.Tokens)
	for b.Loop() {
		if why := m.explain(seq, chain, 0); why.At != 15 {
			b.Fatalf("%+v", why)
		}
	}
}
