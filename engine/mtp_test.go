package engine

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"testing"

	"sestina/backend"
	"sestina/batch"
	"sestina/model"
	"sestina/runner"
	"sestina/runner/tier"
	"sestina/spec"
	"sestina/spec/mtp"
)

// hashMTP is the hash model with a layer whose slots must follow the target's:
// the slot of a position holds a hash of the target's own slot there. Whenever the
// layer drafts it looks whether that is so at every position before, and whether
// the states it is given are the target's. It drafts what the target will draw
// greedily, two times out of three.
type hashMTP struct {
	hashModel
	guessed map[uint64]bool // states that the last Draft made up
	wrong   []string
	drafts  int
	unknown int // rows whose state before was not known
}

func (m *hashMTP) Info() model.Info {
	i := m.hashModel.Info()
	i.MTP, i.MaxRows, i.Hidden = true, 4096, 2
	return i
}

// The backend moves rows of states; a state is 64 bits in two floats.
func (hashBackend) NewRows(n, width int) (backend.Rows, error) {
	return backend.Rows{N: n, Width: width, Host: make([]float32, n*width)}, nil
}

func (hashBackend) Gather(dst, src backend.Rows, rows []int32) {
	for i, r := range rows {
		copy(dst.Row(i), src.Row(int(r)))
	}
}

func put(r backend.Rows, i int, state uint64) {
	r.Row(i)[0], r.Row(i)[1] = math.Float32frombits(uint32(state)), math.Float32frombits(uint32(state>>32))
}

func take(r backend.Rows, i int) uint64 {
	return uint64(math.Float32bits(r.Row(i)[0])) | uint64(math.Float32bits(r.Row(i)[1]))<<32
}

// stateAt is the target's state at a position, 1 before the first.
func stateAt(c *hashCache, table []int32, size, pos int) uint64 {
	state := uint64(1)
	for p := range pos + 1 {
		state = mix(state*3 ^ c.slots[int(table[p/size])*size+p%size])
	}
	return state
}

func (m *hashMTP) Forward(in *batch.Input, kv backend.Cache) model.Output {
	out := m.hashModel.Forward(in, kv)
	out.States, _ = hashBackend{}.NewRows(in.Rows(), 2)
	for _, sp := range in.Spans {
		for i := range sp.Len {
			put(out.States, sp.Row+i, stateAt(kv.(*hashCache), sp.BlockTables[0], in.BlockSize, sp.Start+i))
		}
	}
	return out
}

func (m *hashMTP) fail(format string, args ...any) {
	if len(m.wrong) < 5 {
		m.wrong = append(m.wrong, fmt.Sprintf(format, args...))
	}
}

func (m *hashMTP) KeepLevel(in *batch.Input, states backend.Rows, kv backend.Cache) {
	c := kv.(*hashCache)
	for _, sp := range in.Spans {
		for i := range sp.Len {
			pos, row := sp.Start+i, sp.Row+i
			switch before := take(states, row); {
			case before == 0 && i == 0:
				if pos > 0 {
					m.unknown++
				}
			case before != stateAt(c, sp.BlockTables[0], in.BlockSize, pos-1):
				m.fail("the row of position %d has another state than the target at %d", pos, pos-1)
			}
			c.layer[in.Slots[0][row]] = mix(5 * c.slots[in.Slots[0][row]])
		}
	}
}

func (m *hashMTP) Draft(in *batch.Input, states backend.Rows, kv backend.Cache) model.Guess {
	c, guessed := kv.(*hashCache), map[uint64]bool{}
	g := model.Guess{}
	g.Logits, _ = hashBackend{}.NewRows(in.Rows(), vocab)
	g.States, _ = hashBackend{}.NewRows(in.Rows(), 2)
	for i, sp := range in.Spans {
		before := take(states, i)
		if !m.guessed[before] { // a chain begins
			m.level(c, &sp, in.BlockSize, before)
		}
		slot := mix(before ^ uint64(in.TokenIDs[i])<<20 ^ uint64(sp.Start))
		c.layer[in.Slots[0][i]] = mix(5 * slot)
		after := mix(before*3 ^ slot)
		put(g.States, i, after)
		guessed[after] = true
		for t, logits := 0, g.Logits.Row(i); t < vocab; t++ {
			logits[t] = float32(mix(after+uint64(t)+after%3/2)>>40) / (1 << 22)
		}
		m.drafts++
	}
	m.guessed = guessed
	return g
}

