package plan

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sestina/backend"
	_ "sestina/backend/all"
	"sestina/checkpoint"
	"sestina/engine"
	"sestina/model"
	"sestina/runner"
	"sestina/tensor"
)

const tiny = "../../testdata/tiny.gguf"

// LLaMA-2-70B at 131,072 tokens in 16 bits: 40 GiB of K and V a user, 320 GiB
// were every query head to keep its own.
func TestLlama2At128K(t *testing.T) {
	s, err := Preset("LLaMA-2-70B")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Weigh(tensor.F16); err != nil {
		t.Fatal(err)
	}
	p, err := Make(s, Request{KVDType: tensor.F16, BlockSize: 16, Context: 131_072, Users: 1, Memory: 192 << 30})
	if err != nil {
		t.Fatal(err)
	}
	if p.UserBytes != 40<<30 || p.MHABytes != 320<<30 || p.TokenBytes != 320<<10 {
		t.Errorf("%d bytes a user, %d without groups, %d a token; want 40 GiB, 320 GiB, 320 KiB", p.UserBytes, p.MHABytes, p.TokenBytes)
	}
	if s.Params != 68_976_648_192 || p.Fit == nil || !p.Fit.All || p.Fit.Users != 1 {
		t.Errorf("%d parameters, fit %+v; want 68,976,648,192 and one user in 192 GiB", s.Params, p.Fit)
	}
	s.KVHeads = s.Heads // --kv-heads 64
	mha, err := Make(s, Request{KVDType: tensor.F16, BlockSize: 16, Context: 131_072, Users: 1})
	if err != nil || mha.UserBytes != 320<<30 || mha.MHABytes != 320<<30 {
		t.Errorf("with 64 KV heads %+v, %v; want 320 GiB", mha, err)
	}
}

