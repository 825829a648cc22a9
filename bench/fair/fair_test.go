package fair

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"sestina"
)

const tiny = "../../testdata/tiny.gguf"

// All three ways are measured, and a prompt in one step is one gap for every stream.
func TestEveryWayIsMeasured(t *testing.T) {
	cfg := Config{Streams: 3, StreamLen: 8, PromptLen: 600, Before: 20, Reps: 2}
	var r *Report
	err := errEarly // where other work takes the cores, streams of so small a model may run away
	for range 10 {
		if r, err = Run(context.Background(), tiny, sestina.Options{Threads: 1, KVCacheMemoryBytes: 64 << 20}, cfg, func(string) {}); !errors.Is(err, errEarly) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != len(ways) {
		t.Fatalf("%d rows", len(r.Rows))
	}
	for _, row := range r.Rows {
		if row.ITL99 < row.ITL50 || row.ITL50 <= 0 || row.Worst < row.During99 || row.TTFT <= 0 || row.TTFTAlone <= 0 || row.Ratio <= 0 {
			t.Errorf("%+v", row)
		}
	}
	whole, measured := r.Rows[0], r.Rows[2]
	if measured.Gaps <= whole.Gaps {
		t.Errorf("%d gaps beside a prompt in one step, %d beside one in chunks", whole.Gaps, measured.Gaps)
	}
	var text bytes.Buffer
	if r.Print(&text); !strings.Contains(text.String(), "measured") || !strings.Contains(text.String(), "600 tokens") {
		t.Errorf("%s", &text)
	}
}

func TestImpossibleWorkloadsAreRefused(t *testing.T) {
	ok := Config{Streams: 1, StreamLen: 1, PromptLen: 10, Before: 10, Reps: 1}
	for _, c := range []struct {
		edit func(*Config)
		pool uint64
		want string
	}{
		{func(c *Config) { c.Before = 1 }, 1 << 20, "--before 1"},
		{func(c *Config) { c.PromptLen = 1 << 20 }, 1 << 20, "context"},
		{func(c *Config) { c.Streams = 40 }, 256 << 10, "KV pool"},
	} {
		cfg := ok
		c.edit(&cfg)
		if _, err := Run(context.Background(), tiny, sestina.Options{Threads: 1, KVCacheMemoryBytes: c.pool}, cfg, func(string) {}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v; want %q", err, c.want)
		}
	}
}
