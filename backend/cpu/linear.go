package cpu

import (
	"sestina/backend"
	"sestina/backend/cpu/matmul"
	"sestina/internal/simd"
)

// Linear in two phases:
//
//	prepare  norm each row; quantise it, or round it to bf16, if a matrix asks for it
//	multiply panels of 16 outputs are shared out over the team; the epilogue
//	         runs on a chunk of panels while it is in the cache
//
// With few rows every worker prepares them for itself: 576 values cost some
// 150 ns, less than the barrier that sharing would need. Both ways give the
// same bits, being the same function of the row.
type linearJob struct {
	b                  *Backend
	dst, x             backend.Rows
	op                 *backend.Linear
	needInt8, needBF16 bool
	units              int  // panels of all matrices, or of one of a SwiGLU pair
	phase              int  // prepare or multiply
	own                bool // each worker prepares for itself

	// Prepared rows: shared, or one set per worker.
	norm [][]float32 // rows × cols, or nil: x itself
	act  [][]byte    // rows × ActBytes(cols)
	half [][]byte    // rows × BF16Bytes(cols)
	made []int       // per worker: the serial number of the operation it prepared
	op_  int         // serial number of this operation
}

const (
	prepare = iota
	multiply
)

// ownRows is how many rows a worker rather prepares itself than waits for.
const ownRows = 4

// Many rows are taken in blocks (Kernels.RowBlock) against pieces of at most maxPanels:
// the block's activations (96 rows of 1,536 as int8: 288 KiB) and the piece's
// weights stay in the second-level cache while each is used against the other.
const maxPanels = 16

// Linear writes dst = epilogue(W·norm(x) + bias).
func (b *Backend) Linear(dst, x backend.Rows, op *backend.Linear) {
	if x.N == 0 {
		return
	}
	j := &b.linear
	j.dst, j.x, j.op = dst, x, op
	j.op_++
	j.needInt8, j.needBF16, j.units = false, false, 0
	for i, w := range op.W {
		m := w.(*matrix)
		j.needInt8 = j.needInt8 || m.act == actInt8
		j.needBF16 = j.needBF16 || m.act == actBF16
		if op.Epilogue != backend.SwiGLU || i == 0 {
			j.units += m.Panels()
		}
	}
	j.own = x.N <= ownRows
	j.size(b.team.Threads())
	if !j.own {
		j.phase = prepare
		b.team.Run(x.N, 1, j)
	}
	j.phase = multiply
	b.team.Run(j.units, j.grain(), j)
}

// size makes room for the prepared rows.
func (j *linearJob) size(threads int) {
	if len(j.norm) == 0 {
		j.norm, j.made = make([][]float32, threads), make([]int, threads)
		j.act, j.half = make([][]byte, threads), make([][]byte, threads)
	}
	sets := 1
	if j.own {
		sets = threads
	}
	for i := range sets {
		if j.op.Norm != nil {
			j.norm[i] = grow(j.norm[i], j.x.N*j.x.Width)
		}
		if j.needInt8 {
			j.act[i] = grow(j.act[i], j.x.N*matmul.ActBytes(j.x.Width))
		}
		if j.needBF16 {
			j.half[i] = grow(j.half[i], j.x.N*matmul.BF16Bytes(j.x.Width))
		}
	}
}

func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// grain is the panels of one piece of work: large enough that taking it costs
// little, small enough that both ends of the loop stay busy. Kernels like an
// even number: they take panels by twos.
func (j *linearJob) grain() int {
	per := j.units / (8 * j.b.team.Threads())
	if j.x.N > j.b.kernels.RowBlock() {
		per = min(per, maxPanels)
	}
	if per > 1 {
		per &^= 1
	}
	return max(1, per)
}

// Do is one worker's piece of the current phase.
func (j *linearJob) Do(worker, i0, i1 int) {
	if j.phase == prepare {
		for i := i0; i < i1; i++ {
			j.prepare(0, i)
		}
		return
	}
	set := 0
	if j.own {
		set = worker
		if j.made[worker] != j.op_ {
			for i := range j.x.N {
				j.prepare(set, i)
			}
			j.made[worker] = j.op_
		}
	}
	if j.op.Epilogue == backend.SwiGLU {
		j.swiglu(worker, set, i0, i1)
		return
	}
	// Units run through the matrices one after another.
	unit, col := 0, 0
	for i, w := range j.op.W {
		m := w.(*matrix)
		if lo, hi := max(i0, unit)-unit, min(i1, unit+m.Panels())-unit; lo < hi {
			j.matrix(worker, set, i, m, col, lo, hi)
		}
		unit += m.Panels()
		col += m.Rows
	}
}

