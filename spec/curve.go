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
// prediction by a fixed fraction, shape by more while little is known and drift by
// more from then on: were it the other way round, the size measured most would take a
// busy second upon itself and look dear against the others. One slow step (a page
// fault, a busy machine) counts as a slightly slow one.
//
// A first measurement is not believed when it is slow: it would make rows of that
// number look dear, so that they were not tried again, and the mistake would
// stay. It counts as doubt slower than expected, and the fastest of the first
// warmUp decides. Tests: TestCurveLearns, TestOneSlowStepIsNotBelieved.
type Curve struct {
	prior func(rows int) time.Duration
	drift float64
	knots [numKnots]knot
	steps uint64
	reach int // most rows ever measured
}

// knot is the correction measured for steps of about so many rows.
type knot struct {
	shape float64
	n     float64 // measurements; 0 = none
	least float64 // what the fastest of the first measurements says of shape
}

const (
	numKnots   = 80
	octave     = 4 // knots
	warmUp     = 3 // of the first measurements of a knot the fastest counts: pages are touched, buffers grow
	driftRate  = 0.1
	shapeRate  = 0.03
	doubt      = 0.1  // of ln c: most that a first measurement counts as slower than expected
	clampError = 0.35 // of ln c: a step 1.4 times slower or faster than expected
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
	log := bits.Len(uint(rows)) - 1 // 2^log ≤ rows
	axis = octave*float64(log-1) - 1 + octave*(float64(rows)/float64(int(1)<<log)-1)
	return min(int(axis+0.5), numKnots-1), axis
}

// Observe adds a measured step. Durations that are not positive are ignored.
func (c *Curve) Observe(rows int, took time.Duration) {
	if took <= 0 || rows < 1 {
		return
	}
	c.steps++
	c.reach = max(c.reach, rows)
	i, _ := knotOf(rows)
	k, was := &c.knots[i], c.shape(rows)
	err := math.Log(float64(took)) - math.Log(c.at(rows))
	if c.steps == 1 {
		c.drift = err // the scale of the prior is the first thing to go
		*k = knot{n: 1}
		return
	}
	measured := was + err // the shape that would explain it
	switch k.n++; {
	case k.n == 1:
		k.least = measured
		k.shape = was + min(err, doubt)
	case k.n <= warmUp:
		k.least = min(k.least, measured)
		k.shape = k.least
	default:
		err = min(max(err, -clampError), clampError)
		k.shape += max(shapeRate, 1/k.n) * err
		c.drift += driftRate * err
	}
}

// At is the expected duration of a step of so many rows. Steps of no rows take
// no time.
func (c *Curve) At(rows int) time.Duration { return seconds(c.at(rows) / float64(time.Second)) }

func (c *Curve) at(rows int) float64 {
	if rows < 1 {
		return 0
	}
	return c.believed(rows) * math.Exp(c.drift+c.shape(rows))
}

// believed is the prior in nanoseconds, 1 at least.
func (c *Curve) believed(rows int) float64 { return max(1, float64(c.prior(rows))) }

// shape interpolates between the nearest measured knots. Below the first it is
// flat; past the last it goes on for an octave if it was falling, since a prior
// that was too dear so far is not expected to be right from here.
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
	case above < 0:
		return c.knots[below].shape + min(0, c.trend(below))*min(axis-float64(below), octave)
	case above == below:
		return c.knots[below].shape
	}
	f := (axis - float64(below)) / float64(above-below)
	return c.knots[below].shape + f*(c.knots[above].shape-c.knots[below].shape)
}

// trend is the slope of shape per knot over about an octave up to knot i.
func (c *Curve) trend(i int) float64 {
	first := i
	for j := i - 1; j >= 0 && i-first < octave; j-- {
		if c.knots[j].n > 0 {
			first = j
		}
	}
	if first == i {
		return 0
	}
	return (c.knots[i].shape - c.knots[first].shape) / float64(i-first)
}

// measured is how often steps of about so many rows were.
func (c *Curve) measured(rows int) float64 {
	i, _ := knotOf(rows)
	return c.knots[i].n
}

// Point is one measured place of a curve.
type Point struct {
	Rows int           `json:"rows"`
	Took time.Duration `json:"ns"`
}

// Steps counts the measurements since the start.
func (c *Curve) Steps() uint64 { return c.steps }

// Points are what the curve has learnt, ascending by rows, to be kept under the
// model's and the machine's names and given to Restore at the next start.
func (c *Curve) Points() []Point {
	var out []Point
	for i, k := range c.knots {
		if k.n > 0 {
			out = append(out, Point{rowsOf(i), c.At(rowsOf(i))})
		}
	}
	return out
}

// rowsOf is the number of rows that a knot stands for.
func rowsOf(i int) int {
	if i < octave {
		return i + 1
	}
	i++
	return (octave + i%octave) << (i/octave - 1)
}

// Restore starts a new curve from what another learnt. Points that make no sense
// are left out; new measurements outweigh the old ones soon.
func (c *Curve) Restore(points []Point) {
	for _, p := range points {
		if p.Rows < 1 || p.Rows > 1<<20 || p.Took <= 0 {
			continue
		}
		i, _ := knotOf(p.Rows)
		c.knots[i] = knot{shape: math.Log(float64(p.Took)) - math.Log(c.believed(p.Rows)) - c.drift, n: warmUp}
		c.steps = max(c.steps, 1)
		c.reach = max(c.reach, p.Rows)
	}
}
