// Package scheduler is continuous batching: it decides, step by step, which
// sequences compute how many tokens. It computes nothing itself.
//
// # One rule
//
// There is no prefill phase and no decode phase. A sequence has tokens, of which
// the first NumComputed have K/V in the cache; a step gives some sequences some
// of their uncomputed tokens. Decoding (one is missing), a chunk of a prompt
// (many are), a prefix-cache hit (fewer are), recovery after preemption (all are
// again) and the verification of drafts (a few guesses are appended) are that
// one case. So they compose, and the runner knows none of them by name.
//
// # A step is filled in four passes
//
//  1. Running sequences that miss one token, oldest first. When the pool has no
//     block left, the newest running sequence is preempted. Those that miss more take
//     the blocks of their next chunk in this order, too: they have all others, but in
//     layers with a window each chunk takes its own as those before it give theirs back.
//  2. Running sequences that miss more: prompts in chunks, as the budget allows.
//  3. Waiting sequences, if no one was preempted: in the order of fairness.go,
//     each with blocks for all of its tokens or not at all. The first that does
//     not fit ends the pass, so nobody overtakes and nobody waits while holding blocks.
//  4. Drafts, with what is left of the budget and of the pool. They go last
//     because they are the one kind of work that may be for nothing: a draft
//     never displaces a token, and never causes a preemption.
//
// # Preemption
//
// The victim is the running sequence of lowest priority, of them the one that was admitted last. It
// loses its blocks and waits in front of those that have not run yet; its tokens
// stay. Later it computes them again as one prompt, minus what the prefix cache
// still has. The first in order is never a victim, and admission refuses what
// could not run alone in the pool ([NeverFitsError]): so the first always
// advances, finishes, and hands the title on. Nothing waits for ever, nothing is
// aborted for want of blocks.
//
// # The n choices of a request
//
// The first computes the prompt; its siblings wait for that, then fork: they
// share the blocks, have all but the last prompt token computed, and compute that
// one again into a private copy of the tail block, so each gets its own logits
// to draw from and the engine sees n ordinary sequences. Where nothing can be
// shared (no cache, contiguous layout, static batches, a window that has moved
// on) each computes the prompt itself.
//
// # Without a cache
//
// NoKVCache is what the KV cache is compared with: after each committed token
// NumComputed returns to 0, so the next one computes all K/V again, through the
// same passes and the same slots. Within one token's pass chunks do read what
// the chunks before them wrote; nothing is read from an earlier token's pass,
// nothing is published, nothing is forked. Stats.ComputedTokens counts what it costs.
//
// # Determinism
//
// A pure state machine: no goroutine, no clock (now is an argument), no float, no
// decision by map order. The same calls give the same steps, which is what makes
// the simulator in scheduler/sim and replayable traces possible.
//
// # Steps in flight
//
// On a synchronous device Update(n) precedes Schedule(n+1). On an asynchronous one
// several steps may be out, with different sequences in each: a sequence in flight
// is not scheduled again nor preempted until its step returns. It can be aborted,
// and then its blocks stay fenced until that step has completed. Updates come in
// the order of steps.
//
// Cost: BenchmarkStep16, below 50 µs for Schedule and Update of 16 sequences.
package scheduler

import (
	"errors"
	"fmt"
	"time"

	"sestina/batch"
	"sestina/kvcache"
)

// Policy is how requests are put together. The two that are not Continuous are
// there to be compared with.
type Policy uint8

const (
	Continuous Policy = iota // join and leave at any step
	Static                   // a batch is formed, and the next one only when all of it has finished
	None                     // one sequence at a time
)

// Order is the queue's order.
type Order uint8

const (
	FCFS          Order = iota // by arrival
	PriorityOrder              // by Sequence.Priority, lower first; then by arrival
)

