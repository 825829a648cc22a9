package checkpoint

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"unsafe"

	"sestina/internal/checked"
	"sestina/tensor"
)

// GGUF, versions 2 and 3, little-endian (the specification is docs/gguf.md of ggml):
//
//	"GGUF"  version u32  tensors u64  pairs u64
//	pairs   × { key string, type u32, value }
//	tensors × { name string, dims u32, ne [dims]u64 innermost first, type u32, offset u64 }
//	padding to general.alignment, then the tensors' data, each padded to it
//
// A string is a u64 length and bytes; an array is an element type u32, a u64 count and the elements.

var le = binary.LittleEndian

// Limits of what a header may declare. Each is also bounded by the bytes left in the file.
const (
	maxGGUFHeader  = 512 << 20 // bytes before the data
	maxGGUFPairs   = 64 << 10
	maxGGUFTensors = 64 << 10
	maxGGUFString  = 16 << 20 // bytes
	maxGGUFKey     = 64<<10 - 1
	maxGGUFName    = 64       // bytes of a tensor's name, from the specification
	maxGGUFArray   = 64 << 20 // elements
	maxGGUFStrings = 4 << 20  // elements of an array of strings, which cost more memory than file
	maxGGUFDims    = 4
	maxAlignment   = 1 << 20
)

// The types of metadata values.
const (
	ggufUint8 = iota
	ggufInt8
	ggufUint16
	ggufInt16
	ggufUint32
	ggufInt32
	ggufFloat32
	ggufBool
	ggufString
	ggufArray
	ggufUint64
	ggufInt64
	ggufFloat64
)

// ggmlTypes maps the numbers of GGUF tensor types. Missing numbers were removed from the format.
var ggmlTypes = map[uint32]tensor.DType{
	0: tensor.F32, 1: tensor.F16, 2: tensor.Q4_0, 3: tensor.Q4_1, 6: tensor.Q5_0, 7: tensor.Q5_1, 8: tensor.Q8_0,
	9: tensor.Q8_1, 10: tensor.Q2_K, 11: tensor.Q3_K, 12: tensor.Q4_K, 13: tensor.Q5_K, 14: tensor.Q6_K, 15: tensor.Q8_K,
	16: tensor.IQ2_XXS, 17: tensor.IQ2_XS, 18: tensor.IQ3_XXS, 19: tensor.IQ1_S, 20: tensor.IQ4_NL, 21: tensor.IQ3_S,
	22: tensor.IQ2_S, 23: tensor.IQ4_XS, 24: tensor.I8, 25: tensor.I16, 26: tensor.I32, 27: tensor.I64, 28: tensor.F64,
	29: tensor.IQ1_M, 30: tensor.BF16, 34: tensor.TQ1_0, 35: tensor.TQ2_0, 39: tensor.MXFP4, 40: tensor.NVFP4, 41: tensor.Q1_0,
}

// ggufReader reads a header from front to back. The first error sticks, and every read after it gives zero.
type ggufReader struct {
	in   *bufio.Reader
	pos  uint64
	size uint64 // of the file
	err  error
	buf  [8]byte
}

// readGGUF parses the header of a file of that size and returns its metadata and tensors.
func readGGUF(file io.ReaderAt, size uint64) (map[string]any, []Info, error) {
	limit := min(size, maxGGUFHeader)
	r := &ggufReader{in: bufio.NewReaderSize(io.NewSectionReader(file, 0, int64(limit)), 64<<10), size: size}
	tensors, pairs, err := r.header()
	if err != nil {
		return nil, nil, err
	}
	values := make(map[string]any)
	for range pairs {
		key, value, err := r.pair()
		if err != nil {
			return nil, nil, err
		}
		if _, dup := values[key]; dup {
			return nil, nil, fmt.Errorf("key %.80q occurs twice", key)
		}
		values[key] = value
	}
	alignment, err := ggufAlignment(values)
	if err != nil {
		return nil, nil, err
	}
	infos := make([]Info, 0, tensors)
	for range tensors {
		info, err := r.tensorInfo()
		if err != nil {
			return nil, nil, err
		}
		infos = append(infos, info)
	}
	return values, infos, placeGGUF(infos, r.pos, size, alignment)
}

