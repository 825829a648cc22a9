// Package spec is speculative decoding: proposers guess how a sequence goes on,
// the next step computes the guesses beside its own token, and verification
// keeps those that the model would have drawn anyway.
//
//	Draft        sets Sequence.Drafts     proposers, cheapest first; depth.go says how many
//	Schedule     takes the rows it has room for
//	Run          logits of 1 + drafts rows
//	Verify       accepted, then one recovered or bonus token            verify.go
//	Update       commits them
//	Done         proposers and the depth controller hear of it
//
// Words: a draft token is accepted when the target model would have drawn it;
// the first that is not is replaced by the token that was drawn, the recovered
// token; when all are accepted the last row gives one more, the bonus token.
// So a step with d drafts commits between 1 and d + 1 tokens, and a step
// without drafts is the case d = 0: plain decoding.
//
// Speculation changes cost, never answers. Three things hold that up:
//
//   - one-hot drafts are accepted iff the target's own draw equals them, so
//     seeded output is the same token for token (verify.go);
//   - a proposer is a guest: what it gets wrong, an error or a panic included,
//     costs its drafts only (guard.go);
//   - the depth controller pays for speculation out of a purse, so that it
//     cannot lose for long (depth.go).
package spec

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"

	"sestina/batch"
	"sestina/runner"
	"sestina/sampler"
)

// MaxDraft is the longest draft that anybody proposes or verifies.
const MaxDraft = 16

// DefaultDraft is the longest draft where nobody says. On text that repeats its
// prompt 12 commit a quarter more tokens a pass than 8 where rows are cheap, and
// the depth controller asks for fewer where they are not.
const DefaultDraft = 12

// Classes is how many grades of confidence a proposer may give its drafts; each
// has its own acceptance history. A proposer that cannot tell uses 0.
const Classes = 4

// Draft is a guess at how one sequence continues after its last token.
type Draft struct {
	Tokens []int32 // at most what was asked for; none: no idea
	Class  int     // confidence in [0, Classes), larger is surer

	// Dists are set by proposers that sample their tokens: Dists[i] is what
	// Tokens[i] was drawn from. nil: one-hot, the proposer's best guess.
	Dists []sampler.Dist
}

// Proposer guesses. It is called by the step goroutine only and keeps its state
// by Sequence.ID: sequences are preempted, come back, and share their neighbours'
// steps in any order.
type Proposer interface {
	// Name is what the metrics call it.
	Name() string

	// Propose returns a draft per sequence: at most k[i] tokens that may follow
	// seqs[i].Tokens, where 1 ≤ k[i] ≤ MaxDraft. All it needs to catch up on is in
	// seqs[i].Tokens, which only ever grows; it may not have been asked for many
	// steps. The drafts and their memory are valid until the next call.
	Propose(seqs []*batch.Sequence, k []int) ([]Draft, error)

	// Committed says that tokens were appended to seq.Tokens, the first accepted
	// of them from this proposer's draft (0: the draft was somebody else's, or none).
	Committed(seq *batch.Sequence, tokens []int32, accepted int)

	// Release says that seq has ended; its state can go.
	Release(seq *batch.Sequence)
}

// Serial is a Proposer whose cost counts: Propose takes a pass of something for
// every token of the longest draft. The depth controller then decides before the
// call. Proposers without it are taken to be free: they are asked for all they
// have, and what is not worth its rows is cut.
type Serial interface {
	Proposer
	// Serial is called once; it is a mark.
	Serial()
}

// Graded is a Proposer that knows what its classes are worth.
type Graded interface {
	Proposer
	// Grades are how often the first token of a draft of each class is expected to
	// be accepted, until that has been seen. It is called once. Of proposers
	// without it 6 in 10 are expected.
	Grades() [Classes]float64
}

// Resources are what a proposer may be built from.
type Resources struct {
	Vocab    int                 // of the target model
	MaxDraft int                 // longest draft that will be asked for
	MaxSeqs  int                 // sequences that run at once
	MaxLen   int                 // longest sequence
	Target   *runner.ModelRunner // of the target model
	Draft    *runner.ModelRunner // of the draft model; nil when none was named
	Blocks   int                 // of Draft's KV pool
	Block    int                 // tokens per block of it
	Rows     int                 // rows that a step of Draft may have; MaxSeqs of logits
	Sample   bool                // drafts are drawn and come with Dists, for rejection sampling
	Options  json.RawMessage     // the method's own settings; nil for its defaults
}

// Builder makes a proposer; it refuses resources that do not suit it.
type Builder func(Resources) (Proposer, error)

var builders = map[string]Builder{}

// Register makes a method known by name; a leaf package calls it in its init.
func Register(method string, build Builder) {
	if _, dup := builders[method]; dup {
		panic("spec: method registered twice: " + method)
	}
	builders[method] = build
}

// Methods lists the registered names, sorted.
func Methods() []string {
	var names []string
	for n := range builders {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Build makes the proposer of a method.
func Build(method string, r Resources) (Proposer, error) {
	build := builders[method]
	if build == nil {
		return nil, fmt.Errorf("spec: no method %q; there are %v", method, Methods())
	}
	if r.Vocab < 1 || r.MaxDraft < 1 || r.MaxDraft > MaxDraft {
		return nil, fmt.Errorf("spec: vocabulary of %d and drafts of %d tokens; drafts may have 1 to %d", r.Vocab, r.MaxDraft, MaxDraft)
	}
	return build(r)
}

// cut shortens a draft to n tokens.
func (d *Draft) cut(n int) {
	if n >= len(d.Tokens) {
		return
	}
	d.Tokens = d.Tokens[:n]
	if d.Dists != nil {
		d.Dists = slices.Clip(d.Dists[:n])
	}
}
