package sestina_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"sestina"
	"sestina/batch"
	"sestina/internal/datatest"
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
	layer := tinyMTP(t, tinyShape{heads: 4, kv: 2, dim: 16})
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
