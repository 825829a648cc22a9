package chart

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

// elements parses a document as XML and counts its elements by name.
func elements(t *testing.T, svg string) map[string]int {
	t.Helper()
	count := map[string]int{}
	d := xml.NewDecoder(strings.NewReader(svg))
	d.Strict = true
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return count
		}
		if err != nil {
			t.Fatalf("not XML: %v\n%s", err, svg)
		}
		if e, ok := tok.(xml.StartElement); ok {
			if e.Name.Space != "http://www.w3.org/2000/svg" {
				t.Fatalf("<%s> is in namespace %q", e.Name.Local, e.Name.Space)
			}
			count[e.Name.Local]++
		}
	}
}

const hostile = `<script>&"'` + "\x00\xff"

func TestBarsAreXMLWithOneBarEach(t *testing.T) {
	svg, err := Bars{Title: hostile, Unit: "s", Bars: []Bar{
		{hostile, 250, "250 s", 0}, {"zero", 0, "0", 1}, {"b", 125, "125", 7}, {"c", 1, "1", -1},
	}}.SVG()
	if err != nil {
		t.Fatal(err)
	}
	got := elements(t, svg)
	if got["rect"] != 5 || got["script"] != 0 || got["style"] != 1 { // the background and four bars
		t.Errorf("elements %v", got)
	}
	if !strings.Contains(svg, "prefers-color-scheme:dark") {
		t.Error("no colours for dark pages")
	}
	full, half := `width="374.0"`, `width="187.0"`
	if !strings.Contains(svg, full) || !strings.Contains(svg, half) {
		t.Errorf("250 and 125 are not %s and %s long:\n%s", full, half, svg)
	}
}

func TestLinesAreXMLWithOneLineEach(t *testing.T) {
	svg, err := Lines{Title: hostile, XLabel: "tokens", YLabel: "bytes", Series: []Series{
		{"standard", []float64{10, 100, 1000}, []float64{400, 4e4, 4e6}}, {hostile, []float64{10, 1000}, []float64{1, 1}},
	}}.SVG()
	if err != nil {
		t.Fatal(err)
	}
	if got := elements(t, svg); got["polyline"] != 2 || got["script"] != 0 {
		t.Errorf("elements %v", got)
	}
	if !strings.Contains(svg, ">1 million<") {
		t.Errorf("the y axis lacks its million:\n%s", svg)
	}
}

func TestWhatCannotBeDrawnIsRefused(t *testing.T) {
	for name, c := range map[string]Chart{
		"no bars":      Bars{},
		"NaN":          Bars{Bars: []Bar{{Value: math.NaN()}}},
		"negative":     Bars{Bars: []Bar{{Value: -1}}},
		"no lines":     Lines{},
		"zero":         Lines{Series: []Series{{"a", []float64{0}, []float64{1}}}},
		"infinite":     Lines{Series: []Series{{"a", []float64{1}, []float64{math.Inf(1)}}}},
		"unequal axes": Lines{Series: []Series{{"a", []float64{1, 2}, []float64{1}}}},
	} {
		if svg, err := c.SVG(); err == nil {
			t.Errorf("%s was drawn: %s", name, svg)
		}
	}
}
