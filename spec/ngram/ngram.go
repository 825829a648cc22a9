// Package ngram proposes what followed the last time: prompt lookup (Saxena
// 2023; Yang et al. 2023, "Inference with Reference"). The end of the sequence is
// looked up in the sequence itself, prompt and output, and in what earlier
// sequences of the same salt said; the tokens after the longest match are the draft.
// It costs no model and pays where text repeats: code edits, quotations,
// structured output, multi-turn chat.
//
// # Memory and time
//
// Per sequence 12 bytes a slot, and slots double: at most 24 bytes a token,
// between 3 KiB and 12·MaxTokens (1.5 MiB for 131,072; the oldest text is
// forgotten first). Per salt one pool of 12·PoolTokens bytes (768 KiB), at most
// Pools of them; the least recently used goes. Indexing and search are constant
// per token (index.go), and a sequence is indexed when it is first asked about, so
// plain decoding pays nothing. One core of a 2 GHz server: 35 to 60 ns to index a
// token (BenchmarkCommit), 0.25 to 0.7 µs to propose 8 (BenchmarkPropose).
//
// # The shortest match
//
// One token, by TestMinMatch: this project's sources generated with the depth
// controller, on a machine where a draft row costs a tenth of a step. Tokens per
// plain step:
//
//	match of at least      1      2      3      4      5
//	code from nothing   1.23   1.23   1.19   1.16   1.13    (1.30 with a pool)
//	code, edited        4.33   4.33   4.33   4.34   4.32
//	prose               1.00   1.00   1.00   1.00   1.00
//
// Matches are told apart by class, so the controller takes the short ones only
// where they hold: in a model's own prose and JSON they do more often than here.
//
// # After an edit
//
// Where a text departs from what it copies, the copy usually goes on behind the
// departure. So when a token is said that is not what a match expected, the draft
// after it comes from behind that token in the source, if it is there within a few
// (words were left out), else from behind the one it replaced: unless the new end
// of the text has a match of its own. Without, edited code gives 3.24.
//
// Salts separate tenants as they do for prefix-cache blocks: what one says never
// shows in the drafts, and so in the timing, of another.
package ngram

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/bits"

	"sestina/batch"
	"sestina/spec"
)

// Config is set by the method's options. Zero values mean the defaults.
type Config struct {
	MinMatch   int `json:"prompt_lookup_min"` // shortest match that is believed; default 1, see TestMinMatch
	MaxTokens  int `json:"max_tokens"`        // tokens of a sequence that are indexed; default 131072
	PoolTokens int `json:"pool_tokens"`       // tokens kept per salt of ended sequences; default 65536, -1 = no pool
	Pools      int `json:"pools"`             // salts that have a pool; default 16
}

func init() { spec.Register("ngram", build) }

func build(r spec.Resources) (spec.Proposer, error) {
	var cfg Config
	if r.Options != nil {
		d := json.NewDecoder(bytes.NewReader(r.Options))
		d.DisallowUnknownFields()
		if err := d.Decode(&cfg); err != nil {
			return nil, fmt.Errorf("ngram: options %s: %v; known are prompt_lookup_min, max_tokens, pool_tokens, pools", r.Options, err)
		}
	}
	return New(cfg)
}

// Proposer is the n-gram proposer.
type Proposer struct {
	cfg    Config
	seqs   map[int64]*history
	pools  map[string]*pool
	clock  uint64
	drafts []spec.Draft
	tokens []int32
}

// history is one sequence's index of its own tokens, and the last matches of
// their end there and in a pool.
type history struct {
	index
	read   int // of seq.Tokens
	found  match
	resume match // set by a token that found did not expect
	pool   *pool
	pooled match
}

// pool is what ended sequences of one salt said.
type pool struct {
	index
	used uint64
}

// New makes a proposer; the error names the setting that is out of range.
func New(cfg Config) (*Proposer, error) {
	set := func(v *int, def int) {
		if *v == 0 {
			*v = def
		}
	}
	set(&cfg.MinMatch, 1)
	set(&cfg.MaxTokens, 1<<17)
	set(&cfg.PoolTokens, 1<<16)
	set(&cfg.Pools, 16)
	if cfg.MinMatch < 1 || cfg.MinMatch > 16 {
		return nil, fmt.Errorf("ngram: prompt_lookup_min is %d, must be between 1 and 16", cfg.MinMatch)
	}
	if cfg.MaxTokens < leastCap || cfg.MaxTokens > 1<<24 || cfg.PoolTokens > 1<<24 || cfg.Pools < 0 || cfg.Pools > 1<<16 {
		return nil, fmt.Errorf("ngram: max_tokens %d, pool_tokens %d, pools %d; must be %d to 2^24, -1 to 2^24, 0 to 65536",
			cfg.MaxTokens, cfg.PoolTokens, cfg.Pools, leastCap)
	}
	cfg.MaxTokens = powerOfTwo(cfg.MaxTokens)
	return &Proposer{cfg: cfg, seqs: map[int64]*history{}, pools: map[string]*pool{}}, nil
}

