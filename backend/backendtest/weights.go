package backendtest

import (
	"encoding/binary"
	"math"
	"math/rand/v2"

	"sestina/backend"
	"sestina/tensor"
)

// Formats are the weight formats that a backend must know.
var Formats = []tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.Q8_0, tensor.Q4_0, tensor.Q4_1,
	tensor.Q5_0, tensor.Q5_1, tensor.Q4_K, tensor.Q5_K, tensor.Q6_K}

// kScales are the float16 scales in a block of the formats that Encode does not write.
var kScales = map[tensor.DType][]int{tensor.Q4_K: {0, 2}, tensor.Q5_K: {0, 2}, tensor.Q6_K: {208}}

// source is a random matrix in a file's format.
func source(rng *rand.Rand, d tensor.DType, rows, cols int) backend.Source {
	src := backend.Source{Name: d.String(), DType: d, Rows: rows, Cols: cols}
	size, err := src.RowBytes()
	if err != nil {
		panic(err)
	}
	raw := rawWeights(rng, d, rows*size, rows*cols)
	src.Read = func(dst []byte, row0, n int) error {
		copy(dst, raw[row0*size:(row0+n)*size])
		return nil
	}
	return src
}

// rawWeights makes whole blocks: random values encoded where the format can be
// written, else random bits under plausible scales.
func rawWeights(rng *rand.Rand, d tensor.DType, size, values int) []byte {
	raw := make([]byte, size)
	if d.CanEncode() {
		if err := tensor.Encode(d, raw, normals(rng, values)); err != nil {
			panic(err)
		}
		return raw
	}
	for i := range raw {
		raw[i] = byte(rng.Uint32())
	}
	for at := 0; at < size; at += d.BlockBytes() {
		for _, field := range kScales[d] {
			scale := tensor.ToFloat16(float32(rng.NormFloat64()) * 0.01)
			binary.LittleEndian.PutUint16(raw[at+field:], uint16(scale))
		}
	}
	return raw
}

func normals(rng *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

// activations makes n rows of ordinary and awkward values: zeros of both signs,
// blocks too small to quantise, steep and constant ones.
func activations(rng *rand.Rand, n, width int) []float32 {
	x := normals(rng, n*width)
	for i := range x {
		switch k := i % width; i / width % 9 {
		case 2:
			x[i] = float32(math.Copysign(0, float64(k&1)-0.5))
		case 3:
			x[i] *= 1e-31
		case 4:
			x[i] = float32(k-width/2) * 0.5 // halfway between integers
		case 5:
			x[i] *= 1e6
		case 6:
			x[i] = -0.75
		case 7:
			if k != width/3 {
				x[i] *= 1e-5
			}
		}
	}
	return x
}
