package prefix

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"sestina"
)

const tiny = "../../testdata/tiny.gguf"

func TestHitsAreFoundAndFaster(t *testing.T) {
	cfg := Config{Lengths: []int{100, 1600}, TailLen: 4, Reps: 3}
	r, err := Run(context.Background(), tiny, sestina.Options{Threads: 1, KVCacheMemoryBytes: 16 << 20}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range r.Rows {
		if row.Prefix != cfg.Lengths[i] || row.Cached != row.Prefix/16*16 || row.StopAt < row.Cached || row.Stop != "diverged" && row.Stop != "block edge" || row.Worst < row.Hit {
			t.Errorf("%+v", row)
		}
	}
	if long := r.Rows[1]; !(long.Ratio > 0 && long.Ratio < 1) {
		t.Errorf("a hit of 1,600 tokens takes %.2f of a miss", long.Ratio)
	}
	var text bytes.Buffer
	if r.Print(&text); !strings.Contains(text.String(), "1600") {
		t.Errorf("%s", &text)
	}
}

func TestImpossibleWorkloadsAreRefused(t *testing.T) {
	for _, cfg := range []Config{{}, {Lengths: []int{0}, TailLen: 1, Reps: 1}, {Lengths: []int{1 << 20}, TailLen: 1, Reps: 1}} {
		if _, err := Run(context.Background(), tiny, sestina.Options{Threads: 1}, cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}
