package archtest

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

// TestDocsAreTrue checks that the pages name what exists.
func TestDocsAreTrue(t *testing.T) {
	for _, line := range load(t).Docs() {
		t.Error(line)
	}
}

// TestEveryDependencyHasItsReason: go.mod's modules that our packages import
// are on the page that says why, and the page lists none that has gone.
func TestEveryDependencyHasItsReason(t *testing.T) {
	page, err := os.ReadFile(root + "/docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(string(page), -1) {
		listed[m[1]] = false
	}
	for _, p := range load(t).Pkgs {
		for _, i := range append(p.Imports, p.Tests...) {
			if first, _, _ := strings.Cut(i.Path, "/"); !strings.Contains(first, ".") || i.Path == "time.Now" {
				continue
			}
			found := false
			for module := range listed {
				if i.Path == module || strings.HasPrefix(i.Path, module+"/") {
					listed[module], found = true, true
				}
			}
			if !found {
				t.Errorf("%s: docs/dependencies.md does not say why %s", i.At, i.Path)
			}
		}
	}
	for module, used := range listed {
		if !used && !strings.Contains(module, "avo") { // generators are modules of their own
			t.Errorf("docs/dependencies.md lists %s, which nothing imports", module)
		}
	}
}

// TestFalseDocsAreReported plants one falsehood at a time.
func TestFalseDocsAreReported(t *testing.T) {
	const head = "| technique | state | home | off-switch | metric | proof |\n|---|---|---|---|---|---|\n"
	const good = "| batching | built | `engine/options.go` | `--batching static` | steps | `TestBatching` |\n"
	base := map[string]string{
		"engine/options.go":   "package engine\nvar _ = []choice{\n{\"batching\", &t.Batching, []string{\"continuous\", \"static\"}, nil},\n{\"gqa\", &t.GQA, []string{\"grouped\"}, []string{\"expanded\"}},\n}",
		"engine/a_test.go":    "package engine\nfunc TestBatching(t *testing.T) {}",
		"cmd/sestina/main.go": "package main\nvar flags = []string{\"batching\", \"gqa\", \"enable-prefix-caching\"}",
		"docs/techniques.md":  head + good + "| GQA | not built yet | | `--gqa expanded` (refused) | | |\n",
		"docs/page.md":        "See `engine/options.go`, `engine`, `engine/*_test.go`, `n/m`, `TestBatching` and [the table](techniques.md#x).",
	}
	docs := func(file, text string) string {
		fsys := fstest.MapFS{}
		for name, content := range base {
			fsys[name] = &fstest.MapFile{Data: []byte(content)}
		}
		if file != "" {
			fsys[file] = &fstest.MapFile{Data: []byte(text)}
		}
		tree, err := Load(fsys)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(tree.Docs(), "\n")
	}
	if got := docs("", ""); got != "" {
		t.Fatalf("true pages are reported:\n%s", got)
	}
	table := func(row string) string { return head + row + "\n" }
	for _, c := range []struct{ what, file, text, want string }{
		{"path", "docs/page.md", "`engine/gone.go`", "names engine/gone.go"},
		{"test", "README.md", "`TestGone`", "names TestGone"},
		{"link", "docs/page.md", "[x](gone.md)", "links to gone.md"},
		{"home", "docs/techniques.md", table(strings.Replace(good, "options", "gone", 1)), "home engine/gone.go does not exist"},
		{"no proof", "docs/techniques.md", table(strings.Replace(good, "`TestBatching`", "", 1)), "has a home, a metric and a test"},
		{"no metric", "docs/techniques.md", table(strings.Replace(good, "steps", "", 1)), "has a home, a metric and a test"},
		{"no switch", "docs/techniques.md", table(strings.Replace(good, "`--batching static`", "none", 1)), "names no switch"},
		{"flag", "docs/techniques.md", table(strings.Replace(good, "--batching", "--gone", 1)), "registers no flag --gone"},
		{"value", "docs/techniques.md", table(strings.Replace(good, "static", "magic", 1)), "--batching magic is not a value"},
		{"refused one as built", "docs/techniques.md", table(strings.Replace(good, "batching static", "gqa expanded", 1)), "--gqa expanded is not a value"},
		{"built one as refused", "docs/techniques.md", table(strings.Replace(good, "static`", "static` (refused)", 1)), "is marked as refused"},
		{"state", "docs/techniques.md", table(strings.Replace(good, "built", "nearly", 1)), "state is \"nearly\""},
		{"columns", "docs/techniques.md", table("| a | built |"), "2 columns"},
		{"empty", "docs/techniques.md", head, "no rows"},
		{"switch table moved", "engine/options.go", "package engine", "no technique switches were found"},
	} {
		if got := docs(c.file, c.text); !strings.Contains(got, c.want) {
			t.Errorf("%s: want %q, got %q", c.what, c.want, got)
		}
	}
}
