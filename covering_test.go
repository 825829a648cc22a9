package sestina_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// A covering array of strength two: few combinations that between them hold
// every pair of values of any two factors. Most faults that options make
// together are made by two of them (Kuhn, Wallace and Gallo, "Software Fault
// Interactions and Implications for Software Testing", 2004), and the product of
// all values here has a billion members.
//
// It is built greedily: a combination starts with a pair that is still missing,
// then each factor, in random order, takes the value that completes the most
// missing pairs; of several such combinations the best is kept.

// factor is one option; the first value is its default.
type factor struct {
	name   string
	values []string
	set    func(s *trial, value string)
	prefer string // taken where no value gains more, because it is faster or more happens with it; "" = by chance
}

// combination is the index of a value of each factor.
type combination []int

// pair is two values of two factors; f < g.
type pair struct{ f, v, g, w int }

func makePair(f, v, g, w int) pair {
	if f > g {
		return pair{g, w, f, v}
	}
	return pair{f, v, g, w}
}

func (c combination) pairs(yield func(pair) bool) {
	for f := range c {
		for g := f + 1; g < len(c); g++ {
			if !yield(pair{f, c[f], g, c[g]}) {
				return
			}
		}
	}
}

// allPairs are the pairs of values, apart from those that cannot be.
func allPairs(factors []factor, impossible map[pair]bool) (all []pair) {
	for f := range factors {
		for g := f + 1; g < len(factors); g++ {
			for v := range factors[f].values {
				for w := range factors[g].values {
					if p := (pair{f, v, g, w}); !impossible[p] {
						all = append(all, p)
					}
				}
			}
		}
	}
	return all
}

// covering draws combinations until they hold all pairs.
func covering(factors []factor, impossible map[pair]bool, rng *rand.Rand) (rows []combination) {
	open := allPairs(factors, impossible)
	rng.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
	missing := map[pair]bool{}
	for _, p := range open {
		missing[p] = true
	}
	const candidates = 10
	for len(missing) > 0 {
		for !missing[open[0]] {
			open = open[1:]
		}
		var best combination
		most := 0
		for range candidates {
			c, n := draw(factors, impossible, missing, open[0], rng)
			if n > most {
				best, most = c, n
			}
		}
		for p := range best.pairs {
			delete(missing, p)
		}
		rows = append(rows, best)
	}
	return rows
}

// draw makes one combination around a pair and counts the missing pairs in it.
func draw(factors []factor, impossible, missing map[pair]bool, seed pair, rng *rand.Rand) (c combination, gained int) {
	c = make(combination, len(factors))
	for f := range c {
		c[f] = -1
	}
	c[seed.f], c[seed.g] = seed.v, seed.w
	gained = 1
	for _, f := range rng.Perm(len(factors)) {
		if c[f] >= 0 {
			continue
		}
		most := -1
		order := rng.Perm(len(factors[f].values))
		if v := slices.Index(factors[f].values, factors[f].prefer); v >= 0 {
			order = slices.Insert(order, 0, v)
		}
		for _, v := range order {
			n := 0
			for g, w := range c {
				switch {
				case w < 0:
				case impossible[makePair(f, v, g, w)]:
					n = -len(factors) * 2
				case missing[makePair(f, v, g, w)]:
					n++
				}
			}
			if n > most {
				c[f], most = v, n
			}
		}
		if c[f] < 0 {
			panic("no value of " + factors[f].name + " goes with the others: the constraints leave no way out")
		}
		gained += most
	}
	return c, gained
}

// named finds a value.
func named(factors []factor, name, value string) (f, v int) {
	for f := range factors {
		for v := range factors[f].values {
			if factors[f].name == name && factors[f].values[v] == value {
				return f, v
			}
		}
	}
	panic(fmt.Sprintf("no %s=%s", name, value))
}

// describe names what is not at its default.
func (c combination) describe(factors []factor) string {
	var parts []string
	for f, v := range c {
		if v > 0 {
			parts = append(parts, factors[f].name+"="+factors[f].values[v])
		}
	}
	return strings.Join(parts, " ")
}

// reduce sets one factor after the other to its default as long as the
// combination stays bad: what is left is what it takes.
func (c combination) reduce(impossible map[pair]bool, bad func(combination) bool) combination {
	for again := true; again; { // a value may only go once another, which needs it, has gone
		again = false
		for f := range c {
			less := append(combination(nil), c...)
			less[f] = 0
			possible := true
			for p := range less.pairs {
				possible = possible && !impossible[p]
			}
			if c[f] != 0 && possible && bad(less) {
				c, again = less, true
			}
		}
	}
	return c
}

// The array holds every possible pair and none of the others, and is far
// smaller than the product.
func TestCoveringArrayHoldsEveryPair(t *testing.T) {
	factors := []factor{{name: "a", values: []string{"1", "2", "3", "4", "5"}}, {name: "b", values: []string{"1", "2", "3", "4", "5"}}}
	for i := range 12 {
		factors = append(factors, factor{name: fmt.Sprint("c", i), values: []string{"1", "2", "3"}[:2+i%2]})
	}
	impossible := map[pair]bool{{0, 1, 1, 4}: true, {2, 1, 3, 2}: true, {1, 3, 13, 0}: true}
	for seed := range uint64(20) {
		rows := covering(factors, impossible, rand.New(rand.NewPCG(seed, 1)))
		held := map[pair]bool{}
		for _, c := range rows {
			for p := range c.pairs {
				held[p] = true
			}
		}
		all := allPairs(factors, impossible)
		for _, p := range all {
			if !held[p] {
				t.Fatalf("seed %d: %v is missing", seed, p)
			}
		}
		if len(held) != len(all) || len(rows) > 45 {
			t.Fatalf("seed %d: %d rows hold %d pairs, of %d that can be", seed, len(rows), len(held), len(all))
		}
	}
}
