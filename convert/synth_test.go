package convert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sestina"
	"sestina/batch"
	"sestina/checkpoint"
	"sestina/tensor"
	"sestina/tokenizer"
)

var small = Shape{Name: "small", Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 16, Hidden: 64, FFN: 96, Vocab: 300, Context: 256,
	RopeBase: 10_000, NormEpsilon: 1e-5, Tied: true}

func write(t *testing.T, s Shape, seed uint64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "synth.gguf")
	if err := SynthFile(path, s, seed); err != nil {
		t.Fatal(err)
	}
	return path
}

// The file loads, its tokenizer passes any text through, and the model computes.
func TestSynthModelRuns(t *testing.T) {
	for _, tied := range []bool{true, false} {
		s := small
		s.Tied = tied
		llm, err := sestina.Open(context.Background(), write(t, s, 1), sestina.Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer llm.Close()
		if i := llm.Info; i.Layers != 2 || i.Heads != 4 || i.KVHeads != 2 || i.HeadDim != 16 || i.Vocab != 300 || i.MaxContext != 256 {
			t.Errorf("loaded as %+v", i)
		}
		text := "The então \x00 東京 <filler_280>\n"
		ids := llm.Tokenizer.Encode(text, tokenizer.EncodeOptions{})
		if got := llm.Tokenizer.Decode(ids, true); got != text {
			t.Errorf("%q became %q through %v", text, got, ids)
		}
		greedy := batch.Greedy()
		greedy.IgnoreEOS = true
		n := 0
		for d, err := range llm.Generate(context.Background(), "hello", sestina.GenerateOptions{Sampling: &greedy, MaxTokens: 5}) {
			if err != nil {
				t.Fatal(err)
			}
			n += len(d.Tokens)
		}
		if n != 5 {
			t.Errorf("%d tokens were generated, want 5", n)
		}
	}
}

func TestSynthDependsOnTheSeedAlone(t *testing.T) {
	sum := func(seed uint64) [32]byte {
		var b bytes.Buffer
		if err := Synth(&b, small, seed); err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(b.Bytes())
	}
	if first, again := sum(1), sum(1); first != again || first == sum(2) {
		t.Error("the same seed must give the same file, another seed another file")
	}
}

// Values are normal with deviation 1/√columns, and no two matrices are alike.
func TestSynthWeightsAreNormal(t *testing.T) {
	s := small
	s.FFN = 4096
	c, err := checkpoint.Open(write(t, s, 3))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	read := func(name string) []float32 {
		info, ok := c.Lookup(name)
		if !ok || info.DType != tensor.BF16 {
			t.Fatalf("%s: %+v", name, info)
		}
		raw, x := make([]byte, info.Bytes), make([]float32, info.Bytes/2)
		if err := errors.Join(c.Read(name, raw), tensor.Decode(tensor.BF16, x, raw)); err != nil {
			t.Fatal(err)
		}
		return x
	}
	gate, up := read("blk.0.ffn_gate.weight"), read("blk.0.ffn_up.weight")
	var sum, square, cross float64
	for i, x := range gate {
		sum += float64(x)
		square += float64(x) * float64(x)
		cross += float64(x) * float64(up[i])
	}
	n := float64(len(gate))
	if deviation := math.Sqrt(square / n); math.Abs(deviation-1.0/8) > 0.002 || math.Abs(sum/n) > 0.002 || math.Abs(cross/square) > 0.02 {
		t.Errorf("deviation %v (want 0.125), mean %v, correlation %v", deviation, sum/n, cross/square)
	}
}

// The published shape has the published number of parameters.
func TestShapesWeighWhatIsPublished(t *testing.T) {
	for name, want := range map[string]int{"llama-3.2-1b": 1_235_814_400, "smollm2-135m": 134_515_008} {
		s, err := ShapeOf(name)
		if err != nil {
			t.Fatal(err)
		}
		attention := 2*s.Hidden*s.Heads*s.HeadDim + 2*s.Hidden*s.KVHeads*s.HeadDim
		if got := s.Vocab*s.Hidden + s.Hidden + s.Layers*(attention+3*s.Hidden*s.FFN+2*s.Hidden); got != want {
			t.Errorf("%s has %d parameters, published are %d", name, got, want)
		}
	}
}

func TestSynthMistakesAreNamed(t *testing.T) {
	for want, edit := range map[string]func(*Shape){
		"layers 0":                        func(s *Shape) { s.Layers = 0 },
		"4 heads are no multiple of 3":    func(s *Shape) { s.KVHeads = 3 },
		"a vocabulary of 100: it must be": func(s *Shape) { s.Vocab = 100 },
	} {
		s := small
		edit(&s)
		if err := Synth(&bytes.Buffer{}, s, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	if _, err := ShapeOf("gpt-9"); err == nil || !strings.Contains(err.Error(), "llama-3.2-1b") {
		t.Errorf("%v", err)
	}
	path := write(t, small, 1)
	if err := SynthFile(path, small, 2); !errors.Is(err, os.ErrExist) {
		t.Errorf("an existing file gave %v", err)
	}
	bad := small
	bad.Heads = 0
	other := filepath.Join(t.TempDir(), "bad.gguf")
	if err := SynthFile(other, bad, 1); err == nil {
		t.Error("a bad shape was written")
	} else if _, err := os.Stat(other); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed file was left behind: %v", err)
	}
}
