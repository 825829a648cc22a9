package engine

import (
	"encoding/binary"
	"time"

	"sestina/backend"
	"sestina/batch"
	"sestina/model"
	"sestina/runner"
)

// hashModel is a model without arithmetic: the slot of a position holds a hash
// of its token and of all slots before it as the block table finds them, and the
// logits are a hash of all slots. One stale, foreign or misplaced slot changes
// every later token, and a step costs microseconds.
type hashModel struct {
	out   backend.Rows
	delay func(rows int) time.Duration // how long a step takes; nil = as long as it takes
	spent time.Duration                // inside Forward
}

func (m *hashModel) Info() model.Info {
	return model.Info{Arch: "hash", Vocab: vocab, MaxContext: 4096}
}

type hashCache struct {
	spec  backend.CacheSpec
	slots []uint64
	layer []uint64 // of an MTP layer, see hashMTP
}

func (c *hashCache) Spec() backend.CacheSpec { return c.spec }
func (c *hashCache) Bytes() uint64           { return uint64(8 * len(c.slots)) }
func (c *hashCache) Close() error            { return nil }

// hashBackend has what a runner needs of a backend: memory and block copies.
type hashBackend struct{ backend.Backend }

func (hashBackend) NewCache(spec backend.CacheSpec) (backend.Cache, error) {
	c := &hashCache{spec: spec, slots: make([]uint64, spec.Blocks*spec.BlockSize), layer: make([]uint64, spec.Blocks*spec.BlockSize)}
	for i := range c.slots {
		c.slots[i] = 0xdeadbeef
	}
	return c, nil
}

func (hashBackend) CopyBlocks(kv backend.Cache, copies []batch.BlockCopy) {
	c := kv.(*hashCache)
	size := c.spec.BlockSize
	for _, cp := range copies {
		copy(c.slots[int(cp.Dst)*size:][:size], c.slots[int(cp.Src)*size:][:size])
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
		at := func(p int) *uint64 {
			return &c.slots[int(sp.BlockTable[p/in.BlockSize])*in.BlockSize+p%in.BlockSize]
		}
		state := uint64(1)
		for p := range sp.Start {
			state = mix(state*3 ^ *at(p))
		}
		for i := range sp.Len {
			p := sp.Start + i
			*at(p) = mix(state ^ uint64(in.TokenIDs[sp.Row+i])<<20 ^ uint64(p))
			state = mix(state*3 ^ *at(p))
			states[sp.Row+i] = state
		}
	}
	m.out = backend.Rows{N: len(in.LogitRows), Width: vocab, Host: make([]float32, len(in.LogitRows)*vocab)}
	for i, row := range in.LogitRows {
		for t, logits := 0, m.out.Row(i); t < vocab; t++ {
			logits[t] = float32(mix(states[row]+uint64(t))>>40) / (1 << 22) // [0, 4)
		}
	}
	return model.Output{Logits: m.out}
}

func newHashRunner(blocks, blockSize int, delay func(rows int) time.Duration) (*runner.ModelRunner, error) {
	return runner.New(&hashModel{delay: delay}, hashBackend{}, runner.Config{Blocks: blocks, BlockSize: blockSize})
}

func (c *hashCache) Layout() string  { return "hash 1" }
func (c *hashCache) BlockBytes() int { return 16 * c.spec.BlockSize }

func (c *hashCache) ReadBlock(dst []byte, block int32) {
	for i := range c.spec.BlockSize {
		slot := int(block)*c.spec.BlockSize + i
		binary.LittleEndian.PutUint64(dst[16*i:], c.slots[slot])
		binary.LittleEndian.PutUint64(dst[16*i+8:], c.layer[slot])
	}
}

func (c *hashCache) WriteBlock(block int32, src []byte) {
	for i := range c.spec.BlockSize {
		slot := int(block)*c.spec.BlockSize + i
		c.slots[slot] = binary.LittleEndian.Uint64(src[16*i:])
		c.layer[slot] = binary.LittleEndian.Uint64(src[16*i+8:])
	}
}
