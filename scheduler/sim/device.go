package sim

import (
	"slices"

	"sestina/batch"
)

// mix is the finaliser of splitmix64: each input bit reaches each output bit.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// next draws from a splitmix64 generator.
func next(state *uint64) uint64 {
	*state += 0x9e3779b97f4a7c15
	return mix(*state)
}

// The model. In each block group the slots of positions before p are folded, as far
// back as the group's window goes; state f(p) is made of all groups' folds. The slots
// of position p depend on f(p), the token, the position and the group; the next token
// on the folds over p's slots too and the stream's own seed.
func foldStart(salt uint64) uint64          { return mix(salt ^ 0x5e571a) }
func slotValue(f uint64, tok, p int) uint64 { return mix(f ^ uint64(tok)<<20 ^ uint64(p)) }
func foldSlot(f, slot uint64) uint64        { return mix(f*3 ^ slot) }

// ofGroup is what a group has in the slot of a value; the first has the value itself.
func ofGroup(v uint64, group int) uint64 {
	if group == 0 {
		return v
	}
	return mix(v + uint64(group))
}

// state is made of the folds of all groups.
func state(folds []uint64) uint64 {
	f := folds[0]
	for _, g := range folds[1:] {
		f = mix(f*5 ^ g)
	}
	return f
}

const (
	vocab = 1 << 16
	eosIn = 48 // one token in so many ends the answer
)

func nextToken(f, seed uint64) int32 { return int32(mix(f^seed) % vocab) }

func isEOS(tok int32) bool { return tok%eosIn == 0 }

const poison = 0xdeadbeefdeadbeef

// device computes steps out of order: each step in flight is a row of small
// works (its copies; then, span by span, the reads; then the writes, late), and
// pump carries out any of them at random.
type device struct {
	size    int   // tokens per block
	windows []int // of the block groups; 0 = none
	slots   []uint64
	steps   []*launched // in flight, oldest first
	spare   []*launched
	opt     Options

	fold []uint64 // scratch, by group: the fold of the slots before from
	from []int
}

// launched is a step in flight, with its own copy of the block tables, as a
// device would have it.
type launched struct {
	step   *batch.Step
	copies []batch.BlockCopy
	copied bool
	spans  []span
}

type span struct {
	stream *stream
	tables [][]int32
	start  int
	tokens []int32 // those computed, drafts last
	drafts int
	known  int // committed tokens at launch
	salt   uint64

	read   bool
	landed bool
	values []uint64 // slots to be written
	folds  []uint64 // state behind each token
}

func (d *device) init(blocks, size int, windows []int, opt Options) {
	*d = device{size: size, windows: windows, slots: make([]uint64, blocks*size), opt: opt, fold: make([]uint64, len(windows)), from: make([]int, len(windows))}
	for i := range d.slots {
		d.slots[i] = poison
	}
}

func (d *device) computes(seq *batch.Sequence) bool {
	for _, l := range d.steps {
		for i := range l.spans {
			if l.spans[i].stream.seq == seq {
				return true
			}
		}
	}
	return false
}

func (d *device) launch(step *batch.Step, find func(int64) *stream) {
	l := &launched{}
	if n := len(d.spare); n > 0 {
		l, d.spare = d.spare[n-1], d.spare[:n-1]
	}
	l.step, l.copied = step, false
	l.copies = append(l.copies[:0], step.Copies...)
	if cap(l.spans) < len(step.Seqs) {
		l.spans = make([]span, len(step.Seqs))
	}
	l.spans = l.spans[:len(step.Seqs)]
	for i, sch := range step.Seqs {
		sp, seq := &l.spans[i], sch.Seq
		sp.stream, sp.start, sp.drafts = find(seq.ID), seq.NumComputed, sch.NumDrafts
		sp.known, sp.salt = len(seq.Tokens), sp.stream.salt
		sp.tables = slices.Grow(sp.tables[:0], len(seq.BlockTables))[:len(seq.BlockTables)]
		for g, table := range seq.BlockTables {
			sp.tables[g] = append(sp.tables[g][:0], table...)
		}
		sp.tokens, sp.values, sp.folds = sp.tokens[:0], sp.values[:0], sp.folds[:0]
		sp.read, sp.landed = false, false
		for p := range sch.NumTokens {
			sp.tokens = append(sp.tokens, seq.Token(seq.NumComputed+p))
		}
	}
	d.steps = append(d.steps, l)
}

