package scheduler

// Fairness among keys. A key (Sequence.Key) is a client; one that sends a
// thousand requests must not make another's single one wait for all of them.
//
// Each key has a counter of the tokens served to it: what an admission leaves to
// compute, and each output token. The next place goes to the key with the
// smallest counter, so keys with work waiting take turns in proportion to
// tokens, not to requests (the virtual token counter of Sheng et al., "Fairness
// in Serving Large Language Models", OSDI 2024). A key that comes back to the
// queue does not bring the past with it: it starts at the smallest counter
// there, so nobody saves up a right to overtake, and nobody is charged for
// having had the machine alone.
//
// Order of admission, the first rule that decides:
//
//  1. priority;
//  2. those that have run before, in the order in which they first did: they have
//     been served and charged, and somebody is reading their answer;
//  3. the key with the smallest counter;
//  4. arrival; so within a key and a priority it is first come, first served.
//
// Nothing starves: while the head of the order waits, its key's counter stands
// still or only moves by what it is served itself, and those of the others grow.
// Preemption goes by the same order from its other end, see before: so it never
// takes back a place that fairness gave for one that it gave later.
type tenant struct {
	served  uint64
	waiting int // sequences in the queue
	alive   int // sequences in the queue and running
}

// join makes a sequence of a key known; it is about to wait.
func (s *Scheduler) join(key string) *tenant {
	t := s.tenants[key]
	if t == nil {
		t = &tenant{}
		s.tenants[key] = t
	}
	if t.waiting == 0 {
		t.served = max(t.served, s.leastServed())
	}
	t.alive++
	return t
}

// leave forgets a sequence that has ended, and with the last one the key.
func (s *Scheduler) leave(key string, t *tenant) {
	if t.alive--; t.alive == 0 {
		delete(s.tenants, key)
	}
}

// leastServed is the smallest counter in the queue, or the last one that was
// there. (A minimum does not depend on the order of the map.)
func (s *Scheduler) leastServed() uint64 {
	least, any := uint64(0), false
	for _, t := range s.tenants {
		if t.waiting > 0 && (!any || t.served < least) {
			least, any = t.served, true
		}
	}
	if !any {
		return s.floor
	}
	return least
}

// queued counts the waiting sequences of a key up or down.
func (s *Scheduler) queued(t *tenant, n int) {
	if t.waiting += n; t.waiting == 0 {
		s.floor = max(s.floor, t.served)
	}
}

// head is the waiting sequence that is to be admitted next; nil when there is
// none that does not wait for a sibling. The queue is in the order of before.
func (s *Scheduler) head() *entry {
	var best *entry
	for _, e := range s.waiting {
		if best != nil && s.cfg.Order == PriorityOrder && e.seq.Priority != best.seq.Priority {
			break
		}
		switch {
		case s.blockedBy(e) != nil:
		case e.admitted:
			return e
		case best == nil || e.tenant.served < best.tenant.served:
			best = e
		}
	}
	return best
}
