package engine

import (
	"encoding/json"
	"slices"
	"sync"
	"time"

	"sestina/batch"
)

// Trace is the flight recorder's content: the last inputs and steps, as ids and
// lengths; token ids only when Options.TraceTokens is set, text never. Times are
// nanoseconds since the engine started. [Trace.Replay] drives a fresh scheduler
// with it and compares every step.
type Trace struct {
	Version int         `json:"sestina_engine_trace"` // 1
	Dropped uint64      `json:"dropped"`              // events before the first one here
	Config  TraceConfig `json:"config"`
	Events  []Event     `json:"events"`
}

// TraceConfig is what the scheduler and the block manager were made with.
type TraceConfig struct {
	Blocks        int   `json:"blocks"`
	BlockSize     int   `json:"block_size"`
	PrefixCaching bool  `json:"prefix_caching"`
	Contiguous    bool  `json:"contiguous,omitempty"`
	Windows       []int `json:"windows,omitempty"`
	NoKVCache     bool  `json:"no_kv_cache,omitempty"`
	Tier          bool  `json:"tier,omitempty"`
	RecallBlocks  int   `json:"recall_blocks,omitempty"`
	MaxNumSeqs    int   `json:"max_num_seqs"`
	MaxTokens     int   `json:"max_num_batched_tokens"`
	MaxModelLen   int   `json:"max_model_len"`
	Chunked       bool  `json:"chunked_prefill"`
	Policy        uint8 `json:"policy"`
}

// Event is one thing that happened. Kind says which fields count:
//
//	add      ID (of the first choice), N, Prompt, Max, Salt, Priority, Idle, Tokens
//	end      ID, Finish: a sequence ended from outside (cancel, timeout, drain)
//	step     ID, Rows (the time limit in rows, 0 = none, below 0: prompts wait), Took, Seqs
//	draft    Seqs: how many drafts the sequences were given before the step
//	lost     as step, of a step that was decided and never computed
//	rebuild  the scheduler's books were started anew
type Event struct {
	Kind string `json:"k"`
	At   int64  `json:"t"`
	ID   int64  `json:"id,omitempty"`

	N        int     `json:"n,omitempty"`
	Prompt   int     `json:"prompt,omitempty"`
	Max      int     `json:"max,omitempty"`
	Salt     int     `json:"salt,omitempty"`   // keys numbered as they appear
	Tenant   int     `json:"tenant,omitempty"` // likewise, among the same numbers
	Priority int     `json:"priority,omitempty"`
	Idle     bool    `json:"idle,omitempty"` // nothing else was unfinished
	Tokens   []int32 `json:"tokens,omitempty"`

	Finish string     `json:"finish,omitempty"`
	Rows   int        `json:"rows,omitempty"`
	Took   int64      `json:"took,omitempty"`
	Seqs   []TraceSeq `json:"seqs,omitempty"`
	Loads  string     `json:"loads,omitempty"` // how loads from the tier ended, in order: y or n
}

// TraceSeq is one sequence's share of a step and what came of it.
type TraceSeq struct {
	ID        int64   `json:"id"`
	Tokens    int     `json:"n"`           // rows computed; of a draft event, drafts proposed
	Committed int     `json:"c,omitempty"` // tokens drawn
	Finish    string  `json:"f,omitempty"`
	Drawn     []int32 `json:"d,omitempty"`
}

// JSON is the trace as one line.
func (t *Trace) JSON() []byte {
	data, err := json.Marshal(t)
	if err != nil {
		panic(err) // plain structs
	}
	return data
}

// recorder keeps the last events in a ring. It has its own lock, because the
// watchdog reads it while the step goroutine hangs.
type recorder struct {
	mu     sync.Mutex
	start  time.Time
	config TraceConfig
	tokens bool
	ring   []Event
	total  uint64
	salts  map[string]int
}

