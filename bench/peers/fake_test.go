package peers

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The tests run this very binary as both sides: which program it plays follows
// from the name it is started by, what it does wrong from FAKE_FAULT, and every
// start is a line of the file FAKE_LOG.
func TestMain(m *testing.M) {
	name := strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe")
	if play, ok := plays[name]; ok && os.Getenv("FAKE_LOG") != "" {
		os.Exit(play(name, os.Args[1:]))
	}
	os.Exit(m.Run())
}

var plays = map[string]func(name string, args []string) int{
	"sestina": fakeOurs, "llama-bench": fakePeer, "llama-batched-bench": fakePeer, "llama-server": fakePeer,
}

// began logs a start and returns how often this program was started before.
func began(name string, args []string) int {
	path := os.Getenv("FAKE_LOG")
	before, _ := os.ReadFile(path)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	fmt.Fprintln(f, name, strings.Join(args, " "))
	return strings.Count(string(before), name+" ")
}

func flagOf(args []string, name string) string {
	if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// fakeOurs is 100 tokens a second faster at every start, from 300 on.
func fakeOurs(name string, args []string) int {
	n := began(name, args)
	switch {
	case args[0] == "serve":
		return fakeServer(flagOf(args, "--port"), 0)
	case args[1] == "kernels":
		fmt.Println(`{"schema":"sestina.bench-steps/1","rows":[{"m":1,"cost":1},{"m":2,"cost":1.05},{"m":4,"cost":1.1},{"m":8,"cost":1.3}]}`)
		return 0
	}
	fmt.Printf("some text\n"+`{"schema":"sestina.bench/1","rows":[{"name":"prefill","median":%d},{"name":"decode","median":%[1]d}]}`+"\n", 300+100*n)
	return 0
}

// fakePeer is 10 tokens a second faster at every start, from 100 on.
func fakePeer(name string, args []string) int {
	n := began(name, args)
	switch fault := os.Getenv("FAKE_FAULT"); {
	case slices.Contains(args, "--version"):
		fmt.Fprintln(os.Stderr, "version: 1 (build 7, commit abc1234)")
		return 0
	case fault == "crash":
		fmt.Fprintln(os.Stderr, "loading\nGGML_ASSERT(x) failed")
		return 3
	case fault == "crash later" && n > 1: // the version and the first run are fine
		return 4
	case fault == "hang":
		time.Sleep(time.Minute)
	case fault == "garbage":
		fmt.Println("{not json")
		return 0
	case name == "llama-server":
		return fakeServer(flagOf(args, "--port"), 20*time.Millisecond)
	case name == "llama-batched-bench":
		fmt.Printf("text\n"+`{"pl": %s, "speed_tg": %d}`+"\n", flagOf(args, "-npl"), 100+10*n)
		return 0
	}
	speed := 100 + 10*(n-1) // the version was asked for first
	fmt.Printf(`{"n_prompt": %s, "n_gen": %s, "samples_ts": [1, %d, 100000]}`+"\n", flagOf(args, "-p"), flagOf(args, "-n"), speed)
	return 0
}

// fakeServer is healthy after a while and answers each request with max_tokens tokens.
func fakeServer(port string, loading time.Duration) int {
	ready := time.Now().Add(loading)
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) {
		if time.Now().Before(ready) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/v1/models", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"data":[{"id":"fake"}]}`) })
	mux.HandleFunc("/v1/completions", func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			MaxTokens int `json:"max_tokens"`
		}
		json.NewDecoder(r.Body).Decode(&body)
		if os.Getenv("FAKE_FAULT") == "refuse" {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range body.MaxTokens {
			reason := "null"
			if i == body.MaxTokens-1 {
				reason = `"length"`
			}
			fmt.Fprintf(w, "data: {\"choices\":[{\"index\":0,\"text\":\"x\",\"finish_reason\":%s}]}\n\n", reason)
		}
		fmt.Fprintf(w, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":27,\"completion_tokens\":%d}}\n\ndata: [DONE]\n\n", body.MaxTokens)
	})
	mux.HandleFunc("/v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			MaxTokens int `json:"max_tokens"`
		}
		json.NewDecoder(r.Body).Decode(&body)
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n")
		for range body.MaxTokens / 4 { // four tokens a pass
			fmt.Fprint(w, "data: {\"choices\":[{\"delta\":{\"content\":\"word\"}}]}\n\n")
			w.(http.Flusher).Flush()
			time.Sleep(loading / 1000)
		}
		fmt.Fprintf(w, "data: {\"choices\":[],\"usage\":{\"completion_tokens\":%d}}\n\ndata: [DONE]\n\n", body.MaxTokens)
	})
	if err := http.ListenAndServe("127.0.0.1:"+port, mux); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

const tiny = "../../testdata/tiny.gguf"

// stage puts the planted programs into a folder and returns a configuration that
// runs them, and a reader of what was started.
func stage(t *testing.T, fault string, rows ...string) (Config, func() []string) {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name := range plays {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Skipf("programs cannot be planted here: %v", err) // Windows without the right to link
		}
	}
	log := filepath.Join(dir, "log")
	c := Config{PeerDir: dir, Self: filepath.Join(dir, "sestina"), Models: []string{tiny}, Rows: rows, Threads: []int{1, 2}, Streams: []int{8}, Reps: 3,
		Timeout: 20 * time.Second, selfEnv: []string{"FAKE_LOG=" + log}, peerEnv: []string{"FAKE_LOG=" + log, "FAKE_FAULT=" + fault}}
	return c, func() []string {
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for line := range strings.Lines(string(data)) {
			if !strings.Contains(line, "--version") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		return lines
	}
}

func compare(t *testing.T, c Config) *Report {
	t.Helper()
	r, err := Run(context.Background(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
