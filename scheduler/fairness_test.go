package scheduler

import (
	"testing"

	"sestina/batch"
	"sestina/kvcache"
)

// A greedy key keeps a hundred requests queued; a modest one sends the next when
// its last has ended. The modest one waits for a seat, never for the queue, and
// while both have work waiting their tokens differ by no more than two requests.
func TestKeysShareTheMachine(t *testing.T) {
	const output = 10
	s := New(Config{MaxNumSeqs: 2, ChunkedPrefill: true}, newPool(t, kvcache.Config{NumBlocks: 64}))
	id := int64(0)
	send := func(key string) *batch.Sequence {
		id++
		seq := newSeq(id, int(id), 6, output)
		seq.Salt = key
		if err := s.Add(0, seq); err != nil {
			t.Fatal(err)
		}
		return seq
	}
	for range 100 {
		send("greedy")
	}
	modest := send("modest")
	served, waited, longest := 0, 0, 0
	var buf []batch.Result
	for range 1000 {
		if modest.Status == batch.Finished {
			served++
			modest, waited = send("modest"), 0
		}
		if modest.Status == batch.Waiting {
			waited++
			longest = max(longest, waited)
		}
		for s.Stats().Waiting < 100 {
			send("greedy")
		}
		step := s.Schedule(0)
		buf = results(buf, step)
		s.Update(step, buf)
	}
	if longest > output+1 {
		t.Errorf("the modest key waited %d steps for a seat that is free after %d", longest, output)
	}
	if all := int(s.Stats().Finished); served < all/2-2 {
		t.Errorf("the modest key got %d of %d", served, all)
	}
}

// Keys with requests of different sizes, all with more than enough to do, get the
// same tokens, not the same number of requests.
func TestTurnsAreInTokens(t *testing.T) {
	s := New(Config{MaxNumSeqs: 4, ChunkedPrefill: true}, newPool(t, kvcache.Config{NumBlocks: 256}))
	keys := []string{"a", "b", "c"}
	tokens := map[string]int{}
	for i := range 1200 {
		seq := newSeq(int64(i+1), i, 2+20*(i%3), 1+10*(i%3))
		seq.Salt = keys[i%3]
		if err := s.Add(0, seq); err != nil {
			t.Fatal(err)
		}
	}
	var buf []batch.Result
	for range 200 {
		step := s.Schedule(0)
		buf = results(buf, step)
		for i, sch := range step.Seqs {
			if sch.Seq.NumComputed == 0 {
				tokens[sch.Seq.Salt] += sch.NumTokens
			}
			tokens[sch.Seq.Salt] += len(buf[i].Tokens)
		}
		s.Update(step, buf)
	}
	least, most := 1<<62, 0
	for _, n := range tokens {
		least, most = min(least, n), max(most, n)
	}
	if len(tokens) != 3 || most-least > 2*63 {
		t.Errorf("tokens by key: %v", tokens)
	}
}

// BenchmarkFullQueue is a step with a queue of 1,024 of eight keys whose head does
// not fit the pool: the dearest case of looking for the head.
func BenchmarkFullQueue(b *testing.B) {
	s := New(Config{ChunkedPrefill: true, MaxModelLen: 1 << 20}, newPool(b, kvcache.Config{NumBlocks: 1 << 16}))
	long := newSeq(1, 1, 2048, 1<<19)
	long.Tokens = append(make([]int32, 0, 1<<20), long.Tokens...)
	for i := range 1024 {
		seq := newSeq(int64(i+2), i, 16, 4)
		if i < 8 {
			seq = newSeq(int64(i+2), i, 1<<20-64, 4)
		}
		seq.Salt = string(rune('a' + i%8))
		if i == 0 {
			if err := s.Add(0, long); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Add(0, seq); err != nil {
			b.Fatal(err)
		}
	}
	var buf []batch.Result
	for b.Loop() {
		step := s.Schedule(0)
		if len(step.Seqs) != 1 {
			b.Fatalf("%d sequences fit", len(step.Seqs))
		}
		buf = results(buf, step)
		s.Update(step, buf)
	}
}
