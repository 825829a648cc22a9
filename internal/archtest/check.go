package archtest

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Check compares a tree with the rules and returns what is wrong, one line each, sorted.
func (t *Tree) Check() []string {
	var found []string
	for _, check := range []func() []string{t.imports, t.bans, t.outsiders, t.names, t.tags, t.sizes, t.comments} {
		found = append(found, check()...)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// matches reports whether a folder fits a pattern: itself, "x/*" (below x) or "*".
func matches(pattern, folder string) bool {
	if pattern == "*" {
		return true
	}
	if parent, ok := strings.CutSuffix(pattern, "/*"); ok {
		return strings.HasPrefix(folder, parent+"/")
	}
	return pattern == folder
}

func anyMatch(patterns []string, folder string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, folder) })
}

// allowed is the patterns that a package may import and the rule they come from.
func allowed(folder string) (may []string, from Rule, ok bool) {
	for at := folder; ; at = path.Dir(at) {
		if i := slices.IndexFunc(rules, func(r Rule) bool { return r.Pkg == at }); i >= 0 {
			return append(slices.Clone(may), rules[i].May...), rules[i], true
		}
		if !strings.Contains(at, "/") {
			return nil, Rule{}, false
		}
		may = append(may, path.Dir(at)) // a leaf may import its parent
	}
}

// reach is all that a package may come to import by the rules.
func reach(folder string) []string {
	seen := map[string]bool{}
	var visit func(string)
	visit = func(f string) {
		if seen[f] {
			return
		}
		seen[f] = true
		may, _, _ := allowed(f)
		for _, m := range may {
			visit(m)
		}
	}
	visit(folder)
	return slices.Sorted(maps.Keys(seen))
}

func excepted(edges []Edge, from, to string) bool {
	return slices.ContainsFunc(edges, func(e Edge) bool { return matches(e.From, from) && matches(e.To, to) })
}

// imports holds every import of ours to the table.
func (t *Tree) imports() (found []string) {
	for folder, p := range t.Pkgs {
		may, rule, ok := allowed(folder)
		if !ok {
			found = append(found, fmt.Sprintf("%s: no rule for this package: give it a row in internal/archtest/rules.go", name(folder)))
			continue
		}
		may = append(may, "internal/*")
		report := func(i Import, to, what string) {
			found = append(found, fmt.Sprintf("%s: %s %s must not import %s: %s (internal/archtest/rules.go, row %q)",
				i.At, what, name(folder), name(to), rule.Why, rule.Pkg))
		}
		for _, i := range p.Imports {
			if to, ok := ours(i.Path); ok && !anyMatch(may, to) && !excepted(exceptions, folder, to) {
				report(i, to, "package")
			}
		}
		may = append(may, reach(folder)...)
		for _, i := range p.Tests {
			if to, ok := ours(i.Path); ok && !anyMatch(may, to) && !excepted(exceptions, folder, to) && !excepted(testExceptions, folder, to) {
				report(i, to, "a test of")
			}
		}
	}
	return found
}

func name(folder string) string {
	if folder == "" {
		return "the root package"
	}
	return folder
}

// bans follows imports to their end.
func (t *Tree) bans() (found []string) {
	for _, ban := range bans {
		if way := t.way(ban.From, ban.To, map[string]bool{}); way != nil {
			found = append(found, fmt.Sprintf("%s reaches %s: %s\n\tby %s", ban.From, ban.To, ban.Why, strings.Join(way, " → ")))
		}
	}
	return found
}

// way is a path of imports between two packages, nil when there is none.
func (t *Tree) way(from, to string, seen map[string]bool) []string {
	p := t.Pkgs[from]
	if p == nil || seen[from] {
		return nil
	}
	seen[from] = true
	for _, i := range p.Imports {
		next, mine := ours(i.Path)
		if !mine {
			next = i.Path
		}
		if next == to {
			return []string{i.At, to}
		}
		if mine {
			if rest := t.way(next, to, seen); rest != nil {
				return append([]string{i.At}, rest...)
			}
		}
	}
	return nil
}

// outsiders holds imports from outside to the packages that may have them.
func (t *Tree) outsiders() (found []string) {
	for folder, p := range t.Pkgs {
		for _, i := range p.Imports {
			listed := false
			for _, o := range outsiders {
				whole, below := strings.CutSuffix(o.Import, "/...")
				if i.Path != whole && !(below && strings.HasPrefix(i.Path, whole+"/")) {
					continue
				}
				listed = true
				if !anyMatch(o.By, folder) {
					found = append(found, fmt.Sprintf("%s: %s imports %s, which only these may: %v", i.At, name(folder), i.Path, o.By))
				}
			}
			if first, _, _ := strings.Cut(i.Path, "/"); !listed && strings.Contains(first, ".") && i.Path != "time.Now" {
				found = append(found, fmt.Sprintf("%s: %s is a new dependency: list it in internal/archtest/rules.go and docs/dependencies.md", i.At, i.Path))
			}
		}
	}
	return found
}

// names refuses packages whose name says nothing.
func (t *Tree) names() (found []string) {
	for folder, p := range t.Pkgs {
		for _, bad := range emptyNames {
			if p.Name == bad || path.Base(folder) == bad {
				found = append(found, fmt.Sprintf("%s: a package named %q says nothing about what is inside", name(folder), bad))
			}
		}
	}
	return found
}

// tags refuses build tags that are not listed.
func (t *Tree) tags() (found []string) {
	for _, f := range t.Files {
		for _, tag := range f.Tags {
			if !slices.Contains(buildTags, tag) && !slices.Contains(platforms, tag) {
				found = append(found, fmt.Sprintf("%s: build tag %q is not one of %v", f.Path, tag, buildTags))
			}
		}
	}
	return found
}

// sizes reports long functions and files, and entries of the list that are long no more.
func (t *Tree) sizes() (found []string) {
	tooLong := map[string]int{}
	for _, f := range t.Files {
		if f.Generated || strings.HasSuffix(f.Path, ".s") {
			continue
		}
		if f.Lines > maxFile {
			tooLong[f.Path] = f.Lines
		}
		for _, fn := range f.Funcs {
			if fn.Lines > maxFunc && !f.Test {
				tooLong[f.Path+":"+fn.Name] = fn.Lines
			}
		}
	}
	for what, lines := range tooLong {
		if long[what] == "" {
			found = append(found, fmt.Sprintf("%s: %d lines (a function may have %d, a file %d): split it, or list it with a reason in internal/archtest/rules.go",
				what, lines, maxFunc, maxFile))
		}
	}
	for what := range long {
		if tooLong[what] == 0 {
			found = append(found, fmt.Sprintf("%s: listed as long, but it is not: take it off the list", what))
		}
	}
	return found
}

// comments refuses comments that name a test which does not exist.
func (t *Tree) comments() (found []string) {
	for _, f := range t.Files {
		for _, test := range f.Named {
			if t.Tests[test] == nil {
				found = append(found, fmt.Sprintf("%s: a comment names %s, a test that does not exist", f.Path, test))
			}
		}
	}
	return found
}
