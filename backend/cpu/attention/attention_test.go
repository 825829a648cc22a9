package attention

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"sestina/internal/simd"
	"sestina/tensor"
)

// kernels returns the kernel of a layout on every instruction set of the machine.
func kernels(t testing.TB, l Layout) []*Kernel {
	t.Helper()
	var all []*Kernel
	for _, level := range simd.Levels() {
		restore, err := simd.Use(level)
		if err != nil {
			t.Fatal(err)
		}
		k, err := New(l)
		restore()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, k)
	}
	return all
}

// query asks for the last rows positions of a sequence, over group heads.
func (s *sequence) query(r *rand.Rand, rows, group, window int) *Query {
	q := &Query{Rows: rows, Group: group, Pos: s.n - rows, Window: window, Table: slices.Clone(s.table),
		KVHead: r.IntN(s.layout.KVHeads), Scale: 0.3, Stride: group*s.layout.HeadDim + r.IntN(3)}
	if r.IntN(4) == 0 {
		q.First = []int{1, 1, 5, 17, 260}[r.IntN(5)]
	}
	q.Q = make([]float32, rows*q.Stride)
	for i := range q.Q {
		q.Q[i] = float32(r.NormFloat64())
	}
	if lo, _ := q.visible(0); window > 0 { // blocks behind the window are gone
		for b := range lo / s.layout.BlockSize {
			q.Table[b] = -1
		}
	}
	return q
}

const guard = float32(12345)

// attend runs a query into guarded memory and returns [row][head] → values.
func attend(t *testing.T, k *Kernel, s *sequence, q *Query) func(i, g int) []float32 {
	t.Helper()
	stride := q.Group*k.HeadDim + 3
	out := slices.Repeat([]float32{guard}, q.Rows*stride)
	k.Attend(out, stride, s.pool, q, new(Scratch))
	for i := range q.Rows {
		for _, v := range out[i*stride+stride-3 : (i+1)*stride] {
			if v != guard {
				t.Fatalf("row %d was written past its heads", i)
			}
		}
	}
	return func(i, g int) []float32 { return out[i*stride+g*k.HeadDim:][:k.HeadDim] }
}

func sameBits(a, b []float32) bool {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}

var dtypes = []tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.Q8_0, tensor.Q4_0}

// fit is the nearest head size that the dtype has.
func fit(d tensor.DType, dim int) int {
	if (Layout{DType: d}).quantised() {
		return (dim + 31) &^ 31
	}
	return dim
}

// TestBitsEqualTheContract: every instruction set, dtype, block size, head
// size and group, at contexts, windows and row counts around the edges of
// tiles, partitions and passes.
func TestBitsEqualTheContract(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	contexts := []int{1, 15, 16, 17, 33, 100, 255, 256, 257, 600}
	windows := []int{0, 0, 1, 5, 16, 40, 256, 300}
	counts := []int{1, 1, 2, 5, 17}
	for _, dtype := range dtypes {
		for _, block := range []int{1, 4, 7, 16, 32, 48, 64} {
			for _, dim := range []int{8, 16, 20, 64, 80, 128} { // 32, 64, 96 and 128 for quantised ones
				for _, group := range []int{1, 2, 3, 4, 8} {
					l := Layout{KVHeads: 1 + r.IntN(3), HeadDim: fit(dtype, dim), BlockSize: block, DType: dtype}
					n := contexts[r.IntN(len(contexts))]
					s := newSequence(r, l, n)
					q := s.query(r, min(n, counts[r.IntN(len(counts))]), group, windows[r.IntN(len(windows))])
					checkContract(t, r, s, q)
				}
			}
		}
	}
}

