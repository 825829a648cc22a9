// Package draft proposes with a small model of the same vocabulary: speculative
// decoding as first published (Leviathan, Kalman and Matias 2023; Chen et al. 2023).
//
// The draft model has a runner and a KV pool of its own. Per target sequence
// there is a shadow: the tokens that the draft model has seen, which of them have
// K/V, and its blocks. Before drafting a shadow is brought level:
//
//	target   p p p o o o            its tokens, now
//	shadow   p p p o x y            what was drafted last time
//	level    p p p o|o o            keep the common prefix, compute the rest
//
// So accepted drafts cost nothing, rejected ones are overwritten, and whatever
// happened in between (steps without drafts, preemption, drafts of another
// proposer) is one case. Then all sequences draft together, greedily: one pass for the
// missing tokens gives the first draft, each further pass one more token for all.
//
// A call computes at most Rows missing tokens, so a long prompt is read over
// several calls, beside the target's own steps; it drafts when it is level. A pool too
// small for all shadows takes the blocks of the one used least recently, which is
// computed again when it is asked for. Shadows never change an answer: they only
// guess. Test: TestShadowsStayLevel compares every draft with the draft model's own
// plain decoding.
package draft

import (
	"fmt"

	"sestina/batch"
	"sestina/internal/simd"
	"sestina/runner"
	"sestina/spec"
)

// padding is by how much two models of one vocabulary may differ in rows of logits.
const padding = 1024

func init() {
	spec.Register("draft_model", func(r spec.Resources) (spec.Proposer, error) { return New(r) })
}

// Proposer drafts with a model.
type Proposer struct {
	runner  *runner.ModelRunner
	vocab   int // ids that both models know
	context int // the draft model's
	rows    int // of a pass
	block   int
	free    []int32
	shadows map[int64]*shadow
	clock   uint64

	// Of one call, reused.
	step   batch.Step
	out    runner.Output
	now    []*shadow
	left   []int // tokens still to draft, by sequence
	drafts []spec.Draft
}

// shadow is a target sequence as the draft model knows it: seq.Tokens are the
// target's, then drafts; seq.NumComputed of them have K/V.
type shadow struct {
	seq   batch.Sequence
	known int    // seq.Tokens[:known] are the target's
	used  uint64 // clock of the last call
	ready bool   // this call reaches its last token
}

// New checks that the models fit together. That their ids mean the same text is
// for the caller to check: here are only ids.
func New(r spec.Resources) (*Proposer, error) {
	if r.Draft == nil || r.Blocks < 1 || r.Block < 1 {
		return nil, fmt.Errorf("draft: no draft model with a KV pool; name one with \"model\" in --speculative-config")
	}
	if r.MaxSeqs < 1 || r.Rows < r.MaxSeqs {
		return nil, fmt.Errorf("draft: %d rows a pass for %d sequences; there must be one for each", r.Rows, r.MaxSeqs)
	}
	info := r.Draft.Info()
	if d := info.Vocab - r.Vocab; d > padding || d < -padding {
		return nil, fmt.Errorf("draft: %s has a vocabulary of %d, the target %d; take a draft model of the target's family", info.Arch, info.Vocab, r.Vocab)
	}
	p := &Proposer{runner: r.Draft, vocab: min(info.Vocab, r.Vocab), context: info.MaxContext, rows: r.Rows, block: r.Block,
		shadows: map[int64]*shadow{}}
	for i := range r.Blocks {
		p.free = append(p.free, int32(r.Blocks-1-i))
	}
	return p, nil
}

// Name implements spec.Proposer.
func (p *Proposer) Name() string { return "draft_model" }

// Serial implements spec.Serial: every token of a draft is a pass.
func (p *Proposer) Serial() {}

// Propose implements spec.Proposer.
func (p *Proposer) Propose(seqs []*batch.Sequence, k []int) ([]spec.Draft, error) {
	p.begin(seqs, k)
	if p.catchUp() {
		p.draw(seqs)
		for p.pass() {
			p.draw(seqs)
		}
	}
	return p.drafts, nil
}

// begin finds the shadows and brings their tokens level.
func (p *Proposer) begin(seqs []*batch.Sequence, k []int) {
	p.clock++
	p.now, p.left = p.now[:0], append(p.left[:0], k...)
	for len(p.drafts) < len(seqs) {
		p.drafts = append(p.drafts, spec.Draft{})
	}
	p.drafts = p.drafts[:len(seqs)]
	for i, seq := range seqs {
		p.drafts[i].Tokens = p.drafts[i].Tokens[:0]
		s := p.shadows[seq.ID]
		if s == nil {
			s = &shadow{}
			p.shadows[seq.ID] = s
		}
		s.used = p.clock
		s.level(seq.Tokens)
		p.left[i] = min(k[i], p.context-len(seq.Tokens))
		p.now = append(p.now, s)
	}
}

