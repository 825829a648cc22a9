package model_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"sestina/backend"
	"sestina/backend/cpu"
	"sestina/batch"
	"sestina/checkpoint"
	"sestina/model"
	"sestina/runner"
	"sestina/tensor"
)

// A file whose numbers lie is refused or runs; it never panics, and never asks
// for memory out of proportion. Each case takes a good checkpoint, changes its
// hyperparameters or tensors, loads it and generates eight tokens.

// thrifty refuses requests that no tiny model makes, and remembers them.
type thrifty struct {
	backend.Backend
	absurd string
}

// generous is far above what the models of testdata need.
const generous = 64 << 20

func (b *thrifty) ask(what string, bytes uint64) {
	if bytes > generous {
		b.absurd = fmt.Sprintf("%s of %d bytes were asked for", what, bytes)
	}
}

func (b *thrifty) NewRows(n, width int) (backend.Rows, error) {
	if b.ask("activations", uint64(n)*uint64(width)*4); b.absurd != "" {
		return backend.Rows{}, fmt.Errorf("absurd")
	}
	return b.Backend.NewRows(n, width)
}

func (b *thrifty) NewMatrix(src backend.Source) (backend.Matrix, error) {
	if b.ask("weights", uint64(src.Rows)*uint64(src.Cols)); b.absurd != "" {
		return nil, fmt.Errorf("absurd")
	}
	return b.Backend.NewMatrix(src)
}

func (b *thrifty) NewCache(spec backend.CacheSpec) (backend.Cache, error) {
	if b.ask("KV cache", spec.BlockBytes()*uint64(spec.Blocks)); b.absurd != "" {
		return nil, fmt.Errorf("absurd")
	}
	return b.Backend.NewCache(spec)
}

// outcomes counts what happened. Of all cases one in nine is tried; thorough, every one.
type outcomes struct {
	cases, ran, refused int
	noise               int // ran, to logits that are NaN: only where the weights themselves were spoilt
	mayBeNoise          bool
}

var errNaN = errors.New("the model was accepted and its logits are NaN")

// try loads a checkpoint and generates; a panic or an absurd request fails the test.
func (o *outcomes) try(t *testing.T, name, path string) {
	t.Helper()
	if o.cases++; o.cases%9 != 1 && !thorough {
		return
	}
	inner, err := cpu.New(backend.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	b := &thrifty{Backend: inner}
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("%s: panic: %v\n%s", name, r, debug.Stack())
		}
		if b.absurd != "" {
			t.Errorf("%s: %s", name, b.absurd)
		}
	}()
	err = generate(b, path)
	switch {
	case errors.Is(err, errNaN):
		o.noise++
		if !o.mayBeNoise {
			t.Errorf("%s: %v", name, err)
		}
	case err == nil:
		o.ran++
	case len(err.Error()) < 12 || strings.ContainsAny(err.Error(), "\n\r"):
		t.Errorf("%s: an error that helps nobody: %q", name, err)
	default:
		o.refused++
	}
}

// generate loads a model and draws eight greedy tokens.
func generate(b backend.Backend, path string) error {
	c, err := checkpoint.Open(path)
	if err != nil {
		return err
	}
	defer c.Close()
	m, err := model.Load(c, b, model.Options{MaxRows: 4, MaxLogitRows: 1, MTP: c})
	if err != nil {
		return err
	}
	r, err := runner.New(m, b, runner.Config{Blocks: 3, BlockSize: 4, KVDType: tensor.F16, DraftSeqs: 1, DraftLen: 1})
	if err != nil {
		return err
	}
	defer r.Close()
	s := &batch.Sequence{Status: batch.Running, Tokens: []int32{0, 0}, BlockTables: [][]int32{{2, 0, 1}}}
	for range 8 {
		n := len(s.Tokens) - s.NumComputed
		out := r.Run(&batch.Step{Seqs: []batch.Scheduled{{Seq: s, NumTokens: n}}})
		s.NumComputed += n
		s.Tokens = append(s.Tokens, argmax(out.Logits.Row(0)))
		if slices.ContainsFunc(out.Logits.Row(0), func(v float32) bool { return v != v }) {
			return errNaN
		}
		if ok, _ := r.CanDraft(s); ok {
			r.Draft([]runner.DraftRow{{Seq: s, Token: s.Tokens[len(s.Tokens)-1], Pos: len(s.Tokens) - 1, From: -1}})
		} else if m.Info().MTP {
			return fmt.Errorf("the MTP layer does not draft")
		}
	}
	return nil
}

