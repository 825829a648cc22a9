package chat

import (
	"errors"
	"fmt"
)

// Budgets of one render or probe. Steps count evaluated nodes, loop rounds and
// list elements; bytes count text copied or scanned, so that doubling a string
// in a loop runs out as surely as counting does.
const (
	maxSource      = 1 << 20   // bytes of template source
	maxNesting     = 64        // nested blocks or parentheses in the source, and nested values
	maxCalls       = 64        // macro calls in flight
	maxFrames      = 1000      // evaluator frames in flight, as Python's recursion limit
	maxSteps       = 5_000_000 // steps for an empty conversation
	stepsPerInput  = 4         // step budget: maxSteps + stepsPerInput x input, as some templates look at all turns from each
	maxRange       = 100_000   // elements of range()
	elementSteps   = 4         // steps charged for one list element or dict entry
	outputFactor   = 4         // output cap: outputFactor x input + outputFloor
	outputFloor    = 1 << 20   // bytes
	bytesPerInput  = 64        // byte budget: bytesPerInput x input + bytesFloor
	bytesFloor     = 64 << 20  // bytes
	maxInputLength = 1 << 30   // bytes of conversation
)

// ErrBudget is wrapped by every error about a template that worked too long,
// nested too deep or wrote too much.
var ErrBudget = errors.New("chat template exceeds its budget")

// budget is what a render has left.
type budget struct {
	steps   int
	bytes   int
	maxText int // longest string and longest output, in bytes
}

func newBudget(input int) budget {
	return budget{
		steps:   maxSteps + stepsPerInput*input,
		bytes:   bytesPerInput*input + bytesFloor,
		maxText: outputFactor*input + outputFloor,
	}
}

// step charges n steps.
func (b *budget) step(n int) error {
	if b.steps -= n; b.steps < 0 {
		return fmt.Errorf("%w: too many steps", ErrBudget)
	}
	return nil
}

// elements charges for n list elements.
func (b *budget) elements(n int) error { return b.step(n * elementSteps) }

// touch charges for n bytes scanned or copied.
func (b *budget) touch(n int) error {
	if b.bytes -= n; b.bytes < 0 {
		return fmt.Errorf("%w: too many bytes of text copied", ErrBudget)
	}
	return nil
}

// grow charges for a new string of n bytes and checks the length cap.
func (b *budget) grow(n int) error {
	if n > b.maxText {
		return fmt.Errorf("%w: text longer than %d bytes", ErrBudget, b.maxText)
	}
	return b.touch(n)
}

func nestingError(depth int) error {
	return fmt.Errorf("%w: nested deeper than %d", ErrBudget, depth)
}
