package sim

import (
	"slices"

	"sestina/kvcache"
)

// tier keeps the slots of evicted blocks, up to a number of blocks, the oldest
// being forgotten first. Some loads fail, and leave the block spoiled.
type tier struct {
	device *device
	blocks int
	fails  uint64 // % of loads
	rng    uint64
	faults uint64
	loads  int // of the Schedule under way

	held  map[[32]byte]saved
	order [][32]byte // oldest first
}

type saved struct {
	ids   []int32
	slots []uint64
}

// over makes a tier below a device's memory; nil if the trace has none.
func (t *tier) over(d *device, c Config) kvcache.Tier {
	if c.Tier == 0 {
		return nil
	}
	*t = tier{device: d, blocks: c.Tier, fails: uint64(c.TierFails), held: map[[32]byte]saved{}}
	return t
}

func (t *tier) Save(block int32, key [32]byte, ids []int32) {
	if _, ok := t.held[key]; ok {
		return
	}
	if len(t.order) == t.blocks {
		delete(t.held, t.order[0])
		t.order = t.order[1:]
	}
	t.held[key] = saved{slices.Clone(ids), slices.Clone(t.device.block(block))}
	t.order = append(t.order, key)
}

func (t *tier) Load(block int32, key [32]byte, ids []int32) bool {
	s, ok := t.held[key]
	if !ok || !slices.Equal(s.ids, ids) {
		return false
	}
	slots := t.device.block(block)
	if next(&t.rng)%100 < t.fails { // a corrupt record is found, and removed
		for i := range slots {
			slots[i] = poison
		}
		t.faults++
		delete(t.held, key)
		t.order = slices.DeleteFunc(t.order, func(k [32]byte) bool { return k == key })
		return false
	}
	copy(slots, s.slots)
	t.loads++
	return true
}
