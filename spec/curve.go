package spec

import (
	"math"
	"math/bits"
	"time"
)

// Curve is c(rows): how long a step of so many rows takes, for one model on one
// machine. It decides whether draft rows are nearly free (few rows: the weights
// are read anyway) or cost like any other (many rows: arithmetic bound).
//
// It starts from a prior, a roofline, and learns a correction of it by
// measurement, on a logarithmic scale:
//
//	ln c(r) = ln prior(r) + drift + shape(r)
//
// shape is kept at some rows (each up to 8, then four an octave) and
// interpolated between those that were measured. drift is shared: longer
// contexts, a hotter or busier machine make all steps slower, and a step of one
// size then says something about the others. Both follow the error of each
// prediction by a fixed fraction, more while little is known; one slow step (a
// page fault) is clamped. Test: TestCurveLearns.
type Curve struct {
	prior func(rows int) time.Duration
	drift float64
	knots [numKnots]knot
	steps uint64
}

// knot is the correction measured for steps of about so many rows.
type knot struct {
	shape float64
	n     float64 // measurements; 0 = none
	at    uint64  // step of the last one
}

const (
	numKnots   = 80
	driftRate  = 0.05
	shapeRate  = 0.15
	clampError = 1.4 // e^1.4 ≈ 4 times slower or faster than expected
)

// Roofline is the textbook prior: a step reads the weights once, at so many
// bytes per second, and computes each row at so many operations per second;
// whichever takes longer. Arguments must be positive.
func Roofline(bytes, bytesPerSecond, opsPerRow, opsPerSecond float64) func(rows int) time.Duration {
	return func(rows int) time.Duration {
		return seconds(max(bytes/bytesPerSecond, float64(rows)*opsPerRow/opsPerSecond))
	}
}

func seconds(s float64) time.Duration {
	return time.Duration(min(s*float64(time.Second), math.MaxInt64/2))
}

// NewCurve starts from a prior; nil is a machine that knows nothing of itself:
// rows are free up to 4 and cost in proportion from there.
func NewCurve(prior func(rows int) time.Duration) *Curve {
	if prior == nil {
		prior = Roofline(1e9, 2e10, 2e9, 1.6e11)
	}
	return &Curve{prior: prior}
}

// knotOf is the index of the knot for rows ≥ 1, and its position on the axis
// between knots: 1 2 3 4 5 6 7 8 10 12 14 16 20 24 28 32 …
func knotOf(rows int) (index int, axis float64) {
	rows = max(1, rows)
	if rows <= 4 {
		return rows - 1, float64(rows - 1)
	}
	octave := bits.Len(uint(rows)) - 1 // 2^octave ≤ rows
	axis = 4*float64(octave-1) - 1 + 4*(float64(rows)/float64(int(1)<<octave)-1)
	return min(int(axis+0.5), numKnots-1), axis
}

// Observe adds a measured step. Durations that are not positive are ignored.
func (c *Curve) Observe(rows int, took time.Duration) {
	if took <= 0 || rows < 1 {
		return
	}
	c.steps++
	i, _ := knotOf(rows)
	k := &c.knots[i]
	err := math.Log(float64(took)) - math.Log(c.at(rows))
	if c.steps == 1 {
		c.drift = err // the scale of the prior is the first thing to go
		*k = knot{n: 1, at: c.steps}
		return
	}
	err = min(max(err, -clampError), clampError)
	if k.n == 0 {
		k.shape = c.shape(rows)
	}
	k.n++
	k.shape += max(shapeRate, 1/(k.n+1)) * err
	c.drift += driftRate * err
	k.at = c.steps
}

// At is the expected duration of a step of so many rows. Steps of no rows take
// no time.
func (c *Curve) At(rows int) time.Duration { return time.Duration(c.at(rows)) }

func (c *Curve) at(rows int) float64 {
	if rows < 1 {
		return 0
	}
	return max(1, float64(c.prior(rows))) * math.Exp(c.drift+c.shape(rows))
}

// shape interpolates between the nearest measured knots, and is flat beyond them.
func (c *Curve) shape(rows int) float64 {
	i, axis := knotOf(rows)
	below, above := -1, -1
	for j := i; j >= 0 && below < 0; j-- {
		if c.knots[j].n > 0 && float64(j) <= axis {
			below = j
		}
	}
	for j := max(i-1, 0); j < numKnots && above < 0; j++ {
		if c.knots[j].n > 0 && float64(j) >= axis {
			above = j
		}
	}
	switch {
	case below < 0 && above < 0:
		return 0
	case below < 0:
		return c.knots[above].shape
	case above < 0 || above == below:
		return c.knots[below].shape
	}
	f := (axis - float64(below)) / float64(above-below)
	return c.knots[below].shape + f*(c.knots[above].shape-c.knots[below].shape)
}

// age is how many steps ago steps of about so many rows were last measured.
func (c *Curve) age(rows int) uint64 {
	i, _ := knotOf(rows)
	return c.steps - c.knots[i].at
}

// Point is one measured place of a curve.
type Point struct {
	Knot  int     // which
	Shape float64 // correction of the prior there, drift included
}

// Points are what the curve has learnt, to be kept with the model's name and the
// machine's and given to Restore at the next start.
func (c *Curve) Points() []Point {
	var out []Point
	for i, k := range c.knots {
		if k.n > 0 {
			out = append(out, Point{i, k.shape + c.drift})
		}
	}
	return out
}

// Restore starts a curve from another's points, made with the same prior. What
// makes no sense is left out; new measurements outweigh the old ones soon.
func (c *Curve) Restore(points []Point) {
	for _, p := range points {
		if p.Knot >= 0 && p.Knot < numKnots && math.Abs(p.Shape) < 50 {
			c.knots[p.Knot] = knot{shape: p.Shape - c.drift, n: 1}
			c.steps = max(c.steps, 1)
		}
	}
}