// checkContract compares a few of a query's rows with the contract, all of
// them between the instruction sets.
func checkContract(t *testing.T, r *rand.Rand, s *sequence, q *Query) {
	t.Helper()
	var first func(i, g int) []float32
	for _, k := range kernels(t, s.layout) {
		got := attend(t, k, s, q)
		q.Full = true
		full := attend(t, k, s, q)
		q.Full = false
		for i := range q.Rows {
			for g := range q.Group {
				if !sameBits(got(i, g), full(i, g)) {
					t.Fatalf("%v %+v: row %d, head %d differs with the full score matrix", k.level, s.layout, i, g)
				}
			}
		}
		if k.level == simd.Generic {
			first = got
			for _, i := range []int{0, q.Rows - 1, r.IntN(q.Rows)} {
				g := r.IntN(q.Group)
				if want := s.contract(q, i, g); !sameBits(got(i, g), want) {
					t.Fatalf("%v %+v: %d keys, window %d, row %d of %d, head %d of %d:\n got %v\nwant %v",
						k.level, s.layout, s.n, q.Window, i, q.Rows, g, q.Group, got(i, g)[:4], want[:4])
				}
			}
			continue
		}
		for i := range q.Rows {
			for g := range q.Group {
				if !sameBits(got(i, g), first(i, g)) {
					t.Fatalf("%v %+v: %d keys, window %d, row %d of %d, head %d of %d:\n got %v\nwant %v",
						k.level, s.layout, s.n, q.Window, i, q.Rows, g, q.Group, got(i, g)[:4], first(i, g)[:4])
				}
			}
		}
	}
}

func TestSoftCapAndSinks(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, dtype := range []tensor.DType{tensor.F16, tensor.Q8_0, tensor.Q4_0} {
		for _, block := range []int{7, 16} {
			for _, n := range []int{5, 300} {
				s := newSequence(r, Layout{2, fit(dtype, 16), block, dtype}, n)
				q := s.query(r, 3, 4, 0)
				q.SoftCap, q.Sinks = 2, []float32{-3, 0, 1, 20}
				checkContract(t, r, s, q)
				compareTextbook(t, s, q)
			}
		}
	}
}

func TestTextbook(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for _, dtype := range dtypes {
		for _, n := range []int{1, 16, 100, 700} {
			for _, window := range []int{0, 33} {
				s := newSequence(r, Layout{2, 64, 16, dtype}, n)
				compareTextbook(t, s, s.query(r, min(3, n), 3, window))
			}
		}
	}
}

func compareTextbook(t *testing.T, s *sequence, q *Query) {
	t.Helper()
	for _, k := range kernels(t, s.layout) {
		got := attend(t, k, s, q)
		for i := range q.Rows {
			for g := range q.Group {
				for d, want := range s.textbook(q, i, g) {
					if diff := math.Abs(float64(got(i, g)[d]) - want); !(diff < 1e-5) {
						t.Fatalf("%v: row %d head %d [%d] = %v, want %v", k.level, i, g, d, got(i, g)[d], want)
					}
				}
			}
		}
	}
}

// TestChunkingAndBlockSizeDoNotMatter: prefill in one go, in chunks, or a
// position at a time, in any block size: the same bits.
func TestChunkingAndBlockSizeDoNotMatter(t *testing.T) {
	for _, dtype := range []tensor.DType{tensor.F16, tensor.Q8_0, tensor.Q4_0} {
		for _, window := range []int{0, 50} {
			chunkingDoesNotMatter(t, dtype, window)
		}
	}
}

func chunkingDoesNotMatter(t *testing.T, dtype tensor.DType, window int) {
	const n, group = 290, 3
	var want func(i, g int) []float32
	for _, block := range []int{16, 1, 7, 64} {
		r := rand.New(rand.NewPCG(4, uint64(window))) // the same values for every block size
		l := Layout{2, fit(dtype, 16), block, dtype}
		s := &sequence{}
		*s = *newSequence(rand.New(rand.NewPCG(5, 5)), l, n)
		restoreValues(s, r)
		q := s.query(r, n, group, window)
		q.KVHead = 1
		for i := range q.Q {
			q.Q[i] = float32(math.Sin(float64(i/q.Stride*1000 + i%q.Stride)))
		}
		for _, k := range kernels(t, l) {
			all := attend(t, k, s, q)
			if want == nil {
				want = all
			}
			for i := 0; i < n; {
				rows := min(n-i, 1+(i*7)%23)
				part := *q
				part.Q, part.Rows, part.Pos = q.Q[i*q.Stride:], rows, i
				got := attend(t, k, s, &part)
				for j := range rows {
					for g := range group {
						if !sameBits(got(j, g), want(i+j, g)) || !sameBits(all(i+j, g), want(i+j, g)) {
							t.Fatalf("%v %v block %d window %d: position %d head %d differs", dtype, k.level, block, window, i+j, g)
						}
					}
				}
				i += rows
			}
		}
	}
}