// header reads the fixed part and returns the two counts.
func (r *ggufReader) header() (tensors, pairs uint64, err error) {
	magic, version := r.u32(), r.u32()
	switch {
	case r.err != nil:
		return 0, 0, fmt.Errorf("not a GGUF file: %d bytes", r.size)
	case magic != le.Uint32([]byte("GGUF")):
		return 0, 0, fmt.Errorf("not a GGUF file: it begins with %#08x", bits.ReverseBytes32(magic))
	case version&0xffff == 0 && version != 0:
		return 0, 0, fmt.Errorf("a big-endian GGUF file (version %d), which is not supported: convert it to little-endian",
			bits.ReverseBytes32(version))
	case version != 2 && version != 3:
		return 0, 0, fmt.Errorf("GGUF version %d is not supported, only 2 and 3: convert the model again", version)
	}
	tensors, pairs = r.u64(), r.u64()
	r.limit("tensors", tensors, maxGGUFTensors, 8+1+4+4+8)
	r.limit("metadata pairs", pairs, maxGGUFPairs, 8+1+4+1)
	return tensors, pairs, r.err
}

func (r *ggufReader) pair() (key string, value any, err error) {
	key = r.string("bytes of a key", maxGGUFKey)
	if r.err == nil && key == "" {
		r.fail("a metadata key is empty")
	}
	if kind := r.u32(); kind == ggufArray {
		value = r.array()
	} else {
		value = r.scalar(kind)
	}
	if r.err != nil && key != "" {
		return "", nil, fmt.Errorf("metadata %.80q: %w", key, r.err)
	}
	return key, value, r.err
}

func (r *ggufReader) scalar(kind uint32) any {
	switch kind {
	case ggufUint8:
		return r.u8()
	case ggufInt8:
		return int8(r.u8())
	case ggufUint16:
		return r.u16()
	case ggufInt16:
		return int16(r.u16())
	case ggufUint32:
		return r.u32()
	case ggufInt32:
		return int32(r.u32())
	case ggufFloat32:
		return math.Float32frombits(r.u32())
	case ggufBool:
		return r.u8() != 0
	case ggufString:
		return r.string("bytes of a string", maxGGUFString)
	case ggufUint64:
		return r.u64()
	case ggufInt64:
		return int64(r.u64())
	case ggufFloat64:
		return math.Float64frombits(r.u64())
	}
	r.fail("value type %d is unknown", kind)
	return nil
}

func (r *ggufReader) array() any {
	kind, n := r.u32(), r.u64()
	switch kind {
	case ggufUint8:
		return numbers(r, n, r.u8)
	case ggufInt8:
		return numbers(r, n, func() int8 { return int8(r.u8()) })
	case ggufUint16:
		return numbers(r, n, r.u16)
	case ggufInt16:
		return numbers(r, n, func() int16 { return int16(r.u16()) })
	case ggufUint32:
		return numbers(r, n, r.u32)
	case ggufInt32:
		return numbers(r, n, func() int32 { return int32(r.u32()) })
	case ggufFloat32:
		return numbers(r, n, func() float32 { return math.Float32frombits(r.u32()) })
	case ggufBool:
		return numbers(r, n, func() bool { return r.u8() != 0 })
	case ggufString:
		return r.strings(n)
	case ggufUint64:
		return numbers(r, n, r.u64)
	case ggufInt64:
		return numbers(r, n, func() int64 { return int64(r.u64()) })
	case ggufFloat64:
		return numbers(r, n, func() float64 { return math.Float64frombits(r.u64()) })
	case ggufArray:
		r.fail("arrays of arrays are not supported")
	default:
		r.fail("array element type %d is unknown", kind)
	}
	return nil
}

// numbers reads n values into a typed slice.
func numbers[T any](r *ggufReader, n uint64, next func() T) []T {
	var zero T
	if !r.limit("array elements", n, maxGGUFArray, uint64(unsafe.Sizeof(zero))) {
		return nil
	}
	list := make([]T, n)
	for i := range list {
		list[i] = next()
	}
	return list
}

// strings reads n strings into one block of memory that all of them share: a vocabulary is two allocations, not 50,000.
func (r *ggufReader) strings(n uint64) []string {
	if !r.limit("strings", n, maxGGUFStrings, 8) {
		return nil
	}
	ends := make([]uint32, n)
	var blob []byte
	for i := range ends {
		length := r.length("bytes of a string", maxGGUFString)
		if r.err == nil && uint64(len(blob))+length > math.MaxUint32 {
			r.fail("an array of strings has more than 4 GiB")
		}
		blob = r.bytes(blob, length)
		ends[i] = uint32(len(blob))
	}
	if r.err != nil {
		return nil
	}
	all, list, start := string(blob), make([]string, n), uint32(0)
	for i, end := range ends {
		list[i], start = all[start:end], end
	}
	return list
}

