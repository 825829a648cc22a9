package attention

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"sestina/tensor"
)

// Prompts in SmolLM2-135M's shape, one thread: 3 KV heads of 64, 9 query heads,
// pieces of 16 positions as the backend shares them out, at depth 4,096 in f16.
const (
	modelDepth  = 4096
	modelPiece  = 16
	modelGroup  = 3
	modelStride = 9 * 64
)

var modelLayout = Layout{KVHeads: 3, HeadDim: 64, BlockSize: 16, DType: tensor.F16}

func modelSequence(r *rand.Rand, rows int) (*sequence, *Query) {
	s := newSequence(r, modelLayout, modelDepth+rows)
	q := s.query(r, rows, modelGroup, 0)
	q.First, q.Pos = 0, modelDepth
	return s, q
}

// BenchmarkPrefillModel takes some of a step's units in their order, piece after
// piece, head after head, over two layers: K and V of a layer outgrow a core's caches.
func BenchmarkPrefillModel(b *testing.B) {
	const pieces, layers = 8, 2
	s, q := modelSequence(rand.New(rand.NewPCG(1, 1)), pieces*modelPiece)
	pools := [layers][]byte{s.pool, slices.Clone(s.pool)}
	for _, piece := range []int{modelPiece, 2 * modelPiece} {
		for _, k := range kernels(b, modelLayout)[1:] {
			b.Run(fmt.Sprintf("piece=%d/%v", piece, k.level), func(b *testing.B) {
				unit, out, scratch := *q, make([]float32, piece*modelStride), new(Scratch)
				unit.Rows = piece
				for b.Loop() {
					for _, pool := range pools {
						for unit.Pos = modelDepth; unit.Pos < s.n; unit.Pos += piece {
							for unit.KVHead = range modelLayout.KVHeads {
								k.Attend(out, modelStride, pool, &unit, scratch)
							}
						}
					}
				}
				positions := float64(b.N * layers * modelLayout.KVHeads * pieces * modelPiece)
				reportFlops(b, positions*modelGroup*float64(modelDepth+pieces*modelPiece/2))
			})
		}
	}
}

// BenchmarkPrefillPhases times a piece's scores, weights and p·V apart.
func BenchmarkPrefillPhases(b *testing.B) {
	s, q := modelSequence(rand.New(rand.NewPCG(1, 1)), modelPiece)
	phases := []struct {
		name string
		run  func(p *pass, seen tiles)
	}{{"scores", (*pass).score}, {"weights", (*pass).softmaxes}, {"values", (*pass).weightValues}}
	for _, k := range kernels(b, modelLayout)[1:] {
		scratch, page, rows := new(Scratch), make([]page, 1), modelPiece*modelGroup
		states := make([]float32, rows*k.StateLen())
		k.transpose(q, scratch)
		each := func(f func(p *pass, seen tiles)) {
			for part := range modelDepth / Partition {
				k.gather(&scratch.keys, s.pool, q, part, &scratch.Moved)
				k.passes(rows, func(a, b int) {
					n := k.StateLen()
					p := pass{k, q, &page[0], &scratch.keys, k.queries(scratch, a), part, a, b, states[a*n : b*n]}
					f(&p, p.seen())
				})
			}
		}
		for _, phase := range phases {
			each(phase.run) // what the next phase reads
			b.Run(fmt.Sprintf("%s/%v", phase.name, k.level), func(b *testing.B) {
				for b.Loop() {
					each(phase.run)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rows*modelDepth/Tile), "ns/row-tile")
			})
		}
	}
}

// reportFlops counts both products of each pair of a row and a key.
func reportFlops(b *testing.B, pairs float64) {
	b.ReportMetric(pairs*2*2*float64(modelLayout.HeadDim)/b.Elapsed().Seconds()/1e9, "Gflop/s")
}