// Config holds the scheduler's limits. Zero means: no limit, or the default given.
type Config struct {
	MaxNumSeqs          int // sequences that may own blocks at once; 0 = 128
	MaxNumBatchedTokens int // rows of one step; 0 = 2048
	MaxModelLen         int // the model's context in tokens; 0 = what the pool holds
	Policy              Policy
	Order               Order

	NoKVCache bool // compute all K/V again for every token, see the package comment

	ChunkedPrefill       bool // off: a prompt is computed in one step, and MaxNumBatchedTokens is raised to MaxModelLen
	LongPrefillThreshold int  // at most so many tokens of one sequence in one step

	MaxQueuedSeqs   int           // waiting sequences; more are refused
	MaxQueuedTokens int           // waiting tokens; more are refused
	QueueTimeout    time.Duration // longest wait for a first admission, see [Scheduler.Expire]
	Watermark       int           // blocks that admission leaves free for the growth of the running

	// At most so many blocks come back from the tier before a step that has others'
	// rows in it; a prompt that needs more is admitted some steps later. 0 = no limit.
	RecallBlocks int

	// A step should last no longer than StepBudget by the cost curve StepCost
	// (time of a step of so many rows, not decreasing). Running sequences that
	// miss one token are always served; what time they leave goes to prompts,
	// at least one block's worth a step. Without StepCost, or with whole prompts, only tokens count.
	// Below 0, prompts wait where a step has anything else in it: not for long, or they never end.
	StepCost   func(tokens int) time.Duration
	StepBudget time.Duration
}

// Scheduler holds the queues. It is not safe for concurrent use: the step
// goroutine owns it, and with it the scheduling fields of every sequence.
type Scheduler struct {
	cfg    Config
	blocks *kvcache.BlockManager

	waiting []*entry // in order, see before
	running []*entry // in order
	byID    map[int64]*entry
	tenants map[string]*tenant // by Sequence.Key
	floor   uint64             // see leastServed
	stalled Wait               // what the head of the queue waits for

	lastID        int64
	admissions    uint64 // first ones
	waitingTokens int
	draining      bool

	lastStep uint64 // the newest step handed out
	lastDone uint64 // the newest step updated
	free     []*batch.Step
	live     []*batch.Sequence // scratch of Check
	stats    Stats
}

// entry is what the scheduler knows about one unfinished sequence.
type entry struct {
	seq      *batch.Sequence
	group    *group
	tenant   *tenant
	arrived  time.Duration
	inFlight uint64         // the step that computes it, 0 = none
	admitted bool           // has owned blocks before
	turn     uint64         // its first admission, counted from 1; 0 = not yet
	most     int            // tokens that it had computed at most
	split    bool           // has waited for a run of blocks though enough were free
	chain    []kvcache.Hash // hashes of its tokens' blocks, made when it is first considered
	chained  bool
}

// group is the n choices of one request.
type group struct {
	members  []*entry
	prompted bool // one of them has computed the prompt
}

// New makes a scheduler over a pool of blocks.
func New(cfg Config, blocks *kvcache.BlockManager) *Scheduler {
	if cfg.MaxNumSeqs <= 0 {
		cfg.MaxNumSeqs = 128
	}
	if cfg.MaxNumBatchedTokens <= 0 {
		cfg.MaxNumBatchedTokens = 2048
	}
	blocks.Chunks(cfg.Chunk())
	if cfg.MaxModelLen <= 0 {
		cfg.MaxModelLen = blocks.Longest()
	}
	if !cfg.ChunkedPrefill {
		cfg.MaxNumBatchedTokens = max(cfg.MaxNumBatchedTokens, cfg.MaxModelLen)
		cfg.LongPrefillThreshold = 0
	}
	if cfg.Policy == None {
		cfg.MaxNumSeqs = 1
	}
	cfg.MaxNumSeqs = min(cfg.MaxNumSeqs, cfg.MaxNumBatchedTokens) // each running sequence can have its token
	return &Scheduler{cfg: cfg, blocks: blocks, byID: make(map[int64]*entry), tenants: map[string]*tenant{}, stalled: WaitTurn}
}

// Chunk is the most tokens of a sequence that a step computes, 0 = any number. Without
// a cache nothing is ever let go, so it is as if a prompt were computed at once.
func (c Config) Chunk() int {
	switch {
	case c.NoKVCache || !c.ChunkedPrefill:
		return 0
	case c.LongPrefillThreshold > 0:
		return min(c.LongPrefillThreshold, c.MaxNumBatchedTokens)
	}
	return c.MaxNumBatchedTokens
}

// Config returns the settings in force, defaults filled in.
func (s *Scheduler) Config() Config { return s.cfg }

// SetStepBudget replaces the cost curve, as measurement refines it.
func (s *Scheduler) SetStepBudget(cost func(tokens int) time.Duration, budget time.Duration) {
	s.cfg.StepCost, s.cfg.StepBudget = cost, budget
}

// MaxLen is the longest sequence, prompt and output, that can be served: the
// smaller of the context and the pool. An absent max_tokens is clamped to it.
func (s *Scheduler) MaxLen() int {
	return min(s.cfg.MaxModelLen, s.blocks.Longest())
}

