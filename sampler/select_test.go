package sampler

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// sortedPrefix is the definition of prefix: sort all, add up.
func sortedPrefix(keys, masses []float32, target float64) []int32 {
	ids := make([]int32, len(keys))
	for i := range ids {
		ids[i] = int32(i)
	}
	slices.SortFunc(ids, func(a, b int32) int {
		return cmp.Or(cmp.Compare(keys[b], keys[a]), cmp.Compare(a, b))
	})
	sum := 0.0
	for i, id := range ids {
		if sum += float64(masses[id]); sum >= target {
			ids = ids[:i+1]
			break
		}
	}
	slices.Sort(ids)
	return ids
}

// rows of every nasty kind: ties, constants, sorted, reversed, ±0, -Inf.
func nastyRows(r *rand.Rand, n int) map[string][]float32 {
	rows := map[string][]float32{}
	add := func(name string, f func(i int) float32) {
		x := make([]float32, n)
		for i := range x {
			x[i] = f(i)
		}
		rows[name] = x
	}
	add("normal", func(int) float32 { return float32(r.NormFloat64()) })
	add("ties", func(int) float32 { return float32(r.IntN(5)) - 2 })
	add("constant", func(int) float32 { return 3 })
	add("ascending", func(i int) float32 { return float32(i) })
	add("descending", func(i int) float32 { return -float32(i) })
	add("organ pipe", func(i int) float32 { return float32(min(i, n-i)) })
	add("zeros of both signs", func(int) float32 { return float32(math.Copysign(0, r.Float64()-0.5)) })
	add("huge", func(int) float32 { return float32(r.NormFloat64() * 1e37) })
	return rows
}

func TestPrefixEqualsSorting(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 12, 13, 100, 1024, 1025, 6000} {
		for name, keys := range nastyRows(r, n) {
			// Masses are multiples of 1/8 so that sums are exact in any order.
			masses, total := make([]float32, n), 0.0
			for i := range masses {
				masses[i] = float32(1+r.IntN(16)) / 8
				total += float64(masses[i])
			}
			for _, target := range []float64{0, 1, total / 3, total / 2, total - 1, total, total + 1} {
				sc := newScratch()
				c := sc.prefix(keys, masses, nil, target)
				var got []int32
				for i, k := range keys {
					if c.keeps(k, int32(i)) {
						got = append(got, int32(i))
					}
				}
				if want := sortedPrefix(keys, masses, target); !slices.Equal(got, want) {
					t.Errorf("%s of %d, target %g of %g: %d kept, want %d", name, n, target, total, len(got), len(want))
				}
			}
		}
	}
}

func TestTopKEqualsSorting(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{1, 5, 100, 3000, 20000} {
		ones := make([]float32, n)
		fill(ones, 1)
		for name, x := range nastyRows(r, n) {
			for _, k := range []int{1, 2, 20, n / 50, n / 3, n} {
				if k < 1 || k > n {
					continue
				}
				if got, want := newScratch().topK(x, k), sortedPrefix(x, ones, float64(k)); !slices.Equal(got, want) {
					t.Errorf("%s of %d, k = %d: %d ids, want %d", name, n, k, len(got), len(want))
				}
			}
		}
	}
}

// What is masked is never among the top, however few remain.
func TestTopKSkipsMasked(t *testing.T) {
	x := make([]float32, 5000)
	fill(x, float32(math.Inf(-1)))
	x[17], x[4000] = -1e30, 5
	if got := newScratch().topK(x, 10); !slices.Equal(got, []int32{17, 4000}) {
		t.Errorf("topK = %v", got)
	}
}

// The answer does not depend on when the budget of pivots runs out.
func TestFindCutWithoutBudget(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for name, keys := range nastyRows(r, 700) {
		for _, target := range []float64{1, 10, 350, 700, 1000} {
			var want cut
			for budget := range 12 {
				items := make([]item, len(keys))
				for i, k := range keys {
					items[i] = item{k, 1, int32(i)}
				}
				c := findCutWithin(items, target, budget)
				if budget == 0 {
					want = c
				} else if c != want {
					t.Errorf("%s, target %g: budget %d gives %v, none %v", name, target, budget, c, want)
				}
			}
		}
	}
}
