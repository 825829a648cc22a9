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
// A step without streams to wait for is kept below maxStep by it, so that a
// cancellation or a new request is noticed; for a step with streams see pace.
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

// pace answers how many prompt rows may ride along with running streams: as many
// as keep a step within twice what the streams alone cost, so that their
// inter-token latency at most doubles.
//
// What they cost alone is measured in steps without prompt rows, apart from all
// others. What a prompt row adds is measured in the steps that have some, and
// followed: the row of a prompt's end attends to all of it and may cost twice what
// the first did, so no curve over rows could know it. Between one such step and
// the next the rows at most double. That is safe where rows were free so far,
// because the step waited for memory: twice the rows take twice the time at most.
//
// Test: TestLongPromptAtMostDoublesTheGaps, on a virtual clock; `sestina bench fair`
// measures it.
type pace struct {
	all    costCurve // every step, by rows
	quiet  costCurve // steps without prompt rows, by streams
	row    float64   // nanoseconds that a prompt row adds to a step with streams, moving average; 0 = not measured
	proven int       // prompt rows of such a step, lately
	since  int       // steps with prompt rows since one without
}

// refresh is after how many steps with prompt rows one goes without, to see what the
// streams cost alone by now: their contexts grow while a long prompt is computed. Were
// that growth taken for the prompt's, it would get ever fewer rows and last ever longer.
const refresh = 16

// promptsWait is what rows answers then: see [scheduler.Config.StepBudget].
const promptsWait = -1

// slowdown is what the averages aim at; the rest of the factor of two is for what they miss.
const slowdown = 1.7

// observe adds a measured step: so many rows, of which so many were streams' own
// (with their drafts) and the others prompts'.
func (p *pace) observe(streams, own, rows int, took time.Duration) {
	p.all.observe(rows, took)
	prompt := rows - own
	switch {
	case streams == 0:
	case prompt == 0:
		p.quiet.observe(streams, took)
		p.since = 0
	default:
		p.since++
		row := max(0, float64(took-p.alone(streams))) / float64(prompt)
		if p.row == 0 {
			p.row = row
		} else {
			p.row += max(-p.row/2, min(row-p.row, p.row)) / 4
		}
		if prompt > p.proven/2 { // the end of a prompt is no measure
			p.proven = prompt
		}
	}
}

// alone is what a step of so many streams and nothing else costs.
func (p *pace) alone(streams int) time.Duration {
	if own := p.quiet.expect(streams); own > 0 {
		return own
	}
	return p.all.cost(streams)
}

// rows is how many rows the next step may have, up to most, with so many
// streams in it that wait for their next token; promptsWait for theirs alone.
func (p *pace) rows(streams, most int) int {
	if streams == 0 {
		return max(1, sort.Search(most, func(n int) bool { return p.all.cost(n+1) > maxStep }))
	}
	if p.since >= refresh {
		return promptsWait
	}
	own := p.alone(streams)
	room := max(slowdown*float64(own), float64(leastStep)) - float64(own)
	prompt := max(1, streams/2)
	if p.proven > 0 {
		prompt = max(1, 2*p.proven)
		if p.row > 0 {
			prompt = int(min(float64(prompt), room/p.row))
		}
	}
	return min(streams+max(1, prompt), most)
}
