package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"sestina/checkpoint"
)

// peerPrograms are what each row needs of the peer.
var peerPrograms = map[string]string{
	"decode": "llama-bench", "prefill": "llama-bench", "depth": "llama-bench", "depth-q8_0": "llama-bench", "batch": "llama-batched-bench",
	"start": "llama-server", "server": "llama-server", "memory": "llama-server", "speculation": "llama-server",
}

// peer is the path of one of the peer's programs.
func (c *Config) peer(name string) string {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return filepath.Join(c.PeerDir, name)
}

// findPeers fails when a program that a chosen row needs is not there.
func (c *Config) findPeers() error {
	for _, row := range c.Rows {
		name, ok := peerPrograms[row]
		if !ok {
			continue
		}
		if _, err := exec.LookPath(c.peer(name)); err != nil {
			return fmt.Errorf("row %q needs %s: %w; build llama.cpp there, or choose other --rows", row, name, err)
		}
	}
	return nil
}

// tensorBytes is the size of all tensors of a file.
func tensorBytes(path string) (uint64, error) {
	f, err := checkpoint.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Bytes(), nil
}

// environment is ours without what would configure either side, and with more.
func environment(more []string) []string {
	var env []string
	for _, e := range os.Environ() {
		if strings.HasPrefix(e, "SESTINA_") && !strings.HasPrefix(e, "SESTINA_HOME=") || strings.HasPrefix(e, "LLAMA_") || strings.HasPrefix(e, "GGML_") {
			continue
		}
		env = append(env, e)
	}
	return append(env, more...)
}

// waitDelay is how long a program that was ended may hold its outputs open, through children say.
const waitDelay = 5 * time.Second

// maxOutput bounds what is kept of a process's output.
const maxOutput = 4 << 20

// output runs one program to its end and returns its standard output. An error
// names the program, how it ended and the last line it wrote.
func (c *Config) output(ctx context.Context, env []string, program string, args ...string) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, program, args...)
	out, errs := &tail{most: maxOutput}, &tail{most: 64 << 10}
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = environment(env), out, errs, waitDelay
	err := cmd.Run()
	if limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("took longer than %v; raise --timeout", c.Timeout)
	}
	if err != nil {
		return nil, describe(program, err, errs)
	}
	return out.bytes(), nil
}

func describe(program string, err error, errs *tail) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = errors.New(exit.String()) // "exit status 1", "signal: segmentation fault"
	}
	if last := errs.lastLine(); last != "" {
		return fmt.Errorf("%s: %w: %s", filepath.Base(program), err, last)
	}
	return fmt.Errorf("%s: %w", filepath.Base(program), err)
}

// tail keeps the end of what a process writes; it may be read meanwhile.
type tail struct {
	mu   sync.Mutex
	data []byte
	most int // bytes kept, up to twice as many for a while
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, b...)
	if len(t.data) > 2*t.most {
		t.data = append(t.data[:0], t.data[len(t.data)-t.most:]...)
	}
	return len(b), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.data)
}

func (t *tail) lastLine() string {
	text := strings.TrimSpace(string(t.bytes()))
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}
