// Package ref is the scalar backend: the documentation of every kernel and the
// oracle that the fast ones are compared with, bit by bit. It favours being
// obvious over being quick; a tiny model is what it is for.
//
// The order of every sum is the numerics contract's (package internal/f32 and
// ARCHITECTURE.md): k ascending in one accumulator per output, vectors in 16
// lanes and a fixed tree, attention in tiles of 16 and partitions of 256
// absolute positions. attention.go also holds the textbook form, the full
// softmax over all scores, which tests compare by tolerance.
package ref

import (
	"fmt"

	"sestina/backend"
	"sestina/batch"
	"sestina/internal/arena"
	"sestina/internal/f32"
	"sestina/tensor"
)

func init() {
	backend.Register("ref", func(opt backend.Options) (backend.Backend, error) { return New(opt), nil })
}

// Backend is the scalar oracle.
type Backend struct{ opt backend.Options }

// New returns the scalar backend. Threads and ISA are ignored.
func New(opt backend.Options) *Backend { return &Backend{opt} }

func (b *Backend) Name() string     { return "ref" }
func (b *Backend) Describe() string { return "ref: scalar Go, one thread, slow on purpose" }
func (b *Backend) Close() error     { return nil }

// BF16Order is the one that was asked for.
func (b *Backend) BF16Order() backend.BF16Order { return b.opt.BF16 }

func (b *Backend) NewVector(v []float32) (backend.Vector, error) {
	return backend.Vector{Host: append([]float32(nil), v...)}, nil
}

func (b *Backend) NewRows(n, width int) (backend.Rows, error) {
	return backend.Rows{N: n, Width: width, Host: make([]float32, n*width)}, nil
}

// matrix keeps every weight twice: as the decoder's float32 value and, for the
// integer formats, as the exact integers and scales of its 32-blocks.
type matrix struct {
	src    backend.Source
	values []float32                    // [rows][cols]
	blocks []block                      // [rows][cols/32]; nil for float formats
	bf16   func(w, x []float32) float32 // the product with bf16 activations; nil: float32 ones
}

func (m *matrix) Shape() (int, int)   { return m.src.Rows, m.src.Cols }
func (m *matrix) DType() tensor.DType { return m.src.DType }
func (m *matrix) Bytes() uint64       { return uint64(len(m.values)) * 4 }

func (b *Backend) NewMatrix(src backend.Source) (backend.Matrix, error) {
	rowBytes, err := src.RowBytes()
	if err != nil {
		return nil, err
	}
	if _, err := src.DType.Bytes(tensor.Shape{src.Rows, src.Cols}); err != nil {
		return nil, fmt.Errorf("tensor %q: %w", src.Name, err)
	}
	m := &matrix{src: src, values: make([]float32, src.Rows*src.Cols)}
	if b.opt.Activations == backend.ActivationsAuto && src.DType == tensor.BF16 {
		m.bf16 = map[backend.BF16Order]func(w, x []float32) float32{backend.BF16ByPairs: dotBF16, backend.BF16ByBlocks: dotBF16Blocks}[b.opt.BF16]
	}
	raw := make([]byte, rowBytes)
	for r := range src.Rows {
		if err := src.Read(raw, r, 1); err != nil {
			return nil, err
		}
		if err := tensor.Decode(src.DType, m.values[r*src.Cols:(r+1)*src.Cols], raw); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", src.Name, err)
		}
		if b.opt.Activations == backend.ActivationsAuto && HasIntegerPath(src.DType) {
			m.blocks = appendBlocks(m.blocks, src.DType, raw)
		}
	}
	return m, nil
}

// Embed copies and scales table rows.
func (b *Backend) Embed(dst backend.Rows, table backend.Matrix, ids []int32, scale float32) {
	m := table.(*matrix)
	for i, id := range ids {
		row := m.values[int(id)*m.src.Cols:][:m.src.Cols]
		for k, v := range row {
			dst.Row(i)[k] = float32(v * scale)
		}
	}
}

// Linear is the matmul with its norm, bias and epilogue.
func (b *Backend) Linear(dst, x backend.Rows, op *backend.Linear) {
	for i := range x.N {
		in := x.Row(i)
		if op.Norm != nil {
			in = RMSNorm(in, op.Norm.Weight.Host, op.Norm.Eps)
		}
		var y []float32
		for j, w := range op.W {
			col := len(y)
			y = append(y, w.(*matrix).mul(in)...)
			if op.Bias != nil && op.Bias[j].Host != nil {
				for k, v := range op.Bias[j].Host {
					y[col+k] += v
				}
			}
		}
		out := dst.Row(i)
		switch op.Epilogue {
		case backend.Store:
			copy(out, y)
		case backend.Add:
			for k, v := range y {
				out[k] += v
			}
		case backend.SwiGLU:
			for k := range out {
				out[k] = float32(f32.SiLU(y[k]) * y[len(out)+k])
			}
		}
	}
}

