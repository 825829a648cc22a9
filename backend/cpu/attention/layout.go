package attention

import (
	"fmt"
	"unsafe"

	"sestina/internal/simd"
	"sestina/tensor"
)

// Tile and Partition are numbers of absolute positions, counted from 0, so that
// where a sum is cut never depends on chunking or on the block size.
const (
	Tile      = 16
	Partition = 256

	tilesPerPartition = Partition / Tile
)

// Layout is how one layer's K and V lie in a pool of physical blocks.
//
// With a BlockSize that is a multiple of 16 a block is a row of tiles of 16
// positions. A tile holds K as [KVHeads][HeadDim][16], so that a dimension of 16
// keys is one load, then V as [KVHeads][16][width], a row per position; width is
// HeadDim rounded up to 16. With any other BlockSize B a block is token-major,
// K [KVHeads][B][HeadDim] then V likewise, and tiles are packed when read:
// slower, same bits. Elements are those of F32, F16 and BF16; quantised.go says
// how the codes and scales of Q8_0 and Q4_0 take their place.
type Layout struct {
	KVHeads, HeadDim int
	BlockSize        int          // positions per block, ≥ 1
	DType            tensor.DType // F32, F16, BF16, Q8_0 or Q4_0
}

// Limits of a layout, far above any model's.
const (
	maxHeads   = 1 << 12
	maxHeadDim = 1 << 12
	maxBlock   = 1 << 16
)

// Validate says whether kernels exist for the layout.
func (l Layout) Validate() error {
	switch l.DType {
	case tensor.F32, tensor.F16, tensor.BF16, tensor.Q8_0, tensor.Q4_0:
	default:
		return fmt.Errorf("KV cache dtype %v has no attention kernel: use f32, f16, bf16, q8_0 or q4_0", l.DType)
	}
	if l.KVHeads < 1 || l.KVHeads > maxHeads || l.HeadDim < 1 || l.HeadDim > maxHeadDim || l.BlockSize < 1 || l.BlockSize > maxBlock {
		return fmt.Errorf("%d KV heads of %d dimensions in blocks of %d: want 1 to %d, %d and %d",
			l.KVHeads, l.HeadDim, l.BlockSize, maxHeads, maxHeadDim, maxBlock)
	}
	if l.quantised() && l.HeadDim%group != 0 {
		return fmt.Errorf("KV cache dtype %v needs a head dimension that is a multiple of %d, and this model's is %d: use f16, bf16 or f32", l.DType, group, l.HeadDim)
	}
	return nil
}

// BlockBytes is the size of one physical block of the layer.
func (l Layout) BlockBytes() int {
	if l.tiled() {
		return l.BlockSize / Tile * l.tileBytes()
	}
	return 2 * l.KVHeads * l.BlockSize * l.headBytes()
}

func (l Layout) tiled() bool { return l.BlockSize%Tile == 0 }

// size is the bytes of one element that is a float.
func (l Layout) size() int {
	if l.DType == tensor.F32 {
		return 4
	}
	return 2
}

// width is the elements of a V row in a tile.
func (l Layout) width() int { return (l.HeadDim + 15) &^ 15 }

// headBytes is one K or V of one head and position, without padding.
func (l Layout) headBytes() int {
	if l.quantised() {
		return l.codeBytes() + 2*l.groups()
	}
	return l.HeadDim * l.size()
}

// keyBytes and valueBytes are one head's part of a tile.
func (l Layout) keyBytes() int { return Tile * l.headBytes() }
func (l Layout) valueBytes() int {
	if l.quantised() {
		return Tile * l.headBytes()
	}
	return l.width() * Tile * l.size()
}
func (l Layout) tileBytes() int { return l.KVHeads * (l.keyBytes() + l.valueBytes()) }

// tileOffset is where the tile of a slot begins in a tiled pool.
func (l Layout) tileOffset(slot int) int {
	return slot/l.BlockSize*l.BlockBytes() + slot%l.BlockSize/Tile*l.tileBytes()
}

// keyOffset is where element 0 of a slot's key lies and how far apart its
// elements are; valueOffset the same, with elements side by side.
func (l Layout) keyOffset(slot, head int) (at, step int) {
	if l.tiled() {
		return l.tileOffset(slot) + head*l.keyBytes() + slot%Tile*l.size(), Tile * l.size()
	}
	return slot/l.BlockSize*l.BlockBytes() + (head*l.BlockSize+slot%l.BlockSize)*l.HeadDim*l.size(), l.size()
}

func (l Layout) valueOffset(slot, head int) int {
	if l.tiled() {
		return l.tileOffset(slot) + l.KVHeads*l.keyBytes() + head*l.valueBytes() + slot%Tile*l.width()*l.size()
	}
	at, _ := l.keyOffset(slot, head)
	return at + l.KVHeads*l.BlockSize*l.HeadDim*l.size()
}

// Store writes the key and value of one KV head at a slot (block·BlockSize +
// position in the block), rounded to the pool's dtype to nearest even or quantised. It
// panics if the slot lies outside the pool.
func (l Layout) Store(pool []byte, slot int32, head int, k, v []float32) {
	if slot < 0 || head < 0 || head >= l.KVHeads || len(k) != l.HeadDim || len(v) != l.HeadDim {
		panic(fmt.Sprintf("attention: store of %d and %d elements at slot %d, head %d of %d", len(k), len(v), slot, head, l.KVHeads))
	}
	if l.quantised() {
		l.storeQuantised(pool, l.place(int(slot), head, false), k, false)
		l.storeQuantised(pool, l.place(int(slot), head, true), v, true)
		return
	}
	at, step := l.keyOffset(int(slot), head)
	to := l.valueOffset(int(slot), head)
	if l.DType == tensor.F32 {
		scatter(view[float32](pool[at:]), step/4, k)
		copy(view[float32](pool[to:to+4*len(v)]), v)
		return
	}
	l.round(view[uint16](pool[to:to+2*len(v)]), v)
	if step == 2 {
		l.round(view[uint16](pool[at:at+2*len(k)]), k)
		return
	}
	var rounded [128]uint16 // a real head in one go
	for keys := view[uint16](pool[at:]); ; keys = keys[len(rounded)*step/2:] {
		n := min(len(k), len(rounded))
		l.round(rounded[:n], k[:n])
		scatter(keys, step/2, rounded[:n])
		if k = k[n:]; len(k) == 0 {
			return
		}
	}
}

// round rounds to F16 or BF16.
func (l Layout) round(dst []uint16, x []float32) {
	if l.DType == tensor.BF16 {
		simd.F32ToBF16(dst, x)
	} else {
		simd.F32ToF16(dst, x)
	}
}

// scatter writes src into dst, step elements apart.
func scatter[T any](dst []T, step int, src []T) {
	at := 0
	for _, x := range src {
		dst[at] = x
		at += step
	}
}

// view sees bytes of a pool as elements. Pools are allocated as pages or as
// []byte of many elements, so elements are aligned.
func view[T any](b []byte) []T {
	var t T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(t)))
}
