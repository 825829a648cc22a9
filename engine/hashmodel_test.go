package engine

import (
	"encoding/binary"
	"slices"
	"time"

	"sestina/backend"
	"sestina/batch"
	"sestina/model"
	"sestina/runner"
	"sestina/tensor"
)

// hashModel is a model without arithmetic: the slot of a position holds a hash
// of its token and of all slots before it as the block table finds them, and the
// logits are a hash of all slots. One stale, foreign or misplaced slot changes
// every later token, and a step costs microseconds. With windows it has so many
// layers, each of which sees as far as its window goes.
type hashModel struct {
	windows []int // of the layers, 0 = it sees everything; nil: one layer that does
	out     backend.Rows
	delay   func(rows int) time.Duration // how long a step takes; nil = as long as it takes
	spent   time.Duration                // inside Forward
}

func (m *hashModel) Info() model.Info {
	layers := slices.Repeat([]backend.CacheLayer{{KVHeads: 1, HeadDim: 8}}, len(m.windows))
	return model.Info{Arch: "hash", Vocab: vocab, MaxContext: 4096, Windows: m.windows, CacheLayers: layers}
}

type hashCache struct {
	spec  backend.CacheSpec
	parts int // slots of a block; one after the other in slots
	slots []uint64
	layer []uint64 // of an MTP layer, see hashMTP
}

func (c *hashCache) Spec() backend.CacheSpec { return c.spec }
func (c *hashCache) Bytes() uint64           { return uint64(8 * len(c.slots)) }
func (c *hashCache) Close() error            { return nil }

// hashBackend has what a runner needs of a backend: memory and block copies.
type hashBackend struct{ backend.Backend }

func (hashBackend) NewCache(spec backend.CacheSpec) (backend.Cache, error) {
	parts := max(1, len(spec.Slots()))
	c := &hashCache{spec: spec, parts: parts, slots: make([]uint64, parts*spec.Blocks*spec.BlockSize), layer: make([]uint64, spec.Blocks*spec.BlockSize)}
	for i := range c.slots {
		c.slots[i] = 0xdeadbeef
	}
	return c, nil
}

func (hashBackend) CopyBlocks(kv backend.Cache, copies []batch.BlockCopy) {
	c := kv.(*hashCache)
	size := c.spec.BlockSize
	for _, cp := range copies {
		for part := range c.parts {
			first := part * c.spec.Blocks
			copy(c.slots[(first+int(cp.Dst))*size:][:size], c.slots[(first+int(cp.Src))*size:][:size])
		}
		copy(c.layer[int(cp.Dst)*size:][:size], c.layer[int(cp.Src)*size:][:size])
	}
}

// mix is the finaliser of splitmix64.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

func (m *hashModel) Forward(in *batch.Input, kv backend.Cache) model.Output {
	defer func(start time.Time) { m.spent += time.Since(start) }(time.Now())
	if m.delay != nil {
		time.Sleep(m.delay(in.Rows()))
	}
	c := kv.(*hashCache)
	states := make([]uint64, in.Rows())
	for _, sp := range in.Spans {
		m.span(c, in, sp, states)
	}
	m.out = backend.Rows{N: len(in.LogitRows), Width: vocab, Host: make([]float32, len(in.LogitRows)*vocab)}
	for i, row := range in.LogitRows {
		for t, logits := 0, m.out.Row(i); t < vocab; t++ {
			logits[t] = float32(mix(states[row]+uint64(t))>>40) / (1 << 22) // [0, 4)
		}
	}
	return model.Output{Logits: m.out}
}

// span computes the rows of one sequence: in each layer a fold of what it sees.
func (m *hashModel) span(c *hashCache, in *batch.Input, sp batch.Span, states []uint64) {
	windows := m.windows
	if windows == nil {
		windows = []int{0}
	}
	at := func(layer, p int) *uint64 {
		group, part := c.spec.Place(layer)
		return &c.slots[(part*c.spec.Blocks+int(sp.BlockTables[group][p/in.BlockSize]))*in.BlockSize+p%in.BlockSize]
	}
	folds := make([]uint64, len(windows))
	all := func() uint64 {
		state := folds[0]
		for _, f := range folds[1:] {
			state = mix(state*5 ^ f)
		}
		return state
	}
	for i := range sp.Len {
		p := sp.Start + i
		for l, w := range windows {
			if w == 0 && i > 0 {
				continue
			}
			folds[l] = 1
			first := 0
			if w > 0 {
				first = max(0, p-w+1)
			}
			for q := first; q < p; q++ {
				folds[l] = mix(folds[l]*3 ^ *at(l, q))
			}
		}
		state := all()
		for l := range windows {
			*at(l, p) = mix(state ^ uint64(in.TokenIDs[sp.Row+i])<<20 ^ uint64(p) ^ uint64(l)<<60)
			folds[l] = mix(folds[l]*3 ^ *at(l, p))
		}
		states[sp.Row+i] = all()
	}
}

func (s setup) newHashRunner() (*runner.ModelRunner, error) {
	return runner.New(&hashModel{windows: s.windows, delay: s.delay}, hashBackend{},
		runner.Config{Blocks: s.blocks, BlockSize: s.blockSize, KVDType: tensor.F32, OneGroup: s.opt.Techniques.KVLayout == "contiguous"})
}

func (c *hashCache) Layout() string  { return "hash 1" }
func (c *hashCache) BlockBytes() int { return 8 * (c.parts + 1) * c.spec.BlockSize }

// each calls do with every value of a block, in the order of its bytes.
func (c *hashCache) each(block int32, do func(v *uint64)) {
	size := c.spec.BlockSize
	for part := range c.parts {
		for i := range size {
			do(&c.slots[(part*c.spec.Blocks+int(block))*size+i])
		}
	}
	for i := range size {
		do(&c.layer[int(block)*size+i])
	}
}

func (c *hashCache) ReadBlock(dst []byte, block int32) {
	c.each(block, func(v *uint64) {
		binary.LittleEndian.PutUint64(dst, *v)
		dst = dst[8:]
	})
}

func (c *hashCache) WriteBlock(block int32, src []byte) {
	c.each(block, func(v *uint64) {
		*v = binary.LittleEndian.Uint64(src)
		src = src[8:]
	})
}
