package explain

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"sestina/backend/cpu/attention"
	"sestina/tensor"
)

// workload is causal attention of a whole sequence of one KV head through the
// real kernel, over random K, V and Q.
type workload struct {
	kernel *attention.Kernel
	pool   []byte
	query  attention.Query
	n      int

	scratch attention.Scratch // kept, so that only the first run pays for its pages
	out     []float32
}

// newWorkload fills a pool with n positions; group query heads share the KV head.
func newWorkload(n, headDim, group int) (*workload, error) {
	const block = 16
	l := attention.Layout{KVHeads: 1, HeadDim: headDim, BlockSize: block, DType: tensor.F16}
	k, err := attention.New(l)
	if err != nil {
		return nil, err
	}
	blocks := (n + block - 1) / block
	w := &workload{kernel: k, pool: make([]byte, blocks*l.BlockBytes()), n: n}
	rng := rand.New(rand.NewPCG(7, 11))
	draw := func(v []float32) []float32 {
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		return v
	}
	key, value := make([]float32, headDim), make([]float32, headDim)
	for i := range n {
		l.Store(w.pool, int32(i), 0, draw(key), draw(value))
	}
	w.query = attention.Query{Q: draw(make([]float32, n*group*headDim)), Stride: group * headDim, Group: group, Scale: float32(1 / math.Sqrt(float64(headDim)))}
	w.out = make([]float32, len(w.query.Q))
	for i := range blocks {
		w.query.Table = append(w.query.Table, int32(i))
	}
	return w, nil
}

// attend computes all rows, so many at a time, as tiles or with the full score
// matrix. The result is valid until the next call.
func (w *workload) attend(rows int, full bool) []float32 {
	q := w.query
	q.Full = full
	for pos := 0; pos < w.n; pos += rows {
		q.Pos, q.Rows, q.Q = pos, min(rows, w.n-pos), w.query.Q[pos*q.Stride:]
		w.kernel.Attend(w.out[pos*q.Stride:], q.Stride, w.pool, &q, &w.scratch)
	}
	return w.out
}

// moved is what computing all rows takes through slow memory, by the kernel's own count.
func (w *workload) moved(rows int, full bool) int64 {
	w.scratch.Moved = attention.Moved{}
	w.attend(rows, full)
	return w.scratch.Moved.Total()
}

// last computes the last row only, a query head at a time when expanded: a
// decode step with and without groups.
func (w *workload) last(expanded bool) {
	q := w.query
	q.Pos, q.Rows, q.Q = w.n-1, 1, w.query.Q[(w.n-1)*q.Stride:]
	if !expanded {
		w.kernel.Attend(w.out, q.Stride, w.pool, &q, &w.scratch)
		return
	}
	heads, d := q.Group, w.kernel.HeadDim
	q.Group = 1
	for h := range heads {
		q.Q = w.query.Q[(w.n-1)*q.Stride+h*d:]
		w.kernel.Attend(w.out[h*d:], q.Stride, w.pool, &q, &w.scratch)
	}
}

// compareAttention counts the output values of full and tiled attention that
// differ in a bit.
func compareAttention(n int) (differ, values int, err error) {
	w, err := newWorkload(n, 64, 4)
	if err != nil {
		return 0, 0, err
	}
	full := slices.Clone(w.attend(n, true))
	tiles := w.attend(pieceRows, false)
	for i := range full {
		if math.Float32bits(full[i]) != math.Float32bits(tiles[i]) {
			differ++
		}
	}
	return differ, len(full), nil
}

// fastest is the shortest of a few runs, in milliseconds: the machine's other
// work only ever adds.
func fastest(runs int, f func()) float64 {
	best := math.Inf(1)
	for range runs {
		begin := time.Now()
		f()
		best = min(best, time.Since(begin).Seconds()*1e3)
	}
	return best
}
