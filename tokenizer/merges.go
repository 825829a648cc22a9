package tokenizer

import "math/rand/v2"

// merge says: left followed by right may become id; the lowest rank goes first.
type merge struct {
	left, right int32
	rank        uint32
	id          int32 // -1 = free slot
}

// mergeTable is an open-addressing hash table from (left, right) to merge, 16 bytes a
// slot, at most 3/4 full. The seed keeps a hostile file from choosing its collisions.
type mergeTable struct {
	slots []merge
	mask  uint64
	seed  uint64
}

func newMergeTable(n int) mergeTable {
	size := 8
	for size*3/4 < n {
		size *= 2
	}
	t := mergeTable{slots: make([]merge, size), mask: uint64(size - 1), seed: rand.Uint64()}
	for i := range t.slots {
		t.slots[i].id = -1
	}
	return t
}

func (t *mergeTable) hash(left, right int32) uint64 {
	h := (uint64(uint32(left))<<32 | uint64(uint32(right))) ^ t.seed
	h *= 0x9E3779B97F4A7C15
	h ^= h >> 32
	h *= 0xD6E8FEB86659FD93
	return h>>32 ^ h
}

// put stores m; a pair that is there already is replaced.
func (t *mergeTable) put(m merge) {
	for h := t.hash(m.left, m.right) & t.mask; ; h = (h + 1) & t.mask {
		s := &t.slots[h]
		if s.id < 0 || s.left == m.left && s.right == m.right {
			*s = m
			return
		}
	}
}

// get returns the merge of (left, right), or nil.
func (t *mergeTable) get(left, right int32) *merge {
	for h := t.hash(left, right) & t.mask; ; h = (h + 1) & t.mask {
		s := &t.slots[h]
		if s.id < 0 {
			return nil
		}
		if s.left == left && s.right == right {
			return s
		}
	}
}
