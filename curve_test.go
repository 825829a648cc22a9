package sestina

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sestina/batch"
	"sestina/spec"
)

// A curve outlives its engine: a run that has learnt enough leaves it in the
// store, and the next on the same model and settings starts from it, others do not.
func TestCurveIsKeptPerModelAndMachine(t *testing.T) {
	store := t.TempDir()
	open := func(o Options) *LLM {
		o.StoreDir, o.Threads = store, 1
		llm, err := Open(context.Background(), "testdata/tiny.gguf", o)
		if err != nil {
			t.Fatal(err)
		}
		return llm
	}
	points := func(llm *LLM) []spec.Point { return llm.Engine.Options().Speculator.Curve().Points() }
	files := func() []string {
		f, _ := filepath.Glob(filepath.Join(store, "measured", "*.json"))
		return f
	}
	run := func(llm *LLM, tokens int) {
		p := batch.Greedy()
		p.IgnoreEOS = true
		p.Temperature, p.Seed = 2, 7 // nothing to foresee: a step a token
		for _, err := range llm.Generate(context.Background(), "hello", GenerateOptions{Sampling: &p, MaxTokens: tokens}) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	llm := open(Options{})
	run(llm, 20)
	llm.Close()
	if n := files(); len(n) != 0 {
		t.Fatalf("%v was kept after 20 steps", n)
	}
	llm = open(Options{})
	for range 8 {
		run(llm, learnt)
	}
	llm.Close()
	if n := files(); len(n) != 1 {
		t.Fatalf("%v was kept after %d steps, want one curve", n, llm.Engine.Options().Speculator.Curve().Steps())
	}
	want := points(llm)
	llm = open(Options{})
	if got := points(llm); len(got) != len(want) || len(got) == 0 {
		t.Errorf("started from %v, %v was learnt", got, want)
	}
	llm.Close()
	llm = open(Options{KVCacheDType: "f32"})
	if got := points(llm); len(got) != 0 {
		t.Errorf("another KV format started from %v", got)
	}
	llm.Close()

	data, err := os.ReadFile(files()[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"{", strings.Replace(string(data), curveSchema, "sestina.curve/99", 1)} {
		if err := os.WriteFile(files()[0], []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		llm = open(Options{})
		if got := points(llm); len(got) != 0 {
			t.Errorf("%.40q gave %v", bad, got)
		}
		llm.Close()
	}
}
