package spec

import (
	"math"
	"testing"
)

// What a set of rows is worth: all of it when all get ahead alike, the rows' part
// when one does, all again where places are taken.
func TestWorth(t *testing.T) {
	near := func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }
	var w worth
	own := w.own(4, 10, 14) // reading the weights takes 26/3, a row 4/3
	if !near(own, 4*(4./3)/14) {
		t.Fatalf("own = %v", own)
	}
	if w.own(1, 10, 10) != 1 || w.own(4, 10, 9) != 0 {
		t.Errorf("alone %v, where four rows are faster than one %v", w.own(1, 10, 10), w.own(4, 10, 9))
	}
	d := NewDepth(NewCurve(nil), guess)
	g := d.gains(4)
	for i := range int32(3) {
		g.add(row{gain: 0.5, who: i})
	}
	if !near(g.worth(own), own*1.5) {
		t.Errorf("three of four: %v", g.worth(own))
	}
	g.add(row{gain: 0.5, who: 3})
	if !near(g.worth(own), 2) {
		t.Errorf("all alike: %v", g.worth(own))
	}
	g.add(row{gain: 0.25, who: 2})
	if !near(g.worth(own), 2+0.25*own) {
		t.Errorf("one further: %v", g.worth(own))
	}
	if g = d.gains(4); g.worth(own) != 0 {
		t.Error("the next plan knows of the last one's rows")
	}

	for range 100 { // waves: all begin and end together
		for others := 3; others >= 0; others-- {
			w.leaves(others)
		}
		for range 4 {
			w.joins()
		}
	}
	if w.own(4, 10, 14) != own {
		t.Errorf("after waves %v", w.own(4, 10, 14))
	}
	for range 100 { // each place is taken
		w.leaves(3)
		w.joins()
	}
	if v := w.own(4, 10, 14); v < 0.9 || v > 1 {
		t.Errorf("places are taken, a token is worth %v", v)
	}
	for range 100 {
		w.leaves(3)
	}
	if v := w.own(4, 10, 14); v > own+0.05 {
		t.Errorf("places are taken no more, a token is worth %v", v)
	}
}

// Proposers that say nothing of their classes, or break over it, get the usual guess.
func TestGrades(t *testing.T) {
	p := &fake{}
	for name, c := range map[string]struct {
		p    Proposer
		want float64
	}{"silent": {p, 0.6}, "graded": {graded{p, 0.2}, 0.2}, "broken": {graded{p, -1}, 0.6}, "nonsense": {graded{p, math.NaN()}, 0.6}} {
		if got := guard(c.p, 10).grades(); got[1] != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

type graded struct {
	Proposer
	first float64
}

func (g graded) Grades() [Classes]float64 {
	if g.first < 0 {
		panic("no idea")
	}
	return [Classes]float64{0, g.first, 0, 0}
}