var (
	// ErrQueueFull refuses a request because too many wait already (HTTP 429).
	ErrQueueFull = errors.New("scheduler: the queue is full; retry later")
	// ErrDraining refuses a request because the server is shutting down (HTTP 503).
	ErrDraining = errors.New("scheduler: draining, no new requests are taken; retry elsewhere")
)

// NeverFitsError refuses a request that could not be served even alone (HTTP 400).
type NeverFitsError struct {
	Prompt, MaxTokens int    // what was asked for, in tokens
	Limit             int    // what there is, in tokens
	What              string // "context" or "KV cache"
}

func (e *NeverFitsError) Error() string {
	return fmt.Sprintf("prompt (%d) + max_tokens (%d) = %d tokens exceed the %s of %d tokens; shorten the prompt or lower max_tokens",
		e.Prompt, e.MaxTokens, e.Prompt+e.MaxTokens, e.What, e.Limit)
}

// Add queues the choices of one request: sequences with the same prompt, salt
// and priority, and ascending ids. All of them are taken or none.
func (s *Scheduler) Add(now time.Duration, seqs ...*batch.Sequence) error {
	if s.draining {
		return ErrDraining
	}
	tokens := 0
	last := s.lastID
	for _, seq := range seqs {
		if err := s.validate(seq, seqs[0], last); err != nil {
			return err
		}
		last = seq.ID
		tokens += len(seq.Tokens)
	}
	if over(len(s.waiting)+len(seqs), s.cfg.MaxQueuedSeqs) || over(s.waitingTokens+tokens, s.cfg.MaxQueuedTokens) {
		s.stats.Refused += uint64(len(seqs))
		return ErrQueueFull
	}
	s.lastID = last
	g := &group{}
	for _, seq := range seqs {
		e := &entry{seq: seq, group: g, tenant: s.join(seq.Key()), arrived: now}
		g.members = append(g.members, e)
		s.byID[seq.ID] = e
		s.enqueue(e)
	}
	return nil
}

func over(n, limit int) bool { return limit > 0 && n > limit }

func (s *Scheduler) validate(seq, first *batch.Sequence, last int64) error {
	switch {
	case seq.ID <= last:
		return fmt.Errorf("scheduler: sequence id %d after %d; ids must ascend", seq.ID, last)
	case seq.PromptLen < 1 || seq.PromptLen != len(seq.Tokens):
		return fmt.Errorf("scheduler: sequence %d has a prompt of %d tokens and %d tokens; give it a prompt and no output", seq.ID, seq.PromptLen, len(seq.Tokens))
	case seq.MaxTokens < 1:
		return fmt.Errorf("scheduler: sequence %d may make %d tokens; max_tokens must be at least 1", seq.ID, seq.MaxTokens)
	case seq.PromptLen != first.PromptLen || seq.Salt != first.Salt || seq.Priority != first.Priority:
		return fmt.Errorf("scheduler: sequences %d and %d are not choices of one request", first.ID, seq.ID)
	}
	pool := s.blocks.Longest()
	if seq.MaxTokens > s.cfg.MaxModelLen-seq.PromptLen {
		return &NeverFitsError{seq.PromptLen, seq.MaxTokens, s.cfg.MaxModelLen, "context"}
	}
	if seq.MaxTokens > pool-seq.PromptLen {
		return &NeverFitsError{seq.PromptLen, seq.MaxTokens, pool, "KV cache"}
	}
	return nil
}

// Drain refuses new requests from now on; those that are in run to their end.
func (s *Scheduler) Drain() { s.draining = true }

// Abort ends a sequence at any phase; an id that is unknown or has ended is
// ignored. If a step is computing it, its result will be dropped and its blocks
// stay untouched until then.
func (s *Scheduler) Abort(id int64) {
	if e := s.byID[id]; e != nil {
		s.finish(e, batch.FinishAbort, nil)
	}
}

// Expire ends, and returns, the sequences that have waited longer than
// QueueTimeout without ever being admitted. A clock that went back counts as no time.
func (s *Scheduler) Expire(now time.Duration) []*batch.Sequence {
	if s.cfg.QueueTimeout <= 0 {
		return nil
	}
	var late []*batch.Sequence
	for i := 0; i < len(s.waiting); {
		e := s.waiting[i]
		if e.admitted || now-e.arrived <= s.cfg.QueueTimeout {
			i++
			continue
		}
		s.finish(e, batch.FinishRejected, fmt.Errorf("scheduler: waited longer than %v for a place; retry later", s.cfg.QueueTimeout))
		late = append(late, e.seq)
	}
	return late
}
