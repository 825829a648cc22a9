package hub

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

var wantedFiles = []string{"config.json", "tokenizer.json", "model.safetensors", "generation_config.json",
	"tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}

func TestPullFolder(t *testing.T) {
	ctx := context.Background()
	hub := newFakeHub(t, folderRepo())
	s := openTest(t, t.TempDir(), hub)
	m := mustPull(t, s, "org/repo")
	if m.Kind != Folder || m.Revision != commit || m.Pulled.IsZero() || len(m.Files) != len(wantedFiles) {
		t.Fatalf("%+v", m)
	}
	sameFiles(t, m.Path, hub.files, wantedFiles...)
	if len(hub.asked) != len(wantedFiles) {
		t.Errorf("asked for %v", hub.asked)
	}
	asked := len(hub.tokens)
	again, err := s.Resolve(ctx, "org/repo", Options{Offline: true})
	if err != nil || again.Path != m.Path {
		t.Fatalf("%+v %v", again, err)
	}
	if len(hub.tokens) != asked {
		t.Error("a model in the store was looked up on the hub")
	}
	if err := s.Verify(ctx, "org/repo", nil); err != nil {
		t.Error(err)
	}
	if l, err := s.List(); err != nil || len(l) != 1 || l[0].Path != m.Path || l[0].Size() != m.Size() {
		t.Errorf("list: %+v %v", l, err)
	}
	if err := s.Remove(ctx, "ORG/repo"); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{"blobs", "manifests", "models"} {
		if left := tree(t, filepath.Join(s.Dir(), dir)); len(left) > 0 {
			t.Errorf("left after rm: %v", left)
		}
	}
	if _, err := s.Show("org/repo"); !errors.Is(err, ErrNotFound) {
		t.Errorf("show after rm: %v", err)
	}
	if _, err := s.Resolve(ctx, "org/repo", Options{Offline: true}); !errors.Is(err, ErrNotFound) {
		t.Errorf("offline: %v", err)
	}
}

func TestPullGGUFOpensTheBlob(t *testing.T) {
	hub := newFakeHub(t, ggufRepo(5000))
	s := openTest(t, t.TempDir(), hub)
	m := mustPull(t, s, "org/repo:q4_k_m")
	b, err := os.ReadFile(m.Path)
	if err != nil || m.Kind != GGUF || hexSum(b) != hexSum(hub.files["m.Q4_K_M.gguf"]) {
		t.Fatalf("%+v %v", m, err)
	}
	if _, err := s.Show("org/repo:Q4_K_M"); err != nil {
		t.Error("names do not ignore case:", err)
	}
}

// Two names share a blob; it goes with the last of them.
func TestRemoveKeepsSharedBlobs(t *testing.T) {
	ctx := context.Background()
	s := openTest(t, t.TempDir(), newFakeHub(t, ggufRepo(5000)))
	a, b := mustPull(t, s, "org/repo"), mustPull(t, s, "org/repo:Q4_K_M")
	if a.Path != b.Path {
		t.Fatal("the same file is stored twice")
	}
	if err := s.Remove(ctx, "org/repo"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.Path); err != nil {
		t.Fatal("a shared blob was removed:", err)
	}
	if err := s.Remove(ctx, "org/repo:Q4_K_M"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.Path); err == nil {
		t.Fatal("an unused blob stays")
	}
}

// A new revision replaces the old one and what only the old one used.
func TestPullUpdates(t *testing.T) {
	hub := newFakeHub(t, folderRepo())
	s := openTest(t, t.TempDir(), hub)
	old := mustPull(t, s, "org/repo")
	hub.files["model.safetensors"] = noise(20, 1000)
	m := mustPull(t, s, "org/repo")
	sameFiles(t, m.Path, hub.files, wantedFiles...)
	if _, err := os.Stat(old.Path); err == nil || old.Path == m.Path {
		t.Error("the old folder stays")
	}
	if blobs := tree(t, filepath.Join(s.Dir(), "blobs")); len(blobs) != len(wantedFiles) {
		t.Errorf("%d blobs, want %d", len(blobs), len(wantedFiles))
	}
}

func TestVerifyFindsAndPullHeals(t *testing.T) {
	ctx := context.Background()
	hub := newFakeHub(t, folderRepo())
	s := openTest(t, t.TempDir(), hub)
	m := mustPull(t, s, "org/repo")
	file := filepath.Join(m.Path, "model.safetensors")
	f, err := os.OpenFile(file, os.O_RDWR, 0) // one flipped byte, size unchanged
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte{^hub.files["model.safetensors"][77]}, 77)
	f.Close()
	if err := s.Verify(ctx, "org/repo", nil); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "model.safetensors") {
		t.Fatalf("verify: %v", err)
	}
	m, err = s.Resolve(ctx, "org/repo", Options{}) // the gap is seen and filled
	if err != nil {
		t.Fatal(err)
	}
	sameFiles(t, m.Path, hub.files, wantedFiles...)
	if err := s.Verify(ctx, "org/repo", nil); err != nil {
		t.Error(err)
	}
}

