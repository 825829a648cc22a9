// Package runner turns a step into a flat input, runs the model and says which
// rows of logits belong to whom. It owns the KV pool's bytes; which block means
// what is the scheduler's and the block manager's business.
package runner

import (
	"fmt"

	"sestina/backend"
	"sestina/batch"
	"sestina/model"
	"sestina/tensor"
)

// Config sizes the KV pool.
type Config struct {
	Blocks    int // physical blocks
	BlockSize int // tokens per block
	KVDType   tensor.DType
	KVDTypes  []tensor.DType // of each layer; nil: KVDType in every layer
	OneGroup  bool           // keep the blocks of all layers together, for a layout in which none is let go: see groups.go

	// What decides how layers are grouped: the longest sequence, 0 = the model's
	// context, and how many tokens of one a step computes at most, 0 = any number.
	Context, Chunk int

	// For a model with an MTP layer: how many sequences may draft with it at once,
	// and how far. Drafts get spare blocks behind the pool's. 0: nobody drafts.
	DraftSeqs, DraftLen int
}

// ModelRunner executes steps on one model. It is used by one goroutine.
type ModelRunner struct {
	model   model.Model
	backend backend.Backend
	cache   backend.Cache
	windows []int
	in      input
	share   []LogitShare
	mtp     *mtp // nil: no MTP layer
}

// LogitShare says which rows of the output belong to one scheduled sequence:
// Rows [First, First+Len); Len is 0 while its prompt is still being filled,
// 1 + drafts when its last committed token was computed.
type LogitShare struct{ First, Len int }

// Output of a step. Shares[i] belongs to step.Seqs[i]. Valid until the next Run.
type Output struct {
	model.Output
	Shares []LogitShare
}

// New allocates the KV pool for a loaded model.
func New(m model.Model, b backend.Backend, cfg Config) (*ModelRunner, error) {
	if cfg.BlockSize < 1 || cfg.Blocks < 1 {
		return nil, fmt.Errorf("KV pool of %d blocks of %d tokens; both must be at least 1", cfg.Blocks, cfg.BlockSize)
	}
	spec := CacheSpec(m.Info(), cfg)
	if m.Info().MTP {
		spec.Blocks += cfg.spares()
	}
	cache, err := b.NewCache(spec)
	if err != nil {
		return nil, err
	}
	windows := Windows(m.Info(), cfg)
	d, err := newMTP(m, b, cfg, len(windows))
	if err != nil {
		cache.Close()
		return nil, err
	}
	return &ModelRunner{model: m, backend: b, cache: cache, windows: windows, in: newInput(cfg.BlockSize, len(windows)), mtp: d}, nil
}

// CacheSpec is the pool that New would allocate, to size it beforehand.
func CacheSpec(info model.Info, cfg Config) backend.CacheSpec {
	layers, _ := groups(info, cfg)
	return backend.CacheSpec{Layers: info.CacheLayers, Blocks: cfg.Blocks, BlockSize: cfg.BlockSize, DType: cfg.KVDType, DTypes: cfg.KVDTypes, Groups: layers}
}

// Windows are the sliding windows of the block groups, 0 for one that sees everything.
func (r *ModelRunner) Windows() []int { return r.windows }

// Info describes the model.
func (r *ModelRunner) Info() model.Info { return r.model.Info() }

// CacheBytes is what the KV pool occupies.
func (r *ModelRunner) CacheBytes() uint64 { return r.cache.Bytes() }

// Cache is the KV pool, for what moves whole blocks.
func (r *ModelRunner) Cache() backend.Cache { return r.cache }

// Close releases the KV pool.
func (r *ModelRunner) Close() error { return r.cache.Close() }

// Run copies the step's copy-on-write blocks and computes its rows.
func (r *ModelRunner) Run(step *batch.Step) Output {
	if len(step.Copies) > 0 {
		r.backend.CopyBlocks(r.cache, step.Copies)
	}
	r.flatten(step)
	r.settle()
	out := Output{Output: r.model.Forward(&r.in.Input, r.cache), Shares: r.share}
	r.keepLevel(step, out.States)
	return out
}

// flatten lays the step out as rows: token, position, slot; a span per sequence.
func (r *ModelRunner) flatten(step *batch.Step) {
	r.in.reset()
	r.share = r.share[:0]
	for i := range step.Seqs {
		s, seq := &step.Seqs[i], step.Seqs[i].Seq
		row, start := len(r.in.TokenIDs), seq.NumComputed
		for pos := start; pos < start+s.NumTokens; pos++ {
			r.in.add(seq.Token(pos), pos, seq.BlockTables)
		}
		r.in.span(row, s.NumTokens, start, seq.BlockTables)
		share := LogitShare{First: len(r.in.LogitRows)}
		if s.NeedsLogits() {
			for pos := len(seq.Tokens) - 1; pos < start+s.NumTokens; pos++ {
				r.in.LogitRows = append(r.in.LogitRows, int32(row+pos-start))
				share.Len++
			}
		}
		r.share = append(r.share, share)
	}
}

// input is the batch.Input that every step reuses.
type input struct{ batch.Input }

func newInput(blockSize, groups int) input {
	return input{batch.Input{BlockSize: blockSize, Slots: make([][]int32, groups)}}
}

func (in *input) reset() {
	in.TokenIDs, in.Positions = in.TokenIDs[:0], in.Positions[:0]
	in.Spans, in.LogitRows = in.Spans[:0], in.LogitRows[:0]
	for g := range in.Slots {
		in.Slots[g] = in.Slots[g][:0]
	}
}

// add appends the row of one position; its slots follow from the block tables.
func (in *input) add(token int32, pos int, tables [][]int32) {
	in.TokenIDs = append(in.TokenIDs, token)
	in.Positions = append(in.Positions, int32(pos))
	for g, table := range tables {
		in.Slots[g] = append(in.Slots[g], table[pos/in.BlockSize]*int32(in.BlockSize)+int32(pos%in.BlockSize))
	}
}

func (in *input) span(row, n, start int, tables [][]int32) {
	in.Spans = append(in.Spans, batch.Span{Row: row, Len: n, Start: start, BlockTables: tables})
}
