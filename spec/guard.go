package spec

import (
	"fmt"
	"runtime/debug"

	"sestina/batch"
)

// guarded keeps a proposer's faults to itself. A draft is a guess, so the
// remedy is always the same: do without it and count. Faults are panics, errors,
// a wrong number of drafts, drafts that are too long, ids outside the vocabulary
// and distributions that do not belong to the tokens. After patience faulty
// calls in a row it is not asked again.
type guarded struct {
	Proposer
	vocab  int
	serial bool
	faults uint64
	inRow  int
	last   error // what the last fault was
	empty  []Draft
}

const patience = 8

func guard(p Proposer, vocab int) *guarded {
	_, serial := p.(Serial)
	return &guarded{Proposer: p, vocab: vocab, serial: serial}
}

// grades are what the proposer expects of its classes.
func (g *guarded) grades() [Classes]float64 {
	first := [Classes]float64{0.6, 0.6, 0.6, 0.6}
	p, ok := g.Proposer.(Graded)
	if !ok {
		return first
	}
	g.try(func() error {
		said := p.Grades()
		for _, a := range said {
			if !(a >= 0 && a <= 1) {
				return fmt.Errorf("a class of acceptance %v", a)
			}
		}
		first = said
		return nil
	})
	return first
}

// benched reports whether the proposer has lost its seat.
func (g *guarded) benched() bool { return g.inRow >= patience }

// try runs one call of the proposer.
func (g *guarded) try(call func() error) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			g.fault(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	if err := call(); err != nil {
		g.fault(err)
		return false
	}
	return true
}

func (g *guarded) fault(err error) {
	g.faults++
	g.last = err
}

// Propose returns one valid draft per sequence, empty where there is none.
func (g *guarded) Propose(seqs []*batch.Sequence, k []int) []Draft {
	before := g.faults
	var drafts []Draft
	g.try(func() (err error) {
		drafts, err = g.Proposer.Propose(seqs, k)
		if err == nil && len(drafts) != len(seqs) {
			err = fmt.Errorf("%d drafts for %d sequences", len(drafts), len(seqs))
		}
		return err
	})
	if g.faults > before {
		drafts = g.none(len(seqs))
	}
	for i := range drafts {
		g.check(&drafts[i], k[i])
	}
	if g.faults > before {
		g.inRow++
	} else {
		g.inRow = 0
	}
	return drafts
}

func (g *guarded) none(n int) []Draft {
	for len(g.empty) < n {
		g.empty = append(g.empty, Draft{})
	}
	clear(g.empty)
	return g.empty[:n]
}

// check cuts a draft before whatever is wrong with it.
func (g *guarded) check(d *Draft, k int) {
	if len(d.Tokens) > k {
		g.fault(fmt.Errorf("a draft of %d tokens where %d were asked for", len(d.Tokens), k))
		d.cut(k)
	}
	if d.Class < 0 || d.Class >= Classes || d.Dists != nil && len(d.Dists) != len(d.Tokens) {
		g.fault(fmt.Errorf("a draft of class %d, %d tokens and %d distributions", d.Class, len(d.Tokens), len(d.Dists)))
		*d = Draft{}
		return
	}
	for i, id := range d.Tokens {
		if id < 0 || int(id) >= g.vocab || d.Dists != nil && !(d.Dists[i].Prob(id) > 0) {
			g.fault(fmt.Errorf("draft token %d is outside the vocabulary of %d, or not from its distribution", id, g.vocab))
			d.cut(i)
			return
		}
	}
}

// Committed and Release tell the proposer; one that breaks over it is told to
// forget the sequence.
func (g *guarded) Committed(seq *batch.Sequence, tokens []int32, accepted int) {
	if !g.try(func() error { g.Proposer.Committed(seq, tokens, accepted); return nil }) {
		g.Release(seq)
	}
}

func (g *guarded) Release(seq *batch.Sequence) {
	g.try(func() error { g.Proposer.Release(seq); return nil })
}