// restoreValues writes values that depend on the position alone.
func restoreValues(s *sequence, r *rand.Rand) {
	for j := range s.n {
		slot := s.table[j/s.layout.BlockSize]*int32(s.layout.BlockSize) + int32(j%s.layout.BlockSize)
		for h := range s.layout.KVHeads {
			k, v := make([]float32, s.layout.HeadDim), make([]float32, s.layout.HeadDim)
			for d := range k {
				k[d], v[d] = float32(r.NormFloat64()), float32(r.NormFloat64())
			}
			s.layout.Store(s.pool, slot, h, k, v)
		}
	}
}

// TestInvisibleValuesAreNeverTouched poisons K and V of one position with NaN:
// only rows that see it may notice, even those that share a pass with them.
func TestInvisibleValuesAreNeverTouched(t *testing.T) {
	const n, rows, window = 120, 40, 37
	for _, dtype := range []tensor.DType{tensor.F16, tensor.Q8_0, tensor.Q4_0} {
		for _, block := range []int{5, 16} {
			for poisoned := n - rows - window; poisoned < n; poisoned += 7 {
				r := rand.New(rand.NewPCG(10, 10))
				s := newSequence(r, Layout{1, fit(dtype, 16), block, dtype}, n)
				poison(t, s, s.query(r, rows, 2, window), poisoned)
			}
		}
	}
}

func poison(t *testing.T, s *sequence, q *Query, poisoned int) {
	block := s.layout.BlockSize
	for _, k := range kernels(t, s.layout) {
		want := attend(t, k, s, q)
		bad := *s
		bad.pool = slices.Clone(s.pool)
		nan := slices.Repeat([]float32{float32(math.NaN())}, s.layout.HeadDim)
		s.layout.Store(bad.pool, s.table[poisoned/block]*int32(block)+int32(poisoned%block), 0, nan, nan)
		got := attend(t, k, &bad, q)
		for i := range q.Rows {
			lo, pos := q.visible(i)
			sees := lo <= poisoned && poisoned <= pos
			if same := sameBits(got(i, 1), want(i, 1)); same == sees {
				t.Fatalf("%v %v block %d: position %d is NaN; row of [%d, %d] changed: %v",
					s.layout.DType, k.level, block, poisoned, lo, pos, !same)
			}
		}
	}
}

// TestPartitionsByManyHands: partitions computed apart, in any order, by
// different scratches, combine to what one thread computes.
func TestPartitionsByManyHands(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	for i, dtype := range []tensor.DType{tensor.BF16, tensor.BF16, tensor.Q8_0, tensor.Q4_0} {
		window := i % 2 * 300
		s := newSequence(r, Layout{2, 64, 32, dtype}, 900)
		q := s.query(r, 5, 3, window)
		for _, k := range kernels(t, s.layout) {
			want := attend(t, k, s, q)
			first, end := q.Partitions()
			n := q.Rows * q.Group * k.StateLen()
			states := slices.Repeat([]float32{guard}, (end-first)*n+16)
			for _, i := range r.Perm(end - first) {
				k.Partition(states[i*n:][:n], s.pool, q, first+i, new(Scratch))
			}
			for _, v := range states[(end-first)*n:] {
				if v != guard {
					t.Fatal("a state was written past its end")
				}
			}
			out := make([]float32, q.Rows*q.Group*k.HeadDim)
			k.Combine(out, q.Group*k.HeadDim, states, q, new(Scratch))
			for i := range q.Rows {
				for g := range q.Group {
					if got := out[(i*q.Group+g)*k.HeadDim:][:k.HeadDim]; !sameBits(got, want(i, g)) {
						t.Fatalf("%v %v window %d: row %d head %d differs", dtype, k.level, window, i, g)
					}
				}
			}
		}
	}
}

