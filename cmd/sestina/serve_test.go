package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

const serveModel = "../../model/testdata/hf/llama_plain"

// serveProcess starts `sestina serve` and returns its URL.
func serveProcess(t *testing.T, flags ...string) (*exec.Cmd, string) {
	t.Helper()
	cmd := command(t, append([]string{"serve", serveModel, "--port", "0", "--threads", "1"}, flags...)...)
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		if url := regexp.MustCompile(`listening on (http://\S+)`).FindStringSubmatch(lines.Text()); url != nil {
			go io.Copy(io.Discard, pipe)
			return cmd, url[1]
		}
	}
	t.Fatal("the server did not say where it listens")
	return nil, ""
}

// wait returns the exit code of a process that must end soon.
func wait(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	select {
	case <-ended:
		return cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		t.Fatal("the process does not end")
		return -1
	}
}

// untilBusy waits until a server computes something.
func untilBusy(t *testing.T, url string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		resp, err := http.Get(url + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if regexp.MustCompile(`(?m)^vllm:num_requests_waiting\{.*\} [1-9]`).Match(text) {
			return
		}
	}
	t.Fatal("the server never became busy")
}

// TestServeEndsBySignal is T16 from outside: SIGTERM ends an idle server with 0,
// a second one ends a busy server at once, a limit that is passed ends it with 1.
func TestServeEndsBySignal(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows cannot send a signal to another process")
	}
	idle, url := serveProcess(t)
	if resp, err := http.Get(url + "/readyz"); err != nil || resp.StatusCode != 200 {
		t.Fatalf("/readyz: %v %v", resp, err)
	}
	idle.Process.Signal(syscall.SIGTERM)
	began := time.Now()
	if code := wait(t, idle); code != 0 {
		t.Errorf("an idle server ends with %d", code)
	}
	t.Logf("T16 SIGTERM of an idle process: exit 0 after %.0f ms", time.Since(began).Seconds()*1000)

	for _, c := range []struct {
		what, limit string
		signals     int
		code        int
	}{
		{"second SIGTERM of a busy process", "30s", 2, exitInterrupted},
		{"a limit that is passed", "50ms", 1, exitFailure},
	} {
		busy, url := serveProcess(t, "--shutdown-timeout", c.limit, "--max-num-seqs", "1")
		for range 8 { // 64 sequences of 500 tokens, one after the other: seconds of work
			go http.Post(url+"/v1/completions", "application/json", strings.NewReader(`{"prompt":[1,2],"max_tokens":500,"ignore_eos":true,"n":8}`))
		}
		untilBusy(t, url)
		began := time.Now()
		for range c.signals {
			busy.Process.Signal(syscall.SIGTERM)
			time.Sleep(30 * time.Millisecond)
		}
		code := wait(t, busy)
		if took := time.Since(began); code != c.code || took > 15*time.Second {
			t.Errorf("%s: exit %d after %v, want %d at once", c.what, code, took, c.code)
		}
		t.Logf("T16 %s: exit %d after %.0f ms", c.what, code, time.Since(began).Seconds()*1000)
	}
}

// TestServeSettings: command line over environment over file over default.
func TestServeSettings(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"c.yaml": "# comment\nport: 1111 # one\nhost: \"10.0.0.1\"\nmax-num-seqs: 3\nallowed-hosts: [a, 'b']\napi-key:\n  - k1\n  - k2\nno-enable-prefix-caching: true\n",
		"c.json": `{"port": 1111, "host": "10.0.0.1", "max-num-seqs": 3, "allowed-hosts": ["a", "b"], "api-key": ["k1", "k2"], "no-enable-prefix-caching": true}`,
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("SESTINA_HOST", "10.0.0.2")
		t.Setenv("SESTINA_MAX_NUM_SEQS", "4")
		cmd := newServe()
		cmd.RunE = func(*cobra.Command, []string) error { return nil }
		cmd.SetArgs([]string{"--config", path, "--max-num-seqs", "5"})
		if err := cmd.Execute(); err != nil {
			t.Fatal(err)
		}
		for flag, want := range map[string]string{"port": "1111", "host": "10.0.0.2", "max-num-seqs": "5", "allowed-hosts": "[a,b]", "api-key": "[k1,k2]", "log-format": "text"} {
			if got := cmd.Flags().Lookup(flag).Value.String(); got != want {
				t.Errorf("%s: %s is %s, want %s", name, flag, got, want)
			}
		}
	}
	for _, text := range []string{"nosuch: 1", "port: many", "port 1", "a:\n b: 1", "port: [1", "port: {a: 1}", `{"port": {}}`, `{"port"`, "config: x", "port: \"1"} {
		path := filepath.Join(dir, "bad")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := newServe()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.RunE = func(*cobra.Command, []string) error { return nil }
		cmd.SetArgs([]string{"--config", path})
		if err := cmd.Execute(); err == nil || !strings.Contains(fmt.Sprint(err), "bad") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
