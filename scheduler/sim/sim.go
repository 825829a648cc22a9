// Package sim is a deterministic simulator of the scheduler, the block manager
// and a device: the test bed of the promise that no request ever sees another's
// K/V and no block leaks.
//
// # Problem
//
// The gravest bugs of inference engines are silent: a block is reused while a
// step in flight still writes it, a prefix hit returns a block that was never
// filled, a rejected draft stays in the cache. The answer is then a plausible
// answer to somebody else's question. Real models hide such bugs in float noise.
//
// # Method
//
// The fake device has no floats and no tolerance. A KV slot holds a hash of all
// slots read before it, through the block table, when the device got round to
// reading them; the next token is a hash of the slots read. One stale, foreign,
// poisoned or misplaced slot changes every later token. The oracle computes the
// same function straight from the prompt. Several steps may be in flight; their
// copies, reads and writes land in a random order, which is what exposes early
// reuse. Blocks that become free are poisoned. Below the pool there may be a tier,
// which keeps the slots of evicted blocks, forgets some and fails to load others.
//
// A [Trace] is a configuration and a list of operations: arrivals (lengths at
// block edges, shared prefixes that part there, n choices, drafts that are right
// 0 to 100 % of the time), aborts at every phase, retries, device errors, dead
// steps, refused allocations, clock jumps, cache clears, drain, and ticks. Each
// operation carries its own randomness, so a trace replays alone, and still
// means something after [Shrink] has taken operations out.
//
// # Invariants, after every operation
//
//	I1  each block is free, idle, referenced or fenced; a block that a step in flight uses is one of the last two
//	I2  reference counts equal the block tables that name the block
//	I3  a block that is written is owned by one sequence and by no other step in flight; no block is two groups'
//	I4  each computed slot holds the K/V of its token, in its place
//	I5  committed tokens are the oracle's, none lost, none twice, never more than asked
//	I6  a step stays within its rows and seats
//	I7  each waiting sequence names what it waits for, the names lead to one that moves, and something moves
//	I8  priorities go first; within one, the preempted, then the key that was served
//	    least, and nobody overtakes within a key; the last in order is preempted, the first never
//	I9  each request ends exactly once, for the right reason, an abort at once
//	I10 when all have ended every block is free or idle and the queues are empty
//	I11 sequences under different salts never share a block
//	I12 the same trace gives the same steps
//	I13 without a cache no token's pass reads what an earlier one wrote
//	I14 in a block group with a window, no sequence keeps a block behind it or takes one before its chunk comes
//
// That the harness itself works is shown by mutants_test.go, which plants bugs
// that other engines had and requires that each is found.
package sim

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"sestina/batch"
	"sestina/kvcache"
	"sestina/scheduler"
)

// Violation is a broken invariant.
type Violation struct {
	Invariant string
	Op        int // index of the operation, len(Ops) while draining
	What      string
}

func (v *Violation) Error() string {
	return fmt.Sprintf("%s at operation %d: %s", v.Invariant, v.Op, v.What)
}

// Report counts what a run did, to show that a trace reached what it was for.
type Report struct {
	Steps, Ops, Requests                          uint64
	Tokens, Preemptions, Aborts                   uint64
	CachedTokens, Copies, Evictions, Errors, Dead uint64
	Drafts, Accepted, Refused, Expired, NeverFits uint64
	AbortsInFlight, Overlapped                    uint64
	Pruned, Fragmented, Turns, Recomputed         uint64
	Grouped, GroupedHits                          uint64 // steps over several block groups, tokens cached there
	TierTokens, TierFaults                        uint64
	Stops                                         [batch.StopDisabled + 1]uint64 // first admissions by the end of their prefix match
	PlanHash                                      uint64
}

// Add sums two reports.
func (r *Report) Add(o Report) {
	r.Steps += o.Steps
	r.Ops += o.Ops
	r.Requests += o.Requests
	r.Tokens += o.Tokens
	r.Preemptions += o.Preemptions
	r.Aborts += o.Aborts
	r.CachedTokens += o.CachedTokens
	r.Copies += o.Copies
	r.Evictions += o.Evictions
	r.Errors += o.Errors
	r.Dead += o.Dead
	r.Drafts += o.Drafts
	r.Accepted += o.Accepted
	r.Refused += o.Refused
	r.Expired += o.Expired
	r.NeverFits += o.NeverFits
	r.AbortsInFlight += o.AbortsInFlight
	r.Overlapped += o.Overlapped
	r.Pruned += o.Pruned
	r.Fragmented += o.Fragmented
	r.Turns += o.Turns
	r.Recomputed += o.Recomputed
	r.Grouped += o.Grouped
	r.GroupedHits += o.GroupedHits
	r.TierTokens += o.TierTokens
	r.TierFaults += o.TierFaults
	for i, n := range o.Stops {
		r.Stops[i] += n
	}
}

