package peers

import (
	"context"
	"strings"
	"testing"

	"sestina/backend/cpu/matmul"
)

func TestSettingsAlternateAndPureGoRunsOnce(t *testing.T) {
	staged, log := stage(t, "")
	c := Compare{Self: staged.Self, env: staged.selfEnv, Threads: 2, PromptLen: 8, OutputLen: 4, Depth: 16, Reps: 2, Timeout: staged.Timeout}
	r, err := RunCompare(context.Background(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	have := matmul.Supported()
	if len(r.Rows) != len(have)+3 || r.Failed() != 0 {
		t.Fatalf("%d rows for %d families and 3 switched off: %+v", len(r.Rows), len(have), r.Rows)
	}
	var runs []string // the settings, in the order they were started
	for _, line := range log() {
		runs = append(runs, line[strings.Index(line, "--isa"):])
	}
	best := have[len(have)-1].String()
	switches := []string{"--isa " + best + " --attention full", "--isa " + best + " --gqa expanded", "--isa " + best + " --attention full --gqa expanded"}
	var want []string
	for rep := range 2 {
		for i := range have {
			if isa := have[len(have)-1-i]; isa != matmul.Generic || rep == 0 {
				want = append(want, "--isa "+isa.String())
			}
		}
		want = append(want, switches...)
	}
	if strings.Join(runs, "\n") != strings.Join(want, "\n") {
		t.Errorf("ran\n%s\nwant\n%s", strings.Join(runs, "\n"), strings.Join(want, "\n"))
	}
	// The planted program is 100 faster at every start, from 300.
	last := r.Rows[len(r.Rows)-1]
	if first := r.Rows[0]; first.PrefillRatio != 1 || last.DecodeRatio != last.Decode.Median/first.Decode.Median || last.DecodeRatio <= 1 {
		t.Errorf("%+v against %+v", last, first)
	}
	var out strings.Builder
	r.Print(&out, true)
	if !strings.Contains(out.String(), "| "+best+", flash attention off | ") {
		t.Errorf("the page lacks a row:\n%s", out.String())
	}
}

func TestSettingsThatAreNotThereAreRefused(t *testing.T) {
	for want, c := range map[string]Compare{
		"unknown instruction set": {ISAs: []string{"sse"}, PromptLen: 1, OutputLen: 2, Reps: 1, Timeout: 1},
		"--output-len 1":          {PromptLen: 1, OutputLen: 1, Reps: 1, Timeout: 1},
		"--reps 0":                {PromptLen: 1, OutputLen: 2, Timeout: 1},
		"--threads -1":            {Threads: -1},
	} {
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
