// Package tensor is the vocabulary of stored numbers: the type of an element (DType), the extent of a tensor (Shape), and
// what the bytes of each format mean (Decode, Encode). A quantised format has no definition apart from its decoder, so the
// decoders live here; arithmetic on tensors does not.
package tensor

import (
	"fmt"
	"slices"
	"strings"

	"sestina/internal/checked"
)

// DType is the format in which a tensor's elements are stored. A scalar type has blocks of one element; a quantised type
// packs BlockSize consecutive elements of a row into BlockBytes bytes.
type DType uint8

// The formats. The names are those of GGUF and safetensors.
const (
	Invalid DType = iota
	F32
	F16
	BF16
	F64
	F8E4M3
	F8E5M2
	I8
	I16
	I32
	I64
	U8
	Bool
	Q4_0
	Q4_1
	Q5_0
	Q5_1
	Q8_0
	Q8_1
	Q2_K
	Q3_K
	Q4_K
	Q5_K
	Q6_K
	Q8_K
	IQ4_NL
	IQ4_XS
	MXFP4
	NVFP4
	TQ1_0
	TQ2_0
	Q1_0
	IQ1_S
	IQ1_M
	IQ2_XXS
	IQ2_XS
	IQ2_S
	IQ3_XXS
	IQ3_S
	numDTypes
)

// format describes one DType. decode and encode work on whole blocks; nil means known by name and size only.
type format struct {
	name       string
	blockSize  int // elements
	blockBytes int
	decode     func(dst []float32, src []byte)
	encode     func(dst []byte, src []float32)
}

var formats = [numDTypes]format{
	Invalid: {name: "invalid"},
	F32:     {"F32", 1, 4, decodeF32, encodeF32},
	F16:     {"F16", 1, 2, decodeF16, encodeF16},
	BF16:    {"BF16", 1, 2, decodeBF16, encodeBF16},
	F64:     {"F64", 1, 8, decodeF64, nil},
	F8E4M3:  {"F8_E4M3", 1, 1, decodeF8E4M3, nil},
	F8E5M2:  {"F8_E5M2", 1, 1, decodeF8E5M2, nil},
	I8:      {"I8", 1, 1, nil, nil},
	I16:     {"I16", 1, 2, nil, nil},
	I32:     {"I32", 1, 4, nil, nil},
	I64:     {"I64", 1, 8, nil, nil},
	U8:      {"U8", 1, 1, nil, nil},
	Bool:    {"BOOL", 1, 1, nil, nil},
	Q4_0:    {"Q4_0", 32, 18, decodeQ4_0, encodeQ4_0},
	Q4_1:    {"Q4_1", 32, 20, decodeQ4_1, encodeQ4_1},
	Q5_0:    {"Q5_0", 32, 22, decodeQ5_0, encodeQ5_0},
	Q5_1:    {"Q5_1", 32, 24, decodeQ5_1, encodeQ5_1},
	Q8_0:    {"Q8_0", 32, 34, decodeQ8_0, encodeQ8_0},
	Q8_1:    {"Q8_1", 32, 40, nil, nil},
	Q2_K:    {"Q2_K", 256, 84, decodeQ2_K, nil},
	Q3_K:    {"Q3_K", 256, 110, decodeQ3_K, nil},
	Q4_K:    {"Q4_K", 256, 144, decodeQ4_K, nil},
	Q5_K:    {"Q5_K", 256, 176, decodeQ5_K, nil},
	Q6_K:    {"Q6_K", 256, 210, decodeQ6_K, nil},
	Q8_K:    {"Q8_K", 256, 292, nil, nil},
	IQ4_NL:  {"IQ4_NL", 32, 18, decodeIQ4_NL, nil},
	IQ4_XS:  {"IQ4_XS", 256, 136, decodeIQ4_XS, nil},
	MXFP4:   {"MXFP4", 32, 17, decodeMXFP4, nil},
	NVFP4:   {"NVFP4", 64, 36, decodeNVFP4, nil},
	TQ1_0:   {"TQ1_0", 256, 54, decodeTQ1_0, nil},
	TQ2_0:   {"TQ2_0", 256, 66, decodeTQ2_0, nil},
	Q1_0:    {"Q1_0", 128, 18, nil, nil},
	IQ1_S:   {"IQ1_S", 256, 50, nil, nil},
	IQ1_M:   {"IQ1_M", 256, 56, nil, nil},
	IQ2_XXS: {"IQ2_XXS", 256, 66, nil, nil},
	IQ2_XS:  {"IQ2_XS", 256, 74, nil, nil},
	IQ2_S:   {"IQ2_S", 256, 82, nil, nil},
	IQ3_XXS: {"IQ3_XXS", 256, 98, nil, nil},
	IQ3_S:   {"IQ3_S", 256, 110, nil, nil},
}

