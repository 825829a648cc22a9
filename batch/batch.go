// Package batch is the vocabulary of one engine step. It imports nothing of
// ours and decides nothing: it only names what travels between the scheduler
// (which decides), the runner (which computes) and the sampler (which draws).
//
// There is no prefill phase and no decode phase. A [Sequence] knows its tokens,
// its drafts and how many tokens it has computed; a [Step] is a list of
// (sequence, how many tokens). Decode, chunked prefill, prefix-cache hits,
// resumption after preemption and draft verification are one case:
//
//	tokens     p p p p p p o o o d d     p prompt, o output, d draft
//	computed   ^^^^^^^^^^^^^^^           K/V of these are in the cache
//	this step                  ^ ^ ^     the next NumTokens positions
package batch

// Status is where a sequence stands in the scheduler.
type Status uint8

const (
	Waiting  Status = iota // not admitted, or preempted and to be recomputed
	Running                // owns KV blocks
	Finished               // terminal; owns nothing
)

// FinishReason says why a sequence ended. The zero value means that it has not.
type FinishReason uint8

const (
	NotFinished    FinishReason = iota
	FinishStop                  // end-of-generation id, stop id or stop string
	FinishLength                // max tokens or the context's end
	FinishAbort                 // the client left or cancelled
	FinishError                 // the sequence's own fault; see Sequence.Err
	FinishRejected              // could never have been served
)

func (r FinishReason) String() string {
	switch r {
	case FinishStop:
		return "stop"
	case FinishLength:
		return "length"
	case FinishAbort:
		return "abort"
	case FinishError:
		return "error"
	case FinishRejected:
		return "rejected"
	}
	return ""
}

// Sequence is one stream of tokens: a prompt and what the model adds to it.
// The scheduler owns Status and the fields below it down to Preemptions; the
// engine owns the rest once the sequence is added. All of it is touched by the step goroutine only.
type Sequence struct {
	ID     int64  // unique within an engine, ascending in order of arrival
	Salt   string // tenant: prefix-cache blocks are shared only under one salt, and tenants take turns
	Tenant string // who asks: tenants take turns; "" = the salt
	Choice int    // index among the n choices of one request

	Tokens    []int32 // committed: prompt, then output
	PromptLen int     // Tokens[:PromptLen] is the prompt
	Drafts    []int32 // proposed continuation of Tokens, verified by the next step; never committed as such

	MaxTokens int // output budget, ≥ 1, already clamped to the context
	Priority  int // lower runs first
	Params    SamplingParams
	Stop      StopChecker // nil: no stop strings

	Status      Status
	NumComputed int       // Tokens[:NumComputed] (and, inside a step, drafts) have K/V in the cache
	BlockTables [][]int32 // of each block group: physical block of positions [i·B, (i+1)·B); −1 for a leading block that no window reaches any more
	NumCached   int       // prompt tokens taken from the prefix cache when first admitted
	Match       PrefixMatch
	Preemptions int // times that its blocks were taken away

	Finish FinishReason
	Err    error // set with FinishError
}

// Key is whom fairness charges for the sequence.
func (s *Sequence) Key() string {
	if s.Tenant != "" {
		return s.Tenant
	}
	return s.Salt
}

// HasBlocks reports whether the sequence owns blocks of the KV cache.
func (s *Sequence) HasBlocks() bool {
	for _, table := range s.BlockTables {
		if len(table) > 0 {
			return true
		}
	}
	return false
}

// NumOutput is the count of committed output tokens.
func (s *Sequence) NumOutput() int { return len(s.Tokens) - s.PromptLen }

// NumUncomputed counts the tokens, drafts included, that have no K/V yet.
func (s *Sequence) NumUncomputed() int { return len(s.Tokens) + len(s.Drafts) - s.NumComputed }

// Token returns the id at an absolute position, drafts included.
func (s *Sequence) Token(pos int) int32 {
	if pos < len(s.Tokens) {
		return s.Tokens[pos]
	}
	return s.Drafts[pos-len(s.Tokens)]
}

// StopChecker is how text meets the ids-only engine: it is told each committed
// token in order and says whether generation ends with it, so that a stop
// string cuts exactly, also inside an accepted draft.
type StopChecker interface {
	Commit(token int32) (stop bool)
}

// Scheduled is one sequence's share of a step: positions
// [Seq.NumComputed, Seq.NumComputed+NumTokens).
type Scheduled struct {
	Seq       *Sequence
	NumTokens int
	NumDrafts int // how many of NumTokens are drafts (the last ones)
}

// NeedsLogits reports whether the share reaches the last committed token, so
// that a token can be drawn from it (rows before that only fill the cache).
func (s Scheduled) NeedsLogits() bool {
	return s.Seq.NumComputed+s.NumTokens >= len(s.Seq.Tokens)
}

// BlockCopy asks the runner to copy one physical block before the step computes (copy-on-write).
type BlockCopy struct{ Src, Dst int32 }

// Step is one pass through the model. Steps are numbered from 1.
type Step struct {
	ID     uint64
	Seqs   []Scheduled
	Copies []BlockCopy
}

// NumTokens is the count of rows the step computes.
func (s *Step) NumTokens() int {
	n := 0
	for i := range s.Seqs {
		n += s.Seqs[i].NumTokens
	}
	return n
}

// Result is what a step did to one of its sequences: the tokens committed by
// it (none while a prompt is still being filled; several when drafts were
// accepted) and, when it ended, why.
type Result struct {
	Tokens []int32
	Finish FinishReason
	Err    error
}

// Input is a step laid flat for the model: rows of tokens, each belonging to
// one span. It is rebuilt every step into the same memory.
type Input struct {
	TokenIDs  []int32   // [rows]
	Positions []int32   // [rows] absolute positions
	Slots     [][]int32 // [block groups][rows] slot mapping: block·BlockSize + offset where the row's K/V goes
	Spans     []Span    // one per sequence, rows ascending
	LogitRows []int32   // rows whose logits will be read, ascending
	BlockSize int       // tokens per block
}

// Rows is the number of tokens in the step.
func (in *Input) Rows() int { return len(in.TokenIDs) }

// Span is one sequence's rows in an Input: rows [Row, Row+Len) hold positions
// [Start, Start+Len), attend to positions [0, position], and find them through the block table of
// a layer's group, whose leading blocks may be −1 when its layers have a window that ends behind them.
type Span struct {
	Row, Len    int
	Start       int
	BlockTables [][]int32 // [block groups]
}
