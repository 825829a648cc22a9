package sim

import (
	"sestina/batch"
	"sestina/scheduler"
)

// turns are the checker's own books of what each key was served, and of who is
// to be admitted next by the rules of I8.
type turns struct {
	served map[uint64]uint64
	alive  map[uint64]int
	last   uint64 // the largest counter that left the queue
	count  uint64 // first admissions
}

func (t *turns) init() { t.served, t.alive = map[uint64]uint64{}, map[uint64]int{} }

func queues(w *world, key uint64) bool {
	for _, s := range w.live {
		if s.salt == key && s.queued {
			return true
		}
	}
	return false
}

// join: a key that was not in the queue starts at the smallest counter there.
func (t *turns) join(w *world, s *stream) {
	if !queues(w, s.salt) {
		start, found := t.last, false
		for _, o := range w.live {
			if o.queued && (!found || t.served[o.salt] < start) {
				start, found = t.served[o.salt], true
			}
		}
		t.served[s.salt] = max(t.served[s.salt], start)
	}
	t.alive[s.salt]++
	s.queued = true
}

// unqueue: s has been admitted or has ended.
func (t *turns) unqueue(w *world, s *stream) {
	s.queued = false
	if !queues(w, s.salt) {
		t.last = max(t.last, t.served[s.salt])
	}
}

func (t *turns) serve(s *stream, tokens int) { t.served[s.salt] += uint64(tokens) }

func (t *turns) leave(w *world, s *stream) {
	if s.queued {
		t.unqueue(w, s)
	}
	if t.alive[s.salt]--; t.alive[s.salt] == 0 {
		delete(t.served, s.salt)
	}
}

// requeue notes who was preempted or sent back.
func (t *turns) requeue(w *world) {
	for _, s := range w.live {
		if s.seq.Status == batch.Waiting {
			s.queued = true
		}
	}
}

// checkAdmitted replays the admissions of a step, one by one: each must have been
// the first by the rules, among those that wait for no sibling (I8).
func (w *world) checkAdmitted(step *batch.Step) {
	w.books.turns.requeue(w)
	for {
		next := w.firstAdmitted()
		if next == nil {
			return
		}
		for _, o := range w.books.waiting {
			if o == next || !o.queued {
				continue
			}
			if w.priority(o) == w.priority(next) && o.seq.ID < next.seq.ID && o.salt != next.salt {
				w.report.Turns++
			}
			if w.overtaken(next, o) {
				broken("I8", "sequence %d (key %x, served %d, ran before: %v) was admitted before %d (key %x, served %d, ran before: %v)",
					next.seq.ID, next.salt, w.books.turns.served[next.salt], next.admitted, o.seq.ID, o.salt, w.books.turns.served[o.salt], o.admitted)
			}
		}
		if !next.admitted {
			w.books.turns.count++
			next.turn = w.books.turns.count
			w.checkMatch(next)
			w.books.turns.serve(next, len(next.seq.Tokens)-next.seq.NumComputed)
		}
		next.admitted = true
		w.books.turns.unqueue(w, next)
	}
}

// checkMatch: what a sequence is told about its prefix agrees with what it got,
// and a reason that needs another tenant is not given to a client (I11).
func (w *world) checkMatch(s *stream) {
	m, size := s.seq.Match, w.trace.Config.BlockSize
	forked := s.op.N > 1 && s.seq.NumComputed == s.seq.PromptLen-1
	switch {
	case !forked && m.Tokens != s.seq.NumComputed, m.At < m.Tokens || m.At >= m.Tokens+size || m.At > s.seq.PromptLen,
		m.Tokens != s.seq.NumCached, m.Stop == batch.StopNone, m.Stop.Public() == batch.StopSalt,
		(m.Stop == batch.StopDisabled) != (w.trace.Config.NoKVCache || !w.trace.Config.PrefixCaching):
		broken("I11", "sequence %d of %d tokens, %d computed, %d cached, is told %+v", s.seq.ID, s.seq.PromptLen, s.seq.NumComputed, s.seq.NumCached, m)
	}
	w.report.Stops[m.Stop]++
}

// firstAdmitted is, of those that this Schedule has admitted and that are still
// to be looked at, the one that the rules put first.
func (w *world) firstAdmitted() (first *stream) {
	for _, s := range w.books.waiting {
		if s.queued && s.seq.Status == batch.Running && (first == nil || w.goesBefore(s, first)) {
			first = s
		}
	}
	return first
}

// goesBefore is the order of admission.
func (w *world) goesBefore(a, b *stream) bool {
	served := w.books.turns.served
	switch {
	case w.priority(a) != w.priority(b):
		return w.priority(a) < w.priority(b)
	case a.admitted != b.admitted:
		return a.admitted
	case a.admitted:
		return a.turn < b.turn
	case served[a.salt] != served[b.salt]:
		return served[a.salt] < served[b.salt]
	}
	return a.seq.ID < b.seq.ID
}

// overtaken reports whether o, which goes before s, was left waiting.
func (w *world) overtaken(s, o *stream) bool {
	if o.seq.Status != batch.Waiting || !w.goesBefore(o, s) {
		return false
	}
	wait, _ := w.sched.WaitsFor(o.seq.ID)
	return wait != scheduler.WaitSibling
}

// checkPass: without a cache each token's pass begins at position 0 and reads
// only what it has itself computed (I13).
func (w *world) checkPass(sp *span) {
	s := sp.stream
	if !w.trace.Config.NoKVCache || s.events > 0 {
		return
	}
	if s.passes != s.seq.Preemptions {
		s.passes, s.computed = s.seq.Preemptions, 0
	}
	if sp.start != s.computed {
		broken("I13", "sequence %d computes from position %d, of this pass %d have been computed", s.seq.ID, sp.start, s.computed)
	}
	if s.computed += len(sp.tokens); s.computed >= sp.known {
		s.computed = 0
		w.report.Recomputed += uint64(sp.known)
	}
}

// checkWindows: in each group no block that is wholly behind its window is kept, but
// for the one before the next position's own, and with a window none is taken that
// neither the next chunk nor a draft needs (I14).
func (w *world) checkWindows(s *stream) {
	c := &w.trace.Config
	if c.NoKVCache || c.Contiguous || s.seq.Status != batch.Running {
		return
	}
	next, ahead := s.seq.NumComputed, c.chunk()+s.op.Draft
	for g, window := range c.windows() {
		table := s.seq.BlockTables[g]
		for i, id := range table {
			end := (i + 1) * c.BlockSize
			behind := window > 0 && end <= next-window+1 && i+1 < next/c.BlockSize
			if kept := id >= 0; kept == behind {
				broken("I14", "sequence %d, next position %d, window %d: block %d of %d is kept: %v", s.seq.ID, next, window, i, c.BlockSize, kept)
			}
		}
		if window > 0 && c.chunk() > 0 && (len(table)-1)*c.BlockSize >= next+ahead {
			broken("I14", "sequence %d, next position %d, chunks of %d: %d blocks of %d", s.seq.ID, next, ahead, len(table), c.BlockSize)
		}
	}
}
