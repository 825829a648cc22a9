package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSidesAlternateAndMediansAreCompared(t *testing.T) {
	c, log := stage(t, "", "decode")
	c.Threads = []int{2}
	r := compare(t, c)
	var order []string
	for _, line := range log() {
		order = append(order, strings.Fields(line)[0])
	}
	if want := "sestina llama-bench sestina llama-bench sestina llama-bench"; strings.Join(order, " ") != want {
		t.Errorf("started %v, want %s", order, want)
	}
	if len(r.Rows) != 1 || r.Peer != "llama.cpp abc1234" || r.Failed() != 0 {
		t.Fatalf("%+v", r)
	}
	row := r.Rows[0]
	if got := fmt.Sprint(row.Ours.Runs, row.Peer.Runs, row.Ours.Median, row.Ours.Min, row.Ours.Max, row.Peer.Median); got != "[300 400 500] [100 110 120] 400 300 500 110" {
		t.Errorf("runs and medians are %s", got)
	}
	if math.Abs(row.Ratio-400.0/110) > 1e-9 {
		t.Errorf("ratio %v, want %v", row.Ratio, 400.0/110)
	}
	f := row.Floor
	if f == nil || f.OneThread <= 0 || f.TwoThreads <= 0 || math.Abs(f.Rate-f.OneThread*1e9/float64(f.Bytes)) > 1e-6*f.Rate || math.Abs(f.OursShare-400/f.Rate) > 1e-9 {
		t.Errorf("floor %+v", f)
	}
}

// The floor counts the file's tensors and, per token of context, K and V of every layer.
func TestFloorCountsWeightsAndContext(t *testing.T) {
	weights, err := tensorBytes(tiny)
	if err != nil {
		t.Fatal(err)
	}
	_, token, err := modelBytes(tiny, "f16")
	if err != nil || token == 0 || weights == 0 {
		t.Fatalf("%d bytes, %d a token: %v", weights, token, err)
	}
	_, wide, err := modelBytes(tiny, "f32")
	if err != nil || wide != 2*token {
		t.Errorf("a token takes %d bytes in f32 and %d in f16: %v", wide, token, err)
	}
	got, err := stepBytes(work{model: tiny, kv: "f16", depth: 1000, output: 128})
	if want := weights + 1064*token; err != nil || got != want {
		t.Errorf("%d bytes a step at 1000 + 64 tokens, want %d: %v", got, want, err)
	}
}

// Both sides are asked for the same work, each in its own words.
func TestBothSidesGetTheSameWork(t *testing.T) {
	c, log := stage(t, "", "decode", "prefill", "depth", "batch", "verify")
	c.Reps = 1
	r := compare(t, c)
	if r.Failed() != 0 || len(r.Rows) != 2+2+2+1+3 {
		t.Fatalf("%d rows, %d failed: %+v", len(r.Rows), r.Failed(), r.Rows)
	}
	lines := log()
	for len(lines) >= 2 {
		ours, peer := strings.Fields(lines[0]), strings.Fields(lines[1])
		lines = lines[2:]
		same := map[string]string{"--threads": "-t", "-m": "-m", "--kv-cache-dtype": "-ctk", "--prompt-len": "-p", "--depth": "-d", "--reps": "-r"}
		tokens := "-n"
		if peer[0] == "llama-batched-bench" {
			same = map[string]string{"--threads": "-t", "-m": "-m", "--kv-cache-dtype": "-ctk", "--prompt-len": "-npp", "--streams": "-npl"}
			tokens = "-ntg"
			if got, want := atoi(t, flagOf(peer, "-c")), 8*(128+128); got != want {
				t.Errorf("a context of %d, want %d", got, want)
			}
		}
		for a, b := range same {
			if x, y := flagOf(ours, a), flagOf(peer, b); x == "" || x != y {
				t.Errorf("%v\n%v\n%s is %q, %s is %q", ours, peer, a, x, b, y)
			}
		}
		if x, y := atoi(t, flagOf(ours, "--output-len")), atoi(t, flagOf(peer, tokens)); x != y+1 {
			t.Errorf("%d tokens against %d: one more than is timed, the prompt's own", x, y)
		}
		if flagOf(ours, "--speculation") != "off" || flagOf(peer, "-ctk") != flagOf(peer, "-ctv") {
			t.Errorf("%v\n%v", ours, peer)
		}
	}
	if len(lines) != 1 || !strings.Contains(lines[0], "bench kernels") {
		t.Errorf("left are %q, want the verification's run, which has no peer", lines)
	}
	for i, want := range []float64{1.05, 1.1, 1.3} {
		if row := r.Rows[len(r.Rows)-3+i]; row.Ours.Median != want || row.Peer != nil || row.Ratio != 0 {
			t.Errorf("verification row %+v, want %v alone", row, want)
		}
	}
}

