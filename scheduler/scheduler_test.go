package scheduler

import (
	"fmt"
	"testing"

	"sestina/batch"
	"sestina/kvcache"
)

func newPool(t testing.TB, cfg kvcache.Config) *kvcache.BlockManager {
	t.Helper()
	m, err := kvcache.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// prompt is n tokens, different for each family.
func prompt(family, n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(family*100_000 + i)
	}
	return ids
}

func newSeq(id int64, family, n, maxTokens int) *batch.Sequence {
	return &batch.Sequence{ID: id, Tokens: prompt(family, n), PromptLen: n, MaxTokens: maxTokens}
}

// results answers a step: one token for each sequence that reaches its last
// committed token, with all of its drafts accepted.
func results(buf []batch.Result, step *batch.Step) []batch.Result {
	buf = buf[:0]
	for _, sch := range step.Seqs {
		var r batch.Result
		if sch.Seq.NumComputed+sch.NumTokens-sch.NumDrafts == len(sch.Seq.Tokens) {
			r.Tokens = append(append(r.Tokens, sch.Seq.Drafts...), int32(len(sch.Seq.Tokens)))
		}
		buf = append(buf, r)
	}
	return buf
}

// The article's example: 100 requests alternating 20 and 200 tokens, 4 seats.
// The figures are steps; at 50 ms a step they are 250 s, 142.0 s and 138.0 s.
func TestBatchingExample(t *testing.T) {
	for _, c := range []struct {
		name  string
		cfg   Config
		steps int
	}{
		{"none", Config{Policy: None}, 11_000},
		{"static", Config{Policy: Static}, 5_000},
		{"continuous, by arrival", Config{}, 2_840},
		{"continuous, longest first", Config{Order: PriorityOrder}, 2_760},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.MaxNumSeqs, c.cfg.ChunkedPrefill = 4, true
			s := New(c.cfg, newPool(t, kvcache.Config{NumBlocks: 128}))
			for i := range 100 {
				n := 20 + 180*(i%2)
				seq := newSeq(int64(i+1), i, 1, n)
				seq.Priority = -n
				if err := s.Add(0, seq); err != nil {
					t.Fatal(err)
				}
			}
			steps := 0
			var buf []batch.Result
			for step := s.Schedule(0); step != nil; step = s.Schedule(0) {
				buf = results(buf, step)
				s.Update(step, buf)
				steps++
				if err := s.Check(); err != nil {
					t.Fatal(err)
				}
			}
			if steps != c.steps {
				t.Errorf("%d steps, want %d", steps, c.steps)
			}
		})
	}
}

// BenchmarkStep16 is Schedule and Update of 16 decoding sequences: at most 50 µs.
func BenchmarkStep16(b *testing.B) {
	for _, drafts := range []int{0, 4} {
		b.Run(fmt.Sprintf("drafts=%d", drafts), func(b *testing.B) {
			s := New(Config{ChunkedPrefill: true}, newPool(b, kvcache.Config{NumBlocks: 1 << 16, PrefixCaching: true}))
			const maxTokens = 16_384
			id := int64(0)
			var buf []batch.Result
			token := []int32{7, 7, 7, 7, 7}
			b.ReportAllocs()
			for b.Loop() {
				for st := s.Stats(); st.Running+st.Waiting < 16; st = s.Stats() {
					id++
					seq := newSeq(id, int(id), 256, maxTokens)
					seq.Tokens = append(make([]int32, 0, 256+maxTokens), seq.Tokens...)
					if err := s.Add(0, seq); err != nil {
						b.Fatal(err)
					}
				}
				for _, e := range s.running {
					e.seq.Drafts = append(e.seq.Drafts[:0], token[:drafts]...)
				}
				step := s.Schedule(0)
				buf = buf[:0]
				for _, sch := range step.Seqs {
					var r batch.Result
					if sch.NeedsLogits() {
						r.Tokens = token[:1+sch.NumDrafts/2]
					}
					buf = append(buf, r)
				}
				s.Update(step, buf)
			}
		})
	}
}
