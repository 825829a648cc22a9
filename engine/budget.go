package engine

import (
	"math/bits"
	"sort"
	"time"
)

// costCurve is how long a step of so many rows takes on this machine, measured
// as it runs: one point per power of two of rows, each a moving average, lines
// between them. It never falls.
//
// It answers how many prompt rows may ride along with running streams: as many
// as keep the step within twice what the streams alone would cost, so their
// inter-token latency at most doubles. A step without streams to wait for is
// kept below maxStep, so that a cancellation or a new request is noticed.
type costCurve struct {
	points [24]point // [i]: steps of [2^i, 2^(i+1)) rows
}

type point struct{ rows, cost float64 } // means; cost in nanoseconds, 0 = not measured

const (
	maxStep   = time.Second
	leastStep = 2 * time.Millisecond // below this no reader notices the difference
	unknown   = maxStep / 16         // per row, before anything was measured: the first step is a small one
)

// observe adds a measured step. The average is a robust one: a slow step (a page
// fault, a busy machine) moves its point by a sixteenth at most, however slow.
func (c *costCurve) observe(rows int, took time.Duration) {
	if rows < 1 {
		return
	}
	at := min(bits.Len(uint(rows))-1, len(c.points)-1)
	p := &c.points[at]
	n, t := float64(rows), float64(max(1, took))
	if p.cost == 0 {
		*p = point{n, t}
	} else {
		p.rows += (n - p.rows) / 8
		p.cost += max(-p.cost/2, min(t-p.cost, p.cost/2)) / 8
	}
	for i := range c.points { // older points that contradict it yield
		switch q := &c.points[i]; {
		case q.cost == 0:
		case i < at:
			q.cost = min(q.cost, p.cost)
		case i > at:
			q.cost = max(q.cost, p.cost)
		}
	}
}

// cost is the expected time of a step of n rows. Beyond the largest measured
// step it grows in proportion, which is the most it can.
func (c *costCurve) cost(n int) time.Duration {
	rows := float64(n)
	var below point
	for _, p := range c.points {
		if p.cost == 0 {
			continue
		}
		if rows <= p.rows {
			if below.cost == 0 {
				return time.Duration(p.cost) // fewer rows than were ever measured
			}
			return time.Duration(below.cost + (p.cost-below.cost)*(rows-below.rows)/(p.rows-below.rows))
		}
		below = p
	}
	if below.cost == 0 {
		return time.Duration(n) * unknown
	}
	return time.Duration(below.cost * rows / below.rows)
}

// expect is cost, or 0 before anything was measured.
func (c *costCurve) expect(n int) time.Duration {
	for _, p := range c.points {
		if p.cost > 0 {
			return c.cost(n)
		}
	}
	return 0
}

// rows is how many rows the next step may have, up to most, with so many
// streams in it that wait for their next token.
func (c *costCurve) rows(streams, most int) int {
	budget := maxStep
	if streams > 0 {
		budget = max(2*c.cost(streams), leastStep)
	}
	return max(1, sort.Search(most, func(n int) bool { return c.cost(n+1) > budget }))
}
