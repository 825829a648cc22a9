package matmul

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"sestina/internal/arena"
	"sestina/tensor"
)

// model is the weight matrices of one decoding step of SmolLM2-135M, or of its nearest relative whose rows hold whole
// blocks of 256.
type model struct {
	matrices []*Packed
	bytes    int64
}

func newModel(b *testing.B, dt tensor.DType) *model {
	b.Helper()
	hidden, ffn := 576, 1536
	if dt.BlockSize() == 256 {
		hidden = 512
	}
	var shapes [][2]int
	for range 30 {
		shapes = append(shapes, [][2]int{{hidden + 384, hidden}, {hidden, hidden}, {2 * ffn, hidden}, {hidden, ffn}}...)
	}
	shapes = append(shapes, [2]int{49152, hidden})
	m, total := &model{}, uint64(0)
	for _, s := range shapes {
		size, err := PackedSize(dt, s[0], s[1])
		if err != nil {
			b.Fatal(err)
		}
		total += size
	}
	region, err := arena.Alloc(total)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { region.Free() })
	data, panel := region.Bytes(), rawMatrix(rand.New(rand.NewPCG(1, 2)), dt, PanelRows, ffn, ordinary)
	for _, s := range shapes {
		size, _ := PackedSize(dt, s[0], s[1])
		p, err := New(dt, s[0], s[1], data[:size])
		if err != nil {
			b.Fatal(err)
		}
		p.Pack(0, panel[:PanelRows*p.rowBytes()])
		for i := 1; i < p.Panels(); i++ {
			copy(p.panel(i), p.panel(0))
		}
		m.matrices, data = append(m.matrices, p), data[size:]
	}
	m.bytes = int64(total)
	return m
}

// step multiplies m rows by every matrix.
func (mo *model) step(k *Kernels, out []float32, act []byte, x []float32, m int) {
	for _, w := range mo.matrices {
		if w.DType == tensor.BF16 {
			k.MulBF16(out, w.Rows, w, 0, w.Panels(), act, m)
		} else if w.layout.scalar() {
			k.MulF32(out, w.Rows, w, 0, w.Panels(), x, w.Cols, m, x)
		} else {
			k.MulInt8(out, w.Rows, w, 0, w.Panels(), act, m)
		}
	}
}

func operands(m int) (out []float32, act []byte, x []float32) {
	x = randomRows(rand.New(rand.NewPCG(3, 4)), max(m, PanelRows), 1536) // long enough as scratch
	act = make([]byte, m*ActBytes(1536))
	for i := range m {
		genericKernels.QuantizeRow(act[i*ActBytes(1536):][:ActBytes(1536)], x[i*1536:][:1536])
	}
	return make([]float32, m*49152), act, x
}

// BenchmarkGEMV is one decoding step on one thread. Compare GB/s with BenchmarkRead.
func BenchmarkGEMV(b *testing.B) {
	for _, isa := range Supported()[min(1, len(Supported())-1):] {
		k, _ := For(isa)
		for _, dt := range DTypes() {
			b.Run(fmt.Sprint(isa, "/", dt), func(b *testing.B) {
				mo := newModel(b, dt)
				out, act, x := operands(1)
				b.SetBytes(mo.bytes)
				for b.Loop() {
					mo.step(k, out, act, x, 1)
				}
			})
		}
	}
}

// BenchmarkBatch is a decoding step of a few sequences: the weights come from memory and serve several rows.
func BenchmarkBatch(b *testing.B) {
	k := Best()
	for _, dt := range DTypes() {
		for _, m := range []int{2, 4, 8, 16} {
			b.Run(fmt.Sprint(dt, "/", m), func(b *testing.B) {
				mo := newModel(b, dt)
				out, act, x := operands(m)
				b.SetBytes(mo.bytes)
				for b.Loop() {
					mo.step(k, out, act, x, m)
				}
			})
		}
	}
}

// BenchmarkRead is one thread's read bandwidth.
func BenchmarkRead(b *testing.B) {
	for _, dt := range []tensor.DType{tensor.Q4_0, tensor.Q8_0, tensor.F16} {
		b.Run(dt.String(), func(b *testing.B) {
			mo, k := newModel(b, dt), Best()
			b.SetBytes(mo.bytes)
			for b.Loop() {
				for _, w := range mo.matrices {
					k.Read(w.data)
				}
			}
		})
	}
}