// TestStoreWritesItsSlotOnly stores into a pool of a known pattern.
func TestStoreWritesItsSlotOnly(t *testing.T) {
	for _, dtype := range dtypes {
		for _, block := range []int{1, 5, 16, 48} {
			l := Layout{KVHeads: 2, HeadDim: fit(dtype, 20), BlockSize: block, DType: dtype}
			pool := slices.Repeat([]byte{0xaa}, 3*l.BlockBytes())
			one := slices.Repeat([]float32{1}, l.HeadDim)
			l.Store(pool, int32(2*block-1), 1, one, one)
			changed := 0
			for i, b := range pool {
				if b != 0xaa {
					changed++
					if i/l.BlockBytes() != 1 {
						t.Fatalf("%v block %d: byte %d of another block was written", dtype, block, i)
					}
				}
			}
			if changed != 2*l.headBytes() {
				t.Fatalf("%v block %d: %d bytes changed, want %d", dtype, block, changed, 2*l.headBytes())
			}
		}
	}
}

func TestMisuse(t *testing.T) {
	for _, l := range []Layout{{1, 32, 16, tensor.Q4_1}, {1, 48, 16, tensor.Q8_0}, {1, 80, 16, tensor.Q4_0}, {0, 8, 16, tensor.F16}, {1, 0, 16, tensor.F16}, {1, 8, 0, tensor.F16}, {1, 8, 1 << 30, tensor.F16}} {
		if _, err := New(l); err == nil {
			t.Errorf("%+v must be refused", l)
		}
	}
	r := rand.New(rand.NewPCG(7, 7))
	s := newSequence(r, Layout{1, 8, 16, tensor.F32}, 20)
	for name, spoil := range map[string]func(q *Query){
		"block outside the pool": func(q *Query) { q.Table[1] = 99 },
		"negative block":         func(q *Query) { q.Table[0] = -1 },
		"table too short":        func(q *Query) { q.Table = q.Table[:1] },
		"queries too short":      func(q *Query) { q.Q = q.Q[:7] },
		"head outside":           func(q *Query) { q.KVHead = 1 },
	} {
		for _, k := range kernels(t, s.layout) {
			q := s.query(r, 2, 2, 0)
			q.First = 0 // every block is read
			spoil(q)
			func() {
				defer func() {
					if v := recover(); v == nil || !strings.Contains(fmt.Sprint(v), "attention: ") {
						t.Errorf("%s: recovered %v", name, v)
					}
				}()
				k.Attend(make([]float32, 100), 16, s.pool, q, new(Scratch))
			}()
		}
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	for i, dtype := range []tensor.DType{tensor.F16, tensor.F16, tensor.BF16, tensor.F32, tensor.Q8_0, tensor.Q8_0} {
		s := newSequence(r, Layout{1, 32, []int{4, 16}[i%2], dtype}, 300)
		q := s.query(r, 2, 3, 0)
		for _, k := range kernels(t, s.layout) {
			scratch, out, kv := new(Scratch), make([]float32, 2*96), make([]float32, 32)
			if n := testing.AllocsPerRun(3, func() {
				s.layout.Store(s.pool, 3, 0, kv, kv)
				k.Attend(out, 96, s.pool, q, scratch)
			}); n != 0 {
				t.Fatalf("%v in blocks of %d, %v: %v allocations", dtype, s.layout.BlockSize, k.level, n)
			}
		}
	}
}

func FuzzContract(f *testing.F) {
	f.Add(uint64(1), uint16(300), uint8(16), uint8(64), uint8(3), uint8(2), uint16(0))
	f.Add(uint64(2), uint16(257), uint8(7), uint8(20), uint8(16), uint8(9), uint16(31))
	f.Fuzz(func(t *testing.T, seed uint64, n uint16, block, dim, group, rows uint8, window uint16) {
		r := rand.New(rand.NewPCG(seed, 9))
		dtype := dtypes[r.IntN(len(dtypes))]
		l := Layout{KVHeads: 1 + r.IntN(2), HeadDim: fit(dtype, 1+int(dim)%130), BlockSize: 1 + int(block)%70, DType: dtype}
		s := newSequence(r, l, 1+int(n)%600)
		checkContract(t, r, s, s.query(r, min(s.n, 1+int(rows)%20), 1+int(group)%16, int(window)%700))
	})
}

// BenchmarkDecode reads a context of SmolLM2's shape (3 KV heads of 64, 9 query
// heads) on one thread; GB/s counts K and V once.
func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{256, 4096} {
		for _, dtype := range dtypes {
			for _, block := range []int{16, 64, 4} {
				l := Layout{KVHeads: 3, HeadDim: 64, BlockSize: block, DType: dtype}
				r := rand.New(rand.NewPCG(1, 1))
				s := newSequence(r, l, n)
				q := s.query(r, 1, 3, 0)
				for _, k := range kernels(b, l)[1:] {
					b.Run(fmt.Sprintf("%d/%v/block=%d/%v", n, dtype, block, k.level), func(b *testing.B) {
						b.SetBytes(int64(2 * n * l.KVHeads * l.headBytes()))
						out, scratch := make([]float32, 3*64), new(Scratch)
						for b.Loop() {
							for h := range l.KVHeads {
								q.KVHead = h
								k.Attend(out, 3*64, s.pool, q, scratch)
							}
						}
					})
				}
			}
		}
	}
}