func (d DType) format() *format {
	if d >= numDTypes {
		return &formats[Invalid]
	}
	return &formats[d]
}

// String returns the name used in files, such as "BF16" or "Q4_K".
func (d DType) String() string {
	if d == Invalid || d >= numDTypes {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return formats[d].name
}

// ParseDType returns the DType of that name in any case.
func ParseDType(name string) (DType, error) {
	for d := F32; d < numDTypes; d++ {
		if strings.EqualFold(formats[d].name, name) {
			return d, nil
		}
	}
	return Invalid, fmt.Errorf("unknown tensor type %.40q", name)
}

// BlockSize returns the elements in one block: 1 for scalar types, 0 for an invalid DType.
func (d DType) BlockSize() int { return d.format().blockSize }

// BlockBytes returns the bytes of one block.
func (d DType) BlockBytes() int { return d.format().blockBytes }

// Quantized reports whether a block holds more than one element.
func (d DType) Quantized() bool { return d.format().blockSize > 1 }

// CanDecode reports whether Decode knows the format.
func (d DType) CanDecode() bool { return d.format().decode != nil }

// CanEncode reports whether Encode knows the format.
func (d DType) CanEncode() bool { return d.format().encode != nil }

// Bytes returns the bytes that a tensor of that shape takes. Rows must hold whole blocks.
func (d DType) Bytes(shape Shape) (uint64, error) {
	f := d.format()
	if f.blockSize == 0 {
		return 0, fmt.Errorf("%v has no size", d)
	}
	elements, err := shape.Elements()
	if err != nil {
		return 0, err
	}
	if row := shape.Row(); row%f.blockSize != 0 {
		return 0, fmt.Errorf("rows of %d elements are not whole blocks of %d that %v needs", row, f.blockSize, d)
	}
	return checked.Mul(elements/uint64(f.blockSize), uint64(f.blockBytes))
}

// Shape holds the extents of a tensor, outermost first; the last dimension is contiguous in memory. The empty shape is a
// scalar of one element.
type Shape []int

// Elements returns the product of the extents, an error where it does not fit or an extent is negative.
func (s Shape) Elements() (uint64, error) { return checked.Product(s) }

// Row returns the last, contiguous extent: 1 for a scalar.
func (s Shape) Row() int {
	if len(s) == 0 {
		return 1
	}
	return s[len(s)-1]
}

// Equal reports whether both shapes have the same extents.
func (s Shape) Equal(t Shape) bool { return slices.Equal(s, t) }

// Decode converts the whole blocks in src to float32, bit for bit as gguf-py's reference does. len(dst) must be the
// number of elements that src holds.
func Decode(d DType, dst []float32, src []byte) error {
	f := d.format()
	if f.decode == nil {
		return fmt.Errorf("%v tensors cannot be read as numbers; use a file in another format", d)
	}
	if err := checkLengths(d, len(dst), len(src)); err != nil {
		return err
	}
	f.decode(dst, src)
	return nil
}

// Encode converts src to whole blocks of format d, rounding as llama.cpp's quantize_row_*_ref does. len(dst) must be the
// bytes that len(src) elements take.
func Encode(d DType, dst []byte, src []float32) error {
	f := d.format()
	if f.encode == nil {
		return fmt.Errorf("%v tensors cannot be written; choose F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0 or Q5_1", d)
	}
	if err := checkLengths(d, len(src), len(dst)); err != nil {
		return err
	}
	f.encode(dst, src)
	return nil
}

func checkLengths(d DType, elements, bytes int) error {
	f := d.format()
	if bytes%f.blockBytes != 0 || elements%f.blockSize != 0 || bytes/f.blockBytes != elements/f.blockSize {
		return fmt.Errorf("%d bytes of %v do not hold %d elements (blocks of %d elements in %d bytes)",
			bytes, d, elements, f.blockSize, f.blockBytes)
	}
	return nil
}
