// Package chart draws bars and lines as small SVG files. They carry their own
// style sheet, with colours for light and for dark pages, so that one file reads
// on both. There is no script, no font and no number that the caller did not give.
package chart

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// Chart is something that can be drawn.
type Chart interface {
	SVG() (string, error)
}

// Bar is one value; Text is written at its end, Colour picks one of the series' colours.
type Bar struct {
	Label  string
	Value  float64 // ≥ 0
	Text   string
	Colour int
}

// Bars are horizontal bars on one scale that begins at zero.
type Bars struct {
	Title, Unit string
	Bars        []Bar
}

// Series is one line through points, X ascending.
type Series struct {
	Name string
	X, Y []float64
}

// Lines are several series over common axes, both logarithmic: what a technique
// saves is a matter of powers.
type Lines struct {
	Title, XLabel, YLabel string
	Series                []Series
}

const (
	width   = 760
	margin  = 16
	title   = 24
	row     = 26
	labels  = 240 // left of the bars
	numbers = 130 // right of the longest bar
	colours = 4
)

const style = `<style>
.bg{fill:#ffffff}.ink{fill:#1f2328}.soft{fill:#59636e}.axis{stroke:#8c959f}.grid{stroke:#d1d9e0}
.c0{fill:#0969da;stroke:#0969da}.c1{fill:#bc4c00;stroke:#bc4c00}.c2{fill:#1a7f37;stroke:#1a7f37}.c3{fill:#8250df;stroke:#8250df}
.line{fill:none;stroke-width:2}text{font:13px system-ui,sans-serif}.title{font-weight:600;font-size:15px}
@media (prefers-color-scheme:dark){
.bg{fill:#0d1117}.ink{fill:#f0f6fc}.soft{fill:#9198a1}.axis{stroke:#656c76}.grid{stroke:#3d444d}
.c0{fill:#4493f8;stroke:#4493f8}.c1{fill:#f0883e;stroke:#f0883e}.c2{fill:#3fb950;stroke:#3fb950}.c3{fill:#ab7df8;stroke:#ab7df8}
.line{fill:none}}
</style>
`

// canvas is a document being written.
type canvas struct{ strings.Builder }

func newCanvas(height int, name string) *canvas {
	c := new(canvas)
	c.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">`+"\n<title>%s</title>\n", width, height, width, height, escape(name))
	c.WriteString(style)
	c.printf(`<rect class="bg" width="%d" height="%d"/>`+"\n", width, height)
	c.text(margin, title, "ink title", "start", name)
	return c
}

func (c *canvas) printf(format string, args ...any) { fmt.Fprintf(c, format, args...) }

func (c *canvas) text(x, y float64, class, anchor, s string) {
	c.printf(`<text x="%.1f" y="%.1f" class="%s" text-anchor="%s">%s</text>`+"\n", x, y, class, anchor, escape(s))
}

func (c *canvas) end() string {
	c.WriteString("</svg>\n")
	return c.String()
}

func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s)) // a Builder never fails; what XML cannot hold becomes U+FFFD
	return b.String()
}

// SVG draws the bars, top to bottom.
func (b Bars) SVG() (string, error) {
	top := 0.0
	for _, bar := range b.Bars {
		if !(bar.Value >= 0) || math.IsInf(bar.Value, 0) {
			return "", fmt.Errorf("chart %q: bar %q is %v; a bar needs a finite value from 0 up", b.Title, bar.Label, bar.Value)
		}
		top = max(top, bar.Value)
	}
	if len(b.Bars) == 0 {
		return "", fmt.Errorf("chart %q: there is nothing to draw", b.Title)
	}
	const head = title + 16
	c := newCanvas(head+row*len(b.Bars)+row+margin/2, b.Title)
	for i, bar := range b.Bars {
		y, long := float64(head+row*i), 0.0
		if top > 0 {
			long = bar.Value / top * (width - labels - numbers - margin)
		}
		c.text(labels-8, y+17, "ink", "end", bar.Label)
		c.printf(`<rect class="c%d" x="%d" y="%.1f" width="%.1f" height="%d" rx="2"/>`+"\n", colour(bar.Colour), labels, y+4, max(long, 1), row-8)
		c.text(labels+long+8, y+17, "ink", "start", bar.Text)
	}
	c.text(labels, float64(head+row*len(b.Bars)+17), "soft", "start", b.Unit)
	return c.end(), nil
}

func colour(i int) int { return ((i % colours) + colours) % colours }