func (r *ggufReader) tensorInfo() (Info, error) {
	t := Info{Name: r.string("bytes of a tensor name", maxGGUFName)}
	if dims := r.u32(); r.err == nil && dims > maxGGUFDims {
		r.fail("%d dimensions, at most %d are allowed", dims, maxGGUFDims)
	} else if r.err == nil {
		t.Shape = make(tensor.Shape, dims)
	}
	for i := range t.Shape {
		ne := r.u64()
		if r.err == nil && (ne == 0 || ne > math.MaxInt) {
			r.fail("dimension %d is %d", i, ne)
		}
		t.Shape[len(t.Shape)-1-i] = int(ne)
	}
	kind := r.u32()
	offset := r.u64()
	if r.err == nil && t.Name == "" {
		return t, errors.New("a tensor has no name")
	}
	var known bool
	if t.DType, known = ggmlTypes[kind]; r.err == nil && !known {
		r.fail("tensor type %d is unknown or was removed from the format", kind)
	}
	if r.err == nil && offset > math.MaxInt64 {
		r.fail("offset %d", offset)
	}
	t.offset = int64(offset)
	if r.err == nil {
		t.Bytes, r.err = t.DType.Bytes(t.Shape)
	}
	if r.err != nil {
		return t, fmt.Errorf("tensor %q: %w", t.Name, r.err)
	}
	return t, nil
}

func ggufAlignment(values map[string]any) (uint64, error) {
	v, ok := values["general.alignment"]
	if !ok {
		return 32, nil
	}
	alignment, ok := v.(uint32)
	if !ok || bits.OnesCount32(alignment) != 1 || alignment > maxAlignment {
		return 0, fmt.Errorf("general.alignment is %T %v, not a power of two of type uint32 up to %d", v, v, maxAlignment)
	}
	return uint64(alignment), nil
}

// placeGGUF checks that the tensors fill the data section in order, each padded to the alignment, and turns their offsets
// into offsets from the start of the file.
func placeGGUF(infos []Info, headerEnd, size, alignment uint64) error {
	start, err := checked.Align(headerEnd, alignment)
	if err != nil {
		return err
	}
	next := start
	for i := range infos {
		t := &infos[i]
		if uint64(t.offset) != next-start {
			return fmt.Errorf("tensor %q is at offset %d of the data, expected %d", t.Name, t.offset, next-start)
		}
		end, err := checked.Add(next, t.Bytes)
		if err != nil || end > size {
			return fmt.Errorf("tensor %q takes %d bytes at %d but the file ends at %d: it is truncated; fetch it again",
				t.Name, t.Bytes, next, size)
		}
		t.offset = int64(next)
		if next, err = checked.Align(end, alignment); err != nil {
			return err
		}
	}
	return nil
}

func (r *ggufReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// limit checks a declared count against its limit and, each taking at least unit bytes, against the bytes left.
func (r *ggufReader) limit(what string, n, most, unit uint64) bool {
	switch left := r.size - r.pos; {
	case r.err != nil:
	case n > most:
		r.fail("%d %s, at most %d are allowed", n, what, most)
	case n > left/unit:
		r.fail("%d %s do not fit in the %d bytes left in the file", n, what, left)
	default:
		return true
	}
	return false
}

// length reads the length of a string, 0 after an error. what names its bytes.
func (r *ggufReader) length(what string, most uint64) uint64 {
	n := r.u64()
	if !r.limit(what, n, most, 1) {
		return 0
	}
	return n
}

func (r *ggufReader) string(what string, most uint64) string {
	return string(r.bytes(nil, r.length(what, most)))
}

// bytes appends the next n bytes to dst. n has been checked against the bytes left.
func (r *ggufReader) bytes(dst []byte, n uint64) []byte {
	if r.err != nil || n == 0 {
		return dst
	}
	old := len(dst)
	dst = append(dst, make([]byte, n)...)
	r.fill(dst[old:])
	return dst
}

func (r *ggufReader) fill(b []byte) {
	if r.err != nil {
		return
	}
	if _, err := io.ReadFull(r.in, b); err != nil {
		if r.size > maxGGUFHeader && (err == io.EOF || err == io.ErrUnexpectedEOF) {
			r.fail("the header has more than %d bytes", maxGGUFHeader)
			return
		}
		r.fail("the header ends early, at byte %d: %w", r.pos, err)
		return
	}
	r.pos += uint64(len(b))
}

// word returns the next n bytes as a number, 0 after an error.
func (r *ggufReader) word(n int) uint64 {
	clear(r.buf[:])
	r.fill(r.buf[:n])
	if r.err != nil {
		return 0
	}
	return le.Uint64(r.buf[:])
}

func (r *ggufReader) u8() uint8   { return uint8(r.word(1)) }
func (r *ggufReader) u16() uint16 { return uint16(r.word(2)) }
func (r *ggufReader) u32() uint32 { return uint32(r.word(4)) }
func (r *ggufReader) u64() uint64 { return r.word(8) }
