package archtest

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// pages are the documents held to the tree: a path, a test or a link in them
// must exist. docs/lab.md is a diary and keeps what it said.
var pages = []string{"ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "docs/*.md"}

const (
	diary      = "docs/lab.md"
	techniques = "docs/techniques.md"
	options    = "engine/options.go"
	flags      = "cmd/sestina"
)

var (
	inTicks = regexp.MustCompile("`([^`\n]+)`")
	link    = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	asPath  = regexp.MustCompile(`^\.?[A-Za-z0-9_][\w.-]*(/[\w.*-]+)+/?$`)
	fenced  = regexp.MustCompile("(?s)```.*?```")
)

// Docs checks the pages. A page that is not there yet is not an error; the techniques page is required.
func (t *Tree) Docs() []string {
	var found []string
	for _, pattern := range pages {
		names, _ := fs.Glob(t.fsys, pattern)
		for _, page := range names {
			data, err := fs.ReadFile(t.fsys, page)
			if err != nil {
				return append(found, err.Error())
			}
			if page != diary {
				found = append(found, t.page(page, string(data))...)
			}
		}
	}
	return append(found, t.techniques()...)
}

// page checks what one document names. Fenced blocks are examples and are not read.
func (t *Tree) page(page, text string) (found []string) {
	text = fenced.ReplaceAllString(text, "")
	for _, m := range inTicks.FindAllStringSubmatch(text, -1) {
		if t.missingPath(m[1]) {
			found = append(found, fmt.Sprintf("%s: names %s, which does not exist", page, m[1]))
		}
		if testName.FindString(m[1]) == m[1] && t.Tests[m[1]] == nil {
			found = append(found, fmt.Sprintf("%s: names %s, a test that does not exist", page, m[1]))
		}
	}
	for _, m := range link.FindAllStringSubmatch(text, -1) {
		if _, err := fs.Stat(t.fsys, path.Join(path.Dir(page), m[1])); err != nil {
			found = append(found, fmt.Sprintf("%s: links to %s, which does not exist", page, m[1]))
		}
	}
	return found
}

// missingPath reports whether s is written like a path below one of our folders and nothing is there. NAME is a placeholder.
func (t *Tree) missingPath(s string) bool {
	top, _, _ := strings.Cut(s, "/")
	if _, err := fs.Stat(t.fsys, top); err != nil || !asPath.MatchString(s) || strings.Contains(s, "NAME") {
		return false
	}
	hits, _ := fs.Glob(t.fsys, strings.TrimSuffix(s, "/"))
	return len(hits) == 0
}

// Columns of the techniques table.
const (
	colName = iota
	colState
	colHome
	colSwitch
	colMetric
	colProof
	columns
)

const (
	built    = "built"
	notBuilt = "not built yet"
)

// techniques checks each row of docs/techniques.md: what is built has a home, a metric and a proof that exist, and a
// switch is either one that the engine takes or marked as one that it refuses.
func (t *Tree) techniques() (found []string) {
	data, err := fs.ReadFile(t.fsys, techniques)
	if err != nil {
		return []string{err.Error()}
	}
	takes, refuses, err := t.switches()
	if err != nil {
		return []string{err.Error()}
	}
	rows := 0
	for line := range strings.Lines(string(data)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|--") || strings.Contains(line, "| state |") {
			continue
		}
		rows++
		if len(cells) != columns {
			found = append(found, fmt.Sprintf("%s: %d columns, want %d: %s", techniques, len(cells), columns, strings.TrimSpace(line)))
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		for _, wrong := range append(t.row(cells), t.switchCell(cells[colSwitch], takes, refuses)...) {
			found = append(found, fmt.Sprintf("%s: %s: %s", techniques, cells[colName], wrong))
		}
	}
	if rows == 0 {
		found = append(found, techniques+": the table has no rows")
	}
	return found
}

// row checks state, home, metric and proof of one technique.
func (t *Tree) row(cells []string) (wrong []string) {
	switch cells[colState] {
	case built:
	case notBuilt:
		return nil
	default:
		return []string{fmt.Sprintf("state is %q, want %q or %q", cells[colState], built, notBuilt)}
	}
	homes, proofs := 0, 0
	for _, m := range inTicks.FindAllStringSubmatch(cells[colHome], -1) {
		if _, err := fs.Stat(t.fsys, strings.TrimSuffix(m[1], "/")); err != nil {
			wrong = append(wrong, "home "+m[1]+" does not exist")
		}
		homes++
	}
	for _, m := range inTicks.FindAllStringSubmatch(cells[colProof], -1) {
		if testName.FindString(m[1]) == m[1] {
			proofs++ // that it exists is checked on every page
		}
	}
	if homes == 0 || proofs == 0 || cells[colMetric] == "" {
		wrong = append(wrong, "what is built has a home, a metric and a test")
	}
	return wrong
}

var (
	aSwitch    = regexp.MustCompile("`--([a-z-]+)(?: ([a-z]+))?`( \\(refused\\))?")
	choiceLine = regexp.MustCompile(`\{"([a-z-]+)", &t\.\w+, \[\]string\{([^}]*)\}, (?:nil|\[\]string\{([^}]*)\})\}`)
	quoted     = regexp.MustCompile(`"([^"]*)"`)
)

// switches reads which values of each technique switch the engine takes and which it refuses as not built.
func (t *Tree) switches() (takes, refuses map[string][]string, err error) {
	src, err := fs.ReadFile(t.fsys, options)
	if err != nil {
		return nil, nil, err
	}
	takes, refuses = map[string][]string{}, map[string][]string{}
	for _, m := range choiceLine.FindAllStringSubmatch(string(src), -1) {
		for i, into := range []map[string][]string{takes, refuses} {
			for _, v := range quoted.FindAllStringSubmatch(m[2+i], -1) {
				into[m[1]] = append(into[m[1]], v[1])
			}
		}
	}
	if len(takes) == 0 {
		return nil, nil, fmt.Errorf("%s: no technique switches were found in it: has its table another form now?", options)
	}
	return takes, refuses, nil
}

// switchCell checks the switches that a row names, such as `--batching static` or `--kv-cache off` (refused).
func (t *Tree) switchCell(cell string, takes, refuses map[string][]string) (wrong []string) {
	found := aSwitch.FindAllStringSubmatch(cell, -1)
	if len(found) == 0 {
		return []string{"names no switch"}
	}
	for _, m := range found {
		flag, value, refused := m[1], m[2], m[3] != ""
		if off, ok := strings.CutPrefix(flag, "no-"); ok && value == "" {
			flag, value = off, "off"
		}
		switch {
		case !t.hasFlag(flag):
			wrong = append(wrong, fmt.Sprintf("%s registers no flag --%s", flags, flag))
		case refused && !slices.Contains(refuses[flag], value):
			wrong = append(wrong, fmt.Sprintf("--%s %s is marked as refused, but %s does not list it so", flag, value, options))
		case !refused && takes[flag] != nil && !slices.Contains(takes[flag], value):
			wrong = append(wrong, fmt.Sprintf("--%s %s is not a value that %s lists as built", flag, value, options))
		}
	}
	return wrong
}

// hasFlag looks for the flag's name as a string in the command's sources.
func (t *Tree) hasFlag(name string) bool {
	files, _ := fs.Glob(t.fsys, flags+"/*.go")
	return slices.ContainsFunc(files, func(f string) bool {
		src, err := fs.ReadFile(t.fsys, f)
		return err == nil && strings.Contains(string(src), `"`+name+`"`)
	})
}
