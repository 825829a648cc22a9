package sim

import (
	"slices"
	"strings"

	"sestina/batch"
	"sestina/kvcache"
	"sestina/scheduler"
)

// books are the checker's own notes, kept apart from what it checks.
type books struct {
	states, previous []kvcache.State
	salt             []uint64 // salt that uses each block now
	group            []int    // block group that does, counted from 1
	owners           []int    // tables that name each block, of live sequences and of steps in flight
	running, waiting []*stream
	queue            []*stream // see checkWaits
	turns            turns
}

func (b *books) init(blocks int) {
	b.salt = make([]uint64, blocks)
	b.group = make([]int, blocks)
	b.owners = make([]int, blocks)
	b.turns.init()
}

// check runs after every operation.
func (w *world) check() {
	w.checkProgress()
	w.poisonFree()
	if w.opt.Blind {
		return
	}
	if err := w.sched.Check(w.hog); err != nil {
		broken(classify(err), "%v", err)
	}
	w.checkInFlight()
	clear(w.books.salt)
	clear(w.books.group)
	for _, s := range w.live {
		w.checkSlots(s)
		w.checkOwner(s)
		w.checkWindows(s)
		if s.seq.Status == batch.Running && (s.seq.NumComputed >= len(s.seq.Tokens) || s.seq.NumComputed < 0) {
			broken("I5", "sequence %d has %d of %d tokens computed", s.seq.ID, s.seq.NumComputed, len(s.seq.Tokens))
		}
		for _, table := range s.seq.BlockTables {
			if n := len(table); n > w.pool.BlocksFor(len(s.seq.Tokens)) && !w.trace.Config.Contiguous && !w.device.computes(s.seq) {
				broken("I5", "sequence %d keeps %d blocks for %d tokens", s.seq.ID, n, len(s.seq.Tokens))
			}
		}
	}
}

// checkProgress: something moves, unless the pool is being withheld (I7).
func (w *world) checkProgress() {
	if w.hog.HasBlocks() {
		w.sinceToken = 0
	}
	if bound := 8*w.trace.Config.MaxModelLen + 100; w.sinceToken > bound {
		broken("I7", "no token in %d steps", w.sinceToken)
	}
}

// classify names the invariant of an error that the scheduler's own Check found.
func classify(err error) string {
	msg := err.Error()
	for _, c := range [...]struct{ part, invariant string }{
		{"references, ", "I2"}, {"shared or published", "I3"}, {"holds other tokens", "I4"}, {"does not hold", "I4"},
		{"known", "I9"}, {"tokens wait", "I6"}, {"key ", "I8"}, {"contiguous", "I3"}, {"may", "I6"}, {"order", "I8"}, {"waits with", "I7"}, {"computed", "I5"},
	} {
		if strings.Contains(msg, c.part) {
			return c.invariant
		}
	}
	return "I1"
}

// poisonFree overwrites blocks that have become free.
func (w *world) poisonFree() {
	b := &w.books
	b.states = w.pool.AppendStates(b.states[:0])
	for id, s := range b.states {
		if s == kvcache.Free && (len(b.previous) == 0 || b.previous[id] != kvcache.Free) {
			slots := w.device.block(int32(id))
			for i := range slots {
				slots[i] = poison
			}
		}
	}
	b.previous = append(b.previous[:0], b.states...)
}

// checkInFlight: what a step in flight reads, writes or copies is not up for reuse (I1).
func (w *world) checkInFlight() {
	reusable := func(id int32) bool {
		s := w.books.states[id]
		return s == kvcache.Free || s == kvcache.Idle
	}
	for _, l := range w.device.steps {
		for i := range l.spans {
			for g, table := range l.spans[i].tables {
				for b, id := range table {
					if id >= 0 && reusable(id) {
						broken("I1", "block %d (its block %d of group %d) is %v while step %d computes sequence %d", id, b, g, w.books.states[id], l.step.ID, l.spans[i].stream.seq.ID)
					}
				}
			}
		}
		for _, c := range l.copies {
			if reusable(c.Src) {
				broken("I1", "block %d is %v while step %d copies it", c.Src, w.books.states[c.Src], l.step.ID)
			}
		}
	}
}

// checkSlots: the computed positions hold their own K/V (I4), but for a tail
// that the step in flight has yet to copy.
func (w *world) checkSlots(s *stream) {
	for g, table := range s.seq.BlockTables {
		w.checkTable(s, g, table)
	}
}

