package engine

import (
	"time"
)

// queue counts what waits for its first step, so that too much is refused at
// once. It decides nothing about order; that is the scheduler's.
//
// A key (a request's Tenant) may hold the whole queue while it is alone. Once
// another key has asked within the last minute, even in vain, it may hold its
// share only: a greedy client can fill the queue, but not keep others out for
// longer than its surplus takes to drain. One request may always wait.
type queue struct {
	maxSeqs, maxTokens     int
	shareSeqs, shareTokens int
	held
	keys   map[string]*held // those that hold something
	recent [2]asker         // the last two different keys, newest first
}

type held struct{ seqs, tokens int }

type asker struct {
	key string
	at  time.Time
}

func (q *queue) init(opt *Options) {
	q.maxSeqs, q.maxTokens = opt.MaxQueuedSeqs, opt.MaxQueuedTokens
	q.shareSeqs = int(opt.QueueShare * float64(opt.MaxQueuedSeqs))
	q.shareTokens = int(opt.QueueShare * float64(opt.MaxQueuedTokens))
	q.keys = map[string]*held{}
}

// enter counts a request in, or refuses it.
func (q *queue) enter(h *Handle) error {
	key, seqs, tokens := h.req.Tenant, h.req.N, h.req.N*len(h.req.Prompt)
	if err := q.room(key, seqs, tokens, time.Now()); err != nil {
		return err
	}
	k := q.keys[key]
	if k == nil {
		k = &held{}
		q.keys[key] = k
	}
	k.add(seqs, tokens)
	q.add(seqs, tokens)
	h.queued = true
	return nil
}

// room says whether the queue takes so many sequences and prompt tokens of a key
// that asks for it now: nil, or why not.
func (q *queue) room(key string, seqs, tokens int, now time.Time) error {
	contested := q.ask(key, now)
	if q.seqs+seqs > q.maxSeqs || q.tokens+tokens > q.maxTokens {
		return ErrQueueFull
	}
	k := q.keys[key]
	if contested && k != nil && k.seqs > 0 && (k.seqs+seqs > q.shareSeqs || k.tokens+tokens > q.shareTokens) {
		return ErrQueueShare
	}
	return nil
}

// leave counts a request out: it has begun, or ended.
func (q *queue) leave(h *Handle) {
	seqs, tokens := h.req.N, h.req.N*len(h.req.Prompt)
	q.add(-seqs, -tokens)
	k := q.keys[h.req.Tenant]
	if k.add(-seqs, -tokens); k.seqs == 0 {
		delete(q.keys, h.req.Tenant)
	}
}

// ask notes that a key wants in and reports whether another one did lately.
func (q *queue) ask(key string, now time.Time) (contested bool) {
	if q.recent[0].key != key {
		q.recent[1] = q.recent[0]
	}
	q.recent[0] = asker{key, now}
	other := q.recent[1]
	return !other.at.IsZero() && now.Sub(other.at) < time.Minute
}

func (h *held) add(seqs, tokens int) {
	h.seqs += seqs
	h.tokens += tokens
}