// mul is W·x in the matrix's arithmetic: int8 activations for integer formats
// and bf16 ones for BF16 (unless f32 was asked for), else float32.
func (m *matrix) mul(x []float32) []float32 {
	y := make([]float32, m.src.Rows)
	if m.bf16 != nil {
		for r := range y {
			y[r] = m.bf16(m.values[r*m.src.Cols:][:m.src.Cols], x)
		}
		return y
	}
	if m.blocks == nil {
		for r := range y {
			w := m.values[r*m.src.Cols:][:m.src.Cols]
			for k, v := range x {
				y[r] = f32.FMA(w[k], v, y[r])
			}
		}
		return y
	}
	act := Quantize(x)
	for r := range y {
		w := m.blocks[r*len(act):][:len(act)]
		for i := range act {
			y[r] = w[i].mulAdd(&act[i], y[r])
		}
	}
	return y
}

// RMSNorm returns x·w/√(mean x² + eps).
func RMSNorm(x, w []float32, eps float32) []float32 {
	mean := f32.SumSquares(x) / float32(len(x))
	r := 1 / f32.Sqrt(float32(mean+eps))
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(float32(v*r) * w[i])
	}
	return y
}

// Norm is RMSNorm row by row.
func (b *Backend) Norm(dst, x backend.Rows, n *backend.Norm) {
	for i := range x.N {
		copy(dst.Row(i), RMSNorm(x.Row(i), n.Weight.Host, n.Eps))
	}
}

// Gather copies rows.
func (b *Backend) Gather(dst, src backend.Rows, rows []int32) {
	for i, r := range rows {
		copy(dst.Row(i), src.Row(int(r)))
	}
}

var _ backend.Backend = (*Backend)(nil)

// cache stores every K and V value rounded to the pool's dtype, or its code, as
// float32: [slot of a block][token's slot][K heads then V heads][dim], and scales [dim/32].
type cache struct {
	spec   backend.CacheSpec
	layers []int // of which each slot of a block is
	kv     [][]float32
	scales [][]float32
}

func (c *cache) dtype(at int) tensor.DType { return c.spec.LayerDType(c.layers[at]) }
func (c *cache) quantised(at int) bool     { return isQuantised(c.dtype(at)) }

func isQuantised(d tensor.DType) bool { return d == tensor.Q8_0 || d == tensor.Q4_0 }

func (c *cache) Spec() backend.CacheSpec { return c.spec }
func (c *cache) Bytes() uint64 {
	return c.spec.BlockBytes() * uint64(c.spec.Blocks)
}
func (c *cache) Close() error { return nil }

func (b *Backend) NewCache(spec backend.CacheSpec) (backend.Cache, error) {
	c := &cache{spec: spec, layers: spec.Slots()}
	for at, layer := range c.layers {
		l, d := spec.Layers[layer], c.dtype(at)
		switch d {
		case tensor.F32, tensor.F16, tensor.BF16, tensor.Q8_0, tensor.Q4_0:
		default:
			return nil, fmt.Errorf("KV cache dtype %v is not built: use f32, f16, bf16, q8_0 or q4_0", d)
		}
		n := spec.Blocks * spec.BlockSize * 2 * l.KVHeads * l.HeadDim
		c.kv = append(c.kv, make([]float32, n))
		if !isQuantised(d) {
			c.scales = append(c.scales, nil)
			continue
		}
		if l.HeadDim%32 != 0 {
			return nil, fmt.Errorf("KV cache dtype %v needs a head dimension that is a multiple of 32, and this model's is %d: use f16, bf16 or f32", d, l.HeadDim)
		}
		c.scales = append(c.scales, make([]float32, n/32))
	}
	return c, nil
}

// head returns K (which = 0) or V (1) of one head of one token, in one slot of its block.
func (c *cache) head(at, token, which, head int) entry {
	l := c.spec.Layers[c.layers[at]]
	i := ((token*2+which)*l.KVHeads + head) * l.HeadDim
	e := entry{values: c.kv[at][i:][:l.HeadDim]}
	if c.quantised(at) {
		e.scales = c.scales[at][i/32:][:l.HeadDim/32]
	}
	return e
}

// block is what one block holds in each slot, values then scales.
func (c *cache) block(id int32) (parts [][]float32) {
	for at, layer := range c.layers {
		l := c.spec.Layers[layer]
		n := c.spec.BlockSize * 2 * l.KVHeads * l.HeadDim
		parts = append(parts, c.kv[at][int(id)*n:][:n])
		if c.quantised(at) {
			parts = append(parts, c.scales[at][int(id)*n/32:][:n/32])
		}
	}
	return parts
}

// CopyBlocks copies blocks in every slot.
func (b *Backend) CopyBlocks(kv backend.Cache, copies []batch.BlockCopy) {
	c := kv.(*cache)
	for _, cp := range copies {
		src := c.block(cp.Src)
		for i, dst := range c.block(cp.Dst) {
			copy(dst, src[i])
		}
	}
}

// Layout: values as they are kept here, each a float32.
func (c *cache) Layout() string { return "ref 1" }

func (c *cache) BlockBytes() (n int) {
	for _, part := range c.block(0) {
		n += 4 * len(part)
	}
	return n
}

// ReadBlock copies a block's bytes out, slot after slot.
func (c *cache) ReadBlock(dst []byte, block int32) {
	for _, part := range c.block(block) {
		dst = dst[copy(dst, arena.AsBytes(part)):]
	}
}

// WriteBlock undoes ReadBlock.
func (c *cache) WriteBlock(block int32, src []byte) {
	for _, part := range c.block(block) {
		src = src[copy(arena.AsBytes(part), src):]
	}
}