// world is one run.
type world struct {
	trace  *Trace
	opt    Options
	pool   *kvcache.BlockManager
	sched  *scheduler.Scheduler
	device device
	tier   tier
	now    time.Duration
	nextID int64
	live   []*stream // unfinished, ascending by id
	last   Op        // the newest arrival that was aborted, for retries
	hog    *batch.Sequence
	fail   int // the next completed step fails for this row; −1 = none

	draining   bool
	sinceToken int // steps since a token was committed or a request ended
	op         int
	results    []batch.Result
	report     Report

	promptTokens uint64 // of all requests taken
	books        books
}

// Options change how a trace is run, to test the simulator itself.
type Options struct {
	IgnoreCopies bool // the device does not carry out copy-on-write
	Blind        bool // look only at what a client sees: tokens and endings
}

// Run replays a trace and returns what it did and the first violation, if any.
func Run(trace *Trace, opt Options) (report Report, violation *Violation) {
	w := &world{trace: trace, opt: opt, fail: -1}
	defer func() {
		if p := recover(); p != nil {
			v, ok := p.(*Violation)
			if !ok {
				v = &Violation{Invariant: "panic", What: fmt.Sprint(p)}
			}
			v.Op = w.op
			report, violation = w.report, v
		}
	}()
	w.start()
	for i, op := range trace.Ops {
		w.op = i
		w.apply(op)
		w.check()
	}
	w.op = len(trace.Ops)
	w.finish()
	return w.report, nil
}

func broken(invariant, format string, args ...any) {
	panic(&Violation{Invariant: invariant, What: fmt.Sprintf(format, args...)})
}

func (w *world) start() {
	c := w.trace.Config
	pool, err := kvcache.New(kvcache.Config{NumBlocks: c.NumBlocks, BlockSize: c.BlockSize, PrefixCaching: c.PrefixCaching,
		Contiguous: c.Contiguous, Windows: c.windows(), Tier: w.tier.over(&w.device, c), Model: "sim"})
	if err != nil {
		broken("config", "%v", err)
	}
	cfg := scheduler.Config{
		MaxNumSeqs: c.MaxNumSeqs, MaxNumBatchedTokens: c.MaxTokens, MaxModelLen: c.MaxModelLen,
		Policy: scheduler.Policy(c.Policy), Order: scheduler.Order(c.Order), NoKVCache: c.NoKVCache,
		ChunkedPrefill: c.Chunked, LongPrefillThreshold: c.LongPrefill,
		MaxQueuedSeqs: c.MaxQueued, MaxQueuedTokens: c.MaxQueuedTokens, QueueTimeout: c.QueueTimeout, Watermark: c.Watermark, RecallBlocks: c.Recall,
	}
	if c.TimeBudget > 0 {
		cfg.StepBudget = time.Duration(c.TimeBudget)
		cfg.StepCost = func(n int) time.Duration { return time.Duration(10 + n) }
	}
	w.pool, w.sched = pool, scheduler.New(cfg, pool)
	w.device.init(c.NumBlocks, c.BlockSize, c.windows(), w.opt)
	w.hog = &batch.Sequence{ID: -1}
	w.books.init(c.NumBlocks)
}

func (w *world) apply(op Op) {
	w.report.Ops++
	switch op.Kind {
	case "arrive":
		w.arrive(op)
	case "abort":
		w.abort(op.Pick)
	case "orphan":
		w.abort(w.withSiblings(op.Pick))
	case "retry":
		if w.last.Kind != "" {
			w.arrive(w.last)
		}
	case "tick":
		w.tick(op.Seed)
	case "clear":
		w.pool.ClearCache()
	case "error":
		w.fail = op.Pick
	case "dead":
		w.device.drop()
		w.hog.BlockTables = nil // the pool starts anew
		w.sched.Rebuild()
		w.books.turns.requeue(w)
		w.report.Dead++
	case "hog":
		w.withhold(min(op.Pick, w.pool.Available()) * w.trace.Config.BlockSize)
	case "unhog":
		w.pool.Free(w.hog, 0)
	case "clock":
		w.now += op.Jump
	case "drain":
		w.draining = true
		w.sched.Drain()
	default:
		broken("trace", "unknown operation %q", op.Kind)
	}
}

