//go:build real

package server

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"sestina/engine"
)

// TestOfficialClients runs the scripts of testdata/clients against a server, each
// with the library it names, installed into a temporary folder. Where a library
// cannot be installed (no network, no Python or Node) its part is skipped, and
// .ci/run says so; the Go library's part is TestOfficialGoClient.
func TestOfficialClients(t *testing.T) {
	if testing.Short() {
		t.Skip("it installs packages")
	}
	llm := open(t, scriptModel(t, script{"Hel", "lo, ", "w\xc3", "\xb6rld", "!", " \xf0\x9f", "\x91\x8d"}), engine.Options{})
	h := start(t, llm, Config{APIKeys: []string{"sk-test"}, ServedModelNames: []string{"tiny"}})
	run := func(t *testing.T, dir, name string, args ...string) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "SESTINA_URL="+h.url, "SESTINA_KEY=sk-test")
		return cmd.CombinedOutput()
	}
	for _, c := range []struct {
		name    string
		install [][]string
		check   []string
	}{
		{"python", [][]string{{"python3", "-m", "venv", "venv"},
			{"venv/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", "requirements.txt"}}, []string{"venv/bin/python", "check.py"}},
		{"node", [][]string{{"npm", "install", "--no-audit", "--no-fund"}}, []string{"node", "check.js"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS("testdata/clients/"+c.name)); err != nil {
				t.Fatal(err)
			}
			for _, argv := range c.install {
				if out, err := run(t, dir, argv[0], argv[1:]...); err != nil {
					t.Logf("%s", out)
					t.Skipf("OpenAI's library for %s cannot be installed here: %s: %v", c.name, strings.Join(argv, " "), err)
				}
			}
			out, err := run(t, dir, c.check[0], c.check[1:]...)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}
