package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"sestina/bench/prompts"
	"sestina/bench/spec"
)

func TestBenchSpecPrintsATableAndOneDocument(t *testing.T) {
	r := invoke(t, "", "bench", "spec", "-m", tiny, "--sets", "chat", "--streams", "2", "--prompts", "2", "--output-len", "48", "--reps", "1", "--markdown")
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	var doc spec.Report
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &doc); err != nil || r.code != 0 {
		t.Fatalf("%+v: %v", r, err)
	}
	if doc.Schema != spec.Schema || len(doc.Cells) != 2 || !strings.Contains(r.stdout, "| chat | 2 | 1 |") {
		t.Errorf("%d cells of %s:\n%s", len(doc.Cells), doc.Schema, r.stdout)
	}
	for args, want := range map[string]string{
		"--sets opera": "no prompt set", "--speculation off": "nothing to compare", "--sets none": "nothing to measure",
	} {
		if r := invoke(t, "", append([]string{"bench", "spec", "-m", tiny}, strings.Fields(args)...)...); r.code != 2 || !strings.Contains(r.stderr, want) {
			t.Errorf("%s: %+v", args, r)
		}
	}
	if s := chosen([]string{"all"}); !slices.Equal(s, prompts.Names()) {
		t.Errorf("all is %v", s)
	}
}

// A prompt that repeats itself is drafted from; --verbose and the document count the same.
func TestRunSaysWhatWasAccepted(t *testing.T) {
	ids := strings.TrimSuffix(strings.Repeat("7,", 64), ",")
	r := invoke(t, "", "run", "-m", tiny, "--ids", ids, "--logit-bias", "7=100", "--temperature", "0", "--max-tokens", "64", "--ignore-eos",
		"--speculative-config", `{"num_speculative_tokens":4,"depth":"fixed"}`, "--verbose", "--output", "json")
	var doc runDocument
	if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	// 63 tokens after the first: 12 passes of 5, then 2 drafts and a last token.
	if doc.Usage.AcceptedTokens != 50 || doc.Usage.RejectedTokens != 0 || !strings.Contains(r.stderr, "50 of 50 draft tokens accepted (100 %), 4.85 tokens per pass") {
		t.Errorf("%+v\n%s", doc.Usage, r.stderr)
	}
	if r := invoke(t, "", "run", "-m", tiny, "--ids", ids, "--max-tokens", "4", "--speculation", "off", "--verbose"); !strings.Contains(r.stderr, "nothing was drafted") {
		t.Errorf("%s", r.stderr)
	}
}
