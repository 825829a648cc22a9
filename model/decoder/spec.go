// Package decoder is the transformer decoder that most architectures share:
// pre-norm blocks of grouped-query attention and a gated MLP. An architecture
// is a [Spec]: numbers read from its config in either dialect (Hugging Face's
// config.json or GGUF metadata), and the few differences it declares.
package decoder

import (
	"fmt"
	"math"

	"sestina/checkpoint"
)

// Spec is everything that distinguishes one decoder of this shape from another.
type Spec struct {
	Arch    string
	Vocab   int
	Hidden  int
	FFN     int
	Layers  int
	MTP     int // MTP layers behind them; the first is used
	Heads   int // query heads
	KVHeads int // key/value heads: grouped-query attention is this pair
	HeadDim int
	NormEps float32
	Context int // trained context length

	Rope Rope
	Tied bool // the head is the embedding matrix, when the file has no head of its own

	QKVBias, OutBias, MLPBias bool // tensors that must be there; those present are always used
	QKNorm                    bool // RMSNorm per head on q and k before the rotation

	Window     int            // sliding window width; 0 = none
	Windowed   func(int) bool // which layers have it; nil = all, when Window > 0
	Unrotated  func(int) bool // layers without rotation (NoPE); nil = none
	LayerTypes []string       // as the config lists them, if it does
}

// Limits that no real model of this shape exceeds; they keep products of sizes
// far from overflow before any memory is asked for.
const (
	maxLayers  = 1024
	maxWidth   = 1 << 20
	maxVocab   = 1 << 24
	maxContext = 1 << 30
	maxMTP     = 64
)

// Validate checks the numbers as a set.
func (s *Spec) Validate() error {
	for _, f := range []struct {
		name     string
		v, limit int
	}{
		{"layers", s.Layers, maxLayers}, {"hidden size", s.Hidden, maxWidth}, {"intermediate size", s.FFN, maxWidth},
		{"attention heads", s.Heads, maxWidth}, {"key/value heads", s.KVHeads, maxWidth}, {"head dim", s.HeadDim, maxWidth},
		{"vocabulary size", s.Vocab, maxVocab}, {"context length", s.Context, maxContext},
	} {
		if f.v < 1 || f.v > f.limit {
			return fmt.Errorf("config: %s is %d, want 1…%d", f.name, f.v, f.limit)
		}
	}
	switch {
	case s.Heads%s.KVHeads != 0:
		return fmt.Errorf("config: %d attention heads are not a multiple of %d key/value heads", s.Heads, s.KVHeads)
	case s.Heads*s.HeadDim > maxWidth:
		return fmt.Errorf("config: %d heads of %d are too wide", s.Heads, s.HeadDim)
	case s.Rope.Dim%2 != 0 || s.Rope.Dim < 2 || s.Rope.Dim > s.HeadDim:
		return fmt.Errorf("config: rotary width %d must be even and at most the head dim %d", s.Rope.Dim, s.HeadDim)
	case !(s.Rope.Theta >= 1) || math.IsInf(s.Rope.Theta, 0):
		return fmt.Errorf("config: rope theta %v must be at least 1 and finite", s.Rope.Theta)
	case !(s.NormEps >= 0 && s.NormEps < 1):
		return fmt.Errorf("config: norm epsilon %v must be in [0, 1)", s.NormEps)
	case s.MTP < 0 || s.MTP > maxMTP:
		return fmt.Errorf("config: %d MTP layers, want 0…%d", s.MTP, maxMTP)
	case s.Window < 0:
		return fmt.Errorf("config: sliding window %d is negative", s.Window)
	case s.LayerTypes != nil && len(s.LayerTypes) != s.Layers:
		return fmt.Errorf("config: layer_types has %d entries for %d layers", len(s.LayerTypes), s.Layers)
	}
	for _, t := range s.LayerTypes {
		if t != "full_attention" && t != "sliding_attention" {
			return fmt.Errorf("config: layer type %q is not built", t)
		}
		if t == "sliding_attention" && s.Window == 0 {
			return fmt.Errorf("config: layer_types has sliding_attention but sliding_window is not set")
		}
	}
	return s.Rope.validate()
}

// window is the sliding window of one layer, 0 for full attention. An explicit
// layer_types list wins over the architecture's rule. The MTP layer has one only if
// all others do: what it was trained with is not known.
func (s *Spec) window(layer int) int {
	switch {
	case s.Window == 0:
		return 0
	case layer >= s.Layers:
		for i := range s.Layers {
			if s.window(i) == 0 {
				return 0
			}
		}
	case s.LayerTypes != nil:
		if s.LayerTypes[layer] != "sliding_attention" {
			return 0
		}
	case s.Windowed != nil && !s.Windowed(layer):
		return 0
	}
	return s.Window
}

// ReadSpec reads what all decoders have in common, in the checkpoint's dialect.
func ReadSpec(c *checkpoint.Checkpoint) (Spec, error) {
	if c.Format() == checkpoint.GGUF {
		return readGGUF(c)
	}
	return readHF(c)
}

