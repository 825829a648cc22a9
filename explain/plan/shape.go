// Package plan says what a model needs of a machine's memory before anything is
// loaded: weights, KV cache, how many users at which context.
//
// Nothing here has a formula of its own where the engine has one: packed weights
// are matmul.PackedSize, K and V of a token backend.CacheSpec.TokenBytes, a block
// attention.Layout.BlockBytes. A model file is read by the architecture's own
// loader onto a scale ([weigh.go]), which adds up what it would have to hold.
// TestPlanEqualsWhatIsAllocated compares with a model that is really loaded.
package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sestina/backend"
	"sestina/backend/cpu/matmul"
	"sestina/internal/checked"
	"sestina/model"
	"sestina/tensor"
)

// Shape is what decides how much memory a model takes.
type Shape struct {
	Name    string `json:"name"`
	Layers  int    `json:"layers"`
	Heads   int    `json:"heads"`    // query heads
	KVHeads int    `json:"kv_heads"` // groups of query heads
	HeadDim int    `json:"head_dim"`
	Hidden  int    `json:"hidden"`
	FFN     int    `json:"ffn,omitempty"`
	Vocab   int    `json:"vocab"`
	Tied    bool   `json:"tied_embeddings,omitempty"`
	Context int    `json:"context"` // positions it was trained for; 0 = unknown

	Window    int    `json:"sliding_window,omitempty"` // of attention; 0 = none
	FullEvery int    `json:"full_every,omitempty"`     // every so many layers one sees everything; 0 = none does
	Params    uint64 `json:"parameters"`

	WeightFormat string `json:"weight_format"`
	WeightBytes  uint64 `json:"weight_bytes"` // as the engine keeps them
	WorkBytes    uint64 `json:"work_bytes"`   // activations and logits of the largest step; 0 = unknown

	cache   []backend.CacheLayer // per layer; nil = all alike
	windows []int                // per layer; nil = by Window and FullEvery
}

// presets are published shapes, at the context each was trained for.
var presets = map[string]Shape{
	"llama-2-7b":    {Layers: 32, Heads: 32, KVHeads: 32, HeadDim: 128, Hidden: 4096, FFN: 11008, Vocab: 32000, Context: 4096},
	"llama-2-13b":   {Layers: 40, Heads: 40, KVHeads: 40, HeadDim: 128, Hidden: 5120, FFN: 13824, Vocab: 32000, Context: 4096},
	"llama-2-70b":   {Layers: 80, Heads: 64, KVHeads: 8, HeadDim: 128, Hidden: 8192, FFN: 28672, Vocab: 32000, Context: 4096},
	"llama-3.1-8b":  {Layers: 32, Heads: 32, KVHeads: 8, HeadDim: 128, Hidden: 4096, FFN: 14336, Vocab: 128256, Context: 131072},
	"llama-3.1-70b": {Layers: 80, Heads: 64, KVHeads: 8, HeadDim: 128, Hidden: 8192, FFN: 28672, Vocab: 128256, Context: 131072},
	"mistral-7b":    {Layers: 32, Heads: 32, KVHeads: 8, HeadDim: 128, Hidden: 4096, FFN: 14336, Vocab: 32768, Context: 32768},
	"qwen3-8b":      {Layers: 36, Heads: 32, KVHeads: 8, HeadDim: 128, Hidden: 4096, FFN: 12288, Vocab: 151936, Context: 40960},
	"qwen3-32b":     {Layers: 64, Heads: 64, KVHeads: 8, HeadDim: 128, Hidden: 5120, FFN: 25600, Vocab: 151936, Context: 40960},
	"smollm2-135m":  {Layers: 30, Heads: 9, KVHeads: 3, HeadDim: 64, Hidden: 576, FFN: 1536, Vocab: 49152, Tied: true, Context: 8192},
}

// Presets lists the names that Preset knows.
func Presets() []string { return slices.Sorted(maps.Keys(presets)) }

// Preset is a published shape by its name, without weights; see [Shape.Weigh].
func Preset(name string) (Shape, error) {
	s, ok := presets[strings.ToLower(name)]
	if !ok {
		return s, fmt.Errorf("no shape is known as %q; known: %s, or give --layers, --heads and so on", name, strings.Join(Presets(), ", "))
	}
	s.Name = strings.ToLower(name)
	return s, nil
}

