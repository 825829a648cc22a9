package engine

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"sestina/backend"
	_ "sestina/backend/all"
	"sestina/batch"
	"sestina/checkpoint"
	"sestina/internal/datatest"
	"sestina/model"
	_ "sestina/model/all"
	"sestina/runner"
	"sestina/runner/tier"
	"sestina/tensor"
)

const (
	tiny  = "../model/testdata/hf/llama_plain" // 3 layers, 224 tokens, context 512
	vocab = 224
)

// setup is a model with a pool and options, as tests vary them.
type setup struct {
	backend           string // of a tiny model: "cpu", "cpu q8_0", "cpu mistral", "cpu qwen3", "cpu hybrid"; "" = the hash model
	kv                string // its KV format; "" = f16
	windows           []int  // of the hash model's layers
	delay             func(rows int) time.Duration
	blocks, blockSize int
	opt               Options
	fail              failpoints
	tier              *tier.Config // nil: none
}

// open starts an engine; it is closed and its pool checked
// when the test ends.
func (s setup) open(t testing.TB) *Engine {
	t.Helper()
	e, err := s.unchecked(t)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeChecked(t, e) })
	return e
}

// openPaused is open, but the test starts the loop.
func (s setup) openPaused(t testing.TB) *Engine {
	t.Helper()
	e, err := s.prepare(t)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeChecked(t, e) })
	return e
}

// unchecked starts an engine that the test closes itself.
func (s setup) unchecked(t testing.TB) (*Engine, error) {
	e, err := s.prepare(t)
	if err == nil {
		go e.loop()
	}
	return e, err
}

func (s setup) prepare(t testing.TB) (*Engine, error) {
	if s.blockSize == 0 {
		s.blockSize = 16
	}
	if s.blocks == 0 {
		s.blocks = 1024 / s.blockSize
	}
	if s.opt.Log == nil {
		s.opt.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	s.opt.BlockSize = s.blockSize
	r, err := s.newHashRunner()
	if s.backend != "" {
		r = newTinyRunner(t, s.backend, s.kv, runner.Config{Blocks: s.blocks, BlockSize: s.blockSize, OneGroup: s.opt.Techniques.KVLayout == "contiguous"})
	}
	if err != nil {
		return nil, err
	}
	if s.tier != nil {
		s.tier.Log = s.opt.Log
		if s.opt.Tier, err = tier.New(r.Cache(), *s.tier); err != nil {
			return nil, err
		}
	}
	e, err := prepare(r, s.blocks, s.opt)
	if err != nil {
		return nil, err
	}
	e.fail = s.fail
	return e, nil
}

// closeChecked closes an engine and looks at what is left.
func closeChecked(t testing.TB, e *Engine) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Error(err)
		return
	}
	if err := e.sched.Check(); err != nil {
		t.Error(err)
	}
	if b := e.blocks.Stats(); b.Free+b.Idle != b.Total || len(e.live) != 0 || e.queue.seqs != 0 || len(e.queue.keys) != 0 {
		t.Errorf("left behind: blocks %+v, %d live, queue %+v", b, len(e.live), e.queue)
	}
}

func newTinyRunner(t testing.TB, name, kv string, cfg runner.Config) *runner.ModelRunner {
	t.Helper()
	cfg.KVDType = tensor.F16
	if kv != "" {
		var err error
		if cfg.KVDType, err = tensor.ParseDType(kv); err != nil {
			t.Fatal(err)
		}
	}
	name, which, _ := strings.Cut(name, " ")
	path := map[string]string{"": tiny, "mistral": "../model/testdata/hf/mistral", "qwen3": "../model/testdata/hf/qwen3", "q8_0": "../model/testdata/gguf/llama_plain_q8_0.gguf"}[which]
	if which == "hybrid" {
		path = hybrid(t)
	}
	c, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := backend.Open(name, backend.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	m, err := model.Load(c, b, model.Options{MaxRows: 512, MaxLogitRows: 512})
	if err != nil {
		t.Fatal(err)
	}
	r, err := runner.New(m, b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// answer is what a client saw of a request.
type answer struct {
	tokens [MaxChoices][]int32
	probs  [MaxChoices][]float32
	finish [MaxChoices]batch.FinishReason
	errs   [MaxChoices]error
	events int // terminal events, by choice
	whole  int // terminal events of the request as a whole
	why    Output
}

// read collects a request to its end.
func read(h *Handle) (a answer) {
	for outs, ok := h.Next(context.Background()); ok; outs, ok = h.Next(context.Background()) {
		for _, o := range outs {
			a.add(o)
		}
	}
	return a
}

func (a *answer) add(o Output) {
	if o.Choice < 0 {
		a.whole++
		a.why = o
		return
	}
	for _, s := range o.Tokens {
		a.tokens[o.Choice] = append(a.tokens[o.Choice], s.Token)
		a.probs[o.Choice] = append(a.probs[o.Choice], s.Logprob)
		for _, top := range s.Top {
			a.probs[o.Choice] = append(a.probs[o.Choice], top.Logprob)
		}
	}
	if o.Finish != batch.NotFinished {
		a.events++
		a.finish[o.Choice], a.errs[o.Choice] = o.Finish, o.Err
	}
}

// ask submits and reads.
func ask(t testing.TB, e *Engine, req Request) answer {
	t.Helper()
	h, err := e.Submit(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	return read(h)
}

func (a *answer) equal(b *answer) bool {
	for i := range a.tokens {
		if !slices.Equal(a.tokens[i], b.tokens[i]) || !slices.Equal(a.probs[i], b.probs[i]) || a.finish[i] != b.finish[i] {
			return false
		}
	}
	return true
}

// The engine's greedy answers are transformers'.
func TestGreedyEqualsTransformers(t *testing.T) {
	golden := datatest.Safetensors(t, tiny+"/golden.safetensors")
	e := setup{backend: "ref"}.open(t)
	ids, want := golden["seq0.input_ids"].I32, golden["seq0.greedy_ids"].I32
	p := batch.Greedy()
	p.IgnoreEOS = true
	a := ask(t, e, Request{Prompt: ids, MaxTokens: len(want), Sampling: p})
	if !slices.Equal(a.tokens[0], want) || a.finish[0] != batch.FinishLength || a.events != 1 {
		t.Errorf("got %v (%v), want %v", a.tokens[0], a.finish[0], want)
	}
	st := e.Stats()
	if st.OutputTokens != uint64(len(want)) || st.Finished[batch.FinishLength] != 1 || st.PromptTokens != uint64(len(ids)) {
		t.Errorf("stats %+v", st)
	}
	t.Logf("%d tokens in %d steps", len(want), st.Steps)
}