// pump carries out up to most works of the steps in flight; half of the time the
// device is slow and does nothing until the step is waited for.
func (d *device) pump(rng *uint64, most int) {
	if next(rng)%2 == 0 {
		return
	}
	for range next(rng) % uint64(most+1) {
		if len(d.steps) == 0 {
			return
		}
		l := d.steps[next(rng)%uint64(len(d.steps))]
		d.work(l, &l.spans[next(rng)%uint64(len(l.spans))])
	}
}

// work does the next thing that is due for a span.
func (d *device) work(l *launched, sp *span) {
	switch {
	case !l.copied:
		d.copyBlocks(l)
	case !sp.read:
		d.readAndCompute(sp)
	case !sp.landed:
		d.land(sp)
	}
}

func (d *device) copyBlocks(l *launched) {
	l.copied = true
	if d.opt.IgnoreCopies {
		return
	}
	for _, c := range l.copies {
		copy(d.block(c.Dst), d.block(c.Src))
	}
}

// willCopy reports whether a step in flight has yet to fill this block by a copy.
func (d *device) willCopy(id int32) bool {
	for _, l := range d.steps {
		for _, c := range l.copies {
			if !l.copied && c.Dst == id {
				return true
			}
		}
	}
	return false
}

func (d *device) block(id int32) []uint64 {
	return d.slots[int(id)*d.size : (int(id)+1)*d.size]
}

// slot is the slot mapping: where position p of a table lives.
func (d *device) slot(table []int32, p int) *uint64 {
	return &d.slots[int(table[p/d.size])*d.size+p%d.size]
}

func (d *device) readAndCompute(sp *span) {
	sp.read = true
	for i, tok := range sp.tokens {
		pos := sp.start + i
		for g, window := range d.windows {
			d.look(sp, g, window, pos, i == 0)
		}
		v := slotValue(state(d.fold), int(tok), pos)
		for g := range d.windows {
			d.fold[g], d.from[g] = foldSlot(d.fold[g], ofGroup(v, g)), pos+1
		}
		sp.values = append(sp.values, v)
		sp.folds = append(sp.folds, state(d.fold))
	}
}

// look folds what a group shows of the positions before pos.
func (d *device) look(sp *span, group, window, pos int, first bool) {
	if first || window > 0 { // with a window each row has its own view
		d.fold[group], d.from[group] = foldStart(sp.salt), 0
	}
	if window > 0 {
		d.from[group] = max(0, pos-window+1)
	}
	for ; d.from[group] < pos; d.from[group]++ {
		d.fold[group] = foldSlot(d.fold[group], d.read(sp, group, d.from[group]))
	}
}

// read is a group's slot of a position: in memory, or a row of the same span.
func (d *device) read(sp *span, group, pos int) uint64 {
	if pos >= sp.start {
		return ofGroup(sp.values[pos-sp.start], group)
	}
	if sp.tables[group][pos/d.size] < 0 {
		broken("I4", "sequence %d reads position %d, whose block has been let go in group %d", sp.stream.seq.ID, pos, group)
	}
	return *d.slot(sp.tables[group], pos)
}

func (d *device) land(sp *span) {
	sp.landed = true
	for g, table := range sp.tables {
		for i, v := range sp.values {
			*d.slot(table, sp.start+i) = ofGroup(v, g)
		}
	}
}

// spoil overwrites what a span has written: its row failed, its K/V is worthless.
func (d *device) spoil(sp *span) {
	for _, table := range sp.tables {
		for i := range sp.tokens {
			*d.slot(table, sp.start+i) = poison
		}
	}
}

// finish completes the oldest step.
func (d *device) finish() *launched {
	l := d.steps[0]
	for i := range l.spans {
		for !l.spans[i].landed {
			d.work(l, &l.spans[i])
		}
	}
	d.steps = append(d.steps[:0], d.steps[1:]...)
	return l
}

func (d *device) recycle(l *launched) { d.spare = append(d.spare, l) }

// drop forgets all steps in flight and spoils the memory: the device died.
func (d *device) drop() {
	d.spare = append(d.spare, d.steps...)
	d.steps = d.steps[:0]
	for i := range d.slots {
		d.slots[i] = poison
	}
}