// Check refuses shapes that no model has; the bounds keep every product below 2^63.
func (s *Shape) Check() error {
	for _, f := range []struct {
		name         string
		v, low, high int
	}{
		{"layers", s.Layers, 1, 1 << 12}, {"heads", s.Heads, 1, 1 << 12}, {"kv-heads", s.KVHeads, 1, 1 << 12}, {"head-dim", s.HeadDim, 1, 1 << 12},
		{"window", s.Window, 0, 1 << 30}, {"full-every", s.FullEvery, 0, 1 << 12},
		{"hidden", s.Hidden, 0, 1 << 20}, {"ffn", s.FFN, 0, 1 << 22}, {"vocab", s.Vocab, 0, 1 << 24},
	} {
		if f.v < f.low || f.v > f.high {
			return fmt.Errorf("--%s is %d; it must be %d to %d", f.name, f.v, f.low, f.high)
		}
	}
	if s.FullEvery > 0 && s.Window == 0 {
		return fmt.Errorf("--full-every %d without --window: all layers see everything then", s.FullEvery)
	}
	if s.Heads%s.KVHeads != 0 {
		return fmt.Errorf("--heads %d is no multiple of --kv-heads %d: every group has as many query heads", s.Heads, s.KVHeads)
	}
	return nil
}

// Weigh computes the parameters and bytes of a llama-like decoder of this shape
// in one weight format: attention, gated MLP, embedding and, unless it is tied,
// output projection, as the engine packs them; norms stay float32. With Params
// set and no FFN, the bytes are those parameters in the format.
func (s *Shape) Weigh(d tensor.DType) error {
	s.WeightFormat = d.String()
	if s.FFN == 0 {
		return s.weighParams(d)
	}
	matrices := [][3]int{ // how many, rows, columns
		{s.Layers, (s.Heads + 2*s.KVHeads) * s.HeadDim, s.Hidden}, {s.Layers, s.Hidden, s.Heads * s.HeadDim},
		{2 * s.Layers, s.FFN, s.Hidden}, {s.Layers, s.Hidden, s.FFN}, {2, s.Vocab, s.Hidden},
	}
	if s.Tied {
		matrices[len(matrices)-1][0] = 1
	}
	norms := uint64(2*s.Layers+1) * uint64(s.Hidden)
	s.Params, s.WeightBytes = norms, norms*4
	for _, m := range matrices {
		size, err := matmul.PackedSize(d, m[1], m[2])
		if err != nil {
			return err
		}
		s.Params += uint64(m[0]) * uint64(m[1]) * uint64(m[2])
		s.WeightBytes += uint64(m[0]) * size
	}
	return nil
}

func (s *Shape) weighParams(d tensor.DType) error {
	if s.Params == 0 {
		return fmt.Errorf("--params or --ffn is missing: without them the weights have no size")
	}
	if !slices.Contains(matmul.DTypes(), d) {
		return fmt.Errorf("no matrix kernel for %v weights; choose one of %v", d, matmul.DTypes())
	}
	blocks := (s.Params-1)/uint64(d.BlockSize()) + 1
	bytes, err := checked.Mul(blocks, uint64(d.BlockBytes()))
	s.WeightBytes = bytes
	return err
}

// layers is what each layer caches per token.
func (s *Shape) layers() []backend.CacheLayer {
	if s.cache != nil {
		return s.cache
	}
	return slices.Repeat([]backend.CacheLayer{{KVHeads: s.KVHeads, HeadDim: s.HeadDim}}, s.Layers)
}

// info is what the runner has to know to lay out a pool: what each layer caches per
// token, and how far it sees.
func (s *Shape) info(layers []backend.CacheLayer, r *Request) model.Info {
	windows := s.windows
	if windows == nil {
		windows = slices.Repeat([]int{s.Window}, s.Layers)
		for i := s.FullEvery - 1; i >= 0 && i < s.Layers; i += s.FullEvery {
			windows[i] = 0
		}
	}
	context := s.Context
	if context == 0 {
		context = r.Context
	}
	return model.Info{CacheLayers: layers, Windows: windows, MaxContext: context}
}

// expanded is the cache of the same model without grouped-query attention: a K
// and a V for every query head.
func (s *Shape) expanded() []backend.CacheLayer {
	all := slices.Clone(s.layers())
	for i := range all {
		all[i].KVHeads *= s.Heads / s.KVHeads
	}
	return all
}
