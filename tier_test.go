package sestina_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sestina"
	"sestina/engine"
)

// prefix is a prompt of n ids.
func prefix(n, seed int) (ids []int32) {
	for i := range n {
		ids = append(ids, int32(3+(i*i+seed*31+i*7)%200))
	}
	return ids
}

// tierRun opens a model, asks once and closes it again.
func tierRun(t *testing.T, model string, opt sestina.Options, ids []int32) (answer []int32, res *sestina.Result) {
	t.Helper()
	llm, err := sestina.Open(context.Background(), model, opt)
	if err != nil {
		t.Fatal(err)
	}
	_, answer, res = collect(t, llm.GenerateIDs(context.Background(), ids, sestina.GenerateOptions{Sampling: greedy(), MaxTokens: 12}))
	if err := llm.Close(); err != nil {
		t.Fatal(err)
	}
	return answer, res
}

// TestDiskTierSurvivesARestart: a model that is opened again answers a known
// prompt of 2,000 tokens from the folder. Another model, or the same one with
// other formats, never uses it, says so once, and answers as it would without.
func TestDiskTierSurvivesARestart(t *testing.T) {
	dir, ids := t.TempDir(), prefix(2000, 1)
	var log bytes.Buffer
	opt := sestina.Options{KVDiskTier: dir, KVCacheMemoryBytes: 8 << 20}
	opt.Log = slog.New(slog.NewTextHandler(&log, nil))
	want, res := tierRun(t, tiny, opt, ids)
	if res.CachedTokens != 0 {
		t.Fatalf("%d tokens cached at first", res.CachedTokens)
	}
	for range 2 {
		got, res := tierRun(t, tiny, opt, ids)
		if res.CachedTokens != 1984 || !slices.Equal(got, want) {
			t.Errorf("%d of 2000 tokens cached, %v, want %v", res.CachedTokens, got, want)
		}
	}
	if strings.Contains(log.String(), "level=WARN") {
		t.Error(log.String())
	}

	other := filepath.Join(t.TempDir(), "tiny.gguf") // one bit of one weight is another
	data, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1000] ^= 1
	if err := os.WriteFile(other, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		model string
		with  func(*sestina.Options)
		says  string
	}{
		"another model":      {other, func(*sestina.Options) {}, "blocks of model"},
		"another KV dtype":   {tiny, func(o *sestina.Options) { o.KVCacheDType = "f32" }, "blocks of KV cache dtype f16, this is f32"},
		"another arithmetic": {tiny, func(o *sestina.Options) { o.ActivationDType = "f32" }, "activations f32"},
		"another block size": {tiny, func(o *sestina.Options) { o.BlockSize = 32 }, "blocks of block size 16, this is 32"},
		"another backend":    {tiny, func(o *sestina.Options) { o.Backend = "ref" }, "layout cpu 1, this is ref 1"},
	} {
		t.Run(name, func(t *testing.T) {
			ids := ids[:100]
			log.Reset()
			with := opt
			c.with(&with)
			got, res := tierRun(t, c.model, with, ids)
			without := with
			without.KVDiskTier = ""
			if want, _ := tierRun(t, c.model, without, ids); res.CachedTokens != 0 || !slices.Equal(got, want) {
				t.Errorf("%d tokens cached, %v, want %v", res.CachedTokens, got, want)
			}
			if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), c.says) {
				t.Errorf("%d lines of warning, want one with %q:\n%s", n, c.says, log.String())
			}
		})
	}
	copied := filepath.Join(t.TempDir(), "renamed.gguf")
	data[len(data)-1000] ^= 1
	if err := os.WriteFile(copied, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, res := tierRun(t, copied, opt, ids); res.CachedTokens != 1984 {
		t.Errorf("%d tokens cached of the same model by another name", res.CachedTokens)
	}
}

func TestTierOptionsContradict(t *testing.T) {
	for _, o := range []sestina.Options{{KVDiskTierBytes: 1}, {KVHostTierBytes: 1 << 20, Options: withoutPrefixes()}, {KVDiskTier: "x", Options: withoutPrefixes()}} {
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), "--kv-") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	opt := sestina.Options{KVHostTierBytes: 100}
	opt.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	if llm, err := sestina.Open(context.Background(), tiny, opt); err == nil || !strings.Contains(err.Error(), "--kv-host-tier-bytes") {
		t.Errorf("a tier of 100 bytes: %v", err)
		llm.Close()
	}
}

func withoutPrefixes() (o engine.Options) {
	o.Techniques.PrefixCaching = "off"
	return o
}
