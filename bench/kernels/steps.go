package kernels

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"sestina/backend"
	_ "sestina/backend/all" // the backends
	"sestina/batch"
	"sestina/checkpoint"
	"sestina/model"
	_ "sestina/model/all" // the architectures
	"sestina/runner"
	"sestina/tensor"
)

// StepsSchema names the format of the steps' document.
const StepsSchema = "sestina.bench-steps/1"

// Steps says which steps of a whole model to time: those of M rows of one
// sequence, as verification computes them, with logits for every row.
type Steps struct {
	Threads int          `json:"threads"`
	ISA     string       `json:"isa"`
	Rows    []int        `json:"rows"`  // M; 1 is added when missing
	Depth   int          `json:"depth"` // tokens in the KV cache
	Reps    int          `json:"reps"`
	PerRep  int          `json:"steps_per_rep"` // steps of each M in a repetition, whose median counts
	KVDType tensor.DType `json:"-"`
}

// StepReport is the document of `sestina bench kernels -m MODEL`.
type StepReport struct {
	Schema  string    `json:"schema"`
	Backend string    `json:"backend"`
	Config  Steps     `json:"config"`
	Rows    []StepRow `json:"rows"`
}

// StepRow is the cost of a step of M rows.
type StepRow struct {
	M    int     `json:"m"`
	Ms   float64 `json:"ms"` // median over the repetitions
	Min  float64 `json:"ms_min"`
	Max  float64 `json:"ms_max"`
	Cost float64 `json:"cost"` // c(M)/c(1): median over the repetitions of the ratio within one
	N    int     `json:"n"`

	Parts []StepPart `json:"parts"` // in the order of a step
}

// StepPart is what a kind of operation costs in such a step: which of them make rows dear.
type StepPart struct {
	Name string  `json:"name"`
	Us   float64 `json:"us"` // mean over all steps
}

// RunSteps loads the model at path and times its steps, all M in turn in each
// repetition, so that the machine's moods meet them alike.
func RunSteps(ctx context.Context, path string, s Steps) (*StepReport, error) {
	if !slices.Contains(s.Rows, 1) {
		s.Rows = append([]int{1}, s.Rows...)
	}
	if slices.Min(s.Rows) < 1 || slices.Max(s.Rows) > 512 || s.Depth < 0 || s.Depth > 1<<20 || s.Reps < 1 || s.PerRep < 1 {
		return nil, fmt.Errorf("rows %v must be 1 to 512, --depth %d at least 0, --reps %d and steps %d at least 1", s.Rows, s.Depth, s.Reps, s.PerRep)
	}
	t, err := openSteps(path, s)
	if err != nil {
		return nil, err
	}
	defer t.close()
	if err := t.fill(ctx); err != nil {
		return nil, err
	}
	times := map[int][]float64{}
	for rep := -1; rep < s.Reps; rep++ { // the first is not counted
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if rep == 0 {
			clear(t.spent)
		}
		one := t.repetition()
		for m, ms := range one {
			if rep >= 0 {
				times[m] = append(times[m], ms)
			}
		}
	}
	r := &StepReport{Schema: StepsSchema, Backend: t.backend.Describe(), Config: s}
	for _, m := range s.Rows {
		var cost []float64
		for i, ms := range times[m] {
			cost = append(cost, ms/times[1][i])
		}
		v := times[m]
		r.Rows = append(r.Rows, StepRow{M: m, Ms: median(v), Min: slices.Min(v), Max: slices.Max(v), Cost: median(cost), N: len(v), Parts: t.parts(m)})
	}
	return r, nil
}

// stepTimer is a loaded model with one sequence in its KV cache.
type stepTimer struct {
	Steps
	backend *backend.Profiled
	runner  *runner.ModelRunner
	seq     *batch.Sequence
	spent   map[int][]backend.Part // by M, of all steps that count
}

const stepChunk = 512 // rows of a step that fills the cache

func openSteps(path string, s Steps) (*stepTimer, error) {
	c, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	b, err := backend.Open("cpu", backend.Options{Threads: s.Threads, ISA: s.ISA})
	if err != nil {
		return nil, err
	}
	t := &stepTimer{Steps: s, backend: backend.Profile(b), spent: map[int][]backend.Part{}}
	most := slices.Max(s.Rows)
	m, err := model.Load(c, t.backend, model.Options{MaxRows: stepChunk, MaxLogitRows: most})
	if err == nil && s.Depth+1+most > m.Info().MaxContext {
		err = fmt.Errorf("a depth of %d and %d rows exceed the model's context of %d tokens", s.Depth, most, m.Info().MaxContext)
	}
	if err == nil {
		const blockSize = 16
		blocks := (s.Depth+1+most)/blockSize + 1
		t.sequence(m.Info().Vocab, blocks)
		t.runner, err = runner.New(m, t.backend, runner.Config{Blocks: blocks, BlockSize: blockSize, KVDType: s.KVDType, OneGroup: true})
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *stepTimer) sequence(vocab, blocks int) {
	rng := rand.New(rand.NewPCG(5, 6))
	ids := make([]int32, t.Depth+1+slices.Max(t.Rows))
	for i := range ids {
		ids[i] = int32(rng.IntN(vocab))
	}
	t.seq = &batch.Sequence{ID: 1, Tokens: ids[:t.Depth+1], PromptLen: t.Depth + 1, Drafts: ids[t.Depth+1:], BlockTables: [][]int32{nil}}
	for i := range blocks {
		t.seq.BlockTables[0] = append(t.seq.BlockTables[0], int32(i))
	}
}

// fill computes the tokens before the last one.
func (t *stepTimer) fill(ctx context.Context) error {
	for t.seq.NumComputed < t.Depth {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n := min(stepChunk, t.Depth-t.seq.NumComputed)
		t.step(n, 0)
		t.seq.NumComputed += n
	}
	return nil
}

func (t *stepTimer) step(n, drafts int) time.Duration {
	begin := time.Now()
	t.runner.Run(&batch.Step{ID: 1, Seqs: []batch.Scheduled{{Seq: t.seq, NumTokens: n, NumDrafts: drafts}}})
	return time.Since(begin)
}

// repetition is the median milliseconds of each M, taken in turn.
func (t *stepTimer) repetition() map[int]float64 {
	times := map[int][]float64{}
	for range t.PerRep {
		for _, m := range t.Rows {
			before := t.backend.Parts()
			times[m] = append(times[m], float64(t.step(m, m-1))/1e6)
			t.spent[m] = append(t.spent[m], backend.PartsSince(t.backend.Parts(), before)...)
		}
	}
	medians := map[int]float64{}
	for m, v := range times {
		medians[m] = median(v)
	}
	return medians
}

// parts are the means of a step of M rows.
func (t *stepTimer) parts(m int) (parts []StepPart) {
	steps := float64(t.Reps * t.PerRep)
	for _, x := range t.spent[m] {
		i := slices.IndexFunc(parts, func(p StepPart) bool { return p.Name == x.Name })
		if i < 0 {
			i = len(parts)
			parts = append(parts, StepPart{Name: x.Name})
		}
		parts[i].Us += float64(x.Time) / 1e3 / steps
	}
	return parts
}

func (t *stepTimer) close() {
	if t.runner != nil {
		t.runner.Close()
	}
	t.backend.Close()
}