// level checks what a chain of drafts begins with.
func (m *hashMTP) level(c *hashCache, sp *batch.Span, size int, before uint64) {
	if before != stateAt(c, sp.BlockTables[0], size, sp.Start-1) {
		m.fail("drafting at position %d begins with another state than the target's", sp.Start)
	}
	for p := 1; p < sp.Start; p++ {
		slot := int(sp.BlockTables[0][p/size])*size + p%size
		if c.layer[slot] != mix(5*c.slots[slot]) {
			m.fail("drafting at position %d: the layer's slot of %d does not follow the target's", sp.Start, p)
			return
		}
	}
}

// drafting opens an engine whose model drafts for itself.
func (c *company) drafting(t *testing.T, reqs []Request, below *tier.Config) (*Engine, *hashMTP) {
	t.Helper()
	longest := 0
	for _, r := range reqs {
		longest = max(longest, len(r.Prompt)+r.MaxTokens)
	}
	m, opt := &hashMTP{}, c.opt
	blocks := (int(c.pool*float64(longest)) + c.blockSize - 1) / c.blockSize
	r, err := runner.New(m, hashBackend{}, runner.Config{Blocks: blocks, BlockSize: c.blockSize, DraftSeqs: 32, DraftLen: 3})
	if err != nil {
		t.Fatal(err)
	}
	p, err := mtp.New(spec.Resources{Vocab: vocab, MaxDraft: 3, Target: r})
	if err != nil {
		t.Fatal(err)
	}
	opt.BlockSize, opt.Log = c.blockSize, slog.New(slog.NewTextHandler(io.Discard, nil))
	if below != nil {
		below.Log = opt.Log
		if opt.Tier, err = tier.New(r.Cache(), *below); err != nil {
			t.Fatal(err)
		}
	}
	opt.Speculator = spec.New(spec.Config{Vocab: vocab, Fixed: 3}, p)
	e, err := prepare(r, blocks, opt)
	if err != nil {
		t.Fatal(err)
	}
	if n := 0; c.every > 0 {
		e.fail.onSchedule = func() {
			if n++; n%c.every == 0 {
				panic("injected")
			}
		}
	}
	go e.loop()
	t.Cleanup(func() { closeChecked(t, e) })
	return e, m
}

// TestMTPStaysLevel: whatever becomes of a sequence, its drafts begin with the
// target's state and an MTP layer that has seen its tokens and no others; answers
// are those of a request alone.
func TestMTPStaysLevel(t *testing.T) {
	reqs := workload(9, 120)
	want := answersAlone(t, reqs, "")
	test := func(c company, below *tier.Config) {
		t.Run(c.name, func(t *testing.T) {
			e, m := c.drafting(t, reqs, below)
			tokens := compare(t, reqs, together(t, e, reqs, 3, nil), want)
			for _, w := range m.wrong {
				t.Error(w)
			}
			s := e.Stats().Speculation
			p := s.Proposers[0]
			if p.Faults > 0 {
				t.Errorf("%d faults, the last %s", p.Faults, p.LastErr)
			}
			if cached := e.opt.Techniques.KVCache == "on"; p.Accepted == 0 && cached && e.opt.MaxNumBatchedTokens > 1 {
				t.Errorf("0 of %d drafts accepted", p.Drafted)
			}
			if below != nil && e.Stats().TierTokens == 0 {
				t.Error("nothing came back from the tier")
			}
			t.Logf("%d tokens equal; %d passes' rows, %d of %d drafts accepted, %d states unknown, %d preemptions",
				tokens, m.drafts, p.Accepted, p.Drafted, m.unknown, e.Stats().Preemptions)
		})
	}
	for _, c := range companies {
		test(c, nil)
	}
	test(company{"a tier below", 4, 2, Options{MaxNumSeqs: 6}, 0}, onDisk(t.TempDir()))
}
