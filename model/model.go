// Package model turns a checkpoint into something that maps a step's rows of
// tokens to rows of logits. A model sees a [batch.Input] (tokens, positions,
// block tables), never a queue, a policy or text.
//
// Architectures register themselves by the names that checkpoints use; a
// program gets them by importing sestina/model/all. Adding one is one folder
// and one import line: see docs/add-a-model.md.
package model

import (
	"fmt"
	"slices"
	"strings"

	"sestina/backend"
	"sestina/batch"
	"sestina/checkpoint"
)

// Model is one loaded checkpoint on one backend. It is used by one goroutine.
type Model interface {
	Info() Info
	// Forward computes every row of the step: K and V go to kv through the slot
	// mapping, logits come back for in.LogitRows. The output is valid until the next call.
	Forward(in *batch.Input, kv backend.Cache) Output
}

// Output of a step. Row i belongs to in.LogitRows[i].
type Output struct {
	Logits backend.Rows // [len(LogitRows), vocab]
	Hidden backend.Rows // [len(LogitRows), hidden] before the final norm
	States backend.Rows // [rows, hidden] after the final norm, every row of the step; only where Info.MTP
}

// MTP is a Model that may hold a multi-token prediction layer (DeepSeek-V3
// report, 2024): one more decoder layer that guesses the token after next from a
// token and the state before it. Info.MTP says whether it was loaded; its K and
// V are then the last of CacheLayers, at the slots of the target's own.
//
// Row r of both methods is the pair (TokenIDs[r], states[r]): the token at
// Positions[r] and the state at the position before.
type MTP interface {
	Model
	// KeepLevel stores the layer's K and V of every row of the step that Forward
	// has just computed. It leaves Forward's output as it is.
	KeepLevel(in *batch.Input, states backend.Rows, kv backend.Cache)
	// Draft stores the rows' K and V and guesses what follows them. There may be
	// as many rows as logits of a step. The result is valid until the next call.
	Draft(in *batch.Input, states backend.Rows, kv backend.Cache) Guess
}

// Guess is what an MTP layer expects after each row's token.
type Guess struct {
	Logits backend.Rows // [rows, n]
	IDs    []int32      // [n] token ids of a reduced head's logits; nil: logit i is token i
	States backend.Rows // [rows, hidden] what the layer takes for the states at the rows' positions
}

// Info is what the rest of the engine needs to know of a model.
type Info struct {
	Arch          string
	Vocab         int // rows of logits; may exceed the tokenizer's ids (padding)
	Hidden        int
	Layers        int
	Heads         int // query heads a layer
	KVHeads       int
	HeadDim       int
	MaxContext    int  // positions the model was trained for
	MaxRows       int  // rows of a step that it was loaded for
	MTP           bool // holds an MTP layer, see [MTP]
	CacheLayers   []backend.CacheLayer
	Windows       []int // sliding window of each of CacheLayers, 0 = it sees everything; nil = all do
	Params        uint64
	FileBytes     uint64 // tensor bytes in the checkpoint
	ResidentBytes uint64 // weight bytes as the backend keeps them
	StepBytes     uint64 // resident weight bytes that a one-token step reads
}

// Options size a model's work space.
type Options struct {
	MaxRows      int               // rows of a step (max-num-batched-tokens)
	MaxLogitRows int               // rows of logits of a step
	Progress     func(done uint64) // called as tensors are loaded, with tensor bytes so far; may be nil

	// MTP is where to take an MTP layer from: the model's own checkpoint, if it
	// holds one, or an MTP file (docs/speculation.md), which must. nil: nowhere.
	MTP *checkpoint.Checkpoint
}

// Loader builds a model of one architecture.
type Loader func(c *checkpoint.Checkpoint, b backend.Backend, opt Options) (Model, error)

var loaders = map[string]Loader{}

// Register makes a loader known under an architecture's names: the HF
// "architectures" entry and the GGUF "general.architecture" value.
func Register(load Loader, names ...string) {
	for _, n := range names {
		if _, dup := loaders[n]; dup {
			panic("model: architecture registered twice: " + n)
		}
		loaders[n] = load
	}
}

// Architectures lists the registered names, sorted.
func Architectures() []string {
	var names []string
	for n := range loaders {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Arch reads the architecture's name from a checkpoint.
func Arch(c *checkpoint.Checkpoint) (string, error) {
	r := c.Config().Reader()
	if c.Format() == checkpoint.GGUF {
		name := r.String("general.architecture")
		return name, r.Err()
	}
	names := r.StringsOr("architectures", nil)
	if err := r.Err(); err != nil {
		return "", err
	}
	if len(names) != 1 {
		return "", fmt.Errorf(`config.json must name one entry in "architectures"; it has %d`, len(names))
	}
	return names[0], nil
}

// Load builds the model that a checkpoint holds.
func Load(c *checkpoint.Checkpoint, b backend.Backend, opt Options) (Model, error) {
	name, err := Arch(c)
	if err != nil {
		return nil, err
	}
	load, ok := loaders[name]
	if !ok {
		return nil, fmt.Errorf("architecture %q is not built; known: %s", name, strings.Join(Architectures(), ", "))
	}
	m, err := load(c, b, opt)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}
