//go:build real

package server

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"sestina/engine"
)

// TestOfficialClients runs the scripts of testdata/clients against a server, each
// with the library it names, installed into a temporary folder. It needs a
// network, Python and Node, and fails without them.
func TestOfficialClients(t *testing.T) {
	llm := open(t, scriptModel(t, script{"Hel", "lo, ", "w\xc3", "\xb6rld", "!", " \xf0\x9f", "\x91\x8d"}), engine.Options{})
	h := start(t, llm, Config{APIKeys: []string{"sk-test"}, ServedModelNames: []string{"tiny"}})
	run := func(t *testing.T, dir, name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "SESTINA_URL="+h.url, "SESTINA_KEY=sk-test")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		t.Logf("%s", out)
	}
	t.Run("python", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS("testdata/clients/python")); err != nil {
			t.Fatal(err)
		}
		run(t, dir, "python3", "-m", "venv", "venv")
		python := filepath.Join(dir, "venv", "bin", "python")
		run(t, dir, python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", "requirements.txt")
		run(t, dir, python, "check.py")
	})
	t.Run("node", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS("testdata/clients/node")); err != nil {
			t.Fatal(err)
		}
		run(t, dir, "npm", "install", "--no-audit", "--no-fund", "--silent")
		run(t, dir, "node", "check.js")
	})
}