// BenchmarkDecodeModel is BenchmarkDecode over the caches of 30 layers, which no
// cache of a processor holds: a token of SmolLM2-135M at depth 4,096.
func BenchmarkDecodeModel(b *testing.B) {
	const n, layers = 4096, 30
	for _, dtype := range dtypes {
		l := Layout{KVHeads: 3, HeadDim: 64, BlockSize: 16, DType: dtype}
		r := rand.New(rand.NewPCG(1, 1))
		s := newSequence(r, l, n)
		q := s.query(r, 1, 3, 0)
		for _, k := range kernels(b, l)[1:] {
			b.Run(fmt.Sprintf("%v/%v", dtype, k.level), func(b *testing.B) {
				var pools [][]byte
				for range layers {
					pools = append(pools, slices.Clone(s.pool))
				}
				b.SetBytes(int64(layers * 2 * n * l.KVHeads * l.headBytes()))
				out, scratch := make([]float32, 3*64), new(Scratch)
				for b.Loop() {
					for _, pool := range pools {
						for h := range l.KVHeads {
							q.KVHead = h
							k.Attend(out, 3*64, pool, q, scratch)
						}
					}
				}
			})
		}
	}
}

// BenchmarkPrefill reports multiply-adds per second over a prompt of 2,048
// positions in chunks.
func BenchmarkPrefill(b *testing.B) {
	for _, dtype := range []tensor.DType{tensor.F16, tensor.Q8_0, tensor.Q4_0} {
		const n = 2048
		l := Layout{KVHeads: 1, HeadDim: 64, BlockSize: 16, DType: dtype}
		r := rand.New(rand.NewPCG(1, 1))
		s := newSequence(r, l, n)
		for _, k := range kernels(b, l)[1:] {
			for _, chunk := range []int{16, 64} {
				b.Run(fmt.Sprintf("%v/chunk=%d/%v", dtype, chunk, k.level), func(b *testing.B) {
					q := s.query(r, chunk, 3, 0)
					out, scratch := make([]float32, chunk*3*64), new(Scratch)
					for b.Loop() {
						for q.Pos = 0; q.Pos < n; q.Pos += chunk {
							k.Attend(out, 3*64, s.pool, q, scratch)
						}
					}
					flops := 2 * 2 * 64 * 3 * float64(n) * float64(n+1) / 2
					b.ReportMetric(flops*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gflop/s")
				})
			}
		}
	}
}
