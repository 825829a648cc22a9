// Package cpu is the CPU backend: packed weights off the Go heap, one worker
// team, and a folder per kernel.
//
//	matmul     packed weights × rows of int8, bf16 or float32 activations
//	attention  paged flash attention with grouped heads
//	team       the worker team that splits every operation
//
// An operation is one or two parallel loops over the team; worker 0 is the
// caller. What a loop's share computes depends on the share's indices alone, so
// the thread count, stealing and the number of rows never change a bit
// (TestConformance, by backend/backendtest).
package cpu

import (
	"fmt"
	"sync/atomic"

	"sestina/backend"
	"sestina/backend/cpu/matmul"
	"sestina/backend/cpu/team"
	"sestina/internal/arena"
	"sestina/internal/simd"
	"sestina/tensor"
)

func init() {
	backend.Register("cpu", func(opt backend.Options) (backend.Backend, error) { return New(opt) })
}

// Backend computes on the CPU.
type Backend struct {
	opt     backend.Options
	kernels *matmul.Kernels
	team    *team.Team
	weights []*arena.Region // weights are carved from large regions, so that huge pages serve them
	room    []byte          // what is left of the last region
	raw     [][]byte        // per worker: file bytes being packed; until there is a cache, by when weights are loaded
	bf16    bool            // a matrix is multiplied by bf16 activations

	scratch []scratch // per worker
	linear  linearJob
	attend  attendJob
	norm    normJob
}

// scratch is one worker's memory, grown as needed and kept.
type scratch struct {
	out  []float32 // a chunk of outputs before the epilogue
	wide []float32 // a panel of integer weights as float32
}

// New makes a backend. ISA is "" for the best or generic, avx2, avx512vnni, amx.
func New(opt backend.Options) (*Backend, error) {
	b := &Backend{opt: opt, kernels: matmul.Best()}
	if err := b.choose(opt.ISA); err != nil {
		return nil, err
	}
	var err error
	if b.team, err = team.New(opt.Threads); err != nil {
		return nil, err
	}
	team.EnsureProcs(b.team.Threads())
	b.scratch = make([]scratch, b.team.Threads())
	b.linear.b, b.attend.b = b, b
	return b, nil
}

// choose sets the kernel family, "" being the best; one that this machine lacks
// is an error. The vector package's level is the process's, so it is set either way.
func (b *Backend) choose(name string) error {
	levels := simd.Levels()
	level := levels[len(levels)-1]
	if name != "" {
		isa, err := matmul.ParseISA(name)
		if err != nil {
			return err
		}
		if b.kernels, err = matmul.For(isa); err != nil {
			return err
		}
		level = map[matmul.ISA]simd.Level{matmul.Generic: simd.Generic, matmul.AVX2: simd.AVX2, matmul.AVX512VNNI: simd.AVX512, matmul.AMX: simd.AVX512}[isa]
	}
	_, err := simd.Use(level)
	return err
}

// CheckOptions refuses a thread count or kernel family that New would refuse.
func CheckOptions(opt backend.Options) error {
	if opt.Threads < 0 || opt.Threads > team.MaxThreads {
		return fmt.Errorf("%d threads: choose 1 to %d, or 0 for one per free core", opt.Threads, team.MaxThreads)
	}
	if opt.ISA == "" {
		return nil
	}
	isa, err := matmul.ParseISA(opt.ISA)
	if err == nil {
		_, err = matmul.For(isa)
	}
	return err
}

// BestISA names the kernel family that this machine would use.
func BestISA() string { return matmul.Best().ISA.String() }

// BestBF16 names the order in which that family adds BF16 products.
func BestBF16() string { return "in " + orderNames[orderOf(matmul.Best())] }

var orderNames = map[backend.BF16Order]string{backend.BF16ByPairs: "pairs", backend.BF16ByBlocks: "blocks of 32"}

func orderOf(k *matmul.Kernels) backend.BF16Order {
	if k.BF16InBlocks() {
		return backend.BF16ByBlocks
	}
	return backend.BF16ByPairs
}

func (b *Backend) Name() string { return "cpu" }

// BF16Order is that of the kernel family.
func (b *Backend) BF16Order() backend.BF16Order { return orderOf(b.kernels) }

// Numerics names the order of BF16 products where the model has such and it is
// not that of the other families, whose bits are all the same.
func (b *Backend) Numerics() string {
	if order := b.BF16Order(); b.bf16 && order != backend.BF16ByPairs {
		return "BF16 in " + orderNames[order]
	}
	return ""
}

// Describe names the kernel family and the thread count, and says what makes them slow.
func (b *Backend) Describe() string {
	s := describe(b.kernels.ISA, b.Numerics(), b.team.Threads(), team.DefaultThreads())
	if err := matmul.WhyNoAMX(); err != nil {
		s += fmt.Sprintf(" (AMX not used: %v)", err)
	}
	if err := matmul.WhyNoBlocks(); err != nil && b.bf16 {
		s += fmt.Sprintf(" (AMX not used for BF16: %v)", err)
	}
	return s
}

func describe(isa matmul.ISA, numerics string, threads, free int) string {
	s := fmt.Sprintf("cpu %v, %d threads", isa, threads)
	if threads == 1 {
		s = fmt.Sprintf("cpu %v, 1 thread", isa)
	}
	if numerics != "" {
		s += ", " + numerics
	}
	if isa == matmul.Generic {
		s += " (pure Go kernels: correct but slow on this machine)"
	}
	if threads > free {
		s += fmt.Sprintf(" (more than the %d free to use: slower than --threads %d)", free, free)
	}
	return s
}

