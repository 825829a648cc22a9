package sestina_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"sestina"
	"sestina/batch"
	"sestina/checkpoint"
	"sestina/internal/datatest"
	"sestina/tensor"
)

// TestSpeculationChangesNoToken asks for repetitive and for free text, greedy
// and sampled, alone and at once, with every proposer and depth.
func TestSpeculationChangesNoToken(t *testing.T) {
	prompts := []string{strings.Repeat("the blue sky ", 20), "hello", strings.Repeat("hello world ", 12) + "the"}
	params := func(i int) *batch.SamplingParams {
		p := greedy()
		if i%2 == 1 {
			*p = batch.DefaultSampling()
			p.Seed, p.IgnoreEOS, p.TopP, p.RepetitionPenalty = uint64(i), true, 0.9, 1.1
		}
		return p
	}
	ask := func(o sestina.Options) [][]int32 {
		llm := openTiny(t, o)
		out := make([][]int32, 2*len(prompts))
		var wg sync.WaitGroup
		for i := range out {
			wg.Go(func() {
				_, out[i], _ = collect(t, llm.Generate(context.Background(), prompts[i/2], sestina.GenerateOptions{Sampling: params(i), MaxTokens: 60}))
			})
		}
		wg.Wait()
		if s := llm.Engine.Stats().Speculation; o.Techniques.Speculation != "off" && o.SpeculativeConfig != "" && s.Drafted == 0 {
			t.Errorf("%s: nothing was drafted", o.SpeculativeConfig)
		}
		return out
	}
	var off sestina.Options
	off.Techniques.Speculation = "off"
	want := ask(off)
	layer := tinyMTP(t)
	for _, config := range []string{"", `{"method":"ngram","num_speculative_tokens":4,"depth":"fixed"}`,
		fmt.Sprintf(`{"method":"mtp","model":%q,"num_speculative_tokens":4,"depth":"fixed"}`, layer),
		`{"method":"draft_model","model":"testdata/tiny.gguf","num_speculative_tokens":5,"depth":"fixed"}`} {
		for _, block := range []int{0, 5} {
			o := sestina.Options{SpeculativeConfig: config}
			o.BlockSize = block
			for i, got := range ask(o) {
				if !slices.Equal(got, want[i]) {
					t.Errorf("%s, block size %d, prompt %d: %v, want %v", config, block, i, got, want[i])
				}
			}
		}
	}
}

// tinyMTP is an MTP file for the tiny model, of random weights.
func tinyMTP(t *testing.T) string {
	t.Helper()
	dir, rng := t.TempDir(), rand.New(rand.NewPCG(8, 1))
	tokens, _, _ := tinyVocabulary()
	config := fmt.Sprintf(`{"format":"sestina.mtp","version":1,"target":{"hidden_size":64,"num_hidden_layers":2,"vocab_size":%d}}`, len(tokens))
	var tensors []checkpoint.Tensor
	for name, shape := range map[string][]int{"enorm": {64}, "hnorm": {64}, "eh_proj": {64, 128}, "shared_head.norm": {64}, "input_layernorm": {64},
		"post_attention_layernorm": {64}, "self_attn.q_proj": {64, 64}, "self_attn.k_proj": {32, 64}, "self_attn.v_proj": {32, 64}, "self_attn.o_proj": {64, 64},
		"mlp.gate_proj": {96, 64}, "mlp.up_proj": {96, 64}, "mlp.down_proj": {64, 96}} {
		n := shape[0]
		if len(shape) == 2 {
			n *= shape[1]
		}
		values, raw := make([]float32, n), make([]byte, 4*n)
		for i := range values {
			values[i] = float32(rng.NormFloat64()) / 8
		}
		if err := tensor.Encode(tensor.F32, raw, values); err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, checkpoint.Tensor{Name: "model.layers.2." + name + ".weight", DType: tensor.F32, Shape: shape, Data: bytes.NewReader(raw)})
	}
	var file bytes.Buffer
	if err := checkpoint.WriteSafetensors(&file, nil, tensors); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"config.json": []byte(config), "model.safetensors": file.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestMTPChangesNoToken asks a model with an MTP layer in its checkpoint, with
