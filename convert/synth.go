// Package convert turns model files into model files.
//
// Synth writes a model of a published shape with random weights: as fast or slow
// as the real one, since speed depends on shapes and formats and not on values,
// and nobody has to download it. Its tokens mean nothing.
package convert

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"sestina/checkpoint"
	"sestina/tensor"
)

// Shape is what Synth needs of a Llama-like decoder.
type Shape struct {
	Name                  string
	Layers                int
	Heads, KVHeads        int // query heads and their groups
	HeadDim, Hidden, FFN  int
	Vocab, Context        int
	RopeBase, NormEpsilon float32
	Tied                  bool // the head is the embedding matrix
}

var shapes = map[string]Shape{
	"llama-3.2-1b": {Layers: 16, Heads: 32, KVHeads: 8, HeadDim: 64, Hidden: 2048, FFN: 8192, Vocab: 128256, Context: 131072,
		RopeBase: 500_000, NormEpsilon: 1e-5, Tied: true},
	"smollm2-135m": {Layers: 30, Heads: 9, KVHeads: 3, HeadDim: 64, Hidden: 576, FFN: 1536, Vocab: 49152, Context: 8192,
		RopeBase: 100_000, NormEpsilon: 1e-5, Tied: true},
}

// Shapes lists the names that ShapeOf knows.
func Shapes() []string { return slices.Sorted(maps.Keys(shapes)) }

// ShapeOf returns a published shape by its name.
func ShapeOf(name string) (Shape, error) {
	s, ok := shapes[strings.ToLower(name)]
	if !ok {
		return s, fmt.Errorf("the shape %q is unknown; choose from %s", name, strings.Join(Shapes(), ", "))
	}
	s.Name = strings.ToLower(name)
	return s, nil
}

// Check refuses shapes that no model can have.
func (s *Shape) Check() error {
	for _, v := range []struct {
		name string
		n    int
	}{{"layers", s.Layers}, {"heads", s.Heads}, {"KV heads", s.KVHeads}, {"head dimension", s.HeadDim}, {"hidden size", s.Hidden},
		{"FFN size", s.FFN}, {"context", s.Context}} {
		if v.n < 1 || v.n > 1<<20 {
			return fmt.Errorf("%s %d: it must be 1 to %d", v.name, v.n, 1<<20)
		}
	}
	if s.Heads%s.KVHeads != 0 {
		return fmt.Errorf("%d heads are no multiple of %d KV heads", s.Heads, s.KVHeads)
	}
	if s.Vocab < minVocab || s.Vocab > 1<<20 {
		return fmt.Errorf("a vocabulary of %d: it must be %d to %d", s.Vocab, minVocab, 1<<20)
	}
	return nil
}

// Synth writes a GGUF file of that shape: matrices in BF16, drawn from a normal
// distribution that keeps the size of activations, norms of one in F32, and a
// byte-level tokenizer. The bytes depend on the shape and the seed alone. Memory does not
// grow with the model.
func Synth(w io.Writer, s Shape, seed uint64) error {
	if err := s.Check(); err != nil {
		return err
	}
	var tensors []checkpoint.Tensor
	matrix := func(name string, rows, cols int) {
		tensors = append(tensors, checkpoint.Tensor{Name: name, DType: tensor.BF16, Shape: tensor.Shape{rows, cols},
			Data: &normal{values: rows * cols, deviation: 1 / math.Sqrt(float64(cols)), seed: seed, stream: uint64(len(tensors))}})
	}
	norm := func(name string) {
		tensors = append(tensors, checkpoint.Tensor{Name: name, DType: tensor.F32, Shape: tensor.Shape{s.Hidden}, Data: ones(s.Hidden)})
	}
	matrix("token_embd.weight", s.Vocab, s.Hidden)
	for i := range s.Layers {
		layer := fmt.Sprintf("blk.%d.", i)
		norm(layer + "attn_norm.weight")
		matrix(layer+"attn_q.weight", s.Heads*s.HeadDim, s.Hidden)
		matrix(layer+"attn_k.weight", s.KVHeads*s.HeadDim, s.Hidden)
		matrix(layer+"attn_v.weight", s.KVHeads*s.HeadDim, s.Hidden)
		matrix(layer+"attn_output.weight", s.Hidden, s.Heads*s.HeadDim)
		norm(layer + "ffn_norm.weight")
		matrix(layer+"ffn_gate.weight", s.FFN, s.Hidden)
		matrix(layer+"ffn_up.weight", s.FFN, s.Hidden)
		matrix(layer+"ffn_down.weight", s.Hidden, s.FFN)
	}
	norm("output_norm.weight")
	if !s.Tied {
		matrix("output.weight", s.Vocab, s.Hidden)
	}
	return checkpoint.WriteGGUF(w, append(s.metadata(), vocabulary(s.Vocab)...), tensors)
}

