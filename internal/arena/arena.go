// Package arena hands out memory that lies off the Go heap: weights and the KV pool. The garbage collector neither scans
// nor counts it, so a 40 GB model does not set the pace of collection, and Free gives the pages back at once.
//
// A Region is zeroed, page aligned (so also aligned to any SIMD register) and backed by large pages where the system
// offers them. Views of it are plain slices; using one after Free is a fault, as with any unmapped memory. The owner
// keeps the Region alive and frees it once.
package arena

import (
	"fmt"
	"math"
	"sync/atomic"
	"unsafe"
)

// inUse counts the bytes allocated and not yet freed.
var inUse atomic.Int64

// InUse returns the bytes that are allocated now over all Regions.
func InUse() int64 { return inUse.Load() }

// Region is one block of memory off the Go heap.
type Region struct{ bytes []byte }

// Alloc returns a zeroed Region of n bytes; n may be 0.
func Alloc(n uint64) (*Region, error) {
	if n == 0 {
		return &Region{}, nil
	}
	if n > math.MaxInt {
		return nil, fmt.Errorf("cannot allocate %d bytes: more than the address space", n)
	}
	b, err := mapMemory(int(n))
	if err != nil {
		return nil, fmt.Errorf("cannot allocate %d bytes (%.1f MiB) of memory: %w; free memory or choose a smaller model or pool",
			n, float64(n)/(1<<20), err)
	}
	inUse.Add(int64(n))
	return &Region{bytes: b}, nil
}

// Bytes returns the memory, nil after Free.
func (r *Region) Bytes() []byte { return r.bytes }

// Free returns the memory to the system. Every view of it becomes invalid. A second Free does nothing.
func (r *Region) Free() error {
	b := r.bytes
	if b == nil {
		return nil
	}
	r.bytes = nil
	inUse.Add(-int64(len(b)))
	if err := unmapMemory(b); err != nil {
		return fmt.Errorf("cannot free %d bytes of memory: %w", len(b), err)
	}
	return nil
}

// Element lists the types that memory can be viewed as: plain numbers without pointers.
type Element interface {
	~int8 | ~uint8 | ~int16 | ~uint16 | ~int32 | ~uint32 | ~int64 | ~uint64 | ~float32 | ~float64
}

// View returns b seen as numbers of type T in the byte order of the machine. It panics when the length is not a multiple
// of the size of T or the address is not aligned to it: the caller laid the memory out wrongly.
func View[T Element](b []byte) []T {
	var zero T
	size := int(unsafe.Sizeof(zero))
	if len(b) == 0 {
		return nil
	}
	if len(b)%size != 0 {
		panic(fmt.Sprintf("arena: %d bytes are not a whole number of %T", len(b), zero))
	}
	p := unsafe.Pointer(unsafe.SliceData(b))
	if uintptr(p)%uintptr(size) != 0 {
		panic(fmt.Sprintf("arena: address %p is not aligned for %T", p, zero))
	}
	return unsafe.Slice((*T)(p), len(b)/size)
}

// AsBytes returns the memory of s seen as bytes: the inverse of View.
func AsBytes[T Element](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(s[0])))
}
