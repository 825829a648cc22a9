package kernels

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"sestina/backend/cpu/attention"
	"sestina/backend/cpu/matmul"
	"sestina/internal/arena"
	"sestina/internal/simd"
	"sestina/tensor"
)

// heads is one model's attention.
type heads struct {
	Model              string
	Query, KV, HeadDim int
}

var attentions = []heads{
	{"smollm2-135m", 9, 3, 64},
	{"llama-3.2-1b", 32, 8, 64},
}

// AttentionRow is one figure of the attention kernels: all heads of one layer, M positions of one sequence that ends at a depth.
type AttentionRow struct {
	ISA          string  `json:"isa"`
	KVDType      string  `json:"kv_cache_dtype"`
	Model        string  `json:"model"`
	Heads        [3]int  `json:"heads"` // query, KV, dimensions
	Depth        int     `json:"depth"`
	M            int     `json:"m"`
	Us           float64 `json:"us"`
	GBs          float64 `json:"gb_per_s"` // K and V, each once, however often the kernel reads them
	GBsMin       float64 `json:"gb_per_s_min"`
	GBsMax       float64 `json:"gb_per_s_max"`
	Gops         float64 `json:"gop_per_s"` // scores and weighted values; the softmax between them is not counted
	BandwidthPct float64 `json:"share_of_read_bandwidth"`
	PeakPct      float64 `json:"share_of_l1_gemm"` // of the product with float32 activations
	N            int     `json:"n"`
}

// kvDTypes are the formats of a KV cache.
var kvDTypes = []tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.Q8_0, tensor.Q4_0}

// level is what the vector and attention kernels use beside a family of matrix kernels.
func level(isa matmul.ISA) simd.Level {
	switch isa {
	case matmul.Generic:
		return simd.Generic
	case matmul.AVX2:
		return simd.AVX2
	}
	levels := simd.Levels()
	return levels[len(levels)-1]
}

// measureAttention times every KV format, model and number of rows of the configuration with a family's kernels.
func measureAttention(ctx context.Context, isa matmul.ISA, c Config, read, peak float64) (rows []AttentionRow, err error) {
	restore, err := simd.Use(level(isa))
	if err != nil {
		return nil, err
	}
	defer restore()
	for _, dt := range c.KVDTypes {
		for _, h := range attentions {
			if !slices.Contains(c.Models, h.Model) {
				continue
			}
			l, err := newLayers(h, dt, c)
			if err != nil {
				return nil, err
			}
			for _, m := range c.Rows {
				if ctx.Err() != nil {
					l.region.Free()
					return nil, ctx.Err()
				}
				if m > c.Depth {
					continue
				}
				var times []float64
				for range c.Reps {
					times = append(times, l.time(m, c.MinTime))
				}
				t := median(times)
				r := AttentionRow{ISA: isa.String(), KVDType: dt.String(), Model: h.Model, Heads: [3]int{h.Query, h.KV, h.HeadDim}, Depth: c.Depth, M: m,
					N: c.Reps, Us: t * 1e6, GBs: l.bytes() / t / 1e9, GBsMin: l.bytes() / slices.Max(times) / 1e9, GBsMax: l.bytes() / slices.Min(times) / 1e9,
					Gops: l.ops(m) / t / 1e9}
				r.BandwidthPct, r.PeakPct = r.GBs/read, r.Gops/peak
				rows = append(rows, r)
			}
			l.region.Free()
		}
	}
	return rows, nil
}

// layers are KV pools of one sequence each, used in turn: together they fill the working set.
type layers struct {
	heads
	kernel  *attention.Kernel
	region  *arena.Region
	pools   [][]byte
	next    int
	depth   int
	table   []int32
	q, out  []float32
	scratch attention.Scratch
}

const (
	kvBlock   = 16
	pieceRows = 16 // how backend/cpu cuts many rows
)

func newLayers(h heads, dt tensor.DType, c Config) (*layers, error) {
	layout := attention.Layout{KVHeads: h.KV, HeadDim: h.HeadDim, BlockSize: kvBlock, DType: dt}
	k, err := attention.New(layout)
	if err != nil {
		return nil, err
	}
	blocks := (c.Depth + kvBlock - 1) / kvBlock
	size := (uint64(blocks*k.BlockBytes()) + 63) &^ 63
	n := max(1, c.WorkingSet/size)
	region, err := arena.Alloc(n * size)
	if err != nil {
		return nil, err
	}
	l := &layers{heads: h, kernel: k, region: region, depth: c.Depth}
	for i := range n {
		l.pools = append(l.pools, region.Bytes()[i*size:(i+1)*size])
	}
	for i := range blocks {
		l.table = append(l.table, int32(i))
	}
	rng := rand.New(rand.NewPCG(7, 8))
	random := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return x
	}
	for slot := range c.Depth {
		for head := range h.KV {
			k.Store(l.pools[0], int32(slot), head, random(h.HeadDim), random(h.HeadDim))
		}
	}
	for _, p := range l.pools[1:] {
		copy(p, l.pools[0])
	}
	most := slices.Max(c.Rows) * h.Query * h.HeadDim
	l.q, l.out = random(most), make([]float32, most)
	return l, nil
}

// bytes is K and V of the sequence.
func (l *layers) bytes() float64 { return float64(len(l.table) * l.kernel.BlockBytes()) }

// ops is the multiplications and additions of m rows, the last of which sees the whole depth.
func (l *layers) ops(m int) float64 {
	keys := float64(m)*float64(l.depth) - float64(m)*float64(m-1)/2
	return 4 * keys * float64(l.Query*l.HeadDim)
}

// time is the mean seconds of m rows, over at least atLeast.
func (l *layers) time(m int, atLeast time.Duration) float64 {
	width := l.Query * l.HeadDim
	group := l.Query / l.KV
	begin := time.Now()
	for n := 1; ; n++ {
		pool := l.pools[l.next]
		l.next = (l.next + 1) % len(l.pools)
		for row := 0; row < m; row += pieceRows {
			for head := range l.KV {
				at := row*width + head*group*l.HeadDim
				q := attention.Query{Q: l.q[at:], Stride: width, Rows: min(pieceRows, m-row), Group: group, Pos: l.depth - m + row,
					Table: l.table, KVHead: head, Scale: 0.125}
				l.kernel.Attend(l.out[at:], width, pool, &q, &l.scratch)
			}
		}
		if spent := time.Since(begin); spent >= atLeast {
			return spent.Seconds() / float64(n)
		}
	}
}

// checkAttention refuses what cannot be measured and fills in what was left open.
func (c *Config) checkAttention() error {
	if c.Depth < 0 || c.Depth > 1<<17 {
		return fmt.Errorf("--depth %d must be 0 (no attention) to %d", c.Depth, 1<<17)
	}
	for _, dt := range c.KVDTypes {
		if !slices.Contains(kvDTypes, dt) {
			return fmt.Errorf("--kv-cache-dtype %v is none; choose from %v", dt, kvDTypes)
		}
	}
	if len(c.KVDTypes) == 0 && c.Depth > 0 {
		c.KVDTypes = kvDTypes
	}
	if c.Depth == 0 {
		c.KVDTypes = nil
	}
	return nil
}