// SynthFile is Synth into a new file; one that exists is kept and an error. What
// an error leaves behind is removed.
func SynthFile(path string, s Shape, seed uint64) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
		if err != nil {
			os.Remove(path)
		}
	}()
	return Synth(f, s, seed)
}

const mostlyBF16 = 32 // general.file_type

func (s *Shape) metadata() []checkpoint.KV {
	u := func(key string, n int) checkpoint.KV { return checkpoint.KV{Key: key, Value: uint32(n)} }
	return []checkpoint.KV{
		{Key: "general.architecture", Value: "llama"},
		{Key: "general.name", Value: s.Name + " with random weights"},
		u("general.file_type", mostlyBF16),
		u("llama.block_count", s.Layers),
		u("llama.context_length", s.Context),
		u("llama.embedding_length", s.Hidden),
		u("llama.feed_forward_length", s.FFN),
		u("llama.attention.head_count", s.Heads),
		u("llama.attention.head_count_kv", s.KVHeads),
		u("llama.attention.key_length", s.HeadDim),
		u("llama.attention.value_length", s.HeadDim),
		{Key: "llama.attention.layer_norm_rms_epsilon", Value: s.NormEpsilon},
		u("llama.rope.dimension_count", s.HeadDim),
		{Key: "llama.rope.freq_base", Value: s.RopeBase},
		u("llama.vocab_size", s.Vocab),
	}
}

// normal streams random BF16 values. They are drawn from a table of normal ones,
// four at a time: some hundred million a second.
type normal struct {
	values       int
	deviation    float64
	seed, stream uint64
}

const tableBits = 16

// WriteTo implements io.WriterTo.
func (n *normal) WriteTo(w io.Writer) (written int64, err error) {
	rng := rand.New(rand.NewPCG(n.seed, n.stream))
	var table [1 << tableBits]uint16
	for i := range table {
		table[i] = uint16(tensor.ToBFloat16(float32(rng.NormFloat64() * n.deviation)))
	}
	source := rand.NewPCG(n.seed^0x9e3779b97f4a7c15, n.stream)
	var buf [1 << 16]byte
	for left := 2 * n.values; left > 0; {
		for i := 0; i < len(buf); i += 8 {
			r := source.Uint64()
			binary.LittleEndian.PutUint64(buf[i:], uint64(table[r&0xffff])|uint64(table[r>>16&0xffff])<<16|
				uint64(table[r>>32&0xffff])<<32|uint64(table[r>>48])<<48)
		}
		m, err := w.Write(buf[:min(left, len(buf))])
		written += int64(m)
		if err != nil {
			return written, err
		}
		left -= m
	}
	return written, nil
}

// ones streams F32 ones.
type ones int

// WriteTo implements io.WriterTo.
func (n ones) WriteTo(w io.Writer) (int64, error) {
	b := make([]byte, 0, 4*int(n))
	for range int(n) {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(1))
	}
	m, err := w.Write(b)
	return int64(m), err
}
