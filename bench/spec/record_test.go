//go:build real

package spec

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"

	"sestina"
	"sestina/batch"
	"sestina/bench/prompts"
	"sestina/engine"
)

var record = flag.Bool("record", false, "write "+recordedFile+" anew instead of comparing")

// What the replays read is what the default model says, id for id; with -short only the
// first prompt of each set is asked.
//
//	SESTINA_TEST_MODEL=FILE go test -tags real ./bench/spec -run TestRecorded -record
func TestRecorded(t *testing.T) {
	opt := sestina.Options{StoreDir: t.TempDir()}
	opt.MaxNumSeqs = 1
	opt.Techniques.Speculation = "off"
	llm, err := sestina.Open(t.Context(), os.Getenv("SESTINA_TEST_MODEL"), opt)
	if err != nil {
		t.Fatalf("set SESTINA_TEST_MODEL to the path of SmolLM2-135M-Instruct.Q4_1.gguf: %v", err)
	}
	defer llm.Close()
	var out []recorded
	for _, set := range prompts.Names() {
		texts, err := prompts.Set(set)
		if err != nil {
			t.Fatal(err)
		}
		for i, text := range texts {
			if testing.Short() && i > 0 && !*record {
				out = append(out, recorded{}) // in its place
				continue
			}
			ids, err := encode(llm, text)
			if err != nil {
				t.Fatal(err)
			}
			r := recorded{Set: set, Prompt: ids, Drawn: make([][]int32, recordedReps)}
			r.Greedy = say(t, llm.Engine, ids, 0, 0)
			for rep := range r.Drawn {
				r.Drawn[rep] = say(t, llm.Engine, ids, 1, uint64(1000*rep+i+1))
			}
			out = append(out, r)
			t.Log(set, i, len(ids), len(r.Greedy))
		}
	}
	if *record {
		if err := writeRecorded(out); err != nil {
			t.Fatal(err)
		}
		return
	}
	known, err := readRecorded()
	if err != nil {
		t.Fatal(err)
	}
	if len(known) != len(out) {
		t.Fatalf("%d prompts are recorded, there are %d: record anew", len(known), len(out))
	}
	for i, r := range out {
		k := known[i]
		if r.Set == "" {
			continue
		}
		if k.Set != r.Set || !slices.Equal(k.Prompt, r.Prompt) || !slices.Equal(k.Greedy, r.Greedy) || !slices.EqualFunc(k.Drawn, r.Drawn, slices.Equal) {
			t.Errorf("%s, prompt %d: the model says something else than what is recorded", r.Set, i)
		}
	}
}

func say(t *testing.T, e *engine.Engine, prompt []int32, temperature float32, seed uint64) []int32 {
	p := batch.Greedy()
	p.Temperature, p.Seed = temperature, seed
	a := ask(context.Background(), e, engine.Request{Prompt: prompt, MaxTokens: recordedLen, Sampling: p, Salt: fmt.Sprint(seed)})
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a.ids
}

func writeRecorded(r []recorded) error {
	f, err := os.Create(recordedFile)
	if err != nil {
		return err
	}
	z, _ := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err := json.NewEncoder(z).Encode(r); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return f.Close()
}