// withhold takes so many slots of the pool away.
func (w *world) withhold(slots int) {
	if w.trace.Config.Contiguous {
		w.hog.MaxTokens = slots
		w.pool.Admit(w.hog, nil, 0) // or not
		return
	}
	w.pool.Grow(&batch.Step{}, w.hog, 0, slots/len(w.trace.Config.windows()))
}

// arrive adds a request and checks that the answer is the right one.
func (w *world) arrive(op Op) {
	c := w.trace.Config
	streams := make([]*stream, max(1, op.N))
	seqs := make([]*batch.Sequence, len(streams))
	for i := range streams {
		w.nextID++
		streams[i] = newStream(w.nextID, i, op, c.windows())
		streams[i].arrived = w.now
		seqs[i] = streams[i].seq
	}
	st := w.sched.Stats()
	want := len(seqs[0].Tokens) + seqs[0].MaxTokens
	fits := want <= c.longest()
	full := c.MaxQueued > 0 && st.Waiting+len(seqs) > c.MaxQueued ||
		c.MaxQueuedTokens > 0 && st.WaitingTokens+len(seqs)*len(seqs[0].Tokens) > c.MaxQueuedTokens

	err := w.sched.Add(w.now, seqs...)
	var never *scheduler.NeverFitsError
	switch {
	case w.draining:
		if !errors.Is(err, scheduler.ErrDraining) {
			broken("I9", "a request was taken while draining: %v", err)
		}
	case !fits:
		if !errors.As(err, &never) || never.Prompt+never.MaxTokens != want {
			broken("I7", "a request of %d tokens that never fits was answered with %v", want, err)
		}
		w.report.NeverFits++
	case full:
		if !errors.Is(err, scheduler.ErrQueueFull) {
			broken("I6", "a full queue answered %v", err)
		}
		w.report.Refused++
	case err != nil:
		broken("I9", "a good request was refused: %v", err)
	default:
		w.live = append(w.live, streams...)
		for _, s := range streams {
			w.books.turns.join(w, s)
		}
		w.report.Requests += uint64(len(streams))
		w.promptTokens += uint64(len(streams) * len(seqs[0].Tokens))
	}
}

func (w *world) abort(pick int) {
	if len(w.live) == 0 {
		return
	}
	s := w.live[pick%len(w.live)]
	if w.device.computes(s.seq) {
		w.report.AbortsInFlight++
	}
	w.last = s.op
	w.sched.Abort(s.seq.ID)
	w.report.Aborts++
	if s.seq.Status != batch.Finished || s.seq.Finish != batch.FinishAbort {
		broken("I9", "aborted sequence %d has status %d, finish %q", s.seq.ID, s.seq.Status, s.seq.Finish)
	}
	w.end(s, batch.FinishAbort)
}

// withSiblings finds, from pick on, a first choice that others may wait for.
func (w *world) withSiblings(pick int) int {
	for i := range w.live {
		at := (pick + i) % len(w.live)
		if s := w.live[at]; s.seq.Choice == 0 && s.op.N > 1 {
			return at
		}
	}
	return pick
}

// tick either hands out a step or takes one back.
func (w *world) tick(seed uint64) {
	rng := seed
	w.expire()
	w.device.pump(&rng, 3)
	depth := max(1, w.trace.Config.Depth)
	full := len(w.device.steps) >= depth
	if full || len(w.device.steps) > 0 && next(&rng)%3 == 0 {
		w.complete()
	} else {
		w.schedule(&rng)
	}
	w.device.pump(&rng, 2)
}

func (w *world) expire() {
	for _, seq := range w.sched.Expire(w.now) {
		s := w.find(seq.ID)
		if s == nil || s.admitted || w.now-s.arrived <= w.trace.Config.QueueTimeout {
			broken("I9", "sequence %d expired early", seq.ID)
		}
		w.report.Expired++
		w.end(s, batch.FinishRejected)
	}
}

func (w *world) schedule(rng *uint64) {
	for _, s := range w.live {
		if s.seq.Status == batch.Running && !w.device.computes(s.seq) {
			s.propose(rng)
		}
	}
	w.books.before(w)
	w.tier.loads = 0
	step := w.sched.Schedule(w.now)
	if !w.opt.Blind {
		w.books.after(w, step)
	}
	if step == nil {
		if len(w.device.steps) == 0 && len(w.live) > 0 && !w.hog.HasBlocks() {
			broken("I7", "%d sequences, nothing in flight and no step", len(w.live))
		}
		return
	}
	w.report.Steps++
	if len(w.device.steps) > 0 {
		w.report.Overlapped++
	}
	w.report.PlanHash = planHash(w.report.PlanHash, step)
	w.device.launch(step, w.find)
	w.sinceToken++
}

