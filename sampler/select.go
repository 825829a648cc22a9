package sampler

import (
	"cmp"
	"math"
	"math/bits"
	"slices"

	"sestina/internal/simd"
)

// Choosing the best few of a vocabulary without sorting it. Everything rests on
// one total order, larger key first and lower id among equals, so that the same
// row always gives the same tokens, and on one question: where does the
// smallest prefix end whose mass reaches a target? With masses of 1 that is
// top-k, with probabilities it is top-p. The answer is a [cut], and filtering
// by it keeps the ids ascending.

// item is a candidate while a cut is looked for.
type item struct {
	key  float32
	mass float32
	id   int32
}

// before is the order: larger key first, then lower id.
func before(a, b item) bool { return a.key > b.key || a.key == b.key && a.id < b.id }

func compareItems(a, b item) int {
	if a.key != b.key {
		return cmp.Compare(b.key, a.key)
	}
	return cmp.Compare(a.id, b.id)
}

// cut is the last element that a prefix of the order holds.
type cut struct {
	key float32
	id  int32
}

func (c cut) keeps(key float32, id int32) bool {
	return key > c.key || key == c.key && id <= c.id
}

// findCut returns the end of the smallest prefix whose mass is ≥ target, of at
// least one element, or of all of them when they do not reach it. It permutes
// items, which must not be empty. Quickselect: linear on average; when the
// budget of pivots runs out what is left is sorted, so n·log n at worst.
func findCut(items []item, target float64) cut {
	return findCutWithin(items, target, 2*bits.Len(uint(len(items))))
}

func findCutWithin(items []item, target float64, budget int) cut {
	lo, hi := 0, len(items)
	for ; hi-lo > 12 && budget > 0; budget-- {
		m := lo + partition(items[lo:hi])
		above := 0.0
		for i := lo; i < m; i++ {
			above += float64(items[i].mass)
		}
		pivot := items[m]
		switch {
		case above >= target && m > lo:
			hi = m
		case above+float64(pivot.mass) >= target:
			return cut{pivot.key, pivot.id}
		default:
			target -= above + float64(pivot.mass)
			lo = m + 1
		}
	}
	if lo == hi { // the target was missed by rounding alone: the prefix ends before lo
		return cut{items[lo-1].key, items[lo-1].id}
	}
	slices.SortFunc(items[lo:hi], compareItems)
	i := lo
	for ; i < hi-1; i++ {
		if target -= float64(items[i].mass); target <= 0 {
			break
		}
	}
	return cut{items[i].key, items[i].id}
}

// partition puts the median of three at its place in the order and returns it:
// items[:m] come before items[m], items[m+1:] after.
func partition(items []item) int {
	last := len(items) - 1
	mid := last / 2
	if before(items[mid], items[0]) {
		items[mid], items[0] = items[0], items[mid]
	}
	if before(items[last], items[0]) {
		items[last], items[0] = items[0], items[last]
	}
	if before(items[mid], items[last]) { // the median goes last
		items[mid], items[last] = items[last], items[mid]
	}
	pivot := items[last]
	m := 0
	for i := range last {
		if before(items[i], pivot) {
			items[i], items[m] = items[m], items[i]
			m++
		}
	}
	items[m], items[last] = items[last], items[m]
	return m
}

// prefix returns the cut of the elements with these keys, masses (nil: 1 each)
// and ids (nil: their indices), for a target mass. Many elements are first
// summed up in buckets of similar keys, and only the bucket where the target is
// reached is looked into.
func (sc *scratch) prefix(keys, masses []float32, ids []int32, target float64) cut {
	all, at := len(keys) <= numBuckets/4, 0
	if !all {
		at, target = sc.crossing(keys, masses, target)
	}
	items := sc.items[:0]
	for i, key := range keys {
		if all || bucket(key) == at {
			it := item{key, 1, int32(i)}
			if masses != nil {
				it.mass = masses[i]
			}
			if ids != nil {
				it.id = ids[i]
			}
			items = append(items, it)
		}
	}
	sc.items = items
	return findCut(items, target)
}

// numBuckets buckets hold the float32 numbers in order: by sign, exponent and
// the first three bits of the fraction.
const numBuckets = 1 << 12

func bucket(key float32) int {
	b := math.Float32bits(key + 0)    // -0 is +0
	b ^= uint32(int32(b)>>31) | 1<<31 // ascending with the key
	return int(b >> 20)
}

// crossing returns the bucket where the mass of the keys, largest first,
// reaches target, and how much of the target is left for it.
func (sc *scratch) crossing(keys, masses []float32, target float64) (int, float64) {
	sums := &sc.buckets
	clear(sums[:])
	for i, key := range keys {
		if masses == nil {
			sums[bucket(key)]++
		} else {
			sums[bucket(key)] += float64(masses[i])
		}
	}
	at, left := 0, target
	for b := numBuckets - 1; b >= 0; b-- {
		if sums[b] == 0 {
			continue
		}
		at, left = b, target // short of the target by rounding alone: the last bucket
		if target -= sums[b]; target <= 0 {
			break
		}
	}
	return at, left
}

// topK returns the ids of the k largest finite elements of x, ascending; fewer
// when there are fewer. The result is the scratch's.
func (sc *scratch) topK(x []float32, k int) []int32 {
	ids := sc.collect(x, max(sc.kthLargestAtLeast(x, k), -math.MaxFloat32))
	if len(ids) <= k {
		return ids
	}
	sc.keys = grow(sc.keys, len(ids))
	for i, id := range ids {
		sc.keys[i] = x[id]
	}
	c := sc.prefix(sc.keys, nil, ids, float64(k))
	n := 0
	for i, id := range ids {
		if c.keeps(sc.keys[i], id) {
			ids[n] = id
			n++
		}
	}
	return ids[:n]
}

// kthLargestAtLeast returns a lower bound of the k-th largest element, close to
// it when k is small beside len(x): the k-th largest of the maxima of disjoint
// blocks, as each of k blocks holds an element that large. One pass of SIMD
// maxima instead of a sort.
func (sc *scratch) kthLargestAtLeast(x []float32, k int) float32 {
	size := min(max(len(x)/(8*k)&^15, 16), 256)
	if len(x)/size < k {
		return float32(math.Inf(-1))
	}
	maxima := sc.keys[:0]
	for from := 0; from < len(x); from += size {
		maxima = append(maxima, simd.Max(x[from:min(from+size, len(x))]))
	}
	sc.keys = maxima
	return sc.prefix(maxima, nil, nil, float64(k)).key
}

// collect returns the indices of the elements ≥ threshold, ascending. The
// result is the scratch's.
func (sc *scratch) collect(x []float32, threshold float32) []int32 {
	n := simd.CollectGE(sc.ids, x, threshold)
	if n == len(sc.ids) { // full: there may be more
		sc.ids = make([]int32, simd.CountGE(x, threshold)+256)
		n = simd.CollectGE(sc.ids, x, threshold)
	}
	return sc.ids[:n]
}