// hostileValues replace a number.
func hostileValues(old any) []any {
	out := []any{0, -1, 1, 2, 3, 7, 1000, 1 << 20, math.MaxInt32, int64(1) << 40, int64(math.MaxInt64), int64(math.MinInt64),
		1e300, 1e-300, -1e300, 0.5, "7", nil, true, []any{}, []any{1, 2}, []any{-1, -1, -1}, map[string]any{}}
	if v, ok := old.(float64); ok {
		out = append(out, v*2, v/2, v+1, -v)
	}
	return out
}

// folder is a copy of a checkpoint's folder whose config.json can be replaced.
type folder struct{ path string }

func newFolder(t *testing.T, src string) (folder, map[string]any) {
	t.Helper()
	dir := t.TempDir()
	entries, err := os.ReadDir(src)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(src, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case e.Name() == "config.json":
			if err := json.Unmarshal(data, &config); err != nil {
				t.Fatal(err)
			}
		case strings.HasPrefix(e.Name(), "model"):
			if err := os.WriteFile(filepath.Join(dir, e.Name()), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return folder{dir}, config
}

func (f folder) write(t *testing.T, config map[string]any) {
	t.Helper()
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.path, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// numericKeys of a config, as paths of one or two names.
func numericKeys(config map[string]any) (keys [][]string) {
	for _, k := range slices.Sorted(maps.Keys(config)) {
		switch v := config[k].(type) {
		case float64, bool, nil:
			keys = append(keys, []string{k})
		case map[string]any:
			for _, sub := range slices.Sorted(maps.Keys(v)) {
				keys = append(keys, []string{k, sub})
			}
		}
	}
	return keys
}

func get(config map[string]any, key []string) any {
	if len(key) == 2 {
		return config[key[0]].(map[string]any)[key[1]]
	}
	return config[key[0]]
}

// with is the config with one value replaced.
func with(config map[string]any, key []string, v any) map[string]any {
	out := maps.Clone(config)
	if len(key) == 2 {
		if sub, ok := config[key[0]].(map[string]any); ok {
			out[key[0]] = with(sub, key[1:], v)
		}
		return out
	}
	out[key[0]] = v
	return out
}

// optional keys that a config may carry beside those that it has.
var optionalKeys = []string{"head_dim", "sliding_window", "max_window_layers", "no_rope_layer_interval", "no_rope_layers", "layer_types",
	"partial_rotary_factor", "num_key_value_heads", "rope_theta", "use_sliding_window", "tie_word_embeddings", "attention_bias", "mlp_bias"}

func TestHostileConfigs(t *testing.T) {
	for _, name := range []string{"llama_plain", "llama3_scaled", "mistral", "qwen2", "qwen3", "smollm3", "../mtp/llama"} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			f, config := newFolder(t, "testdata/hf/"+name)
			var o outcomes
			defer func() {
				t.Logf("T21 files with changed hyperparameters: %d ran, %d refused, panics 0", o.ran, o.refused)
			}()
			try := func(what string, config map[string]any) {
				f.write(t, config)
				o.try(t, what, f.path)
			}
			try("unchanged", config)
			if o.ran != 1 {
				t.Fatal("the unchanged model does not run")
			}
			for _, k := range optionalKeys {
				if _, ok := config[k]; !ok {
					config = with(config, []string{k}, nil)
				}
			}
			keys := numericKeys(config)
			for i, k := range keys {
				for _, v := range hostileValues(get(config, k)) {
					try(fmt.Sprintf("%v = %v", k, v), with(config, k, v))
				}
				for _, other := range keys[:i] {
					swapped := with(with(config, k, get(config, other)), other, get(config, k))
					try(fmt.Sprintf("%v and %v swapped", k, other), swapped)
				}
			}
			several(func(rng *rand.Rand) {
				changed, what := config, ""
				for range 2 + rng.IntN(3) {
					k := keys[rng.IntN(len(keys))]
					values := hostileValues(get(config, k))
					v := values[rng.IntN(len(values))]
					changed, what = with(changed, k, v), fmt.Sprintf("%s %v = %v", what, k, v)
				}
				try(what, changed)
			})
			if name != "llama3_scaled" && !thorough {
				return
			}
			for _, scaling := range hostileScalings() {
				try(fmt.Sprint(scaling), with(config, []string{"rope_scaling"}, scaling))
			}
		})
	}
}

