package model_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"testing"

	"sestina/backend"
	"sestina/backend/ref"
	"sestina/checkpoint"
	"sestina/internal/datatest"
	"sestina/model"
	_ "sestina/model/all"
	"sestina/runner"
	"sestina/tensor"
)

// The goldens are transformers' float32 logits of tiny random models, one per
// feature; see testdata/README.md.
const tolerance = 2e-3

var hfCases = []string{"llama_plain", "llama_tied", "llama_mha", "llama3_scaled", "llama_bf16_sharded", "llama_f16",
	"mistral", "qwen2", "qwen3", "smollm3"}

// open loads a model and a small pool with float32 activations and KV.
func open(t testing.TB, path string, b backend.Backend, blockSize int) *runner.ModelRunner {
	t.Helper()
	c, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m, err := model.Load(c, b, model.Options{MaxRows: 64, MaxLogitRows: 64})
	if err != nil {
		t.Fatal(err)
	}
	r, err := runner.New(m, b, runner.Config{Blocks: (160 + blockSize - 1) / blockSize, BlockSize: blockSize, KVDType: tensor.F32})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func refF32() backend.Backend { return ref.New(backend.Options{Activations: backend.ActivationsF32}) }

// compare checks logits of every prompt and the greedy continuation.
func compare(t *testing.T, r *runner.ModelRunner, golden datatest.Arrays) {
	t.Helper()
	worst, tokens := 0.0, 0
	for k := 0; ; k++ {
		ids, ok := golden[fmt.Sprintf("seq%d.input_ids", k)]
		if !ok {
			break
		}
		want := golden[fmt.Sprintf("seq%d.logits", k)]
		greedy := golden[fmt.Sprintf("seq%d.greedy_ids", k)].I32
		all := append(append([]int32(nil), ids.I32...), greedy[:len(greedy)-1]...)
		err := r.Logits(all, 64, func(pos int, logits []float32) error {
			if pos < len(ids.I32) {
				for i, v := range logits {
					worst = math.Max(worst, math.Abs(float64(v-want.Row(pos)[i])))
				}
			}
			if i := pos - len(ids.I32) + 1; i >= 0 {
				tokens++
				if got := argmax(logits); got != greedy[i] {
					return fmt.Errorf("seq%d: greedy token %d is %d, want %d", k, i, got, greedy[i])
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if tokens == 0 {
		t.Fatal("the golden file holds no sequences")
	}
	if !(worst <= tolerance) {
		t.Fatalf("logits differ by %.2g, want at most %.2g", worst, tolerance)
	}
	t.Logf("T18 %s: worst |Δlogit| to transformers %.2g, %d greedy tokens equal", t.Name(), worst, tokens)
}

func argmax(x []float32) int32 {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return int32(best)
}

func TestModelsEqualTransformers(t *testing.T) {
	for _, name := range hfCases {
		dir := filepath.Join("testdata/hf", name)
		golden := datatest.Safetensors(t, filepath.Join(dir, "golden.safetensors"))
		t.Run(name, func(t *testing.T) { compare(t, open(t, dir, refF32(), 16), golden) })
		t.Run(name+"/config_v5", func(t *testing.T) { compare(t, open(t, withConfigV5(t, dir), refF32(), 16), golden) })
	}
}

func TestGGUFTwinsEqualTheirCheckpoints(t *testing.T) {
	for _, name := range []string{"llama_plain", "llama3_scaled", "qwen2", "qwen3", "smollm3"} {
		t.Run(name, func(t *testing.T) {
			golden := datatest.Safetensors(t, filepath.Join("testdata/hf", name, "golden.safetensors"))
			compare(t, open(t, "testdata/gguf/"+name+".gguf", refF32(), 16), golden)
		})
	}
	for _, q := range []string{"q4_0", "q5_1", "q8_0"} {
		t.Run("llama_plain_"+q, func(t *testing.T) {
			golden := datatest.Safetensors(t, "testdata/gguf/llama_plain_"+q+".golden.safetensors")
			compare(t, open(t, "testdata/gguf/llama_plain_"+q+".gguf", refF32(), 16), golden)
		})
	}
}

// withConfigV5 is the same folder with the config as transformers 5 writes it.
func withConfigV5(t *testing.T, dir string) string {
	t.Helper()
	out := t.TempDir()
	files, err := filepath.Glob(filepath.Join(dir, "model*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no model files in %s: %v", dir, err)
	}
	for _, f := range append(files, filepath.Join(dir, "config_v5.json")) {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(f)
		if name == "config_v5.json" {
			name = "config.json"
		}
		if err := os.WriteFile(filepath.Join(out, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// Published configs leave out what equals the architecture's default, and write the same thing in several ways.
func TestConfigsInOtherWordsAreTheSameModel(t *testing.T) {
	for _, c := range []struct {
		name   string
		remove []string
		set    map[string]any
	}{
		{"llama_tied", []string{"tie_word_embeddings", "head_dim", "hidden_act", "torch_dtype"}, nil},
		{"llama_plain", []string{"tie_word_embeddings"}, map[string]any{"rope_scaling": map[string]any{"type": "dynamic", "factor": 4.0}}},
		{"llama_mha", []string{"rope_theta"}, map[string]any{"num_key_value_heads": nil, "rope_scaling": nil}},
		{"smollm3", []string{"tie_word_embeddings", "rope_theta", "no_rope_layer_interval"}, nil},
		{"smollm3", []string{"no_rope_layer_interval"}, map[string]any{"no_rope_layers": []int{1, 1, 1, 0}}},
		{"qwen3", []string{"head_dim", "tie_word_embeddings"}, nil},
	} {
		dir := filepath.Join("testdata/hf", c.name)
		config := map[string]any{}
		data, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err == nil {
			err = json.Unmarshal(data, &config)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range c.remove {
			delete(config, k)
		}
		maps.Copy(config, c.set)
		t.Run(c.name, func(t *testing.T) {
			out := withConfigV5(t, dir)
			data, err := json.Marshal(config)
			if err == nil {
				err = os.WriteFile(filepath.Join(out, "config.json"), data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			compare(t, open(t, out, refF32(), 16), datatest.Safetensors(t, filepath.Join(dir, "golden.safetensors")))
		})
	}
}
