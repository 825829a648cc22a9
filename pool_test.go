package sestina_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"sestina"
	"sestina/engine"
)

// A hybrid's pool says how its layers' blocks are grouped, holds one long sequence as
// far as it says, and is one group where nothing is ever let go.
func TestPoolOfAHybrid(t *testing.T) {
	var file bytes.Buffer
	if err := writeTiny(&file, tinyShape{heads: 2, kv: 2, dim: 32, window: 20, hybrid: true}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "hybrid.gguf")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	const block = 16 * 2 * 2 * 32 * 2 // K and V of one layer, f16
	for _, c := range []struct {
		name   string
		t      engine.Techniques
		dtype  string
		blocks int // in 64 blocks' memory
		tokens int
		groups string
	}{
		{"paged", engine.Techniques{}, "", 64, (64 - 7) * 16, "2 block groups: 1 full, 1 of a window of 20"}, // (20+64+2·16-3)/16 = 7
		{"contiguous", engine.Techniques{KVLayout: "contiguous"}, "", 32, 32 * 16, ""},
		{"no cache", engine.Techniques{KVCache: "off"}, "", 32, 32 * 16, ""},
		{"two formats", engine.Techniques{}, "f16,1=q8_0", 41, 41 * 16, "1 block group, as windows and formats of the layers leave nothing to gain by more"},
	} {
		opt := sestina.Options{KVCacheMemoryBytes: 64 * block, KVCacheDType: c.dtype}
		opt.Techniques, opt.MaxNumBatchedTokens = c.t, 64
		llm, err := sestina.Open(context.Background(), path, opt)
		if err != nil {
			t.Fatal(err)
		}
		p := llm.Pool
		if p.Groups() != c.groups || p.Blocks != c.blocks || p.Tokens() != c.tokens || llm.Engine.MaxLen() != c.tokens || p.Bytes > 64*block+128 {
			t.Errorf("%s: %q, %d blocks, %d tokens, a longest request of %d, %d bytes; want %+v", c.name, p.Groups(), p.Blocks, p.Tokens(), llm.Engine.MaxLen(), p.Bytes, c)
		}
		llm.Close()
	}
}
