package hub

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// fakeHub serves one repository, org/repo, as the real hub does; its hooks make it hostile.
type fakeHub struct {
	*httptest.Server
	files    map[string][]byte
	describe func(siblings []map[string]any) any                                      // replaces the description
	serve    func(w http.ResponseWriter, r *http.Request, path string, b []byte) bool // answers instead; false: serve honestly

	mu     sync.Mutex
	asked  []string // paths of files asked for
	tokens []string
	sent   int64 // bytes of files sent
}

func newFakeHub(t testing.TB, files map[string][]byte) *fakeHub {
	h := &fakeHub{files: files}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *fakeHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.tokens = append(h.tokens, r.Header.Get("Authorization"))
	h.mu.Unlock()
	if strings.HasPrefix(r.URL.Path, "/api/models/org/repo/revision/") {
		json.NewEncoder(w).Encode(h.description())
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/org/repo/resolve/"+commit+"/")
	b, found := h.files[path]
	if !ok || !found {
		http.NotFound(w, r)
		return
	}
	h.mu.Lock()
	h.asked = append(h.asked, path)
	h.mu.Unlock()
	cw := &countingWriter{w, h}
	if h.serve != nil && h.serve(cw, r, path, b) {
		return
	}
	w.Header().Set("ETag", `"`+hexSum(b)+`"`)
	http.ServeContent(cw, r, "", time.Time{}, bytes.NewReader(b))
}

// takeSent returns the bytes of files sent so far and starts from zero.
func (h *fakeHub) takeSent() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.sent
	h.sent = 0
	return n
}

func (h *fakeHub) description() any {
	var siblings []map[string]any
	for path, b := range h.files {
		s := map[string]any{"rfilename": path, "size": len(b), "blobId": gitSum(b)}
		if strings.HasSuffix(path, ".safetensors") || strings.HasSuffix(path, ".gguf") {
			s["lfs"] = map[string]any{"sha256": hexSum(b), "size": len(b), "pointerSize": 134}
		}
		siblings = append(siblings, s)
	}
	if h.describe != nil {
		return h.describe(siblings)
	}
	return map[string]any{"sha": commit, "siblings": siblings}
}

type countingWriter struct {
	http.ResponseWriter
	h *fakeHub
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.h.mu.Lock()
	c.h.sent += int64(n)
	c.h.mu.Unlock()
	return n, err
}

func (c *countingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// cut sends the header of an honest answer from the asked offset, then only n bytes of it, then drops the connection.
func cut(w http.ResponseWriter, r *http.Request, b []byte, n int) {
	var from int
	fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
	w.Header().Set("Content-Length", fmt.Sprint(len(b)-from))
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
		w.WriteHeader(http.StatusPartialContent)
	}
	w.Write(b[from:min(len(b), from+n)])
	http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func hexSum(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }
func gitSum(b []byte) string {
	s := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(b), b))
	return hex.EncodeToString(s[:])
}

// noise is n bytes that no two seeds share.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return b
}

// folderRepo is a small safetensors repository with things in it that must not be fetched.
func folderRepo() map[string][]byte {
	return map[string][]byte{
		"config.json":               []byte(`{"model_type":"llama"}`),
		"tokenizer.json":            noise(1, 3000),
		"model.safetensors":         noise(2, 600<<10),
		"consolidated.safetensors":  noise(3, 1000),
		"original/x.safetensors":    noise(4, 1000),
		"pytorch_model.bin":         noise(5, 1000),
		"training_args.pt":          noise(6, 1000),
		"README.md":                 []byte("read me"),
		"onnx/model.onnx":           noise(7, 1000),
		"generation_config.json":    []byte(`{}`),
		"tokenizer_config.json":     []byte(`{"a":1}`),
		"special_tokens_map.json":   []byte(`{"b":1}`),
		"chat_template.jinja":       []byte(`{{ messages }}`),
		"vocab.json":                []byte(`{"c":1}`),
		"original/config.json":      []byte(`{"d":1}`),
		"model.safetensors.sig.exe": []byte(`MZ`),
	}
}

func ggufRepo(n int) map[string][]byte {
	return map[string][]byte{"m.Q4_K_M.gguf": append([]byte("GGUF"), noise(9, n-4)...)}
}

// openTest opens a store in dir that asks hub, never sleeps, has no token and runs no programs.
func openTest(t testing.TB, dir string, hub *fakeHub) *Store {
	s, err := OpenStore(dir, WithEndpoint(hub.URL), WithToken(""), WithRunner(func(context.Context, string, ...string) (string, error) {
		return "no programs in tests", fmt.Errorf("exit status 1")
	}))
	if err != nil {
		t.Fatal(err)
	}
	s.hub.sleep = func(ctx context.Context, _ time.Duration) error { return context.Cause(ctx) }
	t.Cleanup(func() { s.Close() })
	return s
}

func mustPull(t testing.TB, s *Store, spec string) Model {
	t.Helper()
	m, err := s.Pull(context.Background(), spec, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// corrupt counts the lies of a store: blobs whose content is not their name, manifests whose blobs are not there.
func corrupt(t testing.TB, dir string) (bad int) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range blobs {
		if strings.HasSuffix(path, ".part") {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if "sha256-"+hexSum(b) != filepath.Base(path) {
			t.Errorf("%s holds %s", path, hexSum(b))
			bad++
		}
	}
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	models, err := s.List()
	if err != nil {
		t.Errorf("list: %v", err)
		bad++
	}
	for _, m := range models {
		if !s.complete(m) {
			t.Errorf("%s is listed and not complete", m.Name)
			bad++
		}
	}
	return bad
}

// sameFiles checks that a pulled folder holds exactly the wanted files with the hub's bytes.
func sameFiles(t testing.TB, folder string, hub map[string][]byte, want ...string) {
	t.Helper()
	got := 0
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			got++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range want {
		b, err := os.ReadFile(filepath.Join(folder, filepath.FromSlash(f)))
		if err != nil || !bytes.Equal(b, hub[f]) {
			t.Errorf("%s differs from the hub's (%v)", f, err)
		}
	}
	if got != len(want) {
		t.Errorf("%d files in the folder, want %d", got, len(want))
	}
}

// tree lists every file below dir.
func tree(t testing.TB, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