func (w *world) checkTable(s *stream, group int, table []int32) {
	for p := range s.seq.NumComputed {
		id := table[p/w.device.size]
		if id < 0 {
			continue
		}
		if p%w.device.size == 0 && w.device.willCopy(id) {
			return
		}
		if got, want := *w.device.slot(table, p), ofGroup(s.values[p], group); got != want {
			broken("I4", "sequence %d position %d of group %d (block %d) holds %#x, not %#x", s.seq.ID, p, group, id, got, want)
		}
	}
}

// checkOwner: one block, one tenant (I11) and one group (I3).
func (w *world) checkOwner(s *stream) {
	b := &w.books
	for g, table := range s.seq.BlockTables {
		for _, id := range table {
			if id < 0 {
				continue
			}
			if other := b.salt[id]; other != 0 && other != s.salt {
				broken("I11", "block %d is shared across salts, with sequence %d", id, s.seq.ID)
			}
			if other := b.group[id]; other != 0 && other != g+1 {
				broken("I3", "block %d is shared across groups %d and %d, with sequence %d", id, other-1, g, s.seq.ID)
			}
			b.salt[id], b.group[id] = s.salt, g+1
		}
	}
}

// before notes who runs and who waits, in the scheduler's order.
func (b *books) before(w *world) {
	b.running, b.waiting = b.running[:0], b.waiting[:0]
	for _, s := range w.live {
		s.preemptions = s.seq.Preemptions
		if s.seq.Status == batch.Running {
			b.running = append(b.running, s)
		} else {
			b.waiting = append(b.waiting, s)
		}
	}
}

// after judges the step that came out of the state noted by before.
func (b *books) after(w *world, step *batch.Step) {
	w.checkPreempted()
	w.checkAdmitted(step)
	w.checkWaits()
	if step != nil {
		w.checkStep(step)
	}
}

// precedes is the order of service of those that run.
func (w *world) precedes(a, b *stream) bool {
	if w.priority(a) != w.priority(b) {
		return w.priority(a) < w.priority(b)
	}
	return a.turn < b.turn
}

func (w *world) priority(s *stream) int {
	if scheduler.Order(w.trace.Config.Order) == scheduler.PriorityOrder {
		return s.seq.Priority
	}
	return 0
}

// checkPreempted: the victims come from the end of the order, and the first stays (I8).
func (w *world) checkPreempted() {
	b := &w.books
	for _, victim := range b.running {
		if victim.seq.Preemptions == victim.preemptions {
			continue
		}
		first := true
		for _, s := range b.running {
			if s == victim {
				continue
			}
			first = first && w.precedes(victim, s)
			spared := s.seq.Preemptions == s.preemptions && !w.device.computes(s.seq)
			if spared && w.precedes(victim, s) {
				broken("I8", "sequence %d was preempted before %d", victim.seq.ID, s.seq.ID)
			}
		}
		if first {
			broken("I8", "sequence %d, the first in order, was preempted", victim.seq.ID)
		}
	}
}

// checkWaits: each waiting sequence names a reason, and the named sequence is
// alive and comes before it, so that the graph has no cycle (I7). To ask costs a
// look at the whole queue, so of a long one each step asks a few, in turn.
func (w *world) checkWaits() {
	const most = 6
	waiting := w.books.queue[:0]
	for _, s := range w.live {
		if s.seq.Status == batch.Waiting {
			waiting = append(waiting, s)
		}
	}
	w.books.queue = waiting
	for i := range min(most, len(waiting)) {
		w.checkWait(waiting[(int(w.report.Steps)*most+i)%len(waiting)])
	}
}

func (w *world) checkWait(s *stream) {
	wait, id := w.sched.WaitsFor(s.seq.ID)
	other := w.find(id)
	switch wait {
	case scheduler.WaitNothing:
		broken("I7", "sequence %d waits for nothing", s.seq.ID)
	case scheduler.WaitSibling:
		if other == nil || other.seq.ID >= s.seq.ID || other.seq.Choice >= s.seq.Choice {
			broken("I7", "sequence %d waits for sibling %d", s.seq.ID, id)
		}
	case scheduler.WaitTurn:
		if other == nil || other == s || other.seq.Status != batch.Waiting || w.priority(s) < w.priority(other) {
			broken("I7", "sequence %d waits for its turn behind %d", s.seq.ID, id)
		}
		if why, _ := w.sched.WaitsFor(id); why == scheduler.WaitTurn || why == scheduler.WaitSibling {
			broken("I7", "sequence %d waits for its turn behind %d, which waits for %v", s.seq.ID, id, why)
		}
	default:
		if len(w.device.steps) == 0 && !w.hog.HasBlocks() && w.sched.Stats().Running == 0 {
			broken("I7", "sequence %d waits for %v, which nobody holds", s.seq.ID, wait)
		}
	}
}

