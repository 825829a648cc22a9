// Package backend is what a model needs of a machine: memory for weights,
// activations and the paged KV cache, and a handful of fused kernels.
//
// A backend sees rows and block tables, never a policy and never a model. Every
// kernel is row-wise: what it writes for a row depends on that row (and, for
// attention, on the keys its block table names), not on its neighbours, on how
// many rows there are, or on who computes them. That is what makes answers
// independent of batching; backend/backendtest holds every backend to it and
// backend/ref is the scalar oracle that says what each kernel means.
//
// Kernels report misuse (shapes that do not fit) by panicking: shapes are
// checked once, when a model is loaded. What can fail at run time, allocation,
// returns an error.
package backend

import (
	"fmt"
	"slices"

	"sestina/batch"
	"sestina/tensor"
)

// Backend is one device (or the CPU's worker team) with its kernels. Methods
// are called from one goroutine, the step goroutine.
type Backend interface {
	Name() string     // "cpu", "ref", "cuda"
	Describe() string // one line for people: instruction set, threads

	NewMatrix(src Source) (Matrix, error)
	NewVector(values []float32) (Vector, error)
	NewRows(n, width int) (Rows, error)
	NewCache(spec CacheSpec) (Cache, error)

	// Embed writes row i of dst = row ids[i] of table × scale.
	Embed(dst Rows, table Matrix, ids []int32, scale float32)
	// Linear writes dst = epilogue(W·norm(x) + bias), row by row.
	Linear(dst, x Rows, op *Linear)
	// Attend rotates q and k, stores k and v through the slot mapping and writes
	// each row's attention over its sequence's keys [.., position].
	// qkv is [rows, (Heads+2·KVHeads)·HeadDim] (q heads, k heads, v heads); dst is [rows, Heads·HeadDim].
	Attend(dst, qkv Rows, in *batch.Input, kv Cache, op *Attention)
	// Norm writes row i of dst = the RMSNorm of row i of x. dst may be x.
	Norm(dst, x Rows, n *Norm)
	// Gather writes row i of dst = row rows[i] of src.
	Gather(dst, src Rows, rows []int32)
	// CopyBlocks copies whole physical blocks in every slot (copy-on-write).
	CopyBlocks(kv Cache, copies []batch.BlockCopy)

	Close() error
}

// Source is a weight matrix in a checkpoint, [Rows, Cols] row-major in the
// file's format. Read fills dst with the raw bytes of rows [row0, row0+n).
type Source struct {
	Name       string
	DType      tensor.DType
	Rows, Cols int
	Read       func(dst []byte, row0, n int) error
}

// RowBytes is the size of one row in the file's format.
func (s Source) RowBytes() (int, error) {
	n, err := s.DType.Bytes(tensor.Shape{1, s.Cols})
	if err != nil {
		return 0, fmt.Errorf("tensor %q: %w", s.Name, err)
	}
	return int(n), nil
}

// Matrix is a weight matrix as the backend keeps it.
type Matrix interface {
	Shape() (rows, cols int)
	DType() tensor.DType
	Bytes() uint64 // resident bytes
}

// Vector is a small float32 parameter: a norm's weight or a bias.
type Vector struct {
	Host   []float32 // nil where the data lives on a device
	Device uintptr
}

// Rows is a float32 activation matrix [N, Width], row-major with a stride of Width.
type Rows struct {
	N, Width int
	Host     []float32 // nil where the data lives on a device
	Device   uintptr
}

// Row is row i; only for backends whose activations are in host memory.
func (r Rows) Row(i int) []float32 { return r.Host[i*r.Width : (i+1)*r.Width : (i+1)*r.Width] }

// First is the first n rows.
func (r Rows) First(n int) Rows {
	if n > r.N {
		panic(fmt.Sprintf("backend: %d rows asked of %d", n, r.N))
	}
	r.N = n
	if r.Host != nil {
		r.Host = r.Host[:n*r.Width]
	}
	return r
}

// Slice is rows [first, first+n).
func (r Rows) Slice(first, n int) Rows {
	if first < 0 || first+n > r.N {
		panic(fmt.Sprintf("backend: rows [%d, %d) asked of %d", first, first+n, r.N))
	}
	r.N = n
	if r.Host != nil {
		r.Host = r.Host[first*r.Width : (first+n)*r.Width]
	} else {
		r.Device += uintptr(first*r.Width) * 4
	}
	return r
}

// Reshape is the beginning of the same memory as n rows of another width.
func (r Rows) Reshape(n, width int) Rows {
	if n*width > r.N*r.Width {
		panic(fmt.Sprintf("backend: %d rows of %d asked of %d of %d", n, width, r.N, r.Width))
	}
	r.N, r.Width = n, width
	if r.Host != nil {
		r.Host = r.Host[:n*width]
	}
	return r
}

// Norm is an RMSNorm over a row (or a head): x·w/√(mean x² + Eps).
type Norm struct {
	Weight Vector
	Eps    float32
}

// Epilogue says what Linear does with W·x + bias.
type Epilogue uint8

const (
	Store  Epilogue = iota // dst = y, several matrices side by side
	Add                    // dst += y (residual)
	SwiGLU                 // dst = SiLU(y0)·y1 of two matrices of one shape
)

// Linear is one matmul with what surrounds it: an optional RMSNorm of the
// input, one or more matrices that share that input, optional biases.
type Linear struct {
	Norm     *Norm // nil: x as it is
	W        []Matrix
	Bias     []Vector // nil, or one per matrix (a zero Vector for none)
	Epilogue Epilogue
}

// Rotary is the step's rotation angles: Cos and Sin are [rows, Dim/2].
type Rotary struct {
	Dim         int  // rotated width of a head, the first Dim dimensions; even
	Interleaved bool // pairs (2k, 2k+1) instead of (k, k+Dim/2)
	Cos, Sin    Rows
}