// Close stops the team and releases the weights.
func (b *Backend) Close() error {
	b.team.Close()
	for _, r := range b.weights {
		if err := r.Free(); err != nil {
			return err
		}
	}
	b.weights, b.room = nil, nil
	return nil
}

func (b *Backend) NewVector(v []float32) (backend.Vector, error) {
	return backend.Vector{Host: append([]float32(nil), v...)}, nil
}

// NewRows allocates activations off the heap.
func (b *Backend) NewRows(n, width int) (backend.Rows, error) {
	mem, err := b.carve(uint64(n) * uint64(width) * 4)
	if err != nil {
		return backend.Rows{}, fmt.Errorf("%d rows of %d activations: %w", n, width, err)
	}
	return backend.Rows{N: n, Width: width, Host: arena.View[float32](mem)}, nil
}

// regionBytes is the size of the regions that weights are carved from.
const regionBytes = 64 << 20

// carve returns n zeroed bytes aligned to 64.
func (b *Backend) carve(n uint64) ([]byte, error) {
	aligned := (n + 63) &^ 63
	if aligned < n {
		return nil, fmt.Errorf("%d bytes are too many", n)
	}
	if uint64(len(b.room)) < aligned {
		r, err := arena.Alloc(max(regionBytes, aligned))
		if err != nil {
			return nil, err
		}
		b.weights = append(b.weights, r)
		b.room = r.Bytes()
	}
	mem := b.room[:n:n]
	b.room = b.room[aligned:]
	return mem, nil
}

// matrix is a packed weight matrix.
type matrix struct {
	*matmul.Packed
	act activation
}

// activation is the type of activations that a matrix is multiplied by.
type activation uint8

const (
	actF32 activation = iota
	actInt8
	actBF16
)

// activationFor is int8 for integer formats and bf16 for BF16, unless float32 was asked for.
func activationFor(d tensor.DType, asked backend.ActivationDType) activation {
	switch {
	case asked == backend.ActivationsF32:
		return actF32
	case d.Quantized():
		return actInt8
	case d == tensor.BF16:
		return actBF16
	}
	return actF32
}

func (m *matrix) Shape() (int, int)   { return m.Rows, m.Cols }
func (m *matrix) DType() tensor.DType { return m.Packed.DType }
func (m *matrix) Bytes() uint64       { return m.Packed.Bytes() }

// NewMatrix reads and packs a matrix, panels shared out over the team.
func (b *Backend) NewMatrix(src backend.Source) (backend.Matrix, error) {
	size, err := matmul.PackedSize(src.DType, src.Rows, src.Cols)
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", src.Name, err)
	}
	mem, err := b.carve(size)
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", src.Name, err)
	}
	p, err := matmul.New(src.DType, src.Rows, src.Cols, mem)
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", src.Name, err)
	}
	rowBytes, err := src.RowBytes()
	if err != nil {
		return nil, err
	}
	if b.raw == nil {
		b.raw = make([][]byte, b.team.Threads())
	}
	job := packJob{src: src, packed: p, rowBytes: rowBytes, raw: b.raw}
	b.team.Run(p.Panels(), max(1, loadChunk/(rowBytes*matmul.PanelRows)), &job)
	if err := job.err.Load(); err != nil {
		return nil, *err
	}
	act := activationFor(src.DType, b.opt.Activations)
	b.bf16 = b.bf16 || act == actBF16
	return &matrix{p, act}, nil
}

// loadChunk is how many bytes of a file one worker reads at a time.
const loadChunk = 1 << 20

// packJob reads and packs panels.
type packJob struct {
	src      backend.Source
	packed   *matmul.Packed
	rowBytes int
	raw      [][]byte // per worker
	err      atomic.Pointer[error]
}

func (j *packJob) Do(worker, i0, i1 int) {
	row0 := i0 * matmul.PanelRows
	n := min(i1*matmul.PanelRows, j.src.Rows) - row0
	if cap(j.raw[worker]) < n*j.rowBytes {
		j.raw[worker] = make([]byte, n*j.rowBytes)
	}
	raw := j.raw[worker][:n*j.rowBytes]
	if err := j.src.Read(raw, row0, n); err != nil {
		j.err.CompareAndSwap(nil, &err)
		return
	}
	j.packed.Pack(i0, raw)
}

// Embed gathers rows of the packed table.
func (b *Backend) Embed(dst backend.Rows, table backend.Matrix, ids []int32, scale float32) {
	m := table.(*matrix)
	for i, id := range ids {
		m.Row(int(id), dst.Row(i))
		if scale != 1 {
			simd.Scale(dst.Row(i), dst.Row(i), scale)
		}
	}
}

// normJob is an RMSNorm of many rows.
type normJob struct {
	dst, x backend.Rows
	n      *backend.Norm
}

func (j *normJob) Do(_, i0, i1 int) {
	for i := i0; i < i1; i++ {
		simd.RMSNorm(j.dst.Row(i), j.x.Row(i), j.n.Weight.Host, j.n.Eps)
	}
}

// normAlone is how many rows one thread norms sooner than two would meet: 576
// values take some 150 ns.
const normAlone = 16

// Norm is RMSNorm row by row.
func (b *Backend) Norm(dst, x backend.Rows, n *backend.Norm) {
	b.norm = normJob{dst, x, n}
	if x.N <= normAlone {
		b.norm.Do(0, 0, x.N)
		return
	}
	b.team.Run(x.N, 1, &b.norm)
}

// Gather copies rows.
func (b *Backend) Gather(dst, src backend.Rows, rows []int32) {
	for i, r := range rows {
		copy(dst.Row(i), src.Row(int(r)))
	}
}

var _ backend.Backend = (*Backend)(nil)