// powerOfTwo rounds down, to leastCap at least.
func powerOfTwo(n int) int { return max(leastCap, 1<<(bits.Len(uint(n))-1)) }

// Name implements spec.Proposer.
func (p *Proposer) Name() string { return "ngram" }

// Propose implements spec.Proposer.
func (p *Proposer) Propose(seqs []*batch.Sequence, k []int) ([]spec.Draft, error) {
	p.drafts, p.tokens = p.drafts[:0], p.tokens[:0]
	for i, seq := range seqs {
		from := len(p.tokens)
		length := p.propose(seq, k[i])
		p.drafts = append(p.drafts, spec.Draft{Tokens: p.tokens[from:len(p.tokens):len(p.tokens)], Class: class(length)})
	}
	return p.drafts, nil
}

// propose appends a draft for seq to p.tokens and says how long the match was.
func (p *Proposer) propose(seq *batch.Sequence, k int) (length int) {
	h := p.history(seq)
	if h.found = h.search(seq.Tokens, true, h.found); h.found.length < h.resume.length {
		h.found = h.resume
	}
	if pool := p.pools[seq.Salt]; pool != nil && h.found.length < maxMatch {
		if h.pool != pool {
			h.pool, h.pooled = pool, match{}
		}
		h.pooled = pool.search(seq.Tokens, false, h.pooled)
		if h.pooled.length > h.found.length {
			p.clock++
			pool.used = p.clock
			p.tokens = pool.follow(p.tokens, h.pooled, k)
			return h.pooled.length
		}
	}
	if h.found.length > 0 {
		p.tokens = h.follow(p.tokens, h.found, k)
	}
	return h.found.length
}

// history is the sequence's index, caught up with its tokens.
func (p *Proposer) history(seq *batch.Sequence) *history {
	h := p.seqs[seq.ID]
	if h == nil {
		h = &history{}
		h.init(p.cfg.MinMatch, p.cfg.MaxTokens)
		p.seqs[seq.ID] = h
	}
	for _, t := range seq.Tokens[h.read:] {
		h.say(t)
	}
	h.read = len(seq.Tokens)
	return h
}

// resumed is where the text may go on after token was said in place of what a
// match expected.
func (h *history) resumed(token int32) match {
	f := h.found
	if f.length < copying || h.at(f.next) == token {
		return match{}
	}
	behind := f.next // the token that was replaced
	for i := range uint32(leftOut) {
		if p := f.next + i; p+1 < h.end && h.at(p) == token {
			behind = p
			break
		}
	}
	if behind+1 >= h.end {
		return match{}
	}
	return match{behind + 1, resumeAs}
}

const (
	copying  = 4 // tokens of a match that is taken for a copy
	leftOut  = 4 // how far behind what was expected a token is looked for
	resumeAs = 3 // a resumed match counts like one of so many tokens
)

// say adds a token and moves the matches on with it.
func (h *history) say(token int32) {
	h.found, h.resume = h.moved(h.found, token), h.resumed(token)
	if h.pool != nil {
		h.pooled = h.pool.moved(h.pooled, token)
	}
	h.append(token)
}

// class grades a draft by its match: 1, 2–3, 4–7, 8 or more tokens.
func class(length int) int { return min(max(bits.Len(uint(length))-1, 0), spec.Classes-1) }

// Grades implements spec.Graded.
func (p *Proposer) Grades() [spec.Classes]float64 {
	return [spec.Classes]float64{0.15, 0.35, 0.65, 0.85}
}

// Committed implements spec.Proposer; Propose catches up by itself.
func (p *Proposer) Committed(*batch.Sequence, []int32, int) {}

// Release moves what the sequence said into the pool of its salt.
func (p *Proposer) Release(seq *batch.Sequence) {
	_, known := p.seqs[seq.ID]
	delete(p.seqs, seq.ID)
	if !known || p.cfg.PoolTokens < 1 || p.cfg.Pools < 1 {
		return
	}
	pool := p.pool(seq.Salt)
	tokens := seq.Tokens[max(0, len(seq.Tokens)-pool.limit/8):] // a step waits for it: 0.5 ms
	for _, t := range tokens {
		pool.append(t)
	}
	pool.append(gap)
}

// pool finds or makes a salt's pool, in place of the least recently used one.
func (p *Proposer) pool(salt string) *pool {
	p.clock++
	x := p.pools[salt]
	if x == nil {
		if len(p.pools) >= p.cfg.Pools {
			oldest := ""
			for s, other := range p.pools {
				if o := p.pools[oldest]; o == nil || other.used < o.used {
					oldest = s
				}
			}
			delete(p.pools, oldest)
		}
		x = &pool{}
		x.init(p.cfg.MinMatch, powerOfTwo(p.cfg.PoolTokens))
		p.pools[salt] = x
	}
	x.used = p.clock
	return x
}