// Attention is one layer's attention. Query head h reads KV head
// h / (Heads/KVHeads): grouped-query attention is this pair of numbers.
type Attention struct {
	Layer                   int
	Heads, KVHeads, HeadDim int
	Scale                   float32
	Window                  int     // key j visible iff pos-Window < j ≤ pos; 0 = all
	First                   int     // keys before this position are not visible, but for a row's own
	QNorm, KNorm            *Norm   // per head, before the rotation; nil = none
	Rotary                  *Rotary // nil = no rotation (NoPE)
}

// CacheSpec is the shape of a paged KV pool.
type CacheSpec struct {
	Layers    []CacheLayer
	Blocks    int // physical blocks
	BlockSize int // tokens per block, ≥ 1
	DType     tensor.DType
	DTypes    []tensor.DType // of each layer; nil: DType in every layer

	// The layers of each block group, see [batch.Input]. A block holds the K and V of
	// one group's layers; the s-th of them is in slot s, whose memory all groups share,
	// since no block is two groups'. Layers of one slot are of one shape and format; −1
	// is none. nil: one group of all layers.
	Groups [][]int
}

// NumGroups is how many block groups there are.
func (s CacheSpec) NumGroups() int { return max(1, len(s.Groups)) }

// Place is where a layer's K and V are: its block group, and its slot in a block.
func (s CacheSpec) Place(layer int) (group, slot int) {
	for g, layers := range s.Groups {
		if slot := slices.Index(layers, layer); slot >= 0 {
			return g, slot
		}
	}
	if s.Groups != nil {
		panic(fmt.Sprintf("backend: layer %d is in no block group", layer))
	}
	return 0, layer
}

// Slots is a layer of each slot of a block; they say what it holds.
func (s CacheSpec) Slots() (layers []int) {
	for i := range s.Layers {
		if _, slot := s.Place(i); slot >= len(layers) {
			layers = append(layers, slices.Repeat([]int{-1}, slot+1-len(layers))...)
			layers[slot] = i
		} else if layers[slot] < 0 {
			layers[slot] = i
		} else if at := layers[slot]; s.Layers[at] != s.Layers[i] || s.LayerDType(at) != s.LayerDType(i) {
			panic(fmt.Sprintf("backend: layers %d and %d share a slot and differ", at, i))
		}
	}
	return layers
}

// BlockBytes is the K and V bytes of a block, before padding.
func (s CacheSpec) BlockBytes() (n uint64) {
	for _, layer := range s.Slots() {
		n += s.layerBytes(layer)
	}
	return n * uint64(s.BlockSize)
}

// layerBytes is the K and V bytes of one token in one layer.
func (s CacheSpec) layerBytes(i int) uint64 {
	l, d := s.Layers[i], s.LayerDType(i)
	return 2 * uint64(l.KVHeads) * uint64(l.HeadDim) * uint64(d.BlockBytes()) / uint64(d.BlockSize())
}

// LayerDType is the format of layer i.
func (s CacheSpec) LayerDType(i int) tensor.DType {
	if s.DTypes != nil {
		return s.DTypes[i]
	}
	return s.DType
}

// CacheLayer is what one layer keeps per token: K and V of KVHeads × HeadDim each.
type CacheLayer struct{ KVHeads, HeadDim int }

// Cache is a paged KV pool in the backend's memory.
type Cache interface {
	Spec() CacheSpec
	Bytes() uint64
	Close() error

	// A block can leave the pool and come back, to this pool or to another of the
	// same spec and layout: its bytes over all slots, BlockBytes of them. No step
	// in flight may use the block.
	BlockBytes() int
	ReadBlock(dst []byte, block int32)
	WriteBlock(block int32, src []byte)
	Layout() string // names how the bytes of a block are arranged, with a version
}

// TokenBytes is the K and V bytes of one token over all layers, before padding.
func (s CacheSpec) TokenBytes() uint64 {
	var n uint64
	for i := range s.Layers {
		n += s.layerBytes(i)
	}
	return n
}

// ActivationDType chooses the arithmetic of Linear on integer weight formats.
type ActivationDType uint8

const (
	ActivationsAuto ActivationDType = iota // int8 per 32 for integer formats, bf16 for BF16, f32 for F16 and F32
	ActivationsF32                         // float32 for every format
)

// BF16Order is the order in which products of BF16 weights and bf16 activations
// are added up; backend/ref has both. A backend keeps to one for all rows.
type BF16Order uint8

const (
	BF16ByPairs  BF16Order = iota // of VDPBF16PS: pair after pair
	BF16ByBlocks                  // of TDPBF16PS: 32 columns, then the next
)

// OrderOf is the order that a backend keeps to, by its method BF16Order.
func OrderOf(b Backend) BF16Order {
	if o, ok := b.(interface{ BF16Order() BF16Order }); ok {
		return o.BF16Order()
	}
	return BF16ByPairs
}

// NumericsOf names what else the numbers of a loaded model depend on, beside the
// model and the options of its arithmetic, by the backend's method Numerics; "" is nothing.
func NumericsOf(b Backend) string {
	if n, ok := b.(interface{ Numerics() string }); ok {
		return n.Numerics()
	}
	return ""
}

// Options configure a backend.
type Options struct {
	Threads     int    // 0: as many as the machine has free cores
	ISA         string // "" = best; see the backend
	Activations ActivationDType
	BF16        BF16Order // of backend/ref; elsewhere the ISA decides

	// Off-switches of techniques; they change what moves through memory, never a bit.
	FullAttention bool // write the whole score matrix instead of tiles (flash attention off)
	ExpandHeads   bool // read K and V once per query head instead of once per group (GQA off)
}
