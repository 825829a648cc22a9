package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sestina/bench/techniques"
	"sestina/explain"
	"sestina/explain/plan"
)

func TestExplainWithoutAModelSaysWhatIsMissing(t *testing.T) {
	for _, c := range []struct{ args, note string }{
		{"explain kv-cache", "sestina pull"}, {"explain kv-cache --no-measure", "--no-measure"},
	} {
		r := invoke(t, "", strings.Fields(c.args)...)
		if r.code != 0 || !strings.Contains(r.stdout, "5,049") || !strings.Contains(r.stdout, c.note) || strings.Contains(r.stdout, "measured  ") {
			t.Errorf("sestina %s: %+v; want 5,049 and a note with %q", c.args, r, c.note)
		}
	}
}

func TestExplainPrintsOneDocumentAndCharts(t *testing.T) {
	dir := t.TempDir()
	r := invoke(t, "", "explain", "-m", tiny, "--threads", "1", "--output", "json", "--svg", dir)
	var doc explain.Report
	if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil || strings.Count(r.stdout, "\n") != 1 {
		t.Fatalf("%+v: %v", r, err)
	}
	if doc.Schema != "sestina.explain/1" || len(doc.Techniques) != len(explain.Techniques()) || doc.Model == "" {
		t.Errorf("schema %q, %d techniques, model %q", doc.Schema, len(doc.Techniques), doc.Model)
	}
	if charts, err := filepath.Glob(filepath.Join(dir, "*.svg")); err != nil || len(charts) < 6 {
		t.Errorf("charts %v, %v", charts, err)
	}
}

func TestBenchTechniquesFeedsTheStackedSection(t *testing.T) {
	r := invoke(t, "", "bench", "techniques", "-m", tiny, "--threads", "1", "--users", "3", "--serial-users", "1",
		"--prompt-len", "20", "--shared-len", "16", "--output-len", "3", "--long-output-len", "6", "--max-model-len", "64")
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	var doc techniques.Report
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &doc); r.code != 0 || err != nil || doc.Schema != techniques.Schema {
		t.Fatalf("%+v: %v", r, err)
	}
	saved := filepath.Join(t.TempDir(), "saved.txt")
	if err := os.WriteFile(saved, []byte(r.stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	s := invoke(t, "", "explain", "stacked", "--no-measure", "--bench", saved)
	if s.code != 0 || !strings.Contains(s.stdout, "product of single gains") || !strings.Contains(s.stdout, "+ flash attention") {
		t.Errorf("%+v", s)
	}
	if bad := invoke(t, "", "explain", "stacked", "--no-measure", "--bench", tiny); bad.code != 1 || !strings.Contains(bad.stderr, "bench techniques") {
		t.Errorf("a model file as --bench: %+v", bad)
	}
}

func TestPlanOfAFileAndOfAShape(t *testing.T) {
	for _, c := range []struct {
		args string
		user uint64 // KV bytes of one user
	}{
		{"--like llama-2-70b --context 131072", 40 << 30},
		{"--like llama-2-70b --kv-heads 64 --context 131072", 320 << 30},
		{"--layers 80 --heads 64 --kv-heads 8 --head-dim 128 --params 70e9 --context 131072", 40 << 30},
		{"-m " + tiny + " --context 16", 2 * 2 * 2 * 16 * 2 * 16}, // layers, K and V, heads, dimensions, bytes, tokens
	} {
		r := invoke(t, "", strings.Fields("plan --output json "+c.args)...)
		var doc plan.Plan
		if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil || doc.Schema != "sestina.plan/1" || doc.UserBytes != c.user || doc.Shape.WeightBytes == 0 {
			t.Errorf("plan %s: %+v, %v; want %d bytes a user", c.args, r, err, c.user)
		}
	}
	if r := invoke(t, "", "plan", "-m", tiny, "--memory", "1G", "--users", "4"); r.code != 0 || !strings.Contains(r.stdout, "in 1 GiB") {
		t.Errorf("%+v", r)
	}
}

func TestMistakesInExplainBenchAndPlan(t *testing.T) {
	for args, want := range map[string]string{
		"explain magic":                                   "choose one of",
		"explain --output xml":                            "choose text or json",
		"bench techniques -m " + tiny + " --users 0":      "--users 0",
		"plan --like gpt-9":                               "llama-2-70b",
		"plan --like llama-2-70b --kv-heads 7":            "no multiple",
		"plan --layers 2 --heads 2 --head-dim 64":         "--params",
		"plan --like llama-2-70b --dtype q9":              "q9",
		"plan --like llama-2-70b --users -1":              "--users -1",
		"plan --like llama-2-70b --context 1 --memory 2Z": "is not a size",
	} {
		if r := invoke(t, "", strings.Fields(args)...); r.code != 2 || !strings.Contains(r.stderr, want) || r.stdout != "" {
			t.Errorf("sestina %s: %+v; want exit 2 and %q", args, r, want)
		}
	}
}
