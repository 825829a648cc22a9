package sim

import (
	"strconv"
	"time"

	"sestina/batch"
)

// stream is one sequence with what the oracle knows about it.
type stream struct {
	seq  *batch.Sequence
	op   Op // the arrival it came from
	salt uint64
	seed uint64

	expected []int32  // the whole answer
	values   []uint64 // the slot of each position of prompt and answer
	reason   batch.FinishReason

	windows  []int
	queued   bool // see turns
	computed int  // positions of this token's pass, see checkPass
	passes   int  // preemptions before it

	committed   int // tokens that results have committed
	events      int // terminal events
	preemptions int // before the last Schedule
	admitted    bool
	turn        uint64 // its first admission, counted from 1; 0 = not yet
	arrived     time.Duration
}

func newStream(id int64, choice int, op Op, windows []int) *stream {
	tokens := op.prompt()
	s := &stream{
		op: op, windows: windows, salt: mix(uint64(op.Salt)), seed: mix(uint64(op.Seed) + uint64(choice)),
		seq: &batch.Sequence{
			ID: id, Choice: choice, Tokens: tokens, PromptLen: len(tokens),
			MaxTokens: op.Max, Priority: op.Priority, Salt: strconv.Itoa(op.Salt),
		},
	}
	if op.Greedy {
		s.seed = 0 // equal prompts give equal answers, which then share blocks
	}
	s.imagine()
	return s
}

// imagine is the oracle: the model's function straight from the prompt.
func (s *stream) imagine() {
	folds := make([]uint64, len(s.windows)) // of groups without a window they go on, of the others they begin anew
	for g := range folds {
		folds[g] = foldStart(s.salt)
	}
	s.reason = batch.FinishLength
	for p := 0; ; p++ {
		for g, w := range s.windows {
			if w > 0 {
				folds[g] = foldStart(s.salt)
				for _, v := range s.values[max(0, p-w+1):p] {
					folds[g] = foldSlot(folds[g], ofGroup(v, g))
				}
			}
		}
		var tok int32
		if p < len(s.seq.Tokens) {
			tok = s.seq.Tokens[p]
		} else {
			tok = s.expected[p-len(s.seq.Tokens)]
		}
		v := slotValue(state(folds), int(tok), p)
		s.values = append(s.values, v)
		for g := range folds {
			folds[g] = foldSlot(folds[g], ofGroup(v, g))
		}
		if p < len(s.seq.Tokens)-1 {
			continue
		}
		if n := len(s.expected); n > 0 && s.stops(n-1, s.expected[n-1]) {
			s.reason = batch.FinishStop
			return
		} else if n == s.seq.MaxTokens {
			return
		}
		s.expected = append(s.expected, nextToken(state(folds), s.seed))
	}
}

// stops reports whether output i ends the answer: by its id, or by a stop string.
func (s *stream) stops(i int, tok int32) bool {
	return isEOS(tok) || s.op.StopAt > 0 && i+1 == s.op.StopAt
}

// propose drafts a continuation that is right with the arrival's probability.
func (s *stream) propose(rng *uint64) {
	drafts := s.seq.Drafts[:0]
	if s.op.Draft > 0 {
		n := int(next(rng) % uint64(s.op.Draft+1))
		at := s.seq.NumOutput()
		for i := range n {
			tok := int32(next(rng) % vocab)
			if at+i < len(s.expected) && int(next(rng)%100) < s.op.Accept {
				tok = s.expected[at+i]
			}
			drafts = append(drafts, tok)
		}
	}
	s.seq.Drafts = drafts
}

// answer is the engine's part: it reads tokens from the rows that reach the last
// committed token, verifies the drafts and stops where the answer ends.
func (s *stream) answer(sp *span) (r batch.Result) {
	row := len(sp.tokens) - sp.drafts - 1
	if sp.start+row+1 < sp.known {
		return r // the prompt is still being filled
	}
	for {
		tok := nextToken(sp.folds[row], s.seed)
		r.Tokens = append(r.Tokens, tok)
		if s.stops(s.committed+len(r.Tokens)-1, tok) {
			r.Finish = batch.FinishStop
			return r
		}
		row++
		if row == len(sp.tokens) || sp.tokens[row] != tok || s.committed+len(r.Tokens) == s.seq.MaxTokens {
			return r
		}
	}
}

// checkTokens compares the committed tokens with the oracle's (I5).
func (s *stream) checkTokens() {
	out := s.seq.Tokens[s.seq.PromptLen:]
	if len(out) != s.committed || len(out) > len(s.expected) {
		broken("I5", "sequence %d has %d output tokens, %d were committed, the oracle has %d", s.seq.ID, len(out), s.committed, len(s.expected))
	}
	for i, tok := range out {
		if tok != s.expected[i] {
			broken("I5", "sequence %d: output %d is %d, the oracle says %d", s.seq.ID, i, tok, s.expected[i])
		}
	}
}