// readHF reads config.json, in the published style (rope_theta, rope_scaling)
// and in the one of transformers 5 (rope_parameters).
func readHF(c *checkpoint.Checkpoint) (Spec, error) {
	r := c.Config().Reader()
	s := Spec{
		Vocab:   r.Int("vocab_size"),
		Hidden:  r.Int("hidden_size"),
		FFN:     r.Int("intermediate_size"),
		Layers:  r.Int("num_hidden_layers"),
		Heads:   r.Int("num_attention_heads"),
		NormEps: float32(r.FloatOr("rms_norm_eps", 1e-6)),
		Context: r.Int("max_position_embeddings"),
		OutBias: r.BoolOr("attention_bias", false),
		MLPBias: r.BoolOr("mlp_bias", false),
		MTP:     r.IntOr("num_nextn_predict_layers", 0),
	}
	_, head := c.Lookup(hfNames.head + ".weight")
	s.Tied = r.BoolOr("tie_word_embeddings", !head) // a config may leave its architecture's default out
	s.QKVBias = s.OutBias
	s.KVHeads = r.IntOr("num_key_value_heads", s.Heads)
	s.HeadDim = s.Hidden / max(s.Heads, 1)
	if norm, ok := c.Lookup(fmt.Sprintf(hfNames.qNorm+".weight", 0)); ok && len(norm.Shape) == 1 {
		s.HeadDim = norm.Shape[0] // qwen3's default is another number than hidden size / heads
	}
	s.HeadDim = r.IntOr("head_dim", s.HeadDim)
	s.Window = r.IntOr("sliding_window", 0)
	s.LayerTypes = r.StringsOr("layer_types", nil)
	s.Rope = readRopeHF(r, s.HeadDim, s.Context)
	if act := r.StringOr("hidden_act", "silu"); act != "silu" && act != "swish" {
		return s, fmt.Errorf("config: hidden_act %q is not built (silu is)", act)
	}
	return s, r.Err()
}

// readGGUF reads {arch}.* metadata.
func readGGUF(c *checkpoint.Checkpoint) (Spec, error) {
	r := c.Config().Reader()
	a := r.String("general.architecture")
	if err := r.Err(); err != nil {
		return Spec{}, err
	}
	s := Spec{
		Hidden:  r.Int(a + ".embedding_length"),
		MTP:     r.IntOr(a+".nextn_predict_layers", 0),
		NormEps: float32(r.Float(a + ".attention.layer_norm_rms_epsilon")),
		Context: r.Int(a + ".context_length"),
		Tied:    true,
	}
	s.Layers = r.Int(a+".block_count") - s.MTP
	s.Heads = uniform(r, a+".attention.head_count", 0)
	s.KVHeads = uniform(r, a+".attention.head_count_kv", s.Heads)
	s.FFN = uniform(r, a+".feed_forward_length", 0)
	s.HeadDim = r.IntOr(a+".attention.key_length", s.Hidden/max(s.Heads, 1))
	if v := r.IntOr(a+".attention.value_length", s.HeadDim); v != s.HeadDim && r.Err() == nil {
		return s, fmt.Errorf("config: key length %d and value length %d differ, which is not built", s.HeadDim, v)
	}
	if n := r.IntOr(a+".expert_count", 0); n > 0 {
		return s, fmt.Errorf("config: mixture of %d experts is not built for %s", n, a)
	}
	s.Window = r.IntOr(a+".attention.sliding_window", 0)
	s.Rope = readRopeGGUF(r, a, s.HeadDim, s.Context)
	if err := r.Err(); err != nil {
		return s, err
	}
	embed, ok := c.Lookup("token_embd.weight")
	if !ok || len(embed.Shape) != 2 {
		return s, fmt.Errorf("tensor token_embd.weight [vocabulary, hidden] is missing")
	}
	s.Vocab = r.IntOr(a+".vocab_size", embed.Shape[0])
	return s, r.Err()
}

// uniform reads a number that GGUF may give once or per layer; layers that
// differ are not built.
func uniform(r *checkpoint.Reader, key string, otherwise int) int {
	all := r.IntsOr(key, []int{otherwise})
	if len(all) == 0 {
		return otherwise
	}
	for _, v := range all {
		if v != all[0] {
			r.Fail(key, "layers differ, which is not built")
		}
	}
	return all[0]
}

// WindowFromLayer applies the Qwen rule: no window unless use_sliding_window;
// then on the layers from max_window_layers on, where layer_types does not say otherwise.
func (s *Spec) WindowFromLayer(c *checkpoint.Checkpoint) error {
	r := c.Config().Reader()
	if !r.BoolOr("use_sliding_window", false) {
		s.Window, s.LayerTypes = 0, nil
	}
	first := r.IntOr("max_window_layers", s.Layers)
	s.Windowed = func(layer int) bool { return layer >= first }
	return r.Err()
}
