package plan

import (
	"fmt"
	"slices"

	"sestina/backend"
	"sestina/backend/cpu/attention"
	"sestina/engine"
	"sestina/internal/checked"
	"sestina/runner"
	"sestina/tensor"
)

// Request is what the memory is wanted for.
type Request struct {
	KVDType   tensor.DType
	KVLayers  func(n int) ([]tensor.DType, error) // formats of n layers, where they differ; nil: KVDType in all
	KVName    string                              // how to call them; "" = KVDType's name
	BlockSize int                                 // tokens per KV block
	Context   int                                 // tokens of each user, prompt and output
	Users     int                                 // at once
	Memory    uint64                              // bytes there are; 0 = not asked
}

// Plan is the answer.
type Plan struct {
	Schema    string `json:"schema"`
	Shape     Shape  `json:"model"`
	KVDType   string `json:"kv_cache_dtype"`
	BlockSize int    `json:"block_size"`
	Context   int    `json:"context"`
	Users     int    `json:"users"`

	TokenBytes uint64 `json:"kv_token_bytes"`     // K and V of one token, all layers
	Windows    []int  `json:"kv_block_groups"`    // sliding window of each block group, 0 = sees everything
	BlockBytes uint64 `json:"kv_block_bytes"`     // as allocated
	UserBytes  uint64 `json:"kv_user_bytes"`      // one user's blocks
	AllBytes   uint64 `json:"kv_user_bytes_full"` // the same if every layer saw everything
	MHABytes   uint64 `json:"kv_user_bytes_mha"`  // the same with a K and V per query head
	KVBytes    uint64 `json:"kv_bytes"`           // all users' blocks
	TotalBytes uint64 `json:"total_bytes"`        // weights, work space and KV cache
	Fit        *Fit   `json:"fit,omitempty"`      // where a memory was given
	Largest    []Row  `json:"contexts,omitempty"` // users that fit, by context
}

// Fit compares the plan with a memory.
type Fit struct {
	Memory  uint64 `json:"memory_bytes"`
	Weights bool   `json:"weights_fit"`
	All     bool   `json:"all_fit"`
	Left    uint64 `json:"kv_room_bytes"` // for KV blocks beside weights and work space
	Blocks  uint64 `json:"kv_blocks"`
	Users   uint64 `json:"users"`   // that fit at the context
	Context uint64 `json:"context"` // that fits for the users
}

// Row is how many users fit at one context.
type Row struct {
	Context int    `json:"context"`
	Bytes   uint64 `json:"kv_user_bytes"`
	Users   uint64 `json:"users"`
}

const maxCount = 1 << 40 // tokens or users; with the shape's bounds every sum stays in range or is refused

// Make answers a request for a weighed shape.
func Make(s Shape, r Request) (*Plan, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if r.Context < 1 || r.Users < 1 || r.Context > maxCount || r.Users > maxCount {
		return nil, fmt.Errorf("--context %d and --users %d: both must be at least 1 and at most %d", r.Context, r.Users, maxCount)
	}
	formats, err := r.formats(len(s.layers()))
	if err != nil {
		return nil, err
	}
	if r.KVName == "" {
		r.KVName = r.KVDType.String()
	}
	p := &Plan{Schema: "sestina.plan/1", Shape: s, KVDType: r.KVName, BlockSize: r.BlockSize, Context: r.Context, Users: r.Users}
	cfg := runner.Config{BlockSize: r.BlockSize, KVDTypes: formats, Chunk: engine.Options{}.KVChunk()}
	windows := runner.Windows(s.info(s.layers(), &r), cfg)
	spec := runner.CacheSpec(s.info(s.layers(), &r), cfg)
	if p.BlockBytes, err = blockBytes(spec); err != nil {
		return nil, err
	}
	mha, err := blockBytes(runner.CacheSpec(s.info(s.expanded(), &r), cfg))
	if err != nil {
		return nil, err
	}
	cfg.OneGroup = true
	all, err := blockBytes(runner.CacheSpec(s.info(s.layers(), &r), cfg))
	if err != nil {
		return nil, err
	}
	p.TokenBytes, p.Windows = spec.TokenBytes(), windows
	var sum sums
	p.UserBytes = sum.mul(p.blocks(r.Context), p.BlockBytes)
	p.MHABytes = sum.mul(p.blocks(r.Context), mha)
	p.AllBytes = sum.mul(uint64(engine.Options{BlockSize: r.BlockSize}.KVNeed([]int{0}, r.Context)), all)
	p.KVBytes = sum.mul(uint64(r.Users), p.UserBytes)
	p.TotalBytes = sum.add(sum.add(s.WeightBytes, s.WorkBytes), p.KVBytes)
	if sum.err != nil {
		return nil, fmt.Errorf("%d users of %d tokens: %w", r.Users, r.Context, sum.err)
	}
	if r.Memory > 0 {
		p.fit(r)
	}
	return p, nil
}

// formats is the format of each of n layers.
func (r *Request) formats(n int) ([]tensor.DType, error) {
	if r.KVLayers != nil {
		if all, err := r.KVLayers(n); all != nil || err != nil {
			return all, err
		}
	}
	return slices.Repeat([]tensor.DType{r.KVDType}, n), nil
}

// blocks is how many blocks n tokens take at most, computed in chunks of the default size.
func (p *Plan) blocks(n int) uint64 {
	return uint64(engine.Options{BlockSize: p.BlockSize}.KVNeed(p.Windows, n))
}

// blockBytes is one block over all its slots, as a pool allocates it.
func blockBytes(spec backend.CacheSpec) (uint64, error) {
	var total uint64
	for _, layer := range spec.Slots() {
		l := spec.Layers[layer]
		layout := attention.Layout{KVHeads: l.KVHeads, HeadDim: l.HeadDim, BlockSize: spec.BlockSize, DType: spec.LayerDType(layer)}
		if err := layout.Validate(); err != nil {
			return 0, err
		}
		total += uint64(layout.BlockBytes())
	}
	return total, nil
}

// fit fills in what the memory holds.
func (p *Plan) fit(r Request) {
	fixed := p.Shape.WeightBytes + p.Shape.WorkBytes
	f := &Fit{Memory: r.Memory, Weights: fixed <= r.Memory, All: p.TotalBytes <= r.Memory}
	p.Fit = f
	if !f.Weights {
		return
	}
	f.Left = r.Memory - fixed
	f.Blocks = f.Left / p.BlockBytes
	f.Users = f.Blocks / p.blocks(r.Context)
	each := min(f.Blocks/uint64(r.Users), maxCount/uint64(r.BlockSize))
	f.Context = uint64(engine.Options{BlockSize: r.BlockSize}.KVTokens(p.Windows, int(each)))
	for context := 2048; context <= max(p.Shape.Context, r.Context, 8192); context *= 4 {
		n := p.blocks(context)
		p.Largest = append(p.Largest, Row{context, n * p.BlockBytes, f.Blocks / n})
	}
}

// sums does checked arithmetic and keeps the first error.
type sums struct{ err error }

func (s *sums) keep(v uint64, err error) uint64 {
	if s.err == nil {
		s.err = err
	}
	return v
}

func (s *sums) mul(a, b uint64) uint64 { return s.keep(checked.Mul(a, b)) }
func (s *sums) add(a, b uint64) uint64 { return s.keep(checked.Add(a, b)) }