// checkStep: rows, seats, one share per sequence, one writer per block, and
// copies only for those who compute in the step (I3, I6).
func (w *world) checkStep(step *batch.Step) {
	c := w.sched.Config()
	if n := step.NumTokens(); n > c.MaxNumBatchedTokens || len(step.Seqs) > c.MaxNumSeqs {
		broken("I6", "step %d has %d rows of %d sequences", step.ID, n, len(step.Seqs))
	}
	w.countOwners()
	if most := w.trace.Config.Recall; most > 0 && w.tier.loads > most {
		for _, sch := range step.Seqs {
			if s := w.find(sch.Seq.ID); slices.Contains(w.books.running, s) && s.preemptions == s.seq.Preemptions {
				broken("I6", "%d blocks came back before step %d, in which sequence %d waits for them", w.tier.loads, step.ID, s.seq.ID)
			}
		}
	}
	for _, c := range step.Copies {
		owned := false
		for _, sch := range step.Seqs {
			for _, table := range sch.Seq.BlockTables {
				owned = owned || slices.Contains(table, c.Dst)
			}
		}
		if !owned || w.books.owners[c.Dst] != 1 {
			broken("I3", "step %d copies to block %d for nobody in it", step.ID, c.Dst)
		}
	}
	for i, sch := range step.Seqs {
		seq := sch.Seq
		committed := sch.NumTokens - sch.NumDrafts
		switch {
		case sch.NumTokens < 1 || committed < 1 || seq.NumComputed+committed > len(seq.Tokens) || sch.NumDrafts != len(seq.Drafts):
			broken("I5", "sequence %d: %d rows with %d drafts from position %d of %d", seq.ID, sch.NumTokens, sch.NumDrafts, seq.NumComputed, len(seq.Tokens))
		case sch.NumDrafts > 0 && (seq.NumComputed+committed != len(seq.Tokens) || seq.NumOutput()+sch.NumDrafts >= seq.MaxTokens):
			broken("I5", "sequence %d: %d drafts after %d of %d tokens", seq.ID, sch.NumDrafts, seq.NumOutput(), seq.MaxTokens)
		case seq.Status != batch.Running || w.device.computes(seq):
			broken("I6", "sequence %d is in a step with status %d, or in two", seq.ID, seq.Status)
		}
		for _, other := range step.Seqs[:i] {
			if other.Seq == seq {
				broken("I6", "sequence %d is in step %d twice", seq.ID, step.ID)
			}
		}
		for _, table := range seq.BlockTables {
			w.checkWrites(&sch, table)
		}
	}
}

// checkWrites: what a share writes in one group is there and nobody else's (I3).
func (w *world) checkWrites(sch *batch.Scheduled, table []int32) {
	size, seq := w.device.size, sch.Seq
	for b := seq.NumComputed / size; b <= (seq.NumComputed+sch.NumTokens-1)/size; b++ {
		if b >= len(table) || table[b] < 0 {
			broken("I3", "sequence %d writes position %d with %d blocks", seq.ID, b*size, len(table))
		}
		if n := w.books.owners[table[b]]; n != 1 {
			broken("I3", "sequence %d writes block %d, which %d use", seq.ID, table[b], n)
		}
	}
}

// countOwners counts for each block the live tables that name it, and the steps
// in flight that do so for a sequence that has ended or no longer names it.
func (w *world) countOwners() {
	owners := w.books.owners
	clear(owners)
	for _, s := range w.live {
		for _, table := range s.seq.BlockTables {
			for _, id := range table {
				if id >= 0 {
					owners[id]++
				}
			}
		}
	}
	for _, l := range w.device.steps {
		for i := range l.spans {
			sp := &l.spans[i]
			for g, table := range sp.tables {
				for j, id := range table {
					if t := sp.stream.seq.BlockTables[g]; id >= 0 && (j >= len(t) || t[j] != id) {
						owners[id]++
					}
				}
			}
		}
	}
}

// checkEmpty: nothing is left when all have ended (I10).
func (w *world) checkEmpty() {
	st, pool := w.sched.Stats(), w.pool.Stats()
	if st.Running != 0 || st.Waiting != 0 || st.WaitingTokens != 0 || st.InFlight != 0 {
		broken("I10", "%d running, %d waiting, %d tokens, %d steps in flight at the end", st.Running, st.Waiting, st.WaitingTokens, st.InFlight)
	}
	if pool.Free+pool.Idle != pool.Total {
		broken("I10", "%d free and %d idle of %d blocks at the end", pool.Free, pool.Idle, pool.Total)
	}
	if pool.QueryTokens > w.promptTokens {
		broken("I10", "%d tokens were looked up of %d that came: a recomputation was counted", pool.QueryTokens, w.promptTokens)
	}
}
