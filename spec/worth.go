package spec

import "slices"

// worth says what a drafted token is worth in a batch. Not always an N-th of the
// step that makes N tokens: reading the weights is saved only when the whole batch
// is done a step sooner, and a sequence that gets ahead of the others saves no more
// than its own row of the steps that they still need:
//
//	c(N) = fixed + N·row        row = (c(N) − c(1)) / (N − 1)
//
// Let G₁ … G_N be the tokens that a step is expected to bring beyond the plain ones:
//
//	worth = own·ΣG + N·(1 − own)·min G        own = N·row / c(N)
//
// all of ΣG when all get ahead alike, own of it when some do. Four streams of mixed
// text on two cores, own = 0.37, lost 6 % to plain decoding while every token was
// taken for a fourth of a step: the fast were done early and the slow one went on,
// in steps as long.
//
// Unless somebody takes the place. Then every token brings the next request nearer,
// and own is 1. So it is counted how many of the sequences that left others behind
// were followed by one that joined them.
//
// Test: TestReplay, in waves and with places that are taken.
type worth struct {
	vacant      int     // places left beside running sequences and not taken yet
	left, taken float32 // places, decayed
}

const (
	placeDecay = 1 - 1./32
	placeDoubt = 2 // places that count as not taken, before any was seen
)

// leaves tells of a sequence that ended beside so many others.
func (w *worth) leaves(others int) {
	if others == 0 {
		w.vacant = 0
		return
	}
	w.vacant++
	w.left = float32(w.left*placeDecay) + 1
	w.taken *= placeDecay
}

// joins tells of a new sequence.
func (w *worth) joins() {
	if w.vacant > 0 {
		w.vacant--
		w.taken++
	}
}

// own is what a token of one sequence alone is worth in a batch of n, in tokens.
func (w *worth) own(n int, one, all float64) float64 {
	if n < 2 {
		return 1
	}
	row := (all - one) / float64(n-1)
	share := min(max(float64(n)*row/all, 0), 1)
	refilled := float64(w.taken / (w.left + placeDoubt))
	return share + (1-share)*min(refilled, 1)
}

// gains are the tokens that a growing set of rows is expected to bring.
type gains struct {
	ahead []float64 // by candidate
	sum   float64
	least float64 // of ahead
	last  int     // candidates that have least
}

func (d *Depth) gains(n int) gains {
	for len(d.ahead) < n {
		d.ahead = append(d.ahead, 0)
	}
	clear(d.ahead[:n])
	return gains{ahead: d.ahead[:n], last: n}
}

func (g *gains) add(r row) {
	was := g.ahead[r.who]
	g.ahead[r.who] += r.gain
	g.sum += r.gain
	if was > g.least {
		return
	}
	if g.last--; g.last > 0 {
		return
	}
	g.least = slices.Min(g.ahead)
	for _, a := range g.ahead {
		if a == g.least {
			g.last++
		}
	}
}

// worth is the essay's, in tokens.
func (g *gains) worth(own float64) float64 {
	return own*g.sum + float64(len(g.ahead))*(1-own)*g.least
}
