package chart

import (
	"fmt"
	"math"
)

const (
	plotHeight = 300
	plotLeft   = 120
	plotRight  = width - 190 // names of the series stand behind it
	plotTop    = title + 36
)

// axis is a logarithmic range over whole powers of ten.
type axis struct{ low, high int }

func newAxis() axis { return axis{math.MaxInt32, math.MinInt32} }

func (a *axis) include(v float64) {
	l := math.Log10(v)
	a.low, a.high = min(a.low, int(math.Floor(l))), max(a.high, int(math.Ceil(l)))
	if a.low == a.high {
		a.high++
	}
}

// at is where v lies, 0 to 1.
func (a axis) at(v float64) float64 { return (math.Log10(v) - float64(a.low)) / float64(a.high-a.low) }

// SVG draws the lines over logarithmic axes; all values must be positive.
func (l Lines) SVG() (string, error) {
	x, y := newAxis(), newAxis()
	points := 0
	for _, s := range l.Series {
		if len(s.X) != len(s.Y) {
			return "", fmt.Errorf("chart %q: line %q has %d x and %d y values", l.Title, s.Name, len(s.X), len(s.Y))
		}
		for i := range s.X {
			if !(s.X[i] > 0 && s.Y[i] > 0) || math.IsInf(s.X[i], 0) || math.IsInf(s.Y[i], 0) {
				return "", fmt.Errorf("chart %q: point (%v, %v) of %q has no place on a logarithmic axis", l.Title, s.X[i], s.Y[i], s.Name)
			}
			x.include(s.X[i])
			y.include(s.Y[i])
			points++
		}
	}
	if points == 0 {
		return "", fmt.Errorf("chart %q: there is nothing to draw", l.Title)
	}
	c := newCanvas(plotTop+plotHeight+52, l.Title)
	l.grid(c, x, y)
	place := func(px, py float64) (float64, float64) {
		return plotLeft + x.at(px)*(plotRight-plotLeft), plotTop + (1-y.at(py))*plotHeight
	}
	for i, s := range l.Series {
		c.printf(`<polyline class="c%d line" points="`, colour(i))
		for j := range s.X {
			px, py := place(s.X[j], s.Y[j])
			c.printf("%.1f,%.1f ", px, py)
		}
		c.WriteString("\"/>\n")
		if n := len(s.X); n > 0 {
			px, py := place(s.X[n-1], s.Y[n-1])
			c.text(px+8, py+4, "ink", "start", s.Name)
		}
	}
	return c.end(), nil
}

// grid draws the axes with a line at each power of ten.
func (l Lines) grid(c *canvas, x, y axis) {
	const bottom = plotTop + plotHeight
	for p := x.low; p <= x.high; p++ {
		at := plotLeft + float64(p-x.low)/float64(x.high-x.low)*(plotRight-plotLeft)
		c.printf(`<line class="grid" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`+"\n", at, plotTop, at, bottom)
		c.text(at, bottom+18, "soft", "middle", power(p))
	}
	for p := y.low; p <= y.high; p++ {
		at := plotTop + (1-float64(p-y.low)/float64(y.high-y.low))*plotHeight
		c.printf(`<line class="grid" x1="%d" y1="%.1f" x2="%d" y2="%.1f"/>`+"\n", plotLeft, at, plotRight, at)
		c.text(plotLeft-8, at+4, "soft", "end", power(p))
	}
	c.printf(`<line class="axis" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", plotLeft, bottom, plotRight, bottom)
	c.text(plotRight, bottom+38, "soft", "end", l.XLabel)
	c.text(margin, plotTop-14, "soft", "start", l.YLabel)
}

// power writes 10^p for people.
func power(p int) string {
	units := map[int]string{0: "", 3: " thousand", 6: " million", 9: " billion", 12: " trillion"}
	for d := range 3 {
		if unit, ok := units[p-d]; ok {
			return fmt.Sprintf("%.0f%s", math.Pow10(d), unit)
		}
	}
	return fmt.Sprintf("1e%d", p)
}
