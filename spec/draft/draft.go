// Package draft proposes with a small model of the same vocabulary: speculative
// decoding as first published (Leviathan, Kalman and Matias 2023; Chen et al. 2023).
//
// The draft model has a runner and a KV pool of its own, paged by the same block
// manager as the target's. Per target sequence there is a shadow: the tokens that
// the draft model has seen, which of them have K/V, and its blocks. Before
// drafting a shadow is brought level:
//
//	target   p p p o o o            its tokens, now
//	shadow   p p p o x y            what was drafted last time
//	level    p p p o|o o            keep the common prefix, compute the rest
//
// So accepted drafts cost nothing, rejected ones are overwritten, and whatever
// happened in between (steps without drafts, preemption, drafts of another
// proposer) is one case. Then all sequences draft together: one pass for the
// missing tokens gives the first draft, each further pass one more token for all.
//
// A call computes at most Rows missing tokens, so a long prompt is read over
// several calls, beside the target's own steps; it drafts when it is level. Full
// blocks of the target's tokens are published under the sequence's salt, so what
// an earlier sequence began with too, a system prompt say, is not read again.
// A pool too small for all shadows takes the blocks of the one used
// least recently; what the prefix cache still has of them is not computed again
// when it is asked for. Shadows never change an answer: they only guess. Test:
// TestShadowsStayLevel compares every draft with the draft model's own plain decoding.
//
// Tokens are the likeliest ones. With Resources.Sample they are drawn from the
// draft model's distribution at the request's temperature and truncation, which
// comes with them for rejection sampling.
package draft

import (
	"errors"
	"fmt"

	"sestina/batch"
	"sestina/internal/simd"
	"sestina/kvcache"
	"sestina/runner"
	"sestina/sampler"
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
	blocks  *kvcache.BlockManager
	sample  bool
	shadows map[int64]*shadow
	clock   uint64
	chain   []kvcache.Hash // scratch

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
	seq       batch.Sequence
	known     int    // seq.Tokens[:known] are the target's
	published int    // of them, offered to the prefix cache
	used      uint64 // clock of the last call
	ready     bool   // this call reaches its last token

	sampler *sampler.Sampler // nil: the likeliest token
	dists   []sampler.Dist   // of this call's drafts
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
	blocks, err := kvcache.New(kvcache.Config{NumBlocks: r.Blocks, BlockSize: r.Block, PrefixCaching: true, Windows: r.Draft.Windows(), Model: info.Arch})
	if err != nil {
		return nil, fmt.Errorf("draft: %w", err)
	}
	blocks.Chunks(r.Rows)
	return &Proposer{runner: r.Draft, vocab: min(info.Vocab, r.Vocab), context: info.MaxContext, rows: r.Rows, blocks: blocks,
		sample: r.Sample, shadows: map[int64]*shadow{}}, nil
}

// Name implements spec.Proposer.
func (p *Proposer) Name() string { return "draft_model" }

// Serial implements spec.Serial: every token of a draft is a pass.
func (p *Proposer) Serial() {}

// Propose implements spec.Proposer.
func (p *Proposer) Propose(seqs []*batch.Sequence, k []int) ([]spec.Draft, error) {
	if err := p.begin(seqs, k); err != nil {
		return nil, err
	}
	if p.catchUp() {
		p.draw()
		for p.pass() {
			p.draw()
		}
	}
	return p.drafts, nil
}

// begin finds the shadows and brings their tokens level.
func (p *Proposer) begin(seqs []*batch.Sequence, k []int) error {
	p.clock++
	p.now, p.left = p.now[:0], append(p.left[:0], k...)
	for len(p.drafts) < len(seqs) {
		p.drafts = append(p.drafts, spec.Draft{})
	}
	p.drafts = p.drafts[:len(seqs)]
	for i, seq := range seqs {
		p.drafts[i] = spec.Draft{Tokens: p.drafts[i].Tokens[:0]}
		s, err := p.shadow(seq)
		if err != nil {
			return err
		}
		s.used = p.clock
		s.level(seq.Tokens)
		p.offer(s)
		p.left[i] = min(k[i], p.context-len(seq.Tokens))
		p.now = append(p.now, s)
	}
	return nil
}

// shadow finds or makes a sequence's.
func (p *Proposer) shadow(seq *batch.Sequence) (*shadow, error) {
	if s := p.shadows[seq.ID]; s != nil {
		return s, nil
	}
	s := &shadow{seq: batch.Sequence{ID: seq.ID, Salt: seq.Salt, PromptLen: seq.PromptLen}}
	if p.sample {
		t := &seq.Params
		own := batch.SamplingParams{Temperature: t.Temperature, TopK: t.TopK, TopP: t.TopP, MinP: t.MinP, TypicalP: t.TypicalP, Seed: t.Seed, Logprobs: -1}
		var err error
		if s.sampler, err = sampler.New(&own, seq.Choice, p.vocab, nil, nil); err != nil {
			return nil, err
		}
	}
	p.shadows[seq.ID] = s
	return s, nil
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
	s.dists = s.dists[:0]
}