// prepare norms, quantises and rounds row i into a set.
func (j *linearJob) prepare(set, i int) {
	row := j.x.Row(i)
	if n := j.op.Norm; n != nil {
		out := j.norm[set][i*j.x.Width:][:j.x.Width]
		simd.RMSNorm(out, row, n.Weight.Host, n.Eps)
		row = out
	}
	if j.needInt8 {
		size := matmul.ActBytes(j.x.Width)
		j.b.kernels.QuantizeRow(j.act[set][i*size:][:size], row)
	}
	if j.needBF16 {
		size := matmul.BF16Bytes(j.x.Width)
		j.b.kernels.RoundRow(j.half[set][i*size:][:size], row)
	}
}

// rows is a block of rows, [from, from+n).
type rows struct{ from, n int }

// eachBlock calls f for blocks of rows.
func (j *linearJob) eachBlock(f func(r rows)) {
	most := j.b.kernels.RowBlock()
	for from := 0; from < j.x.N; from += most {
		f(rows{from, min(most, j.x.N-from)})
	}
}

// multiply computes panels [p0, p1) of m for a block of rows into out, [rows][stride].
func (j *linearJob) multiply(worker, set int, m *matrix, p0, p1 int, r rows, out []float32, stride int) {
	switch m.act {
	case actInt8:
		j.b.kernels.MulInt8(out, stride, m.Packed, p0, p1-p0, j.act[set][r.from*matmul.ActBytes(j.x.Width):], r.n)
		return
	case actBF16:
		j.b.kernels.MulBF16(out, stride, m.Packed, p0, p1-p0, j.half[set][r.from*matmul.BF16Bytes(j.x.Width):], r.n)
		return
	}
	s, x := &j.b.scratch[worker], j.x.Host
	if j.op.Norm != nil {
		x = j.norm[set]
	}
	s.wide = grow(s.wide, m.ScratchLen())
	j.b.kernels.MulF32(out, stride, m.Packed, p0, p1-p0, x[r.from*j.x.Width:], j.x.Width, r.n, s.wide)
}

// matrix computes panels [p0, p1) of matrix i, whose outputs begin at column col of dst.
func (j *linearJob) matrix(worker, set, i int, m *matrix, col, p0, p1 int) {
	first, last := p0*matmul.PanelRows, min(p1*matmul.PanelRows, m.Rows)
	bias := j.bias(i)
	direct := j.op.Epilogue == backend.Store && bias == nil && last == p1*matmul.PanelRows
	s, stride := &j.b.scratch[worker], (p1-p0)*matmul.PanelRows
	j.eachBlock(func(r rows) {
		if direct {
			j.multiply(worker, set, m, p0, p1, r, j.dst.Host[r.from*j.dst.Width+col+first:], j.dst.Width)
			return
		}
		s.out = grow(s.out, r.n*stride)
		j.multiply(worker, set, m, p0, p1, r, s.out, stride)
		for k := range r.n {
			y, dst := s.out[k*stride:][:last-first], j.dst.Row(r.from + k)[col+first:col+last]
			if bias != nil {
				simd.Add(y, bias[first:last])
			}
			if j.op.Epilogue == backend.Add {
				simd.Add(dst, y)
			} else {
				copy(dst, y)
			}
		}
	})
}

// swiglu computes panels [p0, p1) of both matrices and dst = SiLU(gate)·up.
func (j *linearJob) swiglu(worker, set, p0, p1 int) {
	gate, up := j.op.W[0].(*matrix), j.op.W[1].(*matrix)
	first, last := p0*matmul.PanelRows, min(p1*matmul.PanelRows, gate.Rows)
	s, stride := &j.b.scratch[worker], (p1-p0)*matmul.PanelRows
	gb, ub := j.bias(0), j.bias(1)
	j.eachBlock(func(r rows) {
		s.out = grow(s.out, 2*r.n*stride)
		g, u := s.out[:r.n*stride], s.out[r.n*stride:]
		j.multiply(worker, set, gate, p0, p1, r, g, stride)
		j.multiply(worker, set, up, p0, p1, r, u, stride)
		for k := range r.n {
			gr, ur := g[k*stride:][:last-first], u[k*stride:][:last-first]
			if gb != nil {
				simd.Add(gr, gb[first:last])
			}
			if ub != nil {
				simd.Add(ur, ub[first:last])
			}
			simd.SiLUMul(j.dst.Row(r.from + k)[first:last], gr, ur)
		}
	})
}

func (j *linearJob) bias(i int) []float32 {
	if j.op.Bias == nil {
		return nil
	}
	return j.op.Bias[i].Host
}
