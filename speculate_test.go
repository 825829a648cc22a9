package sestina_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"sestina"
	"sestina/batch"
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
	for _, config := range []string{"", `{"method":"ngram","num_speculative_tokens":4,"depth":"fixed"}`,
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
