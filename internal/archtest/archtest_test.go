package archtest

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

const root = "../.."

func load(t *testing.T) *Tree {
	t.Helper()
	tree, err := Load(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestRulesHold checks the tree that this file lies in.
func TestRulesHold(t *testing.T) {
	tree := load(t)
	for _, line := range tree.Check() {
		t.Error(line)
	}
	if len(tree.Pkgs) < 20 || len(tree.Tests) < 100 {
		t.Errorf("only %d packages and %d tests were read: the check looks in the wrong place", len(tree.Pkgs), len(tree.Tests))
	}
}

// TestRulesAreWellFormed: no row twice, no row or exception without a reason,
// no ban that the table allows directly.
func TestRulesAreWellFormed(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rules {
		if seen[r.Pkg] || r.Why == "" {
			t.Errorf("row %q is there twice or has no reason", r.Pkg)
		}
		seen[r.Pkg] = true
	}
	for _, e := range append(append([]Edge{}, exceptions...), testExceptions...) {
		if e.Why == "" {
			t.Errorf("exception %s → %s has no reason", e.From, e.To)
		}
	}
	for _, b := range bans {
		if may, _, _ := allowed(b.From); anyMatch(may, b.To) || b.Why == "" {
			t.Errorf("ban %s → %s is allowed by the table or has no reason", b.From, b.To)
		}
	}
}

// TestBrokenTreesAreReported plants one fault at a time in a made-up module.
func TestBrokenTreesAreReported(t *testing.T) {
	sound := map[string]string{
		"batch/batch.go":             "package batch",
		"tensor/tensor.go":           "package tensor",
		"tokenizer/tokenizer.go":     "package tokenizer",
		"backend/backend.go":         "package backend\nimport _ \"sestina/tensor\"",
		"backend/ref/ref.go":         "package ref\nimport _ \"sestina/backend\"",
		"model/model.go":             "package model\nimport _ \"sestina/backend\"",
		"model/a/a.go":               "package a\nimport (_ \"sestina/model\"; _ \"sestina/batch\")",
		"model/b/b.go":               "package b",
		"runner/runner.go":           "package runner\nimport _ \"sestina/model\"",
		"engine/engine.go":           "package engine\nimport _ \"sestina/runner\"",
		"engine/engine_test.go":      "package engine\nimport (_ \"sestina/tensor\"; _ \"sestina/backend/ref\")\n// TestLoop runs.\nfunc TestLoop() {}",
		"internal/cpuinfo/x.go":      "package cpuinfo",
		"scheduler/scheduler.go":     "//go:build linux && !purego\n\npackage scheduler\nimport _ \"time\"",
		"scheduler/testdata/x/x.go":  "this is not Go",
		"internal/simd/_asm/main.go": "package main\nimport _ \"example.org/avo\"",
	}
	if lines := checkFiles(t, sound, "", ""); len(lines) != 0 {
		t.Fatalf("a sound tree is reported:\n%s", strings.Join(lines, "\n"))
	}
	for _, c := range []struct{ what, file, text, want string }{
		{"forbidden edge", "engine/x.go", "package engine\nimport _ \"sestina/tokenizer\"", "engine/x.go:2: package engine must not import tokenizer"},
		{"leaf to leaf", "model/a/x.go", "package a\nimport _ \"sestina/model/b\"", "package model/a must not import model/b"},
		{"parent to leaf", "model/x.go", "package model\nimport _ \"sestina/model/b\"", "package model must not import model/b"},
		{"test too far up", "tensor/x_test.go", "package tensor\nimport _ \"sestina/engine\"", "a test of tensor must not import engine"},
		{"on another platform", "tensor/x_windows.go", "package tensor\nimport _ \"sestina/model\"", "package tensor must not import model"},
		{"internal imports ours", "internal/cpuinfo/y.go", "package cpuinfo\nimport _ \"sestina/tensor\"", "package internal/cpuinfo must not import tensor"},
		{"ban by a detour", "runner/x.go", "package runner\nimport _ \"sestina/tokenizer\"", "engine reaches tokenizer"},
		{"clock", "scheduler/x.go", "package scheduler\nimport \"time\"\nvar t = time.Now()", "scheduler reaches time.Now"},
		{"no row", "plans/x.go", "package plans", "plans: no rule for this package"},
		{"new dependency", "tensor/x.go", "package tensor\nimport _ \"example.org/x\"", "example.org/x is a new dependency"},
		{"misplaced dependency", "tensor/x.go", "package tensor\nimport _ \"github.com/spf13/cobra\"", "which only these may: [cmd/*]"},
		{"cgo", "tensor/x.go", "package tensor\nimport \"C\"", "imports C"},
		{"testing in the product", "tensor/x.go", "package tensor\nimport _ \"testing\"", "imports testing"},
		{"empty name", "internal/utils/x.go", "package utils", "says nothing"},
		{"tag", "tensor/x.go", "//go:build linux && nope\n\npackage tensor", "build tag \"nope\""},
		{"tag of assembly", "tensor/x_amd64.s", "//go:build nope\n\nTEXT", "build tag \"nope\""},
		{"long function", "tensor/x.go", "package tensor\nfunc f() {\n" + strings.Repeat("\n", maxFunc) + "}", "tensor/x.go:f: 122 lines"},
		{"long file", "tensor/x_test.go", "package tensor\n" + strings.Repeat("\n", maxFile), "tensor/x_test.go: 601 lines"},
		{"comment", "tensor/x.go", "// Package tensor: see TestGone.\npackage tensor", "names TestGone"},
	} {
		lines := checkFiles(t, sound, c.file, c.text)
		if got := strings.Join(lines, "\n"); !strings.Contains(got, c.want) {
			t.Errorf("%s: want %q, got %q", c.what, c.want, got)
		}
	}
	generated := "// Code generated by a test. DO NOT EDIT.\n\npackage tensor\nfunc f() {\n" + strings.Repeat("\n", maxFile) + "}"
	if lines := checkFiles(t, sound, "tensor/x.go", generated); len(lines) != 0 {
		t.Errorf("a generated file is reported: %v", lines)
	}
}

func checkFiles(t *testing.T, files map[string]string, more, text string) []string {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, content := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(content)}
	}
	if more != "" {
		fsys[more] = &fstest.MapFile{Data: []byte(text)}
	}
	tree, err := Load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return tree.Check()
}
