package runner

import (
	"slices"

	"sestina/backend"
	"sestina/model"
	"sestina/tensor"
)

// Block groups. Layers with a sliding window need few blocks, layers without need
// all; so that the blocks of the one kind can go while those of the other stay, the
// layers of a hybrid model are dealt into groups of one window each (package kvcache
// says what a group's blocks do). All groups draw blocks of one size from one pool:
//
//	            slot 0   slot 1        a block holds one group's layers, one in each slot;
//	full        layer 3  layer 7       layers of a column share memory, as no block is
//	window      layer 0  layer 1       two groups', and so are of one shape and format
//	window      layer 2  layer 4
//	window      layer 5  layer 6
//
// How many groups? With few, the larger kind fills its blocks and the smaller one
// leaves slots empty; with many, every sequence has as many tables to keep. Of at most
// maxGroups groups those numbers are taken with which one sequence of the whole context
// needs the fewest bytes at its worst moment, when a window holds a step's chunk too; of
// equals the fewest bytes between steps, then the fewest groups. One group of all
// layers is among the choices, so that groups never take room from anybody: it is what
// remains where a window is as long as the context, or where formats by layer leave
// nothing to pair.
//
// A model of one kind has one group. Test: TestDealtLayers.
const maxGroups = 8

// kind is the layers of one window.
type kind struct {
	window int
	layers []int
}

// look is what layers of one slot have in common.
type look struct {
	backend.CacheLayer
	dtype tensor.DType
}

// deal is what the dealing has to know.
type deal struct {
	spec      backend.CacheSpec
	blockSize int
	context   int // in whole blocks
	chunk     int
	kinds     []kind
	looks     []look // in order of appearance
	count     []int  // groups of each kind, being tried

	best     []int // nil: one group of all
	bestCost cost
}

// cost is what a whole context takes, in the order in which it counts.
type cost struct {
	most   uint64 // bytes at the worst moment
	steady uint64 // bytes between steps
	groups int
}

func (c cost) less(o cost) bool {
	if c.most != o.most {
		return c.most < o.most
	}
	if c.steady != o.steady {
		return c.steady < o.steady
	}
	return c.groups < o.groups
}

// add counts n groups of a window, with blocks of so many bytes a token. At most two
// blocks more than a window and a chunk fill are held.
func (d *deal) add(c *cost, n, window int, block uint64) {
	most, steady := d.context, d.context
	if window > 0 {
		steady = min(window, d.context)
		if d.chunk > 0 {
			most = min(max(window, d.blockSize)+d.chunk+2*d.blockSize, d.context)
		}
	}
	c.most += uint64(n) * block * uint64(most)
	c.steady += uint64(n) * block * uint64(steady)
	c.groups += n
}

// Windows are the sliding windows of the block groups of the pool that New would
// allocate; 0 for a group that sees everything.
func Windows(info model.Info, cfg Config) []int {
	_, windows := groups(info, cfg)
	return windows
}

// groups deals the layers; nil for one group of all.
func groups(info model.Info, cfg Config) (layers [][]int, windows []int) {
	d := newDeal(info, cfg)
	if len(d.kinds) > 1 && !cfg.OneGroup {
		d.bestCost = d.together()
		d.try(0, 0)
	}
	if d.best == nil {
		return nil, []int{d.widest()}
	}
	perSlot := d.slots(d.best)
	for k, n := range d.best {
		for range n {
			windows = append(windows, d.kinds[k].window)
		}
		layers = append(layers, d.split(d.kinds[k], n, perSlot)...)
	}
	return layers, windows
}

func newDeal(info model.Info, cfg Config) *deal {
	d := &deal{spec: backend.CacheSpec{Layers: info.CacheLayers, BlockSize: 1, DType: cfg.KVDType, DTypes: cfg.KVDTypes}, blockSize: max(1, cfg.BlockSize), context: cfg.Context, chunk: cfg.Chunk}
	for i := range info.CacheLayers {
		w := 0
		if info.Windows != nil {
			w = info.Windows[i]
		}
		at := slices.IndexFunc(d.kinds, func(k kind) bool { return k.window == w })
		if at < 0 {
			at = len(d.kinds)
			d.kinds = append(d.kinds, kind{window: w})
		}
		d.kinds[at].layers = append(d.kinds[at].layers, i)
		if l := d.look(i); !slices.Contains(d.looks, l) {
			d.looks = append(d.looks, l)
		}
	}
	if d.context == 0 {
		d.context = info.MaxContext
	}
	d.context = (d.context + d.blockSize - 1) / d.blockSize * d.blockSize
	slices.SortFunc(d.kinds, func(a, b kind) int { return a.window - b.window })
	d.count = make([]int, len(d.kinds))
	return d
}

// together is the cost of one group of all layers.
func (d *deal) together() (c cost) {
	d.add(&c, 1, d.widest(), d.spec.TokenBytes())
	return c
}

func (d *deal) look(layer int) look { return look{d.spec.Layers[layer], d.spec.LayerDType(layer)} }

// widest is the window of a group of all layers.
func (d *deal) widest() int {
	if len(d.kinds) == 0 || d.kinds[0].window == 0 {
		return 0
	}
	return d.kinds[len(d.kinds)-1].window
}

// try takes every number of groups for kinds k and up, so many groups being used.
func (d *deal) try(k, used int) {
	if k == len(d.kinds) {
		d.weigh()
		return
	}
	for n := 1; n <= len(d.kinds[k].layers) && used+n <= maxGroups; n++ {
		d.count[k] = n
		d.try(k+1, used+n)
	}
}

// weigh keeps the counts if they are the best so far.
func (d *deal) weigh() {
	var block uint64
	for i, n := range d.slots(d.count) {
		one := backend.CacheSpec{Layers: []backend.CacheLayer{d.looks[i].CacheLayer}, DType: d.looks[i].dtype}
		block += uint64(n) * one.TokenBytes()
	}
	var c cost
	for k, n := range d.count {
		d.add(&c, n, d.kinds[k].window, block)
	}
	if c.less(d.bestCost) {
		d.best, d.bestCost = slices.Clone(d.count), c
	}
}

// slots is how many slots of each look a block has when kinds have so many groups.
func (d *deal) slots(count []int) []int {
	slots := make([]int, len(d.looks))
	for k, n := range count {
		for i, all := range d.sorted(d.kinds[k]) {
			slots[i] = max(slots[i], (len(all)+n-1)/n)
		}
	}
	return slots
}

// sorted is a kind's layers by look.
func (d *deal) sorted(k kind) [][]int {
	by := make([][]int, len(d.looks))
	for _, layer := range k.layers {
		i := slices.Index(d.looks, d.look(layer))
		by[i] = append(by[i], layer)
	}
	return by
}

// split puts a kind's layers into n groups of so many slots of each look; −1 is an empty slot.
func (d *deal) split(k kind, n int, slots []int) [][]int {
	groups := make([][]int, n)
	for i, all := range d.sorted(k) {
		for g := range groups {
			for range slots[i] {
				layer := -1
				if len(all) > 0 {
					layer, all = all[0], all[1:]
				}
				groups[g] = append(groups[g], layer)
			}
		}
	}
	return groups
}
