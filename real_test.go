//go:build real

package sestina_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"sestina"
	"sestina/backend"
	"sestina/checkpoint"
	"sestina/hub"
	"sestina/model"
	"sestina/runner"
	"sestina/tensor"
	"sestina/tokenizer"
)

// These tests run the default model itself, SmolLM2-135M-Instruct at Q4_1: the
// file named by SESTINA_TEST_MODEL, else the one in the store.
//
//	go test -tags real .

func realCheckpoint(t *testing.T) *checkpoint.Checkpoint {
	t.Helper()
	found, err := sestina.Resolve(context.Background(), os.Getenv("SESTINA_TEST_MODEL"), sestina.Options{Pull: hub.Options{Offline: true}})
	if err != nil {
		t.Fatalf("set SESTINA_TEST_MODEL, or pull the default model: %v", err)
	}
	c, err := checkpoint.Open(found.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// smallMargin is how close the two best logits may be before the golden, float32
// sums in another order, and we may part.
const smallMargin = 0.02

// TestRealGreedyTokens feeds each golden prompt and its greedy continuation and
// demands the golden's token at every position, up to the first close call.
func TestRealGreedyTokens(t *testing.T) {
	var golden struct {
		Cases []struct {
			User      string
			PromptIDs []int32   `json:"prompt_ids"`
			GreedyIDs []int32   `json:"greedy_ids"`
			Margin    []float64 `json:"margin"`
		}
	}
	readJSON(t, "testdata/smollm2_greedy.json", &golden)
	b, err := backend.Open("cpu", backend.Options{Activations: backend.ActivationsF32})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	m, err := model.Load(realCheckpoint(t), b, model.Options{MaxRows: 128, MaxLogitRows: 128})
	if err != nil {
		t.Fatal(err)
	}
	r, err := runner.New(m, b, runner.Config{Blocks: 32, BlockSize: 16, KVDType: tensor.F32})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	equal := 0
	for _, c := range golden.Cases {
		n := slices.IndexFunc(c.Margin, func(m float64) bool { return m < smallMargin })
		if n < 0 {
			n = len(c.GreedyIDs)
		}
		ids := slices.Concat(c.PromptIDs, c.GreedyIDs[:n])
		err := r.Logits(ids, 128, func(pos int, logits []float32) error {
			i := pos - len(c.PromptIDs) + 1
			if i < 0 || i >= n {
				return nil
			}
			if got := argmax(logits); got != c.GreedyIDs[i] {
				return fmt.Errorf("token %d is %d, want %d (margin %v)", i, got, c.GreedyIDs[i], c.Margin[i])
			}
			equal++
			return nil
		})
		if err != nil {
			t.Errorf("%q: %v", c.User, err)
		}
	}
	if equal < 300 {
		t.Errorf("only %d tokens were compared", equal)
	}
	t.Logf("%s: %d greedy tokens of %d prompts equal", b.Describe(), equal, len(golden.Cases))
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

func TestRealTokenizer(t *testing.T) {
	var golden struct {
		Encode []struct {
			Text string
			IDs  []int32
		}
	}
	readJSON(t, "tokenizer/testdata/smollm2_tokenize.json", &golden)
	tok, err := sestina.LoadTokenizer(realCheckpoint(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range golden.Encode {
		if got := tok.Encode(c.Text, tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: true}); !slices.Equal(got, c.IDs) {
			t.Errorf("%.60q: %v, want %v", c.Text, got, c.IDs)
		}
	}
	if len(golden.Encode) != 129 {
		t.Errorf("%d texts, want 129", len(golden.Encode))
	}
	t.Logf("%d texts", len(golden.Encode))
}
