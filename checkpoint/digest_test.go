package checkpoint

import (
	"os"
	"path/filepath"
	"testing"
)

// TestDigestNamesTheContents: any byte of any file counts, names and times do not.
func TestDigestNamesTheContents(t *testing.T) {
	digest := func(path string) string {
		t.Helper()
		c, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		d, err := c.Digest()
		if err != nil || len(d) != 64 {
			t.Fatalf("%q, %v", d, err)
		}
		return d
	}
	gguf, err := os.ReadFile("../testdata/tiny.gguf")
	if err != nil {
		t.Fatal(err)
	}
	place := func(data []byte) string {
		path := filepath.Join(t.TempDir(), "copy.gguf")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	seen := map[string]bool{digest("../testdata/tiny.gguf"): true}
	if !seen[digest(place(gguf))] {
		t.Error("a copy has another digest")
	}
	for _, at := range []int{len(gguf) - 1, len(gguf) / 2, len(gguf) - 5000} {
		gguf[at] ^= 1
		if d := digest(place(gguf)); seen[d] {
			t.Errorf("byte %d does not count", at)
		} else {
			seen[d] = true
		}
	}
	const hf = "../model/testdata/hf/llama_plain"
	dir := filepath.Join(t.TempDir(), "model")
	if err := os.CopyFS(dir, os.DirFS(hf)); err != nil {
		t.Fatal(err)
	}
	if digest(dir) != digest(hf) {
		t.Error("a copy of a folder has another digest")
	}
	config := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, append(text, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	if digest(dir) == digest(hf) {
		t.Error("config.json does not count")
	}
}
