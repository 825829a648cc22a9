package draft

import (
	"math/rand/v2"
	"slices"
	"testing"

	"sestina/backend"
	_ "sestina/backend/all"
	"sestina/batch"
	"sestina/checkpoint"
	"sestina/internal/simd"
	"sestina/model"
	_ "sestina/model/all"
	"sestina/runner"
	"sestina/spec"
	"sestina/tensor"
)

const tiny = "../../model/testdata/hf/llama_plain"

func open(t testing.TB, rows, blocks, blockSize int) *runner.ModelRunner {
	t.Helper()
	c, err := checkpoint.Open(tiny)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := backend.Open("cpu", backend.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	m, err := model.Load(c, b, model.Options{MaxRows: rows, MaxLogitRows: 16})
	if err != nil {
		t.Fatal(err)
	}
	r, err := runner.New(m, b, runner.Config{Blocks: blocks, BlockSize: blockSize, KVDType: tensor.F16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// oracle continues tokens greedily, from nothing each time.
func oracle(t testing.TB, r *runner.ModelRunner, tokens []int32, k int) []int32 {
	out := slices.Clone(tokens)
	for range k {
		next := 0
		if err := r.Logits(out, 16, func(pos int, logits []float32) error {
			if pos == len(out)-1 {
				next, _ = simd.ArgMax(logits)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		out = append(out, int32(next))
	}
	return out[len(tokens):]
}

// Every draft is what the draft model says after the target's tokens: after
// accepted and rejected drafts, steps without drafts, long prompts read in parts,
// and evictions, in changing company.
func TestShadowsStayLevel(t *testing.T) {
	const block, rows = 4, 24
	ref := open(t, 64, 64, 16)
	for name, blocks := range map[string]int{"enough blocks": 200, "blocks for half": 45} {
		p, err := New(spec.Resources{Vocab: ref.Info().Vocab, MaxDraft: 5, MaxSeqs: 6, Draft: open(t, rows, blocks, block), Blocks: blocks, Block: block, Rows: rows})
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(1, 7))
		token := func() int32 { return int32(3 + r.IntN(ref.Info().Vocab-3)) }
		var seqs []*batch.Sequence
		start := func(id int64) *batch.Sequence {
			seq := &batch.Sequence{ID: id}
			for range 1 + r.IntN(60) {
				seq.Tokens = append(seq.Tokens, token())
			}
			return seq
		}
		for i := range 6 {
			seqs = append(seqs, start(int64(i)))
		}
		drafted, silent := 0, 0
		for call := range 120 {
			var asked []*batch.Sequence
			var k []int
			for _, i := range r.Perm(len(seqs))[:1+r.IntN(3)] {
				asked, k = append(asked, seqs[i]), append(k, 1+r.IntN(5))
			}
			drafts, err := p.Propose(asked, k)
			if err != nil || len(drafts) != len(asked) {
				t.Fatal(drafts, err)
			}
			for i, seq := range asked {
				d := drafts[i].Tokens
				if len(d) == 0 {
					silent++
				} else if call%3 == 0 {
					if want := oracle(t, ref, seq.Tokens, len(d)); !slices.Equal(d, want) {
						t.Fatalf("%s, call %d, sequence %d of %d tokens: %v, want %v", name, call, seq.ID, len(seq.Tokens), d, want)
					}
				}
				if len(d) > k[i] {
					t.Fatalf("%d drafts where %d were asked for", len(d), k[i])
				}
				drafted += len(d)
				if n := r.IntN(len(d) + 1); len(d) > 0 {
					seq.Tokens = append(seq.Tokens, d[:n]...)
				}
				for range 1 + r.IntN(3) { // recovered, and steps of plain decoding
					seq.Tokens = append(seq.Tokens, token())
				}
			}
			for i, seq := range seqs {
				if len(seq.Tokens) > 100 {
					p.Release(seq)
					seqs[i] = start(seq.ID + 100)
				}
			}
		}
		if drafted < 150 || silent == 0 {
			t.Errorf("%s: %d drafts, %d times none", name, drafted, silent)
		}
		for _, seq := range seqs {
			p.Release(seq)
		}
		if err := p.blocks.Check(nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := p.blocks.Available(); n != blocks || len(p.shadows) != 0 {
			t.Errorf("%s: %d blocks of %d can be had, %d shadows", name, n, blocks, len(p.shadows))
		}
	}
}

// What another sequence of the salt began with is not read again, and drafts are
// the same as if it had been; other salts share nothing.
func TestPrefixIsShared(t *testing.T) {
	const block = 4
	r := open(t, 64, 100, block)
	p, err := New(spec.Resources{Vocab: r.Info().Vocab, MaxDraft: 4, MaxSeqs: 4, Draft: r, Blocks: 100, Block: block, Rows: 64})
	if err != nil {
		t.Fatal(err)
	}
	prompt := make([]int32, 42)
	for i := range prompt {
		prompt[i] = int32(5 + i*7%50)
	}
	computed := func(id int64, salt string) (rows int, drafts []int32) {
		seq := &batch.Sequence{ID: id, Salt: salt, Tokens: slices.Clone(prompt)}
		for range 2 { // the second call publishes what the first has read
			before := p.blocks.Stats().HitTokens
			d, err := p.Propose([]*batch.Sequence{seq}, []int{3})
			if err != nil || len(d[0].Tokens) != 3 {
				t.Fatal(d, err)
			}
			rows, drafts = len(prompt)-int(p.blocks.Stats().HitTokens-before), append(drafts, d[0].Tokens...)
			if rows < len(prompt) {
				return rows, drafts
			}
		}
		return rows, drafts[:3]
	}
	_, want := computed(1, "a")
	if rows, got := computed(2, "a"); rows != 42-40 || !slices.Equal(got, want) {
		t.Errorf("%d of 42 tokens were read again; drafts %v, want %v", rows, got, want)
	}
	if rows, got := computed(3, "b"); rows != 42 || !slices.Equal(got, want) {
		t.Errorf("another salt read %d of 42 tokens; drafts %v, want %v", rows, got, want)
	}
	if err := p.blocks.Check([]*batch.Sequence{&p.shadows[1].seq, &p.shadows[2].seq, &p.shadows[3].seq}); err != nil {
		t.Error(err)
	}
}

// With Sample, drafts are drawn from the distributions that come with them,
// and those are the draft model's own at the request's temperature.
func TestSampledDraftsCarryTheirDistribution(t *testing.T) {
	r := open(t, 64, 100, 16)
	p, err := New(spec.Resources{Vocab: r.Info().Vocab, MaxDraft: 4, MaxSeqs: 4, Draft: r, Blocks: 100, Block: 16, Rows: 64, Sample: true})
	if err != nil {
		t.Fatal(err)
	}
	differ := 0
	for id := range int64(20) {
		params := batch.SamplingParams{Temperature: 1.5, TopK: 12, Seed: uint64(id), Logprobs: -1}
		seq := &batch.Sequence{ID: id, Tokens: []int32{5, 9, 14}, PromptLen: 3, Params: params}
		d, err := p.Propose([]*batch.Sequence{seq}, []int{3})
		if err != nil || len(d[0].Tokens) != 3 || len(d[0].Dists) != 3 {
			t.Fatalf("%+v, %v", d, err)
		}
		text := slices.Clone(seq.Tokens)
		for i, tok := range d[0].Tokens {
			q := &d[0].Dists[i]
			if len(q.IDs) != 12 || !(q.Prob(tok) > 0) {
				t.Fatalf("sequence %d, draft %d: token %d of %v", id, i, tok, q.IDs)
			}
			if best := oracle(t, r, text, 1)[0]; slices.Max(q.Probs) != q.Prob(best) {
				t.Errorf("sequence %d, draft %d: the likeliest of %v is not %d, the model's own", id, i, q, best)
			} else if best != tok {
				differ++
			}
			text = append(text, tok)
		}
	}
	if differ < 10 {
		t.Errorf("%d of 60 drafts are not the likeliest token: nothing is drawn", differ)
	}
}

// A prompt longer than a pass is read over several calls; a stream that is level
// drafts meanwhile.
func TestLongPromptDoesNotHoldUpOthers(t *testing.T) {
	const rows = 24
	r := open(t, rows, 100, 4)
	p, err := New(spec.Resources{Vocab: r.Info().Vocab, MaxDraft: 4, MaxSeqs: 2, Draft: r, Blocks: 100, Block: 4, Rows: rows})
	if err != nil {
		t.Fatal(err)
	}
	short, long := &batch.Sequence{ID: 1, Tokens: []int32{5, 6, 7}}, &batch.Sequence{ID: 2, Tokens: make([]int32, 90)}
	for call := range 5 { // 21 + 23 + 23 + 23 rows
		drafts, err := p.Propose([]*batch.Sequence{long, short}, []int{2, 2})
		if err != nil {
			t.Fatal(err)
		}
		if len(drafts[1].Tokens) != 2 {
			t.Errorf("call %d: the short sequence waits", call)
		}
		if got, want := len(drafts[0].Tokens) > 0, call >= 3; got != want {
			t.Errorf("call %d: the long prompt drafts: %v", call, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	r := open(t, 24, 8, 4)
	v := r.Info().Vocab
	for name, res := range map[string]spec.Resources{
		"no model":         {Vocab: v, MaxDraft: 4, MaxSeqs: 2, Rows: 24},
		"another family":   {Vocab: v + 5000, MaxDraft: 4, MaxSeqs: 2, Draft: r, Blocks: 8, Block: 4, Rows: 24},
		"too few rows":     {Vocab: v, MaxDraft: 4, MaxSeqs: 25, Draft: r, Blocks: 8, Block: 4, Rows: 24},
		"drafts of nobody": {Vocab: v, MaxDraft: 0, MaxSeqs: 2, Draft: r, Blocks: 8, Block: 4, Rows: 24},
	} {
		if _, err := spec.Build("draft_model", res); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	p, err := New(spec.Resources{Vocab: v + 10, MaxDraft: 4, MaxSeqs: 2, Draft: r, Blocks: 8, Block: 4, Rows: 24})
	if err != nil {
		t.Fatal(err)
	}
	// Ids that only the target has, and texts beyond the draft model's context or pool: no drafts.
	for name, seq := range map[string]*batch.Sequence{
		"an unknown id": {ID: 1, Tokens: []int32{4, int32(v + 3)}},
		"too long":      {ID: 2, Tokens: make([]int32, 33)},
	} {
		for range 4 {
			if d, err := p.Propose([]*batch.Sequence{seq}, []int{2}); err != nil || len(d[0].Tokens) != 0 {
				t.Errorf("%s: %v, %v", name, d, err)
			}
		}
		p.Release(seq)
	}
}
