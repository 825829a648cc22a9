// Package backendtest is what every backend must pass: each operation, on every
// shape where a kernel could go wrong, gives the bits of backend/ref.
//
// Three properties are checked by the same comparisons, since the oracle works
// on one row and one head at a time:
//
//	conformance  the bits are those of the numerics contract
//	invariance   a row's bits depend neither on how many rows there are, nor on
//	             which neighbours (NaN rows among them), nor on how a sequence is
//	             cut into chunks, nor on the block size, nor on the thread count
//	containment  slots nobody wrote are full of NaN and must never show; memory
//	             round every output and every input must stay as it was
//
// broken.go holds backends that are wrong on purpose; the package's own test
// shows that the comparisons notice each of them.
package backendtest

import (
	"fmt"
	"math"
	"testing"

	"sestina/backend"
	"sestina/backend/ref"
)

// A check is one case on one backend; it returns the number of values compared.
type check struct {
	group, name string
	act         backend.ActivationDType
	run         func(b backend.Backend) (compared int, err error)
}

// Run holds a backend to the oracle. make is called with Threads and
// Activations set; activations and parameters must be in host memory.
func Run(t *testing.T, make func(opt backend.Options) backend.Backend) {
	run := func(name string, threads int, checks []check) {
		t.Run(name, func(t *testing.T) { runChecks(t, make, threads, checks) })
	}
	all := checks()
	run("threads=2", 2, all)
	for _, threads := range []int{1, 3, 5} {
		run(fmt.Sprintf("threads=%d", threads), threads, everyNth(all, 7))
	}
	t.Run("refusals", func(t *testing.T) { refusals(t, make(backend.Options{Threads: 1})) })
}

// checks is the whole table.
func checks() []check {
	out := append(embedChecks(), normChecks()...)
	out = append(out, linearChecks()...)
	out = append(out, attendChecks()...)
	return append(out, copyChecks()...)
}

// everyNth thins a table out where only one more property is in question.
func everyNth(all []check, n int) []check {
	var out []check
	for i := 0; i < len(all); i += n {
		out = append(out, all[i])
	}
	return out
}

// runChecks runs a table, group by group, each with a backend of its arithmetic.
func runChecks(t *testing.T, make func(opt backend.Options) backend.Backend, threads int, all []check) {
	open := map[backend.ActivationDType]backend.Backend{}
	for _, act := range []backend.ActivationDType{backend.ActivationsAuto, backend.ActivationsF32} {
		b := make(backend.Options{Threads: threads, Activations: act})
		defer b.Close()
		open[act] = b
	}
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].group == all[0].group {
			n++
		}
		t.Run(all[0].group, func(t *testing.T) {
			total := 0
			for _, c := range all[:n] {
				compared, err := c.run(open[c.act])
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				total += compared
			}
			t.Logf("%d cases, %d values bitwise equal", n, total)
		})
		all = all[n:]
	}
}

// firstFailure runs the table until something is noticed; "" if nothing is.
func firstFailure(make func(opt backend.Options) backend.Backend, all []check) string {
	for _, c := range all {
		if _, err := c.run(make(backend.Options{Threads: 1, Activations: c.act})); err != nil {
			return fmt.Sprintf("%s: %s: %v", c.group, c.name, err)
		}
	}
	return ""
}

func oracle(act backend.ActivationDType) backend.Backend {
	return ref.New(backend.Options{Activations: act})
}

// guarded are rows in the middle of a larger allocation whose margins hold a
// pattern that must survive.
type guarded struct {
	backend.Rows
	all []float32
}

// guardRows is the margin before and after, in rows.
const guardRows = 2

// guardWord is a NaN with a payload, so that arithmetic on it shows as well.
var guardWord = math.Float32frombits(0x7fc0dead)

// newRows allocates n × width values, all holding the guard word.
func newRows(b backend.Backend, n, width int) guarded {
	r, err := b.NewRows(n+2*guardRows, width)
	if err != nil {
		panic(err)
	}
	if r.Host == nil {
		panic("backendtest: activations are not in host memory")
	}
	for i := range r.Host {
		r.Host[i] = guardWord
	}
	at := guardRows * width
	return guarded{backend.Rows{N: n, Width: width, Host: r.Host[at : at+n*width]}, r.Host}
}

// check reports a write outside the rows.
func (g *guarded) check(what string) error {
	inner := guardRows * g.Width
	for i, v := range g.all {
		if (i < inner || i >= inner+g.N*g.Width) && math.Float32bits(v) != math.Float32bits(guardWord) {
			return fmt.Errorf("%s: %v written %d values from its start (it holds %d)", what, v, i-inner, g.N*g.Width)
		}
	}
	return nil
}

// equalBits compares a row; NaNs are equal to each other.
func equalBits(got, want []float32) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d values, want %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		if math.Float32bits(g) != math.Float32bits(w) && (g == g || w == w) {
			return fmt.Errorf("value %d is %v (%#08x), want %v (%#08x)", i, g, math.Float32bits(g), w, math.Float32bits(w))
		}
	}
	return nil
}
