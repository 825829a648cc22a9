package engine

import (
	"sestina/batch"
	"sestina/runner"
)

// failpoints are places where tests make things go wrong; nil otherwise.
type failpoints struct {
	onSchedule func()                                     // inside the scheduler's guard, after the plan was made
	onRun      func(step *batch.Step) error               // before the device computes
	onLogits   func(step *batch.Step, out runner.Output)  // after it has
	onSample   func(seq *batch.Sequence)                  // before a token is drawn
	onUpdate   func(step *batch.Step, res []batch.Result) // inside the scheduler's guard, before the commit
}

func (f *failpoints) schedule() {
	if f.onSchedule != nil {
		f.onSchedule()
	}
}

func (f *failpoints) run(step *batch.Step) error {
	if f.onRun == nil {
		return nil
	}
	return f.onRun(step)
}

func (f *failpoints) logits(step *batch.Step, out runner.Output) {
	if f.onLogits != nil {
		f.onLogits(step, out)
	}
}

func (f *failpoints) sample(seq *batch.Sequence) {
	if f.onSample != nil {
		f.onSample(seq)
	}
}

func (f *failpoints) update(step *batch.Step, res []batch.Result) {
	if f.onUpdate != nil {
		f.onUpdate(step, res)
	}
}
