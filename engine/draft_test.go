package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"sestina/batch"
	"sestina/spec"
)

// prophet drafts what a request alone was answered, right with a probability
// and of any length, none included. Sequences are told apart by seed and choice.
type prophet struct {
	answers map[[2]uint64][]int32
	right   float64
	r       *rand.Rand
}

func newProphet(reqs []Request, alone []answer, right float64) *prophet {
	p := &prophet{map[[2]uint64][]int32{}, right, rand.New(rand.NewPCG(6, 6))}
	for i, req := range reqs {
		for c := range max(1, req.N) {
			p.answers[[2]uint64{req.Sampling.Seed, uint64(c)}] = alone[i].tokens[c]
		}
	}
	return p
}

func (p *prophet) Name() string                            { return "prophet" }
func (p *prophet) Committed(*batch.Sequence, []int32, int) {}
func (p *prophet) Release(*batch.Sequence)                 {}
func (p *prophet) Propose(seqs []*batch.Sequence, k []int) ([]spec.Draft, error) {
	out := make([]spec.Draft, len(seqs))
	for i, seq := range seqs {
		answer := p.answers[[2]uint64{seq.Params.Seed, uint64(seq.Choice)}]
		for n := range p.r.IntN(k[i] + 1) {
			id := int32(p.r.IntN(vocab)) // also behind the answer's end
			if at := seq.NumOutput() + n; at < len(answer) {
				if id = answer[at]; p.r.Float64() >= p.right {
					id = (id + 1) % vocab
				}
			}
			out[i].Tokens = append(out[i].Tokens, id)
		}
	}
	return out, nil
}

// drafted runs a company of requests with drafts and compares.
func (c *company) drafted(t *testing.T, reqs []Request, want []answer, backend, kv string, right float64, fixed int) {
	p := newProphet(reqs, want, right)
	drafting := *c
	drafting.opt.Speculator = spec.New(spec.Config{Vocab: vocab, Fixed: fixed}, p)
	e := drafting.open(t, reqs, backend, kv)
	compare(t, reqs, together(t, e, reqs, 3, nil), want)
	s := e.Stats().Speculation
	if pr := s.Proposers[0]; pr.Faults > 0 {
		t.Errorf("%d faults, the last %s", pr.Faults, pr.LastErr)
	}
	able := e.opt.Techniques.KVCache == "on" && e.opt.MaxNumBatchedTokens > 1
	if fixed > 0 && able && (s.Drafted == 0 || (s.Accepted > 0) != (right > 0) || (s.Recovered > 0) != (right < 1)) {
		t.Errorf("right %v: %d drafted, %d accepted, %d recovered", right, s.Drafted, s.Accepted, s.Recovered)
	}
}

// TestDraftsChangeNoAnswer is everything at once: penalties, logit bias, min-p,
// DRY, XTC, log probabilities, stop strings and ends inside drafts, several
// choices, prefix hits, chunked prompts, preemption, pools that are too small. All
// drafts wrong, all right, and anything between, of every length: answers, log
// probabilities and ends are those of a request alone without drafts.
func TestDraftsChangeNoAnswer(t *testing.T) {
	reqs := workload(12, 80)
	want := answersAlone(t, reqs, "")
	for _, c := range companies {
		for _, right := range []float64{0, 0.7, 1} {
			for _, fixed := range []int{0, 3, spec.MaxDraft} {
				t.Run(fmt.Sprintf("%s, %v right, %d", c.name, right, fixed), func(t *testing.T) { c.drafted(t, reqs, want, "", "", right, fixed) })
			}
		}
	}
}

// The same with real arithmetic: a sliding window of 16 that drafts reach beyond,
// and every KV format in blocks of sizes that divide a tile and that do not.
func TestDraftsOfRealModelChangeNoAnswer(t *testing.T) {
	reqs := workload(13, 24)
	try := func(backend, kv string, sizes ...int) {
		want := setup{backend: backend, kv: kv, opt: Options{Techniques: Techniques{Batching: "none", PrefixCaching: "off"}}}.alone(t, reqs)
		for _, size := range sizes {
			c := company{name: fmt.Sprint(backend, " ", kv, ", blocks of ", size), blockSize: size, pool: 4, opt: Options{MaxNumBatchedTokens: 48}}
			t.Run(c.name, func(t *testing.T) { c.drafted(t, reqs, want, backend, kv, 0.7, 5) })
		}
	}
	try("cpu q8_0", "f16", 16)
	try("cpu mistral", "f16", 4, 7, 16)
	for _, kv := range []string{"f32", "f16", "bf16", "q8_0", "q4_0"} {
		try("cpu qwen3", kv, 1, 7, 16, 32)
	}
}
