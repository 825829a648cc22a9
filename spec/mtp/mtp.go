// Package mtp proposes with the target's own multi-token prediction layer:
// DeepSeek-V3 (2024) trained one to predict the token after next, and drafting
// with it is EAGLE's way (Li et al. 2024) of reading the target's states.
//
// # The layer
//
//	x = eh_proj [ enorm(embedding of token j) ; hnorm(state j-1) ]      state: behind the final norm
//	y = decoder layer(x), causal;  g = shared_head.norm(y);  head(g) predicts token j+1
//
// # Where its K and V live
//
// The layer's K and V are one more layer of the target's block table. The row of
// token j sits at slot j, which gives the invariant that all else rests on:
//
//	slot j holds what tokens 0…j determine, in the layer as in the target
//
// So wherever the target's slot may be shared, copied, kept, let go or overwritten,
// the layer's may too, and prefix hits, copy-on-write, preemption and truncation
// need no word about it. The usual numbering, row i for the pair of state i and
// token i+1, would put what depends on the next token into a slot, and a block in
// the prefix cache would then end with a row that belongs to somebody else's
// continuation. Position 0 has no state before it: slot 0 is not visible.
//
// # Keeping level
//
// Every step computes the layer's K and V for the rows that the target computes,
// from the target's true states ([runner.ModelRunner.Run]): prompts in chunks,
// decoding, verification. A single layer's K and V depend on its input only, so this
// takes eh_proj and the projections of k and v, no attention, no MLP, no head:
// 1.0 of SmolLM2-135M's 135 million parameters. Rows of rejected drafts are overwritten when
// their positions are computed again, as the target's are.
//
// The first row of a sequence's share of a step needs the state that its last
// step ended with, which is kept. Behind a prefix hit, in a fork and after a fault
// nobody has it, and zeros take its place: one of the layer's rows is then less
// good than it could be, which may cost a draft and never an answer.
//
// # Drafting
//
//	position    P-1    P      P+1    P+2       P tokens are computed, token P is drawn
//	row          ·    t[P]    d1     d2
//	state             h[P-1]  g      g'        the target's, then the layer's own
//	predicts          d1      d2     d3
//
// One pass per draft token for all sequences together. The rows' K and V go to
// slots P, P+1, …, which the verifying step overwrites, or, where the sequence has no
// block for them yet, to spare blocks that nobody else sees.
//
// Proof: TestRoundsEqualReference (drafts and acceptance of a plain float64
// implementation), TestDraftsDependOnTokensAlone (chunks, neighbours, block sizes, rejected drafts, preemption).
package mtp

import (
	"errors"

	"sestina/batch"
	"sestina/internal/simd"
	"sestina/runner"
	"sestina/spec"
)

func init() {
	spec.Register("mtp", func(r spec.Resources) (spec.Proposer, error) { return New(r) })
}

// Proposer drafts with the MTP layer of the target's runner.
type Proposer struct {
	target *runner.ModelRunner
	drafts []spec.Draft
	rows   []runner.DraftRow // of the next pass
	owner  []int             // draft that each row belongs to
}

// New refuses a target without an MTP layer.
func New(r spec.Resources) (*Proposer, error) {
	if r.Target == nil || !r.Target.Info().MTP {
		return nil, errors.New(`mtp: the target holds no MTP layer ("num_nextn_predict_layers" and its tensors); name an MTP file with "model" in --speculative-config`)
	}
	if len(r.Options) > 0 {
		return nil, errors.New("mtp: there are no options")
	}
	return &Proposer{target: r.Target}, nil
}

// Name implements spec.Proposer.
func (p *Proposer) Name() string { return "mtp" }

// Serial implements spec.Serial: every token of a draft is a pass.
func (p *Proposer) Serial() {}

// Propose implements spec.Proposer.
func (p *Proposer) Propose(seqs []*batch.Sequence, k []int) ([]spec.Draft, error) {
	if err := p.begin(seqs); err != nil {
		return nil, err
	}
	for len(p.rows) > 0 {
		guess, err := p.target.Draft(p.rows)
		if err != nil {
			return nil, err
		}
		n := 0
		for i, row := range p.rows {
			id, _ := simd.ArgMax(guess.Logits.Row(i))
			if id < 0 { // NaN: the layer is of no use here
				continue
			}
			if guess.IDs != nil {
				id = int(guess.IDs[id])
			}
			owner := p.owner[i]
			d := &p.drafts[owner]
			d.Tokens = append(d.Tokens, int32(id))
			if len(d.Tokens) < k[owner] {
				p.rows[n] = runner.DraftRow{Seq: row.Seq, Token: int32(id), Pos: row.Pos + 1, From: i}
				p.owner[n] = owner
				n++
			}
		}
		p.rows, p.owner = p.rows[:n], p.owner[:n]
	}
	return p.drafts, nil
}

// begin makes the first row of every sequence whose last state is known.
func (p *Proposer) begin(seqs []*batch.Sequence) error {
	for len(p.drafts) < len(seqs) {
		p.drafts = append(p.drafts, spec.Draft{})
	}
	p.drafts, p.rows, p.owner = p.drafts[:len(seqs)], p.rows[:0], p.owner[:0]
	for i, seq := range seqs {
		p.drafts[i].Tokens = p.drafts[i].Tokens[:0]
		ok, err := p.target.CanDraft(seq)
		if err != nil {
			return err
		}
		if ok {
			last := len(seq.Tokens) - 1
			p.rows = append(p.rows, runner.DraftRow{Seq: seq, Token: seq.Tokens[last], Pos: last, From: -1})
			p.owner = append(p.owner, i)
		}
	}
	return nil
}

// Committed implements spec.Proposer; the step itself keeps the layer level.
func (p *Proposer) Committed(*batch.Sequence, []int32, int) {}

// Release implements spec.Proposer; seats of sequences that run no more are taken.
func (p *Proposer) Release(*batch.Sequence) {}
