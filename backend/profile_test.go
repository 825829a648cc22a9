package backend

import (
	"slices"
	"testing"
	"time"

	"sestina/batch"
	"sestina/tensor"
)

// fake does nothing, slowly if asked.
type fake struct {
	Backend
	delay time.Duration
}

type fakeMatrix struct{ bytes uint64 }

func (*fakeMatrix) Shape() (int, int)   { return 0, 0 }
func (*fakeMatrix) DType() tensor.DType { return tensor.F32 }
func (m *fakeMatrix) Bytes() uint64     { return m.bytes }

func (f *fake) NewMatrix(src Source) (Matrix, error)               { return &fakeMatrix{uint64(src.Rows)}, nil }
func (f *fake) Embed(Rows, Matrix, []int32, float32)               {}
func (f *fake) Linear(Rows, Rows, *Linear)                         { time.Sleep(f.delay) }
func (f *fake) Attend(Rows, Rows, *batch.Input, Cache, *Attention) {}
func (f *fake) Gather(Rows, Rows, []int32)                         {}
func (f *fake) CopyBlocks(kv Cache, copies []batch.BlockCopy)      {}

func matrixOf(t testing.TB, p *Profiled, name string, bytes int) Matrix {
	t.Helper()
	m, err := p.NewMatrix(Source{Name: name, Rows: bytes})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Layers' operations of one kind are one part; times, rows and bytes add up, and a difference is what lay between.
func TestProfileBooksOperationsByKind(t *testing.T) {
	p := Profile(&fake{delay: 2 * time.Millisecond})
	var qkv []*Linear
	for _, layer := range []string{"blk.0.", "blk.1."} {
		qkv = append(qkv, &Linear{W: []Matrix{matrixOf(t, p, layer+"attn_q.weight", 100), matrixOf(t, p, layer+"attn_k.weight", 10)}})
	}
	head := &Linear{W: []Matrix{matrixOf(t, p, "model.lm_head.weight", 7)}}
	step := func(rows int) {
		p.Embed(Rows{}, nil, make([]int32, rows), 1)
		for _, op := range qkv {
			p.Linear(Rows{}, Rows{N: rows}, op)
			p.Attend(Rows{}, Rows{N: rows}, nil, nil, nil)
		}
	}
	step(3)
	before := p.Parts()
	step(1)
	p.Linear(Rows{}, Rows{N: 1}, head)
	parts := PartsSince(p.Parts(), before)
	type counts struct {
		name               string
		calls, rows, bytes uint64
	}
	var got []counts
	for _, part := range parts {
		got = append(got, counts{part.Name, part.Calls, part.Rows, part.Bytes})
	}
	want := []counts{{"embedding", 1, 1, 0}, {"attn_q+attn_k", 2, 2, 220}, {"attention", 2, 2, 0}, {"lm_head", 1, 1, 7}}
	if !slices.Equal(got, want) {
		t.Errorf("booked %v, want %v", got, want)
	}
	if took := parts[1].Time; took < 4*time.Millisecond || took > 10*time.Second {
		t.Errorf("two operations of 2 ms took %v", took)
	}
	if took := parts[2].Time; took > parts[1].Time {
		t.Errorf("operations that do nothing took %v", took)
	}
	if parts := PartsSince(p.Parts(), p.Parts()); len(parts) != 0 {
		t.Errorf("nothing ran, and yet %v", parts)
	}
}

func TestProfiledDoesNotAllocate(t *testing.T) {
	p := Profile(&fake{})
	op := &Linear{W: []Matrix{matrixOf(t, p, "blk.0.attn_q.weight", 1)}}
	if n := testing.AllocsPerRun(100, func() {
		p.Linear(Rows{}, Rows{N: 1}, op)
		p.Attend(Rows{}, Rows{N: 1}, nil, nil, nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkProfiled is what the profile adds to an operation.
func BenchmarkProfiled(b *testing.B) {
	p := Profile(&nothing{})
	op := &Linear{W: []Matrix{matrixOf(b, p, "blk.0.attn_q.weight", 1)}}
	for b.Loop() {
		p.Linear(Rows{}, Rows{N: 1}, op)
	}
}

type nothing struct{ fake }

func (*nothing) Linear(Rows, Rows, *Linear) {}
