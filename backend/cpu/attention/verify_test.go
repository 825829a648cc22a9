package attention

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"sestina/internal/arena"
	"sestina/tensor"
)

// BenchmarkVerify is attention as decoding and verification pay it: some rows at
// the end of SmolLM2-135M's context, one thread, in each of its 30 layers, while
// the step reads a layer's weights between, so that K, V, scratch and code are cold.
// It reports the time of a layer's three KV heads.
func BenchmarkVerify(b *testing.B) {
	const layers, share = 30, 98 << 20 / 30
	const apart = 2 << 20 // of two layers' pools, in huge pages as the backend's are
	memory, err := arena.Alloc(layers * (share + apart))
	if err != nil {
		b.Fatal(err)
	}
	defer memory.Free()
	weights := memory.Bytes()[layers*apart:]
	for i := 0; i < len(weights); i += 4096 {
		weights[i] = 1
	}
	for _, dtype := range []tensor.DType{tensor.F16, tensor.Q8_0} {
		for _, depth := range []int{128, 1024} {
			l := Layout{KVHeads: 3, HeadDim: 64, BlockSize: 16, DType: dtype}
			r := rand.New(rand.NewPCG(1, 1))
			s := newSequence(r, l, depth+8)
			var pools [layers][]byte
			for i := range pools {
				pools[i] = memory.Bytes()[i*apart:][:copy(memory.Bytes()[i*apart:], s.pool)]
			}
			for _, rows := range []int{1, 2, 3, 4, 8} {
				q := s.query(r, rows, modelGroup, 0)
				q.First, q.Pos = 0, depth
				drawn := slices.Clone(q.Q)
				for _, k := range kernels(b, l)[1:] {
					b.Run(fmt.Sprintf("%v/%d/rows=%d/%v", dtype, depth, rows, k.level), func(b *testing.B) {
						out, scratch := make([]float32, rows*modelStride), new(Scratch)
						var spent time.Duration
						for b.Loop() {
							for i, pool := range pools {
								read(weights[share*i : share*(i+1)])
								copy(q.Q, drawn) // as the step leaves them
								begin := time.Now()
								for q.KVHead = range l.KVHeads {
									k.Attend(out, modelStride, pool, q, scratch)
								}
								spent += time.Since(begin)
							}
						}
						b.ReportMetric(0, "ns/op")
						b.ReportMetric(float64(spent.Nanoseconds())/1e3/float64(b.N*layers), "µs/layer")
					})
				}
			}
		}
	}
}

var sink byte

// read brings memory through the caches.
func read(p []byte) {
	var x byte
	for i := 0; i < len(p); i += 64 {
		x += p[i]
	}
	sink = x
}
