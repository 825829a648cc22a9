package sampler

import (
	"math"
	"slices"
	"sync"

	"sestina/internal/simd"
)

// blockSize is how many dense weights share one partial sum: a draw adds up
// vocab/blockSize sums and then walks one block, not the vocabulary.
const blockSize = 512

// weights is a distribution on its way: not normalised, over the whole
// vocabulary (dense) or over a list of ids (sparse). Ids ascend in both, and a
// draw walks them in that order.
type weights struct {
	w     []float32 // [vocab] or [len(ids)]
	ids   []int32   // nil = dense
	total float64   // Σ w
}

// scratch is the working memory of one row. Rows of a step are sampled by
// several workers, so it belongs to none of the sequences.
type scratch struct {
	ids    []int32   // result of collect
	w      []float32 // sparse weights
	items  []item    // what findCut permutes
	keys   []float32 // what candidates are ordered by, where it is not the weight
	blocks []float64 // partial sums of dense weights
	row    []float32 // a copy of the logits, when logprobs are wanted
	z      []int32   // DRY: Z function
	best   []int32   // DRY: [vocab] longest match a token would continue, all 0 between uses
	hit    []int32   // DRY: ids where best is not 0

	buckets [numBuckets]float64 // mass of similar keys
}

var scratches = sync.Pool{New: func() any { return newScratch() }}

func newScratch() *scratch { return &scratch{ids: make([]int32, 1024)} }

// grow returns x with length n, reallocated only when it is too small. The
// content is undefined.
func grow[T any](x []T, n int) []T {
	if cap(x) < n {
		return make([]T, n)
	}
	return x[:n]
}

// softmax turns logits into weights e^((x−max)/temperature), in place, with
// their partial sums.
func (sc *scratch) softmax(logits []float32, max, scale float32) weights {
	sc.blocks = sc.blocks[:0]
	total := 0.0
	for from := 0; from < len(logits); from += blockSize {
		x := block(logits, from)
		sum := simd.SoftmaxWeights(x, x, max, scale)
		sc.blocks = append(sc.blocks, sum)
		total += sum
	}
	return weights{w: logits, total: total}
}

// softmaxOf is softmax over a few ids; the weights go to the scratch, those
// that are 0 go away.
func (sc *scratch) softmaxOf(ids []int32, logits []float32, max, scale float32) weights {
	sc.w = grow(sc.w, len(ids))
	for i, id := range ids {
		sc.w[i] = logits[id]
	}
	total := simd.SoftmaxWeights(sc.w, sc.w, max, scale)
	d := weights{w: sc.w, ids: ids, total: total}
	return d.filter(smallest, d.w)
}

// point is the distribution of a token that is certain.
func (sc *scratch) point(id int32) weights {
	sc.ids[0] = id
	sc.w = grow(sc.w, 1)
	sc.w[0] = 1
	return weights{w: sc.w, ids: sc.ids[:1], total: 1}
}

// smallest keeps every weight that is not 0.
var smallest = cut{math.SmallestNonzeroFloat32, math.MaxInt32}

// atLeast makes dense weights sparse: those ≥ threshold, and never a zero.
func (sc *scratch) atLeast(d weights, threshold float32) weights {
	ids := sc.collect(d.w, max(threshold, smallest.key))
	sc.w = grow(sc.w, len(ids))
	total := 0.0
	for i, id := range ids {
		sc.w[i] = d.w[id]
		total += float64(d.w[id])
	}
	return weights{w: sc.w, ids: ids, total: total}
}

// filter keeps the sparse weights whose key the cut keeps, in their order and in place;
// keys may be the weights.
func (d weights) filter(c cut, keys []float32) weights {
	n, total := 0, 0.0
	for i, id := range d.ids {
		if c.keeps(keys[i], id) {
			d.ids[n], d.w[n] = id, d.w[i]
			total += float64(d.w[i])
			n++
		}
	}
	return weights{w: d.w[:n], ids: d.ids[:n], total: total}
}

// draw returns the token at u ∈ [0, 1) of the cumulative distribution. Never
// one whose weight is 0.
func (sc *scratch) draw(d weights, u float64) int32 {
	target := u * d.total
	if d.ids != nil {
		return d.ids[walk(d.w, target)]
	}
	from, rest := 0, target // past the last block by rounding alone: the last one is walked to its end
	for i, sum := range sc.blocks {
		if sum <= 0 {
			continue
		}
		from, rest = i*blockSize, target
		if target < sum {
			break
		}
		target -= sum
	}
	return int32(from + walk(block(d.w, from), rest))
}

// block is the block of dense weights that starts at from.
func block(w []float32, from int) []float32 { return w[from:min(from+blockSize, len(w))] }

// walk returns the first index where the running sum of w passes target, or
// the last positive one.
func walk(w []float32, target float64) int {
	last, sum := 0, 0.0
	for i, v := range w {
		if v > 0 {
			last = i
			if sum += float64(v); sum > target {
				break
			}
		}
	}
	return last
}

// Dist is a probability distribution over the ids that have any: what a token
// is drawn from after every processor. Greedy gives one id with probability 1.
type Dist struct {
	IDs   []int32   // ascending
	Probs []float32 // their probabilities; they sum to 1
}

// Prob returns the probability of an id, 0 when it has none.
func (d *Dist) Prob(id int32) float32 {
	if i, ok := slices.BinarySearch(d.IDs, id); ok {
		return d.Probs[i]
	}
	return 0
}

// Draw returns the id at u ∈ [0, 1) of the cumulative distribution.
func (d *Dist) Draw(u float64) int32 { return d.IDs[walk(d.Probs, u)] }

// set fills the distribution from weights, reusing its memory.
func (d *Dist) set(from weights) {
	d.IDs, d.Probs = d.IDs[:0], d.Probs[:0]
	for i, w := range from.w {
		if w <= 0 {
			continue
		}
		id := int32(i)
		if from.ids != nil {
			id = from.ids[i]
		}
		d.IDs = append(d.IDs, id)
		d.Probs = append(d.Probs, float32(float64(w)/from.total))
	}
}
