package explain

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sestina"
)

var update = flag.Bool("update", false, "rewrite testdata/lines.txt")

const linesFile = "testdata/lines.txt"

// Every line that is not measured, against a table that was checked by hand.
func TestLinesAreTheTable(t *testing.T) {
	r, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for _, s := range r.Techniques {
		for _, l := range s.Lines {
			fmt.Fprintf(&got, "%s | %s | %s | %s %s\n", s.ID, l.Label, l.Name, Number(l.Value), l.Unit)
		}
	}
	if *update {
		if err := os.WriteFile(linesFile, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(linesFile)
	if err != nil {
		t.Fatal(err)
	}
	a, b := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(a), len(b)) {
		if x, y := at(a, i), at(b, i); x != y {
			t.Errorf("line %d\n got %q\nwant %q", i+1, x, y)
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(no line)"
}

// What the article claims is what arithmetic gives, to the digits it prints; the
// one figure on which they differ says why.
func TestSeedFiguresHold(t *testing.T) {
	r, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	value := func(id string, l Label, name string) float64 {
		t.Helper()
		for _, line := range r.section(id).Lines {
			if line.Label == l && line.Name == name {
				return line.Value
			}
		}
		t.Fatalf("%s has no %s line %q", id, l, name)
		return 0
	}
	for _, c := range []struct {
		id, seed string
		by       Label
		name     string
		within   float64 // of the seed's value: half of its last digit
	}{
		{"bottleneck", "weights read per token", Formula, "weights read per token", 0},
		{"bottleneck", "weights read for 200 tokens", Formula, "weights read for 200 tokens", 0},
		{"kv-cache", "K/V computations without a cache", Formula, "K/V computations without a cache", 0},
		{"kv-cache", "K/V computations without a cache", Counted, "K/V computations without a cache", 0},
		{"kv-cache", "K/V computations with a cache", Counted, "K/V computations with a cache", 1},
		{"kv-cache", "fewer", Formula, "fewer", 0.5},
		{"paged-attention", "slots wasted, reserved in one piece", Counted, "slots wasted, reserved in one piece", 0},
		{"paged-attention", "slots wasted, in blocks of 4", Counted, "slots wasted, in blocks", 0},
		{"flash-attention", "element transfers, standard", Formula, "element transfers, standard", 0},
		{"flash-attention", "element transfers, tiled", Formula, "element transfers, tiled", 0.05},
		{"continuous-batching", "static batches", Counted, "static batches", 0},
		{"continuous-batching", "continuous", Formula, "most, over static", 0.05},
		{"speculative-decoding", "a round", Formula, "a round", 0},
		{"speculative-decoding", "all 4 accepted: 5 tokens", Formula, "all 4 accepted: 5 tokens", 0.005},
		{"speculative-decoding", "3 accepted: 4 tokens", Formula, "3 accepted: 4 tokens", 0.005},
		{"speculative-decoding", "200 tokens with 3 accepted", Counted, "200 tokens, 3 accepted", 0.05},
	} {
		want, got := value(c.id, Seed, c.seed), value(c.id, c.by, c.name)
		if got < want-c.within-1e-9 || got > want+c.within+1e-9 {
			t.Errorf("%s: the article says %s = %v, %s gives %v", c.id, c.seed, want, c.by, got)
		}
	}
}

func TestUnknownTechniqueIsNamed(t *testing.T) {
	if _, err := New("quantum"); err == nil || !strings.Contains(err.Error(), "kv-cache") {
		t.Errorf("%v; want the list", err)
	}
	for _, id := range Techniques() {
		if r, err := New(id); err != nil || len(r.Techniques) != 1 || r.Techniques[0].ID != id {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// The tile that the page speaks of is the backend's own.
func TestPieceRowsAreTheBackends(t *testing.T) {
	src, err := os.ReadFile("../backend/cpu/attend.go")
	if err != nil {
		t.Fatal(err)
	}
	if m := regexp.MustCompile(`(?m)^const pieceRows = (\d+)$`).FindSubmatch(src); m == nil || string(m[1]) != fmt.Sprint(pieceRows) {
		t.Errorf("backend/cpu has %q, explain %d", m, pieceRows)
	}
}

func TestMeasuringAddsLines(t *testing.T) {
	opt := sestina.Options{Threads: 1, KVCacheMemoryBytes: 16 << 20}
	opt.Techniques.Speculation = "off"
	llm, err := sestina.Open(context.Background(), "../testdata/tiny.gguf", opt)
	if err != nil {
		t.Fatal(err)
	}
	defer llm.Close()
	r, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Measure(context.Background(), llm, opt); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, s := range r.Techniques {
		for _, l := range s.Lines {
			if l.Label == Measured {
				count[s.ID]++
				if !(l.Value > 0 || l.Unit == "%" && l.Value == 0) {
					t.Errorf("%s: %s is %v", s.ID, l.Name, l.Value)
				}
			}
		}
	}
	for _, id := range []string{"bottleneck", "kv-cache", "flash-attention", "gqa", "continuous-batching", "speculative-decoding", "mtp"} {
		if count[id] == 0 {
			t.Errorf("%s has no measured line", id)
		}
	}
	var text bytes.Buffer
	r.Print(&text)
	if !strings.Contains(text.String(), "tiny.gguf") || !strings.Contains(text.String(), "5,049") {
		t.Errorf("the text lacks the model or a figure:\n%s", &text)
	}
}

func TestChartsAreXML(t *testing.T) {
	r, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	files, err := r.WriteSVG(filepath.Join(t.TempDir(), "charts"))
	if err != nil || len(files) < 5 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(bytes.NewReader(data))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", f, err)
			}
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 5049: "5,049", 137.5: "137.5", 3.7878: "3.79", 1e6: "1,000,000", -1234.5: "-1,234.5", 100: "100", 0.125: "0.12"} {
		if got := Number(v); got != want {
			t.Errorf("Number(%v) = %q, want %q", v, got, want)
		}
	}
}