// several runs a random case some hundred times, the same ones every time.
func several(try func(rng *rand.Rand)) {
	rng := rand.New(rand.NewPCG(8, 8))
	for range 200 {
		try(rng)
	}
}

// hostileScalings are rope_scaling objects of every type with each number spoilt.
func hostileScalings() (out []map[string]any) {
	good := map[string]any{"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64.0,
		"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "attention_factor": 1.0, "partial_rotary_factor": 1.0}
	for _, kind := range []string{"linear", "llama3", "yarn", "dynamic", "longrope", ""} {
		for k := range good {
			for _, v := range []any{0, -1, 1, 1e300, 1e-300, -1e300, int64(math.MaxInt64), "x", nil} {
				s := with(good, []string{k}, v)
				s["rope_type"] = kind
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, func(a, b map[string]any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return out
}

// ggufParts reads a GGUF file back into what WriteGGUF takes.
func ggufParts(t *testing.T, path string) (pairs []checkpoint.KV, tensors []checkpoint.Tensor) {
	t.Helper()
	c, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, k := range c.Config().Keys() {
		v, _ := c.Config().Value(k)
		pairs = append(pairs, checkpoint.KV{Key: k, Value: v})
	}
	for info := range c.Tensors() {
		raw := make([]byte, info.Bytes)
		if err := c.Read(info.Name, raw); err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, checkpoint.Tensor{Name: info.Name, DType: info.DType, Shape: info.Shape, Data: blob(raw)})
	}
	return pairs, tensors
}

// blob is tensor data that can be written many times.
type blob []byte

func (b blob) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b)
	return int64(n), err
}

func TestHostileGGUFs(t *testing.T) {
	values := []any{uint32(0), int32(-1), uint32(1), uint32(3), uint32(1000), uint32(math.MaxUint32), uint64(math.MaxUint64), int64(math.MinInt64),
		uint64(1) << 40, float32(0.5), float32(-1e30), float32(math.NaN()), float32(math.Inf(1)), "x", true,
		[]uint32{}, []uint32{4, 4, 4}, []int32{-1, 2, 3}, []float32{1}}
	for _, name := range []string{"llama_plain_q4_0", "llama3_scaled", "qwen3", "smollm3", "mtp"} {
		t.Run(name, func(t *testing.T) {
			file := "testdata/gguf/" + name + ".gguf"
			if name == "mtp" {
				file = ggufTwin(t, "testdata/mtp/llama", true)
			}
			pairs, tensors := ggufParts(t, file)
			path := filepath.Join(t.TempDir(), "model.gguf")
			var o outcomes
			try := func(what string, pairs []checkpoint.KV, tensors []checkpoint.Tensor) {
				if writeGGUF(t, path, pairs, tensors) {
					o.try(t, what, path)
				}
			}
			try("unchanged", pairs, tensors)
			if o.ran != 1 {
				t.Fatal("the unchanged model does not run")
			}
			arch := pairs[slices.IndexFunc(pairs, func(kv checkpoint.KV) bool { return kv.Key == "general.architecture" })].Value.(string)
			pairs = withOptionalPairs(pairs, arch)
			o.cases = 0
			try("unchanged but for optional metadata", pairs, tensors)
			if o.ran != 2 {
				t.Fatal("the model with optional metadata does not run")
			}
			for i, kv := range pairs {
				if !strings.HasPrefix(kv.Key, arch+".") {
					continue
				}
				try("without "+kv.Key, slices.Delete(slices.Clone(pairs), i, i+1), tensors)
				for _, v := range values {
					changed := slices.Clone(pairs)
					changed[i].Value = v
					try(fmt.Sprintf("%s = %v", kv.Key, v), changed, tensors)
				}
			}
			several(func(rng *rand.Rand) {
				changed, what := slices.Clone(pairs), ""
				for range 2 + rng.IntN(3) {
					if kv := &changed[rng.IntN(len(changed))]; strings.HasPrefix(kv.Key, arch+".") {
						kv.Value = values[rng.IntN(len(values))]
						what = fmt.Sprintf("%s %s = %v", what, kv.Key, kv.Value)
					}
				}
				try(what, changed, tensors)
			})
			o.mayBeNoise = true
			for i, x := range tensors {
				hostileTensors(x, func(what string, x checkpoint.Tensor) {
					changed := slices.Clone(tensors)
					changed[i] = x
					try(what, pairs, changed)
				})
				try("without "+x.Name, pairs, slices.Delete(slices.Clone(tensors), i, i+1))
			}
			t.Logf("%d ran, %d refused, %d made noise of spoilt weights", o.ran, o.refused, o.noise)
		})
	}
}

// withOptionalPairs adds the metadata that a file may carry, harmless at first.
func withOptionalPairs(pairs []checkpoint.KV, arch string) []checkpoint.KV {
	out := slices.Clone(pairs)
	for _, kv := range []checkpoint.KV{{Key: "attention.key_length", Value: uint32(16)}, {Key: "attention.value_length", Value: uint32(16)},
		{Key: "attention.sliding_window", Value: uint32(0)}, {Key: "expert_count", Value: uint32(0)}, {Key: "vocab_size", Value: uint32(224)},
		{Key: "rope.dimension_count", Value: uint32(16)}, {Key: "rope.scaling.type", Value: "yarn"}, {Key: "rope.scaling.factor", Value: float32(2)},
		{Key: "rope.scaling.original_context_length", Value: uint32(256)}, {Key: "rope.scaling.yarn_beta_fast", Value: float32(32)},
		{Key: "rope.scaling.yarn_beta_slow", Value: float32(1)}, {Key: "rope.scaling.attn_factor", Value: float32(1)}} {
		kv.Key = arch + "." + kv.Key
		if !slices.ContainsFunc(out, func(have checkpoint.KV) bool { return have.Key == kv.Key }) {
			out = append(out, kv)
		}
	}
	return out
}

// hostileTensors are a tensor's transposition, neighbours in size, and other types of the same bytes.
func hostileTensors(x checkpoint.Tensor, try func(what string, x checkpoint.Tensor)) {
	raw := x.Data.(blob)
	with := func(d tensor.DType, shape ...int) {
		y := checkpoint.Tensor{Name: x.Name, DType: d, Shape: shape}
		if size, err := d.Bytes(shape); err == nil {
			data := make(blob, size)
			copy(data, raw)
			y.Data = data
			try(fmt.Sprintf("%s as %v %v", x.Name, d, shape), y)
		}
	}
	turned := slices.Clone(x.Shape)
	slices.Reverse(turned)
	with(x.DType, turned...)
	with(x.DType, append([]int{1}, x.Shape...)...)
	with(x.DType, append([]int{2 * x.Shape[0]}, x.Shape[1:]...)...)
	for _, d := range []tensor.DType{tensor.F32, tensor.F16, tensor.Q4_0, tensor.Q8_0, tensor.I32, tensor.I8, tensor.Q4_K, tensor.IQ2_XS, tensor.MXFP4, tensor.F64} {
		with(d, x.Shape...)
	}
}

// writeGGUF reports false where the writer itself refuses.
func writeGGUF(t *testing.T, path string, pairs []checkpoint.KV, tensors []checkpoint.Tensor) bool {
	t.Helper()
	var out bytes.Buffer
	if err := checkpoint.WriteGGUF(&out, pairs, tensors); err != nil {
		return false
	}
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return true
}