// the layer and without, under switches that move its K and V about.
func TestMTPChangesNoToken(t *testing.T) {
	const model = "model/testdata/mtp/llama"
	golden := datatest.Safetensors(t, model+"/golden.safetensors")
	var prompts [][]int32
	for k := range 4 {
		ids := golden[fmt.Sprintf("seq%d.input_ids", k)].I32
		prompts = append(prompts, ids, append(slices.Clone(ids), ids[3:9]...), ids) // the last one finds a prefix
	}
	ask := func(name string, o sestina.Options) (out [][]int32, accepted uint64) {
		llm, err := sestina.Open(context.Background(), model, o)
		if err != nil {
			t.Fatal(err)
		}
		defer llm.Close()
		out = make([][]int32, 2*len(prompts))
		var wg sync.WaitGroup
		for i := range out {
			wg.Go(func() {
				p := greedy()
				if i%2 == 1 {
					*p = batch.DefaultSampling()
					p.Seed, p.IgnoreEOS = uint64(i), true
				}
				_, out[i], _ = collect(t, llm.GenerateIDs(context.Background(), prompts[i/2], sestina.GenerateOptions{Sampling: p, MaxTokens: 40}))
			})
		}
		wg.Wait()
		if s := llm.Engine.Stats().Speculation; s != nil {
			last := s.Proposers[len(s.Proposers)-1]
			if last.Name != "mtp" || last.Faults > 0 {
				t.Errorf("the last proposer is %+v", last)
			}
			accepted = last.Accepted
		}
		if name == "few blocks" && llm.Engine.Stats().Preemptions == 0 {
			t.Error("nobody was preempted")
		}
		return out, accepted
	}
	var off sestina.Options
	off.Techniques.Speculation = "off"
	want, _ := ask("off", off)
	for name, set := range map[string]func(o *sestina.Options){
		"default": func(o *sestina.Options) { o.SpeculativeConfig = "" },
		"fixed": func(o *sestina.Options) {
			o.SpeculativeConfig = `{"method":"mtp","num_speculative_tokens":3,"depth":"fixed"}`
		},
		"block 5":        func(o *sestina.Options) { o.BlockSize = 5 },
		"block 1":        func(o *sestina.Options) { o.BlockSize = 1 },
		"few blocks":     func(o *sestina.Options) { o.BlockSize, o.KVCacheMemoryBytes = 4, 60<<10 }, // preempts
		"small steps":    func(o *sestina.Options) { o.MaxNumBatchedTokens = 7 },
		"contiguous":     func(o *sestina.Options) { o.Techniques.KVLayout = "contiguous" },
		"no KV cache":    func(o *sestina.Options) { o.Techniques.KVCache = "off" },
		"full, expanded": func(o *sestina.Options) { o.Techniques.Attention, o.Techniques.GQA = "full", "expanded" },
		"static":         func(o *sestina.Options) { o.Techniques.Batching = "static" },
	} {
		o := sestina.Options{SpeculativeConfig: `{"num_speculative_tokens":3,"depth":"fixed"}`}
		set(&o)
		got, accepted := ask(name, o)
		for i := range got {
			if !slices.Equal(got[i], want[i]) {
				t.Errorf("%s, request %d: %v, want %v", name, i, got[i], want[i])
			}
		}
		if accepted == 0 && name != "no KV cache" && name != "default" {
			t.Errorf("%s: no draft was accepted", name)
		}
		t.Logf("%s: %d drafts of the layer accepted", name, accepted)
	}
}

// TestMTPDraftsAreAccepted: the golden texts are those that the layer was
// fitted to. The reference has a third of its drafts accepted there.
func TestMTPDraftsAreAccepted(t *testing.T) {
	const model = "model/testdata/mtp/llama"
	golden := datatest.Safetensors(t, model+"/golden.safetensors")
	llm, err := sestina.Open(context.Background(), model, sestina.Options{SpeculativeConfig: `{"num_speculative_tokens":3,"depth":"fixed"}`})
	if err != nil {
		t.Fatal(err)
	}
	defer llm.Close()
	for k := range 4 {
		want := golden[fmt.Sprintf("seq%d.greedy_ids", k)].I32
		_, got, _ := collect(t, llm.GenerateIDs(context.Background(), golden[fmt.Sprintf("seq%d.input_ids", k)].I32,
			sestina.GenerateOptions{Sampling: greedy(), MaxTokens: len(want)}))
		if !slices.Equal(got, want) {
			t.Errorf("prompt %d: %v, want %v", k, got, want)
		}
	}
	s := llm.Engine.Stats().Speculation.Proposers[1]
	if s.Drafted < 100 || s.Accepted*4 < s.Drafted {
		t.Errorf("%d of %d drafts of %s accepted, want a quarter or more", s.Accepted, s.Drafted, s.Name)
	}
	t.Logf("%d of %d drafts accepted", s.Accepted, s.Drafted)
}

