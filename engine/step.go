package engine

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"

	"sestina/batch"
	"sestina/runner"
	"sestina/sampler"
	"sestina/spec"
)

// stream is a running sequence with what the engine adds to it.
type stream struct {
	seq     *batch.Sequence
	sampler *sampler.Sampler
	handle  *Handle
	verdict spec.Verification
	drawn   []sampler.Sample // of tokens not delivered yet
	again   *batch.Result    // drawn before, but not committed: to be committed, token by token, when it is computed again
}

// errInternal is what a client hears of a panic; the log has the rest.
var errInternal = errors.New("internal error; the server's log says more, retrying may help")

// guard runs f and turns a panic into an error.
func guard(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	f()
	return nil
}

// compute runs the step and draws its tokens into e.result. If the step fails
// as a whole, each sequence gets another try by itself, so only the guilty end.
func (e *Engine) compute(step *batch.Step) {
	e.result = e.result[:0]
	out, err := e.run(step)
	if err == nil || len(step.Seqs) == 1 {
		e.postprocess(step.Seqs, out, err)
		return
	}
	copies := step.Copies
	for i := range step.Seqs {
		one := batch.Step{ID: step.ID, Seqs: step.Seqs[i : i+1], Copies: copies}
		out, err := e.run(&one)
		if err == nil {
			copies = nil // done once, and it was before anything was written
		}
		e.postprocess(one.Seqs, out, err)
	}
}

// run computes a step; a panic in a kernel or the model becomes its error.
func (e *Engine) run(step *batch.Step) (out runner.Output, err error) {
	panicked := guard(func() {
		if err = e.fail.run(step); err == nil {
			out = e.runner.Run(step)
			e.fail.logits(step, out)
		}
	})
	e.lap(&e.stats.Spent.Model)
	if err = errors.Join(err, panicked); err == nil {
		e.stats.FailedInRow = 0
	} else {
		e.stats.FailedSteps++
		e.log.Error("step failed", "step", step.ID, "sequences", len(step.Seqs), "err", err)
	}
	return out, err
}

// postprocess draws a token for every sequence whose last token was computed
// and decides whether that ended it.
func (e *Engine) postprocess(seqs []batch.Scheduled, out runner.Output, err error) {
	defer e.lap(&e.stats.Spent.Sample)
	first := len(e.result)
	e.result = append(e.result, make([]batch.Result, len(seqs))...)
	results := e.result[first:]
	if err != nil {
		e.stats.FailedInRow += len(seqs)
		for i := range results {
			results[i] = batch.Result{Finish: batch.FinishError, Err: errInternal}
		}
		return
	}
	sample := func(from, to int) {
		for i := from; i < to; i++ {
			if out.Shares[i].Len > 0 {
				results[i] = e.sample(e.live[seqs[i].Seq.ID], &out, i)
			}
		}
	}
	// Streams share nothing, so many rows are drawn on several cores: 16 rows of
	// 131,072 logits in 0.4 ms on two instead of 1 ms (BenchmarkPostprocess).
	workers := min(runtime.GOMAXPROCS(0), len(seqs)/rowsPerWorker)
	var others sync.WaitGroup
	for w := 1; w < workers; w++ {
		others.Go(func() { sample(w*len(seqs)/workers, (w+1)*len(seqs)/workers) })
	}
	sample(0, len(seqs)/max(1, workers))
	others.Wait()
}

// rowsPerWorker is the least number of rows that are worth waking a core for.
const rowsPerWorker = 4

// sample draws the next tokens of the step's i-th sequence: one, and one more
// for each of its drafts that turns out right. What goes wrong here is that
// sequence's alone.
func (e *Engine) sample(st *stream, out *runner.Output, i int) (res batch.Result) {
	var err error
	panicked := guard(func() {
		if st.again != nil {
			res = st.recall()
			return
		}
		e.fail.sample(st.seq)
		target := spec.Target{
			Sampler: st.sampler,
			Row:     func(row int) []float32 { return out.Logits.Row(out.Shares[i].First + row) },
			Output:  st.seq.NumOutput(),
			Ends:    func(output int, token int32) batch.FinishReason { return e.ends(st.seq, output+1, token) },
		}
		if s := e.opt.Speculator; s != nil {
			err = s.Verify(&st.verdict, st.seq, &target)
		} else {
			err = st.verdict.Verify(&target, nil, nil)
		}
		if err == nil {
			st.drawn = st.verdict.Samples
			res = batch.Result{Tokens: st.verdict.Tokens, Finish: st.verdict.Finish}
		}
	})
	if panicked != nil {
		e.log.Error("sampling failed", "err", panicked)
		err = errInternal
	}
	if err != nil {
		return batch.Result{Finish: batch.FinishError, Err: err}
	}
	return res
}

// recall is the next token of those that were drawn but not committed.
func (st *stream) recall() batch.Result {
	a := st.again
	if len(a.Tokens) > 1 {
		token := a.Tokens[:1]
		a.Tokens = a.Tokens[1:]
		return batch.Result{Tokens: token}
	}
	st.again = nil
	return *a
}

// take is what is delivered with n committed tokens. The client keeps it, so it
// is not the memory that the next step draws into.
func (st *stream) take(n int) []sampler.Sample {
	n = min(n, len(st.drawn))
	out := slices.Clone(st.drawn[:n])
	st.drawn = st.drawn[n:]
	return out
}

// ends says whether committing token, as output number output from 1, ends the
// sequence. Exactly one of the reasons holds: what the model or the client asked
// for comes before the budget.
func (e *Engine) ends(s *batch.Sequence, output int, token int32) batch.FinishReason {
	// Before min_tokens the sampler bans these ids.
	if !s.Params.IgnoreEOS && slices.Contains(e.opt.EOG, token) || slices.Contains(s.Params.StopIDs, token) {
		return batch.FinishStop
	}
	if s.Stop != nil && s.Stop.Commit(token) {
		return batch.FinishStop
	}
	if output >= s.MaxTokens {
		return batch.FinishLength
	}
	return batch.NotFinished
}

// rebuild starts the scheduler's books anew after they broke: what runs waits
// again and is computed from its tokens. Three times without a completed step
// between them, or books that are still wrong, are the engine's end.
func (e *Engine) rebuild(cause error) {
	e.log.Error("the scheduler failed; computing all running sequences again", "err", cause)
	e.stats.Rebuilds++
	e.trace.rebuild()
	e.setbacks++
	if e.setbacks > 3 {
		panic("the scheduler fails again and again")
	}
	e.sched.Rebuild()
	if err := e.sched.Check(); err != nil {
		panic(err)
	}
}