func TestManifestOfAnotherVersion(t *testing.T) {
	ctx := context.Background()
	s := openTest(t, t.TempDir(), newFakeHub(t, ggufRepo(5000)))
	mustPull(t, s, "org/repo")
	path := filepath.Join(s.Dir(), manifestPath(name{repo: "org/repo"}))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(s.Dir(), "manifests", "future.json")
	if err := os.WriteFile(other, []byte(strings.Replace(string(data), `"version": 1`, `"version": 7`, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := s.List()
	if err == nil || !strings.Contains(err.Error(), "sestina-manifest version 7 is unknown") || len(l) != 1 {
		t.Errorf("list: %v %v", l, err)
	}
	if err := s.Remove(ctx, "org/repo"); err == nil {
		t.Error("blobs were dropped although a manifest that may need them cannot be read")
	}
	if _, err := s.Show("org/repo"); err != nil {
		t.Error(err)
	}
}

func TestPrune(t *testing.T) {
	ctx := context.Background()
	hub := newFakeHub(t, folderRepo())
	s := openTest(t, t.TempDir(), hub)
	m := mustPull(t, s, "org/repo")
	junk := filepath.Join(s.Dir(), "blobs", "sha256-"+strings.Repeat("0", 64)+".part")
	if err := os.WriteFile(junk, make([]byte, 1234), 0o644); err != nil {
		t.Fatal(err)
	}
	pulling, err := s.lock(ctx, "pulls", true, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prune(ctx); err == nil {
		t.Error("pruned under a running pull")
	}
	pulling()
	if freed, err := s.Prune(ctx); err != nil || freed != 1234 {
		t.Errorf("freed %d, want 1234: %v", freed, err)
	}
	sameFiles(t, m.Path, hub.files, wantedFiles...)
	if err := s.Verify(ctx, "org/repo", nil); err != nil {
		t.Error(err)
	}
}

// A reader of an empty or absent store creates nothing.
func TestAbsentStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	s := openTest(t, dir, newFakeHub(t, nil))
	if l, err := s.List(); err != nil || len(l) != 0 {
		t.Errorf("%v %v", l, err)
	}
	if _, err := s.Show("smollm2"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := s.Remove(context.Background(), "smollm2"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if free, err := s.FreeSpace(); err != nil || free <= 0 {
		t.Errorf("%d %v", free, err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the store was created by a reader")
	}
}

func TestDefaultDir(t *testing.T) {
	t.Setenv("SESTINA_HOME", "/x/y")
	if d, err := DefaultDir(); d != "/x/y" || err != nil {
		t.Error(d, err)
	}
	if runtime.GOOS != "linux" {
		return
	}
	t.Setenv("SESTINA_HOME", "")
	t.Setenv("HOME", "/home/u")
	for xdg, want := range map[string]string{"": "/home/u/.local/share/sestina", "/d": "/d/sestina", "relative": "/home/u/.local/share/sestina"} {
		t.Setenv("XDG_DATA_HOME", xdg)
		if d, err := DefaultDir(); d != want || err != nil {
			t.Errorf("XDG_DATA_HOME=%q: %q %v", xdg, d, err)
		}
	}
}