// TestOurFamilyIsForced: in every command of ours and in none of the peer's.
func TestOurFamilyIsForced(t *testing.T) {
	c, log := stage(t, "", "decode", "batch", "verify", "start", "speculation")
	c.Reps, c.ISA = 1, "avx2"
	if r := compare(t, c); r.Failed() != 0 {
		t.Fatalf("%+v", r.Rows)
	}
	ours := 0
	for _, line := range log() {
		words := strings.Fields(line)
		if words[0] == "sestina" {
			ours++
		}
		if forced := flagOf(words, "--isa") == "avx2"; forced != (words[0] == "sestina") {
			t.Errorf("forced %v: %s", forced, line)
		}
	}
	if ours < 5 {
		t.Errorf("%d commands of ours", ours)
	}
}

func TestServersAreStartedLoadedAndEnded(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("resident memory is read from /proc")
	}
	c, log := stage(t, "", "start", "server", "memory")
	c.Reps = 1
	r := compare(t, c)
	if len(r.Rows) != 2+3+3 || r.Failed() != 0 {
		t.Fatalf("%+v", r.Rows)
	}
	start := r.Rows[0]
	if start.Better != Time || start.Peer.Median < 20 || start.Ratio <= 0 || math.Abs(start.Ratio-start.Peer.Median/start.Ours.Median) > 1e-9 {
		t.Errorf("start %+v: the peer is not healthy before 20 ms, and the ratio is its time over ours", start)
	}
	for _, row := range r.Rows {
		if row.Ours.Median <= 0 || row.Peer.Median <= 0 {
			t.Errorf("%+v", row)
		}
	}
	if row := r.Rows[4]; row.Better != Size || math.Abs(row.Ratio-row.Ours.Median/row.Peer.Median) > 1e-9 {
		t.Errorf("memory %+v: ours over the peer's", row)
	}
	var caches int
	for _, line := range log() {
		if strings.HasPrefix(line, "sestina") && !strings.Contains(line, "--no-enable-prefix-caching") {
			t.Errorf("our server has a prefix cache: %s", line)
		}
		if strings.Contains(line, "--cache-ram 0") {
			caches++
		}
	}
	if caches != 2 { // start and server; memory is the peer's default
		t.Errorf("%d of the peer's servers ran without their cache, want 2: %q", caches, log())
	}
}

func TestFailuresStayInTheirRow(t *testing.T) {
	for fault, want := range map[string]string{
		"crash":       "llama-bench: exit status 3: GGML_ASSERT(x) failed",
		"garbage":     "no test of prompt 0 and output 128",
		"crash later": "llama-bench: exit status 4",
	} {
		c, _ := stage(t, fault, "decode")
		c.Reps = 2
		c.Threads = []int{2}
		r := compare(t, c)
		row := r.Rows[0]
		if !strings.Contains(row.PeerError, want) || row.OursError != "" || len(row.Ours.Runs) != 2 || r.Failed() != 1 {
			t.Errorf("%s: %+v, want %q and our two runs", fault, row, want)
		}
		if started := row.Peer != nil; started != (fault == "crash later") {
			t.Errorf("%s: the peer's runs are %+v", fault, row.Peer)
		}
		var out strings.Builder
		r.Print(&out, false)
		if !strings.Contains(out.String(), "failed: tiny.gguf, decode, t=2, the peer: llama-bench") {
			t.Errorf("%s is not told:\n%s", fault, out.String())
		}
	}
}

// The tiny model's heads are too narrow for quantised K and V.
func TestImpossibleRowFailsAlone(t *testing.T) {
	c, log := stage(t, "", "decode", "depth-q8_0")
	c.Reps, c.Threads = 1, []int{1}
	r := compare(t, c)
	if r.Failed() != 1 || !strings.Contains(r.Rows[1].OursError, "multiple of 32") || r.Rows[0].Ratio == 0 || len(log()) != 2 {
		t.Errorf("%+v after %q", r.Rows, log())
	}
	c.Models = []string{"missing.gguf"}
	if _, err := Run(context.Background(), c, nil); err == nil || !strings.Contains(err.Error(), "missing.gguf") {
		t.Errorf("a missing file gave %v", err)
	}
}

// Every way of the peer's to draft meets our default, in turn.
func TestSpeculationRows(t *testing.T) {
	c, log := stage(t, "", "speculation")
	c.Reps = 1
	r := compare(t, c)
	if len(r.Rows) != len(peerSpeculation)*len(speculationSets) || r.Failed() != 0 {
		t.Fatalf("%d rows, %d failed: %+v", len(r.Rows), r.Failed(), r.Rows)
	}
	for _, row := range r.Rows {
		if row.Ours.Median <= 0 || row.Peer.Median <= 0 || row.Ratio <= 0 {
			t.Errorf("%+v", row)
		}
	}
	var kinds []string
	for _, line := range log() {
		if strings.HasPrefix(line, "sestina") {
			if strings.Contains(line, "--speculation") || !strings.Contains(line, "--no-enable-prefix-caching") {
				t.Errorf("our side is not as it comes, or has a cache: %s", line)
			}
			continue
		}
		kinds = append(kinds, flagOf(strings.Fields(line), "--spec-type"))
	}
	if !slices.Equal(kinds, peerSpeculation) {
		t.Errorf("the peer drafted by %v", kinds)
	}
}

