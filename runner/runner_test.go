package runner

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"sestina/backend"
	"sestina/backend/ref"
	"sestina/batch"
	"sestina/model"
	"sestina/tensor"
)

// recorder is a model that keeps the inputs it is given; the logits of a row
// are its token id.
type recorder struct {
	seen []batch.Input
	out  backend.Rows
}

func (m *recorder) Info() model.Info {
	return model.Info{Vocab: 100, CacheLayers: []backend.CacheLayer{{KVHeads: 1, HeadDim: 8}}}
}

func (m *recorder) Forward(in *batch.Input, _ backend.Cache) model.Output {
	seen := batch.Input{TokenIDs: slices.Clone(in.TokenIDs), Positions: slices.Clone(in.Positions), Slots: [][]int32{slices.Clone(in.Slots[0])},
		Spans: slices.Clone(in.Spans), LogitRows: slices.Clone(in.LogitRows), BlockSize: in.BlockSize}
	m.seen = append(m.seen, seen)
	m.out = backend.Rows{N: len(in.LogitRows), Width: 1, Host: make([]float32, len(in.LogitRows))}
	for i, r := range in.LogitRows {
		m.out.Host[i] = float32(in.TokenIDs[r])
	}
	return model.Output{Logits: m.out}
}

func newRunner(t *testing.T, cfg Config) (*ModelRunner, *recorder) {
	t.Helper()
	m := &recorder{}
	r, err := New(m, ref.New(backend.Options{}), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, m
}

func TestStepIsLaidOutFlat(t *testing.T) {
	r, m := newRunner(t, Config{Blocks: 8, BlockSize: 4, KVDType: tensor.F32})
	decoding := &batch.Sequence{Tokens: []int32{1, 2, 3, 4, 5, 6}, NumComputed: 5, BlockTables: [][]int32{{7, 2}}}
	filling := &batch.Sequence{Tokens: []int32{11, 12, 13, 14, 15, 16, 17}, NumComputed: 2, BlockTables: [][]int32{{0, 5}}}
	verifying := &batch.Sequence{Tokens: []int32{21, 22}, NumComputed: 1, Drafts: []int32{23, 24}, BlockTables: [][]int32{{3}}}
	out := r.Run(&batch.Step{Seqs: []batch.Scheduled{{Seq: decoding, NumTokens: 1}, {Seq: filling, NumTokens: 3}, {Seq: verifying, NumTokens: 3, NumDrafts: 2}}})
	want := batch.Input{
		TokenIDs:  []int32{6, 13, 14, 15, 22, 23, 24},
		Positions: []int32{5, 2, 3, 4, 1, 2, 3},
		Slots:     [][]int32{{2*4 + 1, 2, 3, 5 * 4, 3*4 + 1, 3*4 + 2, 3*4 + 3}},
		Spans: []batch.Span{{Row: 0, Len: 1, Start: 5, BlockTables: [][]int32{{7, 2}}}, {Row: 1, Len: 3, Start: 2, BlockTables: [][]int32{{0, 5}}},
			{Row: 4, Len: 3, Start: 1, BlockTables: [][]int32{{3}}}},
		LogitRows: []int32{0, 4, 5, 6},
		BlockSize: 4,
	}
	if !reflect.DeepEqual(m.seen[0], want) {
		t.Errorf("the model saw\n%+v, want\n%+v", m.seen[0], want)
	}
	if shares := []LogitShare{{0, 1}, {1, 0}, {1, 3}}; !slices.Equal(out.Shares, shares) {
		t.Errorf("shares %v, want %v", out.Shares, shares)
	}
	r.Run(&batch.Step{Seqs: []batch.Scheduled{{Seq: decoding, NumTokens: 1}}})
	if got := m.seen[1]; len(got.TokenIDs) != 1 || len(got.Spans) != 1 || len(got.LogitRows) != 1 {
		t.Errorf("the second step carries the first one's rows: %+v", got)
	}
}

func TestChunkThatEndsThePromptHasLogits(t *testing.T) {
	r, _ := newRunner(t, Config{Blocks: 2, BlockSize: 4, KVDType: tensor.F32})
	for n, rows := range map[int]int{4: 0, 5: 1} {
		s := &batch.Sequence{Tokens: []int32{1, 2, 3, 4, 5}, BlockTables: [][]int32{{0, 1}}}
		out := r.Run(&batch.Step{Seqs: []batch.Scheduled{{Seq: s, NumTokens: n}}})
		if out.Shares[0].Len != rows || out.Logits.N != rows {
			t.Errorf("%d of 5 tokens: %v and %d rows of logits, want %d", n, out.Shares, out.Logits.N, rows)
		}
	}
}

func TestCopiesPrecedeTheStep(t *testing.T) {
	b := &copyRecorder{Backend: ref.New(backend.Options{})}
	r, err := New(&recorder{}, b, Config{Blocks: 3, BlockSize: 2, KVDType: tensor.F32})
	if err != nil {
		t.Fatal(err)
	}
	copies := []batch.BlockCopy{{Src: 0, Dst: 2}}
	r.Run(&batch.Step{Copies: copies})
	if !slices.Equal(b.copies, copies) {
		t.Errorf("copied %v, want %v", b.copies, copies)
	}
}

type copyRecorder struct {
	backend.Backend
	copies []batch.BlockCopy
}

func (b *copyRecorder) CopyBlocks(_ backend.Cache, copies []batch.BlockCopy) {
	b.copies = append(b.copies, copies...)
}

func TestLogitsOfEveryPosition(t *testing.T) {
	for chunk := 1; chunk <= 8; chunk++ {
		r, m := newRunner(t, Config{Blocks: 2, BlockSize: 4, KVDType: tensor.F32})
		ids := []int32{9, 8, 7, 6, 5, 4, 3}
		var got []int32
		err := r.Logits(ids, chunk, func(pos int, row []float32) error {
			if pos != len(got) {
				t.Fatalf("position %d after %d", pos, len(got))
			}
			got = append(got, int32(row[0]))
			return nil
		})
		if err != nil || !slices.Equal(got, ids) {
			t.Errorf("chunks of %d: %v, %v", chunk, got, err)
		}
		if steps := (len(ids) + chunk - 1) / chunk; len(m.seen) != steps {
			t.Errorf("chunks of %d: %d steps, want %d", chunk, len(m.seen), steps)
		}
	}
}

func TestLogitsRefuses(t *testing.T) {
	r, _ := newRunner(t, Config{Blocks: 2, BlockSize: 4, KVDType: tensor.F32})
	nothing := func(int, []float32) error { return nil }
	for _, ids := range [][]int32{make([]int32, 9), {1, 100}, {-1}} {
		if err := r.Logits(ids, 4, nothing); err == nil {
			t.Errorf("%v was accepted", ids)
		}
	}
	stop := errors.New("enough")
	if err := r.Logits([]int32{1, 2}, 1, func(int, []float32) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's error came back as %v", err)
	}
}

func TestPoolThatCannotBe(t *testing.T) {
	for _, cfg := range []Config{{Blocks: 0, BlockSize: 4, KVDType: tensor.F32}, {Blocks: 4, BlockSize: 0, KVDType: tensor.F32}, {Blocks: 4, BlockSize: 4, KVDType: tensor.Q4_K}} {
		t.Run(fmt.Sprint(cfg), func(t *testing.T) {
			if _, err := New(&recorder{}, ref.New(backend.Options{}), cfg); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}