func planHash(h uint64, step *batch.Step) uint64 {
	for _, sch := range step.Seqs {
		h = mix(h ^ uint64(sch.Seq.ID)<<32 ^ uint64(sch.NumTokens)<<8 ^ uint64(sch.NumDrafts))
		for _, table := range sch.Seq.BlockTables {
			for _, id := range table {
				h = mix(h ^ uint64(id))
			}
		}
	}
	return h
}

// complete takes the oldest step back from the device.
func (w *world) complete() {
	if len(w.device.steps) == 0 {
		return
	}
	l := w.device.finish()
	w.results = w.results[:0]
	for i := range l.spans {
		var r batch.Result
		if s := l.spans[i].stream; s.events == 0 {
			r = s.answer(&l.spans[i])
			if i == w.fail {
				r = batch.Result{Err: errors.New("injected")}
				w.device.spoil(&l.spans[i])
				w.report.Errors++
				w.fail = -1
			}
		}
		w.results = append(w.results, r)
		w.report.Tokens += uint64(len(r.Tokens))
		w.report.Drafts += uint64(l.spans[i].drafts)
		w.report.Accepted += uint64(max(0, len(r.Tokens)-1))
	}
	w.sched.Update(l.step, w.results)
	for i := range l.spans {
		if !w.opt.Blind {
			w.checkPass(&l.spans[i])
		}
		w.settle(l.spans[i].stream, &w.results[i])
	}
	w.device.recycle(l)
}

// settle compares what a sequence has become with what the results said.
func (w *world) settle(s *stream, r *batch.Result) {
	if s.events > 0 {
		return // ended while the step was in flight
	}
	want := r.Finish
	switch {
	case r.Err != nil:
		want = batch.FinishError
	case want == batch.NotFinished && s.committed+len(r.Tokens) >= s.seq.MaxTokens:
		want = batch.FinishLength
	}
	if r.Err == nil {
		s.committed += len(r.Tokens)
		w.books.turns.serve(s, len(r.Tokens))
	}
	if len(r.Tokens) > 0 {
		w.sinceToken = 0
	}
	s.checkTokens()
	if s.seq.Finish != want {
		broken("I9", "sequence %d ended with %q, not %q", s.seq.ID, s.seq.Finish, want)
	}
	if want != batch.NotFinished {
		if want != batch.FinishError && (s.committed != len(s.expected) || want != s.reason) {
			broken("I5", "sequence %d ended after %d tokens (%s), not %d (%s)", s.seq.ID, s.committed, want, len(s.expected), s.reason)
		}
		w.end(s, want)
	}
}

// end records the one terminal event of a sequence.
func (w *world) end(s *stream, reason batch.FinishReason) {
	s.events++
	w.sinceToken = 0
	if s.events != 1 || s.seq.Status != batch.Finished || s.seq.Finish != reason || s.seq.HasBlocks() {
		broken("I9", "sequence %d ends %d times, with status %d and blocks %v", s.seq.ID, s.events, s.seq.Status, s.seq.BlockTables)
	}
	w.live = slices.DeleteFunc(w.live, func(t *stream) bool { return t == s })
	w.books.turns.leave(w, s)
}

func (w *world) find(id int64) *stream {
	at, ok := slices.BinarySearchFunc(w.live, id, func(s *stream, id int64) int { return cmp.Compare(s.seq.ID, id) })
	if !ok {
		return nil
	}
	return w.live[at]
}

// finish lets everything run to its end and looks at what is left.
func (w *world) finish() {
	w.pool.Free(w.hog, 0)
	w.fail = -1
	w.sinceToken = 0
	rng := uint64(len(w.trace.Ops))
	for len(w.live) > 0 || len(w.device.steps) > 0 {
		w.tick(next(&rng))
		w.check()
	}
	if !w.opt.Blind {
		w.checkEmpty()
	}
	st, pool := w.sched.Stats(), w.pool.Stats()
	w.report.Preemptions = st.Preemptions
	w.report.CachedTokens, w.report.Copies, w.report.Evictions = pool.HitTokens, pool.Copies, pool.Evictions
	w.report.Pruned, w.report.Fragmented = pool.Pruned, st.Fragmented
	w.report.TierTokens, w.report.TierFaults = pool.TierTokens, w.tier.faults
	if w.trace.Config.Windows != nil {
		w.report.Grouped, w.report.GroupedHits = w.report.Steps, pool.HitTokens
	}
}