// offer publishes the blocks that the target's tokens have filled since the last
// call, and lets go of those that no window reaches any more. Drafts are never
// published, and the window never moves on with them.
func (p *Proposer) offer(s *shadow) {
	if !s.seq.HasBlocks() {
		return
	}
	p.publish(s)
	p.blocks.Prune(&s.seq, p.step.ID)
}

func (p *Proposer) publish(s *shadow) {
	if to := min(s.seq.NumComputed, s.known); to > s.published {
		p.blocks.Publish(&s.seq, s.published, to)
		s.published = to
	}
}

// catchUp computes missing tokens of all sequences in one pass, first those that
// miss few, and reports whether any is level.
func (p *Proposer) catchUp() (any bool) {
	rows := p.rows
	p.next()
	for _, s := range p.now {
		s.ready = false
	}
	for _, small := range []bool{true, false} { // decoding streams do not wait for a prompt
		for i, s := range p.now {
			missing := len(s.seq.Tokens) - s.seq.NumComputed
			if p.left[i] < 1 || rows < 1 || (missing <= spec.MaxDraft+1) != small || !p.known(s) || !p.admit(s) {
				continue
			}
			missing = len(s.seq.Tokens) - s.seq.NumComputed // less, if the prefix cache had some
			n := min(missing, rows)
			if !p.grow(s, s.seq.NumComputed+n) {
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
	p.next()
	for i, s := range p.now {
		if s.ready = s.ready && p.left[i] > 0 && p.grow(s, len(s.seq.Tokens)); s.ready {
			p.step.Seqs = append(p.step.Seqs, batch.Scheduled{Seq: &s.seq, NumTokens: 1})
		}
	}
	return p.run()
}

// next begins a step.
func (p *Proposer) next() {
	p.step = batch.Step{ID: p.step.ID + 1, Seqs: p.step.Seqs[:0], Copies: p.step.Copies[:0]}
}

// run computes the step, if it has anybody, and books it.
func (p *Proposer) run() bool {
	if len(p.step.Seqs) == 0 {
		return false
	}
	p.out = p.runner.Run(&p.step)
	p.blocks.Complete(p.step.ID)
	for i := range p.step.Seqs {
		sch := &p.step.Seqs[i]
		sch.Seq.NumComputed += sch.NumTokens
	}
	return true
}

// draw appends a token to each sequence that has logits.
func (p *Proposer) draw() {
	for i, s := range p.now {
		if !s.ready {
			continue
		}
		id, err := p.choose(s, p.logits(s)[:p.vocab])
		if err != nil { // NaN: the draft model is of no use here
			s.ready = false
			continue
		}
		s.seq.Tokens = append(s.seq.Tokens, id)
		d := &p.drafts[i]
		d.Tokens = append(d.Tokens, id)
		if s.sampler != nil {
			d.Dists = s.dists
		}
		p.left[i]--
	}
}

var errNaN = errors.New("draft: the logits hold a NaN")

// choose is the likeliest token, or one from the distribution that it then keeps.
func (p *Proposer) choose(s *shadow, logits []float32) (int32, error) {
	if s.sampler == nil {
		id, _ := simd.ArgMax(logits)
		if id < 0 {
			return 0, errNaN
		}
		return int32(id), nil
	}
	output := len(s.seq.Tokens) - s.seq.PromptLen
	n := len(s.dists)
	if n == cap(s.dists) {
		s.dists = append(s.dists, sampler.Dist{})
	} else {
		s.dists = s.dists[:n+1] // its memory is used again
	}
	if err := s.sampler.Distribution(&s.dists[n], logits, output); err != nil {
		s.dists = s.dists[:n]
		return 0, err
	}
	return s.dists[n].Draw(s.sampler.Uniform(output, sampler.LaneDraft)), nil
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

// admit gives a shadow without blocks those for all its tokens, as far as the
// prefix cache has them with their K/V; false when there is no room.
func (p *Proposer) admit(s *shadow) bool {
	if s.seq.HasBlocks() {
		return true
	}
	if len(s.seq.Tokens) > p.blocks.Longest() {
		return false // never
	}
	p.chain = p.blocks.Chain(p.chain[:0], s.seq.Salt, s.seq.Tokens)
	for {
		cached, ok := p.blocks.Admit(&s.seq, p.chain, 0)
		if ok {
			s.seq.NumComputed, s.published = cached, cached
			return true
		}
		if !p.evict() {
			return false
		}
	}
}

// grow makes the positions up to n writable, at the cost of shadows that are not
// in this call; false when that is not enough.
func (p *Proposer) grow(s *shadow, n int) bool {
	for !p.blocks.Grow(&p.step, &s.seq, s.seq.NumComputed, n) {
		if !p.evict() {
			return false
		}
	}
	return true
}

// evict lets go of the blocks of the shadow used least recently, none of this call's.
func (p *Proposer) evict() bool {
	var oldest *shadow
	for _, s := range p.shadows {
		if s.used < p.clock && s.seq.HasBlocks() && (oldest == nil || s.used < oldest.used) {
			oldest = s
		}
	}
	if oldest == nil {
		return false
	}
	p.drop(oldest)
	return true
}

// drop lets go of a shadow's blocks. No step is under way that reads them.
func (p *Proposer) drop(s *shadow) {
	p.publish(s)
	p.blocks.Free(&s.seq, 0)
	s.seq.NumComputed, s.published = 0, 0
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
