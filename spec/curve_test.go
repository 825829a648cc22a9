package spec

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestKnots(t *testing.T) {
	last := -1
	for rows := 1; rows < 5000; rows++ {
		i, axis := knotOf(rows)
		if i < last || math.Abs(axis-float64(i)) > 0.5 {
			t.Fatalf("%d rows: knot %d, axis %v", rows, i, axis)
		}
		last = i
	}
	for i := range numKnots - 24 {
		if j, axis := knotOf(rowsOf(i)); j != i || axis != float64(i) {
			t.Fatalf("knot %d stands for %d rows, whose knot is %d (%v)", i, rowsOf(i), j, axis)
		}
	}
}

// From any prior the curve comes to the truth where it is measured, through a
// noisy clock with outliers, and follows a machine that slows down.
func TestCurveLearns(t *testing.T) {
	truth := func(rows int) float64 { return 1e7 * max(1+0.02*float64(rows), float64(rows)/12) }
	for name, prior := range map[string]func(int) time.Duration{
		"none":  nil,
		"steep": func(rows int) time.Duration { return time.Duration(rows) * time.Second },
		"flat":  func(int) time.Duration { return time.Microsecond },
	} {
		r := rand.New(rand.NewPCG(3, 3))
		c := NewCurve(prior)
		slow := 1.
		learn := func(n int) {
			for range n {
				rows := 1 + r.IntN(40)
				took := slow * truth(rows) * (0.9 + 0.2*r.Float64())
				if r.IntN(50) == 0 {
					took *= 10
				}
				c.Observe(rows, time.Duration(took))
			}
		}
		check := func(when string) {
			for rows := 1; rows <= 40; rows++ {
				if ratio := float64(c.At(rows)) / (slow * truth(rows)); ratio < 0.85 || ratio > 1.15 {
					t.Errorf("prior %s, %s: %d rows are expected to take %.2f of the truth", name, when, rows, ratio)
				}
			}
		}
		learn(3000)
		check("learnt")
		slow = 3
		learn(1000)
		check("after the machine slowed down")

		again := NewCurve(prior)
		again.Restore(append(c.Points(), Point{-1, 5}, Point{5, -1}, Point{math.MaxInt, 1}))
		for rows := 1; rows <= 40; rows++ {
			if a, b := float64(c.At(rows)), float64(again.At(rows)); math.Abs(a/b-1) > 0.02 {
				t.Errorf("prior %s: %d rows take %.3g, restored %.3g", name, rows, a, b)
			}
		}
	}
}

// A page fault in the first step of eight rows must not end drafts of seven for
// good; steps that are really dear are believed once they have been so twice.
func TestOneSlowStepIsNotBelieved(t *testing.T) {
	ratio := func(eight ...time.Duration) float64 {
		c := NewCurve(nil)
		for range 10 {
			c.Observe(1, 10*time.Millisecond)
		}
		for _, took := range eight {
			c.Observe(8, took)
		}
		return float64(c.At(8)) / float64(c.At(1))
	}
	dear, cheap := 80*time.Millisecond, 13*time.Millisecond
	believed := ratio()
	if got := ratio(dear); got > 1.2*believed {
		t.Errorf("after one slow step eight rows cost %.2f steps, before it %.2f", got, believed)
	}
	if got := ratio(dear, cheap); math.Abs(got-1.3) > 0.01 {
		t.Errorf("slow, then 1.3 times a plain step: %.2f", got)
	}
	if got := ratio(dear, dear); math.Abs(got-8) > 0.01 {
		t.Errorf("8 times a plain step, twice: %.2f", got)
	}
}

// Nothing that is observed makes a curve say nonsense.
func FuzzCurve(f *testing.F) {
	f.Add(int64(1), int64(1), int64(1000), int64(7))
	f.Add(int64(1<<40), int64(-5), int64(math.MaxInt64), int64(0))
	f.Fuzz(func(t *testing.T, r1, t1, t2, r2 int64) {
		c := NewCurve(nil)
		for range 20 {
			c.Observe(int(r1), time.Duration(t1))
			c.Observe(int(r2), time.Duration(t2))
		}
		for rows := 1; rows < 1<<22; rows *= 3 {
			if v := c.at(rows); !(v > 0) || math.IsInf(v, 0) {
				t.Fatalf("c(%d) = %v", rows, v)
			}
		}
	})
}
