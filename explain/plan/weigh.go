package plan

import (
	"errors"
	"fmt"

	"sestina/backend"
	"sestina/backend/cpu/matmul"
	"sestina/checkpoint"
	"sestina/engine"
	"sestina/model"
	_ "sestina/model/all" // the architectures
	"sestina/tensor"
)

// Read weighs a model file: its own architecture loads it onto a backend that
// keeps sizes instead of weights. Only norms and biases are read.
func Read(path string) (Shape, error) {
	c, err := checkpoint.Open(path)
	if err != nil {
		return Shape{}, err
	}
	defer c.Close()
	b := &scale{formats: map[tensor.DType]uint64{}}
	m, err := model.Load(c, b, model.Options{MaxRows: engine.DefaultMaxNumBatchedTokens, MaxLogitRows: engine.DefaultMaxNumSeqs})
	if err != nil {
		return Shape{}, err
	}
	i := m.Info()
	return Shape{
		Name: i.Arch, Layers: i.Layers, Heads: i.Heads, KVHeads: i.KVHeads, HeadDim: i.HeadDim, Hidden: i.Hidden, Vocab: i.Vocab,
		Context: i.MaxContext, Params: i.Params, WeightFormat: b.mostly(), WeightBytes: i.ResidentBytes, WorkBytes: b.work, cache: i.CacheLayers, windows: i.Windows,
	}, nil
}

// scale is the loading half of a backend: matrices without contents. It can
// compute nothing; the embedded interface is nil and stays unused by loaders.
type scale struct {
	backend.Backend
	formats map[tensor.DType]uint64 // bytes of matrices
	work    uint64                  // bytes of activations
}

// weight is a matrix that is not there.
type weight struct {
	rows, cols int
	d          tensor.DType
	bytes      uint64
}

func (w weight) Shape() (int, int)   { return w.rows, w.cols }
func (w weight) DType() tensor.DType { return w.d }
func (w weight) Bytes() uint64       { return w.bytes }

func (b *scale) Name() string     { return "scale" }
func (b *scale) Describe() string { return "weighs, computes nothing" }
func (b *scale) Close() error     { return nil }

func (b *scale) NewMatrix(s backend.Source) (backend.Matrix, error) {
	size, err := matmul.PackedSize(s.DType, s.Rows, s.Cols)
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", s.Name, err)
	}
	b.formats[s.DType] += size
	return weight{s.Rows, s.Cols, s.DType, size}, nil
}

func (b *scale) NewVector(v []float32) (backend.Vector, error) { return backend.Vector{Host: v}, nil }

func (b *scale) NewRows(n, width int) (backend.Rows, error) {
	b.work += uint64(n) * uint64(width) * 4
	return backend.Rows{N: n, Width: width}, nil
}

func (b *scale) NewCache(backend.CacheSpec) (backend.Cache, error) {
	return nil, errors.New("a scale has no memory for a KV cache")
}

// mostly names the format that most bytes are in.
func (b *scale) mostly() string {
	var most tensor.DType
	found := false
	for d, n := range b.formats {
		if !found || n > b.formats[most] || n == b.formats[most] && d < most {
			most, found = d, true
		}
	}
	if len(b.formats) > 1 {
		return "mostly " + most.String()
	}
	return most.String()
}