// BenchmarkGEMM is a batch of decoding rows, or a prompt, through the matrices of one layer.
func BenchmarkGEMM(b *testing.B) {
	for _, isa := range Supported()[min(1, len(Supported())-1):] {
		k, _ := For(isa)
		for _, dt := range DTypes() {
			for _, m := range []int{2, 4, 8, 16, 32, 64, 512} {
				b.Run(fmt.Sprint(isa, "/", dt, "/", m), func(b *testing.B) {
					mo := newModel(b, dt)
					mo.matrices = mo.matrices[:4]
					ops := 0.0
					for _, w := range mo.matrices {
						ops += 2 * float64(w.Rows) * float64(w.Cols) * float64(m)
					}
					out, act, x := operands(m)
					for b.Loop() {
						mo.step(k, out, act, x, m)
					}
					b.ReportMetric(ops*float64(b.N)/b.Elapsed().Seconds()/1e9, "GOP/s")
				})
			}
		}
	}
}

// BenchmarkF32Activations is the slower path of integer formats: widen a panel, multiply in float32.
func BenchmarkF32Activations(b *testing.B) {
	for _, m := range []int{1, 64} {
		b.Run(fmt.Sprint(m), func(b *testing.B) {
			mo, k := newModel(b, tensor.Q4_0), Best()
			mo.matrices = mo.matrices[:4]
			out, _, x := operands(m)
			scratch := make([]float32, PanelRows*1536)
			for b.Loop() {
				for _, w := range mo.matrices {
					k.MulF32(out, w.Rows, w, 0, w.Panels(), x, w.Cols, m, scratch)
				}
			}
		})
	}
}

// BenchmarkPack is the loader's part: file to panels.
func BenchmarkPack(b *testing.B) {
	for _, dt := range DTypes() {
		b.Run(dt.String(), func(b *testing.B) {
			raw := rawMatrix(rand.New(rand.NewPCG(1, 2)), dt, 512, 1536, ordinary)
			p := pack(b, dt, 512, 1536, raw)
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				p.Pack(0, raw)
			}
		})
	}
}

func BenchmarkQuantizeRow(b *testing.B) {
	_, act, x := operands(1)
	k := Best()
	for b.Loop() {
		k.QuantizeRow(act[:ActBytes(576)], x[:576])
	}
}

// BenchmarkBF16 is BF16 by both of its orders, where the processor has both: few rows through the whole model, so that
// weights come from memory; many through one layer, 16 panels and Kernels.RowBlock rows at a time as the backend takes
// them. blocks/N has pieces of N blocks of columns.
func BenchmarkBF16(b *testing.B) {
	sets := map[string]*Kernels{}
	for _, isa := range Supported() {
		k, _ := For(isa)
		if isa != Generic {
			sets[isa.String()] = k
		}
		if k.BF16InBlocks() {
			for _, piece := range []int{6, 18, 48} {
				other := *k
				blocks := *k.blocks
				blocks.piece, other.blocks = piece, &blocks
				sets[fmt.Sprint("blocks", piece)] = &other
			}
		}
	}
	mo := newModel(b, tensor.BF16)
	for _, m := range []int{1, 2, 4, 8, 16, 17, 32, 64, 128, 512} {
		for _, name := range slices.Sorted(maps.Keys(sets)) {
			k, matrices := sets[name], mo.matrices
			if m > 16 {
				matrices = matrices[:4]
			} else if strings.HasPrefix(name, "blocks") {
				continue // no pieces
			}
			b.Run(fmt.Sprintf("%d/%s", m, name), func(b *testing.B) { benchmarkBF16(b, k, matrices, m) })
		}
	}
}

func benchmarkBF16(b *testing.B, k *Kernels, matrices []*Packed, m int) {
	const most = 1536 // columns
	x := randomRows(rand.New(rand.NewPCG(3, 4)), m, most)
	act, out := make([]byte, m*BF16Bytes(most)), make([]float32, m*16*PanelRows)
	bytes, ops := int64(0), 0.0
	for _, w := range matrices {
		bytes, ops = bytes+int64(w.Bytes()), ops+2*float64(w.Rows)*float64(w.Cols)*float64(m)
	}
	b.SetBytes(bytes)
	for b.Loop() {
		for i, w := range matrices {
			stride := BF16Bytes(w.Cols)
			for row := 0; row < m && (i == 0 || w.Cols != matrices[i-1].Cols); row++ {
				k.RoundRow(act[row*stride:][:stride], x[row*most:][:w.Cols])
			}
			for p := 0; p < w.Panels(); p += 16 {
				n := min(16, w.Panels()-p)
				for row := 0; row < m; row += k.RowBlock() {
					k.MulBF16(out[row*n*PanelRows:], n*PanelRows, w, p, n, act[row*stride:], min(k.RowBlock(), m-row))
				}
			}
		}
	}
	b.ReportMetric(ops*float64(b.N)/b.Elapsed().Seconds()/1e9, "GOP/s")
}