func TestSpeculativeConfigMistakesAreNamed(t *testing.T) {
	for config, want := range map[string]string{
		`{"method":"oracle"}`:                        `method "oracle" is not built`,
		`{"method":"draft_model"}`:                   `needs a "model"`,
		`{"method":"ngram","model":"x.gguf"}`:        "takes no model",
		`{"num_speculative_tokens":99}`:              "num_speculative_tokens is 99",
		`{"depth":"deep"}`:                           `depth "deep"`,
		`{"metod":"ngram"}`:                          "metod",
		`{"method":"ngram","options":{"minimum":3}}`: "minimum",
		`{"method":"draft_model","model":"no.gguf"}`: "no.gguf",
		`{"method":"mtp"}`:                           "holds no MTP layer",
		`{"method":"mtp","model":"no-folder/."}`:     "no-folder",
		`{"method":"mtp","model":"` + tiny + `"}`:    "MTP file",
		`{"model":"x.gguf"}`:                         "takes no model",
		`{"rejection_sampling":true}`:                "rejection_sampling needs",
	} {
		llm, err := sestina.Open(context.Background(), tiny, sestina.Options{SpeculativeConfig: config})
		if err == nil {
			llm.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", config, err, want)
		}
	}
}

// A draft model with another vocabulary is refused at load, by name.
func TestDraftModelOfAnotherVocabularyIsRefused(t *testing.T) {
	other := filepath.Join(t.TempDir(), "other.gguf")
	data, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	// The same file with one special token spelled otherwise.
	if data = bytes.ReplaceAll(data, []byte("<|im_start|>"), []byte("<|im_begun|>")); !bytes.Contains(data, []byte("<|im_begun|>")) {
		t.Fatal("the tiny model has no such token")
	}
	if err := os.WriteFile(other, data, 0o600); err != nil {
		t.Fatal(err)
	}
	config, _ := json.Marshal(map[string]string{"method": "draft_model", "model": other})
	llm, err := sestina.Open(context.Background(), tiny, sestina.Options{SpeculativeConfig: string(config)})
	if err == nil {
		llm.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "another vocabulary") || !strings.Contains(err.Error(), "other") {
		t.Errorf("%v", err)
	}
}

// With rejection sampling a model that drafts for itself is nearly always right,
// at any temperature: p = q, but for the target's cache of the same K/V.
func TestRejectionSamplingOfOneselfAcceptsAll(t *testing.T) {
	accepted := func(rejection bool) float64 {
		config, _ := json.Marshal(map[string]any{"method": "draft_model", "model": tiny, "num_speculative_tokens": 4, "depth": "fixed", "rejection_sampling": rejection})
		llm := openTiny(t, sestina.Options{SpeculativeConfig: string(config)})
		p := batch.DefaultSampling()
		p.Seed, p.IgnoreEOS, p.Temperature = 5, true, 1
		collect(t, llm.Generate(context.Background(), "hello", sestina.GenerateOptions{Sampling: &p, MaxTokens: 200}))
		s := llm.Engine.Stats().Speculation.Proposers[1]
		return float64(s.Accepted) / float64(s.Drafted)
	}
	drawn, onehot := accepted(true), accepted(false)
	t.Logf("accepted %.3f of drawn drafts, %.3f of the likeliest tokens", drawn, onehot)
	if drawn < 0.99 || onehot > 0.9*drawn {
		t.Errorf("accepted %.3f of drawn drafts, %.3f of the likeliest tokens", drawn, onehot)
	}
}