func (r *recorder) init(e *Engine) {
	c := e.sched.Config()
	r.start, r.tokens, r.ring = e.start, e.opt.TraceTokens, make([]Event, 0, e.opt.TraceEvents)
	r.salts = map[string]int{}
	b := e.blocks.Config()
	r.config = TraceConfig{
		Blocks: b.NumBlocks, BlockSize: b.BlockSize, PrefixCaching: b.PrefixCaching, Contiguous: b.Contiguous, Windows: b.Windows,
		Tier: b.Tier != nil, RecallBlocks: c.RecallBlocks, NoKVCache: c.NoKVCache, MaxNumSeqs: c.MaxNumSeqs, MaxTokens: c.MaxNumBatchedTokens, MaxModelLen: c.MaxModelLen,
		Chunked: c.ChunkedPrefill, Policy: uint8(c.Policy),
	}
}

// Trace returns what the recorder holds. Any goroutine may ask.
func (e *Engine) Trace() *Trace {
	r := &e.trace
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &Trace{Version: 1, Config: r.config, Events: make([]Event, 0, len(r.ring))}
	first := 0
	if len(r.ring) == cap(r.ring) {
		first = int(r.total % uint64(cap(r.ring)))
	}
	for i := range r.ring {
		ev := r.ring[(first+i)%len(r.ring)]
		ev.Seqs = slices.Clone(ev.Seqs) // the ring uses its memory again
		t.Events = append(t.Events, ev)
	}
	t.Dropped = r.total - uint64(len(r.ring))
	return t
}

// next is the place for an event, with the memory of the one it replaces.
func (r *recorder) next(kind string) *Event {
	if len(r.ring) < cap(r.ring) {
		r.ring = r.ring[:len(r.ring)+1]
	}
	ev := &r.ring[r.total%uint64(cap(r.ring))]
	r.total++
	*ev = Event{Kind: kind, At: int64(time.Since(r.start)), Seqs: ev.Seqs[:0]}
	return ev
}

func (r *recorder) add(h *Handle, idle bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ev := r.next("add")
	ev.ID, ev.N, ev.Prompt, ev.Max, ev.Priority, ev.Idle = h.ID, h.req.N, len(h.req.Prompt), h.req.MaxTokens, h.req.Priority, idle
	if r.tokens {
		ev.Tokens = h.req.Prompt
	}
	ev.Salt, ev.Tenant = r.number(h.req.Salt), r.number(h.req.Tenant)
}

// number stands for a key in the trace; keys beyond the first 1,024 share one.
func (r *recorder) number(key string) int {
	n, known := r.salts[key]
	switch {
	case known:
	case len(r.salts) < 1024:
		n = len(r.salts)
		r.salts[key] = n
	default:
		n = 1024
	}
	return n
}

func (r *recorder) end(id int64, why batch.FinishReason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ev := r.next("end")
	ev.ID, ev.Finish = id, why.String()
}

func (r *recorder) rebuild() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next("rebuild")
}

// draft records how many drafts each sequence was given.
func (r *recorder) draft(seqs []*batch.Sequence) {
	if !slices.ContainsFunc(seqs, func(s *batch.Sequence) bool { return len(s.Drafts) > 0 }) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	ev := r.next("draft")
	for _, s := range seqs {
		if n := len(s.Drafts); n > 0 {
			ev.Seqs = append(ev.Seqs, TraceSeq{ID: s.ID, Tokens: n})
		}
	}
}

// step records a step before it is computed; done adds what came of it.
func (r *recorder) step(kind string, step *batch.Step, rows int, loads string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ev := r.next(kind)
	ev.ID, ev.Rows, ev.Loads = int64(step.ID), rows, loads
	for i := range step.Seqs {
		ev.Seqs = append(ev.Seqs, TraceSeq{ID: step.Seqs[i].Seq.ID, Tokens: step.Seqs[i].NumTokens})
	}
}

func (r *recorder) done(results []batch.Result, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ev := &r.ring[(r.total-1)%uint64(cap(r.ring))]
	if ev.Kind != "step" || len(ev.Seqs) != len(results) {
		return // the books were rebuilt in between
	}
	ev.Took = int64(took)
	for i, res := range results {
		s := &ev.Seqs[i]
		s.Committed, s.Finish = len(res.Tokens), res.Finish.String()
		if r.tokens {
			s.Drawn = slices.Clone(res.Tokens) // a sequence draws into the same memory each step
		}
	}
}
