package backend

import (
	"slices"
	"strings"
	"sync"
	"time"

	"sestina/batch"
)

// Profiled is a backend that knows where its time goes: every operation is timed by the wall clock and booked under a
// name, a matmul's from its tensors' names ("attn_q+attn_k+attn_v"), all layers together. Two looks at the clock and
// an uncontended lock an operation, well under a microsecond (BenchmarkProfiled): a step of a 135M model has some 150, so it can stay on.
//
// What a model does between operations is nobody's and not counted here. On a device that computes asynchronously
// the times are those of handing work over.
type Profiled struct {
	Backend

	names map[Matrix]string
	ops   map[*Linear]*Part
	named map[string]*Part

	mu    sync.Mutex // parts are read while the step goroutine runs
	parts []*Part    // by first use
}

// Part is what was spent on one kind of operation.
type Part struct {
	Name  string
	Calls uint64
	Rows  uint64 // of activations
	Bytes uint64 // of weights that a call has to read, summed over calls; 0 where no weights are read whole
	Time  time.Duration
}

// Profile wraps a backend. The models loaded through it have names.
func Profile(b Backend) *Profiled {
	return &Profiled{Backend: b, names: map[Matrix]string{}, ops: map[*Linear]*Part{}, named: map[string]*Part{}}
}

// Parts is what was spent until now, in the order of first use. Safe beside a running step.
func (p *Profiled) Parts() []Part {
	p.mu.Lock()
	defer p.mu.Unlock()
	parts := make([]Part, len(p.parts))
	for i := range p.parts {
		parts[i] = *p.parts[i]
	}
	return parts
}

// PartsSince is parts less what an earlier look found; parts that did not run in between are left out.
func PartsSince(parts, before []Part) []Part {
	parts = slices.Clone(parts)
	for i, b := range before { // parts are only ever added behind
		parts[i].Calls -= b.Calls
		parts[i].Rows -= b.Rows
		parts[i].Bytes -= b.Bytes
		parts[i].Time -= b.Time
	}
	return slices.DeleteFunc(parts, func(p Part) bool { return p.Calls == 0 })
}

// book adds one call.
func (p *Profiled) book(at *Part, begin time.Time, rows int, bytes uint64) {
	took := time.Since(begin)
	p.mu.Lock()
	at.Calls++
	at.Rows += uint64(rows)
	at.Bytes += bytes
	at.Time += took
	p.mu.Unlock()
}

// part is the entry of a name.
func (p *Profiled) part(name string) *Part {
	at := p.named[name]
	if at == nil {
		at = &Part{Name: name}
		p.named[name] = at
		p.mu.Lock()
		p.parts = append(p.parts, at)
		p.mu.Unlock()
	}
	return at
}

// linear is the entry of a matmul: an operation is made once, at load, and found by its address.
func (p *Profiled) linear(op *Linear) *Part {
	at := p.ops[op]
	if at == nil {
		var names []string
		for _, w := range op.W {
			names = append(names, p.names[w])
		}
		at = p.part(strings.Join(names, "+"))
		p.ops[op] = at
	}
	return at
}

// kind is the last word of a tensor's name: attn_q of blk.3.attn_q.weight.
func kind(tensor string) string {
	tensor = strings.TrimSuffix(tensor, ".weight")
	return tensor[strings.LastIndexByte(tensor, '.')+1:]
}

// NewMatrix keeps the tensor's name.
func (p *Profiled) NewMatrix(src Source) (Matrix, error) {
	m, err := p.Backend.NewMatrix(src)
	if err == nil {
		p.names[m] = kind(src.Name)
	}
	return m, err
}

func (p *Profiled) Embed(dst Rows, table Matrix, ids []int32, scale float32) {
	begin := time.Now()
	p.Backend.Embed(dst, table, ids, scale)
	p.book(p.part("embedding"), begin, len(ids), 0)
}

func (p *Profiled) Linear(dst, x Rows, op *Linear) {
	begin, bytes := time.Now(), uint64(0)
	p.Backend.Linear(dst, x, op)
	for _, w := range op.W {
		bytes += w.Bytes()
	}
	p.book(p.linear(op), begin, x.N, bytes)
}

func (p *Profiled) Attend(dst, qkv Rows, in *batch.Input, kv Cache, op *Attention) {
	begin := time.Now()
	p.Backend.Attend(dst, qkv, in, kv, op)
	p.book(p.part("attention"), begin, qkv.N, 0)
}

func (p *Profiled) Norm(dst, x Rows, n *Norm) {
	begin := time.Now()
	p.Backend.Norm(dst, x, n)
	p.book(p.part("norm"), begin, x.N, 0)
}

func (p *Profiled) Gather(dst, src Rows, rows []int32) {
	begin := time.Now()
	p.Backend.Gather(dst, src, rows)
	p.book(p.part("gather"), begin, len(rows), 0)
}

func (p *Profiled) CopyBlocks(kv Cache, copies []batch.BlockCopy) {
	begin := time.Now()
	p.Backend.CopyBlocks(kv, copies)
	p.book(p.part("copy blocks"), begin, len(copies), 0)
}
