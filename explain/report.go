// Package explain shows what each technique buys, in numbers, and where each
// number comes from:
//
//	seed      the article that this project starts from: "Why Is AI Getting Faster? Six Techniques
//	          Behind LLM Inference Acceleration" (Lab Grimoire), quoted
//	formula   arithmetic, done here, with the terms in the note
//	counted   the real scheduler, block manager and kernels, counted under a virtual clock
//	measured  the loaded model on this machine, now
//
// Seed, formula and counted lines are the same on every machine; testdata/lines.txt
// holds them all (TestLinesAreTheTable).
package explain

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"sestina/explain/chart"
)

// Label says where a figure comes from.
type Label string

const (
	Seed     Label = "seed"
	Formula  Label = "formula"
	Counted  Label = "counted"
	Measured Label = "measured"
)

// Line is one figure.
type Line struct {
	Label Label   `json:"label"`
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Note  string  `json:"note,omitempty"`
}

// Section is one technique.
type Section struct {
	ID    string   `json:"technique"`
	Title string   `json:"title"`
	Lines []Line   `json:"lines"`
	Notes []string `json:"notes,omitempty"` // what could not be shown, and why

	charts []drawing
	err    error // the first one; see add
}

// drawing is a chart and the end of its file's name.
type drawing struct {
	name  string
	chart chart.Chart
}

// Report is the document that `sestina explain` prints.
type Report struct {
	Schema     string     `json:"schema"`
	Machine    string     `json:"machine,omitempty"` // where measured
	Model      string     `json:"model,omitempty"`   // what was measured
	Techniques []*Section `json:"techniques"`
	Notes      []string   `json:"notes,omitempty"`
}

// makers are the techniques in the order in which they are told.
var makers = []struct {
	id, title string
	fill      func(*Section)
}{
	{"bottleneck", "The bottleneck: reading the weights", bottleneck},
	{"kv-cache", "KV cache", kvCache},
	{"paged-attention", "Paged attention", pagedAttention},
	{"flash-attention", "Flash attention", flashAttention},
	{"gqa", "Grouped-query attention", groupedQuery},
	{"continuous-batching", "Continuous batching", continuousBatching},
	{"speculative-decoding", "Speculative decoding", speculativeDecoding},
	{"mtp", "Multi-token prediction", multiTokenPrediction},
	{"stacked", "All of them, stacked", stacked},
}

// Techniques lists what New can be asked for.
func Techniques() []string {
	var ids []string
	for _, m := range makers {
		ids = append(ids, m.id)
	}
	return ids
}

// New computes and counts the figures of one technique, or of all where it is "".
func New(technique string) (*Report, error) {
	r := &Report{Schema: "sestina.explain/1"}
	for _, m := range makers {
		if technique != "" && technique != m.id {
			continue
		}
		s := &Section{ID: m.id, Title: m.title}
		m.fill(s)
		if s.err != nil {
			return nil, fmt.Errorf("%s: %w", m.id, s.err)
		}
		r.Techniques = append(r.Techniques, s)
	}
	if len(r.Techniques) == 0 {
		return nil, fmt.Errorf("technique %q is unknown; choose one of %s", technique, strings.Join(Techniques(), ", "))
	}
	return r, nil
}

// section finds a technique in the report.
func (r *Report) section(id string) *Section {
	for _, s := range r.Techniques {
		if s.ID == id {
			return s
		}
	}
	return nil
}

// One method a label, so that a section reads as a table.

func (s *Section) seed(name string, v float64, unit, note string) { s.add(Seed, name, v, unit, note) }
func (s *Section) formula(name string, v float64, unit, note string) {
	s.add(Formula, name, v, unit, note)
}
func (s *Section) counted(name string, v float64, unit, note string) {
	s.add(Counted, name, v, unit, note)
}
func (s *Section) measured(name string, v float64, unit, note string) {
	s.add(Measured, name, v, unit, note)
}

func (s *Section) add(l Label, name string, v float64, unit, note string) {
	s.Lines = append(s.Lines, Line{l, name, v, unit, note})
}

func (s *Section) draw(name string, c chart.Chart) { s.charts = append(s.charts, drawing{name, c}) }

func (s *Section) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// Print writes the report for people.
func (r *Report) Print(out io.Writer) {
	for _, s := range r.Techniques {
		fmt.Fprintf(out, "%s (%s)\n", s.Title, s.ID)
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, l := range s.Lines {
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", l.Label, l.Name, strings.TrimSpace(Number(l.Value)+" "+l.Unit), l.Note)
		}
		w.Flush()
		for _, n := range s.Notes {
			fmt.Fprintf(out, "  note: %s\n", n)
		}
		fmt.Fprintln(out)
	}
	if r.Model != "" {
		fmt.Fprintf(out, "measured: %s · %s\n", r.Model, r.Machine)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(out, "note: %s\n", n)
	}
}

// WriteSVG draws every chart of the report into a folder and returns the files.
func (r *Report) WriteSVG(dir string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var files []string
	for _, s := range r.Techniques {
		for _, d := range s.charts {
			svg, err := d.chart.SVG()
			if err != nil {
				return files, err
			}
			name := filepath.Join(dir, s.ID+d.name+".svg")
			if err := os.WriteFile(name, []byte(svg), 0o644); err != nil {
				return files, err
			}
			files = append(files, name)
		}
	}
	return files, nil
}

// Number writes a value for people: thousands separated, two decimals at most.
func Number(v float64) string {
	text := strconv.FormatFloat(v, 'f', 2, 64)
	whole, frac, _ := strings.Cut(text, ".")
	frac = strings.TrimRight(frac, "0")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if frac != "" {
		whole += "." + frac
	}
	return sign + whole
}
