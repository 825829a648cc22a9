package model_test

import (
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"sestina/backend"
	"sestina/backend/cpu"
	"sestina/backend/cpu/matmul"
	"sestina/backend/ref"
	"sestina/internal/datatest"
)

// cpuWith opens the CPU backend with a forced kernel family, "" for the best.
// Only the backend opened last may run: the vector kernels' level is one for
// the whole process.
func cpuWith(t testing.TB, opt backend.Options) backend.Backend {
	t.Helper()
	b, err := cpu.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestModelsEqualTransformersOnEveryISA(t *testing.T) {
	type golden struct{ model, file string }
	var cases []golden
	for _, name := range hfCases {
		dir := filepath.Join("testdata/hf", name)
		cases = append(cases, golden{dir, filepath.Join(dir, "golden.safetensors")})
	}
	for _, name := range []string{"llama_plain", "llama3_scaled", "qwen2", "qwen3", "smollm3"} {
		cases = append(cases, golden{"testdata/gguf/" + name + ".gguf", filepath.Join("testdata/hf", name, "golden.safetensors")})
	}
	for _, q := range quantised {
		cases = append(cases, golden{q + ".gguf", q + ".golden.safetensors"})
	}
	for _, isa := range matmul.Supported() {
		for _, c := range cases {
			t.Run(isa.String()+"/"+c.model, func(t *testing.T) {
				b := cpuWith(t, backend.Options{ISA: isa.String(), Threads: 2, Activations: backend.ActivationsF32})
				compare(t, open(t, c.model, b, 16), datatest.Safetensors(t, c.file))
			})
		}
	}
}

var quantised = []string{"testdata/gguf/llama_plain_q4_0", "testdata/gguf/llama_plain_q5_1", "testdata/gguf/llama_plain_q8_0"}

// TestIntegerArithmeticEqualsTheOracle: with int8 activations there is no
// golden to be near to; the logits are the scalar backend's, bit for bit.
func TestIntegerArithmeticEqualsTheOracle(t *testing.T) {
	for _, q := range quantised {
		ids := datatest.Safetensors(t, q+".golden.safetensors")["seq3.input_ids"].I32
		logits := func(b backend.Backend) (all []float32) {
			err := open(t, q+".gguf", b, 16).Logits(ids, 64, func(_ int, row []float32) error {
				all = append(all, row...)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		want, float := logits(ref.New(backend.Options{})), logits(refF32())
		for _, isa := range matmul.Supported() {
			t.Run(fmt.Sprintf("%s/%v", filepath.Base(q), isa), func(t *testing.T) {
				got, apart := logits(cpuWith(t, backend.Options{ISA: isa.String(), Threads: 2})), 0.0
				for i, v := range got {
					if math.Float32bits(v) != math.Float32bits(want[i]) {
						t.Fatalf("value %d is %v, want %v", i, v, want[i])
					}
					apart = max(apart, math.Abs(float64(v-float[i])))
				}
				if apart == 0 {
					t.Fatal("the integer path was not taken: the logits are those of float32 activations")
				}
				t.Logf("%d values bitwise equal; at most %.2g from float32 activations", len(got), apart)
			})
		}
	}
}