// Tokens are the server's count, time runs from the first text.
func TestReadChat(t *testing.T) {
	text := func(s string) string { return "data: {\"choices\":[{\"delta\":{\"content\":" + s + "}}]}\n\n" }
	usage := "data: {\"choices\":[],\"usage\":{\"completion_tokens\":9}}\n\ndata: [DONE]\n\n"
	if n, took, err := readChat(strings.NewReader(text("null") + text(`"a"`) + text(`"b"`) + usage)); n != 8 || took <= 0 || err != nil {
		t.Errorf("%d tokens in %v, %v", n, took, err)
	}
	for name, stream := range map[string]string{"no text": text("null") + usage, "no usage": text(`"a"`), "broken": "data: {\n"} {
		if _, _, err := readChat(strings.NewReader(stream)); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestRefusingServerFailsItsRow(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("resident memory is read from /proc")
	}
	c, _ := stage(t, "refuse", "start")
	c.Reps = 1
	if r := compare(t, c); !strings.Contains(r.Rows[0].PeerError, "status 500: no") || r.Rows[0].Ours == nil {
		t.Errorf("%+v", r.Rows[0])
	}
}

func TestHangingPeerIsEnded(t *testing.T) {
	c, _ := stage(t, "hang", "decode")
	c.Reps, c.Threads, c.Timeout = 1, []int{1}, 2*time.Second
	begin := time.Now()
	r := compare(t, c)
	if !strings.Contains(r.Rows[0].PeerError, "took longer than 2s; raise --timeout") || time.Since(begin) > 30*time.Second {
		t.Errorf("%q after %v", r.Rows[0].PeerError, time.Since(begin))
	}
}

func TestInterruptEndsTheRun(t *testing.T) {
	c, _ := stage(t, "hang", "decode")
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Run(ctx, c, func(what string) {
		if strings.HasSuffix(what, "the peer") {
			time.AfterFunc(50*time.Millisecond, cancel)
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestMissingPeerIsSaidBeforeAnythingRuns(t *testing.T) {
	c, _ := stage(t, "", "decode", "server")
	if err := os.Remove(filepath.Join(c.PeerDir, "llama-server")); err != nil {
		t.Fatal(err)
	}
	_, err := Run(context.Background(), c, nil)
	if err == nil || !strings.Contains(err.Error(), `row "server" needs`) || !strings.Contains(err.Error(), "build llama.cpp there") {
		t.Errorf("%v", err)
	}
	if c.Rows = []string{"verify"}; compare(t, c).Failed() != 0 {
		t.Error("a row without a peer needs none")
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for want, edit := range map[string]func(*Config){
		"--peer-dir is missing": func(c *Config) { c.PeerDir = "" },
		"--model is missing":    func(c *Config) { c.Models = nil },
		"--reps 0":              func(c *Config) { c.Reps = 0 },
		"--threads [0]":         func(c *Config) { c.Threads = []int{0} },
		"--streams []":          func(c *Config) { c.Streams = nil },
		`--rows "speed"`:        func(c *Config) { c.Rows = []string{"speed"} },
	} {
		c := Config{PeerDir: "x", Models: []string{"y"}, Threads: []int{1}, Streams: []int{1}, Reps: 1, Timeout: 1}
		edit(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	w := &tail{most: 10}
	for i := range 100 {
		fmt.Fprintf(w, "line %d\n", i)
	}
	if got := w.lastLine(); got != "line 99" || len(w.bytes()) > 20 {
		t.Errorf("%q of %q", got, w.bytes())
	}
}

// Settings of the shell must not configure one side.
func TestEnvironmentIsClean(t *testing.T) {
	for _, name := range []string{"SESTINA_THREADS", "LLAMA_ARG_THREADS", "GGML_X"} {
		t.Setenv(name, "7")
	}
	t.Setenv("SESTINA_HOME", "store")
	env := environment([]string{"A=b"})
	if i := slices.IndexFunc(env, func(e string) bool { return strings.HasSuffix(e, "=7") }); i >= 0 {
		t.Errorf("%s is passed on", env[i])
	}
	if !slices.Contains(env, "SESTINA_HOME=store") || !slices.Contains(env, "A=b") {
		t.Errorf("the store's place or an addition is missing: %v", env)
	}
}

func TestTablesAndDocumentHoldTheRows(t *testing.T) {
	c, _ := stage(t, "", "decode")
	c.Threads, c.Reps = []int{1}, 1
	r := compare(t, c)
	var page strings.Builder
	r.Print(&page, true)
	if !strings.Contains(page.String(), "| tiny.gguf | decode | 1 | tok/s | 300 (300–300) | 100 (100–100) | 3.00x |") {
		t.Errorf("the page lacks the row:\n%s", page.String())
	}
	data, err := json.Marshal(r)
	if err != nil || !strings.HasPrefix(string(data), `{"schema":"sestina.bench-peers/1"`) || strings.Contains(string(data), "FAKE_LOG") {
		t.Errorf("%s, %v", data, err)
	}
}
