package techniques

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"sestina"
	"sestina/engine"
)

const tiny = "../../testdata/tiny.gguf"

var small = Config{Users: 4, SerialUsers: 2, PromptLen: 40, SharedLen: 32, OutputLen: 5, MaxModelLen: 64, Reps: 2}

// Every technique has its rows; those that are built are measured, with the
// answers of all on, and those that are not are named.
func TestEveryTechniqueHasItsRows(t *testing.T) {
	var steps []string
	r, err := Run(context.Background(), tiny, sestina.Options{Threads: 1}, small, func(s string) { steps = append(steps, s) })
	if err != nil {
		t.Fatal(err)
	}
	refusals := unbuilt()
	byName := map[string]Row{}
	for _, row := range r.Rows {
		byName[row.Group+": "+row.Name] = row
		if row.NotBuilt != "" {
			continue
		}
		if row.Speed < row.Slowest || row.Slowest <= 0 || row.Runs != small.Reps || row.TTFT <= 0 || row.TPOT <= 0 || row.PeakKV == 0 || row.Fitting == 0 || row.Switches == nil {
			t.Errorf("%s lacks a figure: %+v", row.Name, row)
		}
		if row.Differing > 0 {
			t.Errorf("%s: %d answers differ from all on", row.Name, row.Differing)
		}
	}
	for i, tech := range all {
		for _, name := range []string{"off: " + tech.name + " off", "ladder: + " + tech.name} {
			row, ok := byName[name]
			if !ok || (row.NotBuilt != "") != (refusals[i] != nil) {
				t.Errorf("%s: %+v, engine says %v", name, row, refusals[i])
			}
		}
	}
	for _, name := range []string{"all on: all on", "off: static batching", "ladder: naive"} {
		if row, ok := byName[name]; !ok || row.NotBuilt != "" {
			t.Errorf("%s is missing", name)
		}
	}
	checkGains(t, r)
	checkPrint(t, r)
	if len(steps) == 0 {
		t.Error("nobody was told of the progress")
	}
}

// The ladder's steps multiply to its top, and that is all on over naive.
func checkGains(t *testing.T, r *Report) {
	t.Helper()
	climb, product := 1.0, 1.0
	for _, row := range r.Rows {
		switch {
		case row.Group == Ladder && row.Gain > 0:
			climb *= row.Gain
		case row.Group == Off && row.Gain > 0 && row.Name != "static batching":
			product *= row.Gain
		}
	}
	if math.Abs(climb/r.Total-1) > 1e-9 || math.Abs(product/r.Product-1) > 1e-9 {
		t.Errorf("the ladder climbs %v, the total is %v; the product is %v, reported %v", climb, r.Total, product, r.Product)
	}
}

func checkPrint(t *testing.T, r *Report) {
	t.Helper()
	var text bytes.Buffer
	r.Print(&text)
	for _, want := range []string{"all on", "naive", "+ flash attention", "continuous batching off", "product of single gains"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &text)
		}
	}
	if svg, err := r.Chart().SVG(); err != nil || strings.Count(svg, "<rect") != len(r.Rows)+1 {
		t.Errorf("the chart has not a bar for each of %d rows: %v", len(r.Rows), err)
	}
	data, err := json.Marshal(r)
	var back Report
	if err != nil || json.Unmarshal(data, &back) != nil || back.Schema != Schema || len(back.Rows) != len(r.Rows) {
		t.Errorf("the document does not survive JSON: %v %s", err, data)
	}
}

// A wrong answer is counted: the comparison can fail.
func TestDifferingAnswersAreCounted(t *testing.T) {
	s := &suite{built: unbuilt(), seen: map[engine.Techniques]*result{}}
	on, off := everything(true), everything(true).with(2, false)
	good := &result{speed: 1, answers: [][]int32{{1, 2}, {3, 4}}}
	bad := &result{speed: 1, answers: [][]int32{{1, 2}, {3, 5}}}
	for set, r := range map[*setting]*result{&on: good, &off: bad} {
		k := set.switches(s.built)
		if err := k.Check(); err != nil {
			t.Fatal(err)
		}
		s.seen[k] = r
	}
	s.add(AllOn, AllOn, on, good)
	if row := s.add(Off, "flash attention off", off, bad); row.Differing != 1 || s.report.Differing() != 1 {
		t.Errorf("%d differing answers, want 1", row.Differing)
	}
}

// A setting is what the engine accepts: what needs another technique has it.
func TestSettingsAreConsistent(t *testing.T) {
	for i, tech := range all {
		for _, need := range tech.needs {
			j := slices.IndexFunc(all, func(o technique) bool { return o.id == need })
			if j < 0 || everything(true).with(i, false)[j] {
				t.Errorf("%s off leaves %s on", tech.id, need)
			}
			if j < i {
				t.Errorf("the ladder adds %s before %s", need, tech.id)
			}
		}
	}
}

func TestImpossibleWorkloadsAreRefused(t *testing.T) {
	for _, c := range []struct {
		edit func(*Config)
		want string
	}{
		{func(c *Config) { c.Users = 0 }, "--users 0"},
		{func(c *Config) { c.SerialUsers = 9 }, "--serial-users is 9"},
		{func(c *Config) { c.OutputLen = 1 }, "--output-len 1"},
		{func(c *Config) { c.SharedLen = 99 }, "--shared-len is 99"},
		{func(c *Config) { c.MaxModelLen = 44 }, "45 tokens"},
		{func(c *Config) { c.MaxModelLen = 1 << 20 }, "context is 2048"},
	} {
		cfg := small
		c.edit(&cfg)
		if _, err := Run(context.Background(), tiny, sestina.Options{Threads: 1}, cfg, func(string) {}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v; want %q", err, c.want)
		}
	}
}