// What the plan says of a file is what loading it and allocating its pool takes.
func TestPlanEqualsWhatIsAllocated(t *testing.T) {
	c, err := checkpoint.Open(tiny)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := backend.Open("cpu", backend.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	m, err := model.Load(c, b, model.Options{MaxRows: engine.DefaultMaxNumBatchedTokens, MaxLogitRows: engine.DefaultMaxNumSeqs})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Read(tiny)
	if err != nil {
		t.Fatal(err)
	}
	if i := m.Info(); s.WeightBytes != i.ResidentBytes || s.Params != i.Params || s.Layers != i.Layers {
		t.Errorf("planned %+v, loaded %+v", s, i)
	}
	for _, d := range []tensor.DType{tensor.F32, tensor.F16} {
		for _, size := range []int{16, 48, 7} {
			p, err := Make(s, Request{KVDType: d, BlockSize: size, Context: 100, Users: 3})
			if err != nil {
				t.Fatal(err)
			}
			blocks := int(p.KVBytes / p.BlockBytes)
			r, err := runner.New(m, b, runner.Config{Blocks: blocks, BlockSize: size, KVDType: d})
			if err != nil {
				t.Fatal(err)
			}
			padding := uint64(64 * s.Layers) // each layer's pool begins on a line
			if got := r.CacheBytes(); got < p.KVBytes || got > p.KVBytes+padding {
				t.Errorf("%v in blocks of %d: planned %d bytes, allocated %d", d, size, p.KVBytes, got)
			}
			r.Close()
		}
	}
}

// A hybrid's pool is as large as the plan says, and the code that gives out blocks
// needs as many.
func TestPlanOfAHybridEqualsWhatIsAllocated(t *testing.T) {
	from, dir := "../../model/testdata/hf/qwen3", t.TempDir()
	for _, name := range []string{"config.json", "model.safetensors"} {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer(`"use_sliding_window": false`, `"use_sliding_window": true`, `"sliding_window": null`, `"sliding_window": 16`,
			`"max_window_layers": 3`, `"max_window_layers": 1`).Replace(string(data))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := backend.Open("cpu", backend.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	m, err := model.Load(c, b, model.Options{MaxRows: 16, MaxLogitRows: 4})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	const context = 5000
	p, err := Make(s, Request{KVDType: tensor.F16, BlockSize: 16, Context: context, Users: 2})
	if err != nil {
		t.Fatal(err)
	}
	blocks := int(p.KVBytes / p.BlockBytes)
	r, err := runner.New(m, b, runner.Config{Blocks: blocks, BlockSize: 16, KVDType: tensor.F16, Chunk: engine.DefaultMaxNumBatchedTokens})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got := r.CacheBytes(); len(p.Windows) < 2 || !slices.Equal(r.Windows(), p.Windows) || got < p.KVBytes || got > p.KVBytes+uint64(64*s.Layers) {
		t.Errorf("planned %d bytes in groups of windows %v, allocated %d in %v", p.KVBytes, p.Windows, got, r.Windows())
	}
	full, window := (context+15)/16, (16+engine.DefaultMaxNumBatchedTokens+2*16-3)/16
	if want := 2 * uint64(full+2*window) * p.BlockBytes; p.KVBytes != want || p.AllBytes != 3*uint64(full)*p.BlockBytes {
		t.Errorf("%d bytes for two users, want %d; %d if all layers kept everything", p.KVBytes, want, p.AllBytes)
	}
}

// A preset of the default model weighs what its file has: a real model's shape,
// recomputed from its published hyperparameters.
func TestWeighCountsEveryMatrix(t *testing.T) {
	s, err := Preset("smollm2-135m")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Weigh(tensor.F32); err != nil {
		t.Fatal(err)
	}
	const params = 134_515_008 // of the published checkpoint
	if s.Params != params || s.WeightBytes != 4*params {
		t.Errorf("%d parameters in %d bytes; want %d in four times as many", s.Params, s.WeightBytes, params)
	}
	if err := s.Weigh(tensor.Q4_K); err == nil {
		t.Error("rows of 576 were packed as Q4_K, whose blocks are 256 wide")
	}
}

func TestImpossiblePlansAreRefused(t *testing.T) {
	ok := Request{KVDType: tensor.F16, BlockSize: 16, Context: 1, Users: 1}
	llama, _ := Preset("llama-2-70b")
	for _, c := range []struct {
		name string
		edit func(*Shape, *Request)
		want string
	}{
		{"groups", func(s *Shape, _ *Request) { s.KVHeads = 7 }, "no multiple"},
		{"no layers", func(s *Shape, _ *Request) { s.Layers = 0 }, "--layers is 0"},
		{"many layers", func(s *Shape, _ *Request) { s.Layers = math.MaxInt }, "--layers"},
		{"no users", func(_ *Shape, r *Request) { r.Users = 0 }, "--users 0"},
		{"no context", func(_ *Shape, r *Request) { r.Context = -5 }, "--context -5"},
		{"blocks", func(_ *Shape, r *Request) { r.BlockSize = 0 }, "blocks of 0"},
		{"window", func(s *Shape, _ *Request) { s.FullEvery = 2 }, "--full-every 2"},
		{"dtype", func(_ *Shape, r *Request) { r.KVDType = tensor.Q5_K }, "no attention kernel"},
		{"overflow", func(_ *Shape, r *Request) { r.Context, r.Users = maxCount, maxCount }, "64 bits"},
	} {
		s, r := llama, ok
		c.edit(&s, &r)
		if _, err := Make(s, r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
	if _, err := Preset("gpt-9"); err == nil || !strings.Contains(err.Error(), "llama-2-70b") {
		t.Errorf("an unknown preset gave %v", err)
	}
	if _, err := Read("plan_test.go"); err == nil {
		t.Error("a Go file was read as a model")
	}
}

func TestTooLittleMemoryIsSaid(t *testing.T) {
	s, _ := Preset("llama-2-70b")
	if err := s.Weigh(tensor.Q4_0); err != nil {
		t.Fatal(err)
	}
	r := Request{KVDType: tensor.F16, BlockSize: 16, Context: 4096, Users: 8, Memory: 24 << 30}
	p, err := Make(s, r)
	if err != nil || p.Fit.Weights || p.Fit.All || p.Fit.Users != 0 {
		t.Errorf("fit %+v, %v; 38.8 GB of weights do not fit 24 GiB", p.Fit, err)
	}
	r.Memory = 48 << 30
	p, err = Make(s, r)
	if err != nil || !p.Fit.Weights || p.Fit.Users*p.UserBytes > p.Fit.Left || (p.Fit.Users+1)*p.UserBytes <= p.Fit.Left {
		t.Errorf("fit %+v, %v; the users must fill what is left and no more", p.Fit, err)
	}
}