// level keeps what the shadow has in common with the target's tokens and takes
// over the rest. The last token is always computed: its logits are wanted.
func (s *shadow) level(tokens []int32) {
	n := min(s.known, len(tokens))
	for n < len(s.seq.Tokens) && n < len(tokens) && s.seq.Tokens[n] == tokens[n] {
		n++
	}
	s.seq.Tokens = append(s.seq.Tokens[:n], tokens[n:]...)
	s.seq.NumComputed = min(s.seq.NumComputed, n, len(tokens)-1)
	s.known = len(tokens)
}

// catchUp computes missing tokens of all sequences in one pass, first those that
// miss few, and reports whether any is level.
func (p *Proposer) catchUp() (any bool) {
	rows := p.rows
	p.step.Seqs = p.step.Seqs[:0]
	for _, s := range p.now {
		s.ready = false
	}
	for _, small := range []bool{true, false} { // decoding streams do not wait for a prompt
		for i, s := range p.now {
			missing := len(s.seq.Tokens) - s.seq.NumComputed
			if p.left[i] < 1 || (missing <= spec.MaxDraft+1) != small {
				continue
			}
			n := min(missing, rows)
			if n < 1 || !p.known(s) || !p.reserve(s, s.seq.NumComputed+n) {
				continue
			}
			p.step.Seqs = append(p.step.Seqs, batch.Scheduled{Seq: &s.seq, NumTokens: n})
			rows -= n
			s.ready = n == missing
			any = any || s.ready
		}
	}
	p.run()
	return any
}

// known reports whether the draft model has all the ids that it would compute.
func (p *Proposer) known(s *shadow) bool {
	for _, id := range s.seq.Tokens[s.seq.NumComputed:] {
		if int(id) >= p.vocab {
			return false
		}
	}
	return true
}

// pass computes the last drafts of the sequences that want more, and reports
// whether there are any.
func (p *Proposer) pass() bool {
	p.step.Seqs = p.step.Seqs[:0]
	for i, s := range p.now {
		if s.ready = s.ready && p.left[i] > 0 && p.reserve(s, len(s.seq.Tokens)); s.ready {
			p.step.Seqs = append(p.step.Seqs, batch.Scheduled{Seq: &s.seq, NumTokens: 1})
		}
	}
	return p.run()
}

// run computes the step, if it has anybody, and books it.
func (p *Proposer) run() bool {
	if len(p.step.Seqs) == 0 {
		return false
	}
	p.out = p.runner.Run(&p.step)
	for i := range p.step.Seqs {
		sch := &p.step.Seqs[i]
		sch.Seq.NumComputed += sch.NumTokens
	}
	return true
}

// draw appends the likeliest token to each sequence that has logits.
func (p *Proposer) draw(seqs []*batch.Sequence) {
	for i, s := range p.now {
		if !s.ready {
			continue
		}
		id, _ := simd.ArgMax(p.logits(s)[:p.vocab])
		if id < 0 { // NaN: the draft model is of no use here
			s.ready = false
			continue
		}
		s.seq.Tokens = append(s.seq.Tokens, int32(id))
		p.drafts[i].Tokens = append(p.drafts[i].Tokens, int32(id))
		p.left[i]--
	}
}

// logits is the row of a shadow in the last run.
func (p *Proposer) logits(s *shadow) []float32 {
	for i := range p.step.Seqs {
		if p.step.Seqs[i].Seq == &s.seq {
			return p.out.Logits.Row(p.out.Shares[i].First)
		}
	}
	panic("draft: a ready sequence was not computed")
}

// reserve gives a shadow the blocks for n tokens, from the free ones or from a
// shadow that is not in this call; false when there are not enough.
func (p *Proposer) reserve(s *shadow, n int) bool {
	for len(s.seq.BlockTable)*p.block < n {
		if len(p.free) == 0 && !p.evict() {
			return false
		}
		s.seq.BlockTable = append(s.seq.BlockTable, p.free[len(p.free)-1])
		p.free = p.free[:len(p.free)-1]
	}
	return true
}

// evict takes the blocks of the shadow used least recently, none of this call's.
func (p *Proposer) evict() bool {
	var oldest *shadow
	for _, s := range p.shadows {
		if s.used < p.clock && len(s.seq.BlockTable) > 0 && (oldest == nil || s.used < oldest.used) {
			oldest = s
		}
	}
	if oldest == nil {
		return false
	}
	p.drop(oldest)
	return true
}

// drop takes a shadow's blocks.
func (p *Proposer) drop(s *shadow) {
	p.free = append(p.free, s.seq.BlockTable...)
	s.seq.BlockTable = s.seq.BlockTable[:0]
	s.seq.NumComputed = 0
}

// Committed implements spec.Proposer; Propose brings itself level.
func (p *Proposer) Committed(*batch.Sequence, []int32, int) {}

// Release implements spec.Proposer.
func (p *Proposer) Release(seq *batch.Sequence) {
	if s := p.shadows[seq.ID]; s != nil {
		p.drop(s)
		delete(p.shadows, seq.ID)
	}
}
