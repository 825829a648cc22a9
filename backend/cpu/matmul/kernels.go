package matmul

import (
	"fmt"
	"strings"

	"sestina/internal/arena"
	"sestina/tensor"
)

// ISA is an instruction set that kernels are written for.
type ISA uint8

const (
	Generic    ISA = iota // pure Go
	AVX2                  // AVX2, FMA and F16C
	AVX512VNNI            // AVX-512 F, BW, DQ, VL and VNNI
	AMX                   // and tiles of int8 and, where it has them, bf16
	numISAs
)

var isaNames = [numISAs]string{"generic", "avx2", "avx512vnni", "amx"}

func (i ISA) String() string {
	if i >= numISAs {
		return fmt.Sprintf("ISA(%d)", uint8(i))
	}
	return isaNames[i]
}

// ParseISA returns the instruction set of that name, as String writes it.
func ParseISA(name string) (ISA, error) {
	for i, n := range isaNames {
		if strings.EqualFold(n, name) {
			return ISA(i), nil
		}
	}
	return 0, fmt.Errorf("unknown instruction set %q; choose one of %s", name, strings.Join(isaNames[:], ", "))
}

// Supported returns the instruction sets that this machine and build can run, slowest first. Generic is always there.
func Supported() []ISA {
	var have []ISA
	for i := Generic; i < numISAs; i++ {
		if kernelsFor(i) != nil {
			have = append(have, i)
		}
	}
	return have
}

// Kernels is the set of matrix kernels for one instruction set. All sets give the same bits, but for BF16 with bf16
// activations, where BF16InBlocks tells which of two. It is immutable and safe for concurrent use.
type Kernels struct {
	ISA ISA

	tiles      map[tensor.DType][]tile    // for int8 activations of integer formats, float32 activations of the others
	bf16       []tile                     // for BF16 weights and activations
	squares    []map[tensor.DType]squares // for int8 activations of many rows, tried in turn
	blocks     *blockKernels              // in place of bf16, in another order; may be nil
	dequantize map[tensor.DType]dequantFunc
	quantize   func(dst *byte, x *float32, blocks int)
	round      func(dst *byte, x *float32, chunks int) // 16 values of float32 to bf16 each
	read       func(data *byte, chunks int) byte
}

// tile is a kernel for a fixed number of rows of activations that takes so many panels at a time. Those of the same rows
// stand together, the one for one panel last; before smaller ones stands what many rows are best cut into. Strides are in bytes;
// steps is the number of groups, with float32 activations that of columns.
type tile struct {
	rows, panels int
	run          func(out *float32, outStride int, w *byte, panelBytes, panels, steps int, x *byte, xStride int)
}

// dequantFunc widens one panel of groups to float32, column after column.
type dequantFunc func(dst *float32, w *byte, groups int)

// For returns the kernels of an instruction set, an error where the machine or the build lacks it.
func For(isa ISA) (*Kernels, error) {
	if k := kernelsFor(isa); k != nil {
		return k, nil
	}
	if err := WhyNoAMX(); isa == AMX && err != nil {
		return nil, fmt.Errorf("this machine's AMX cannot be used: %w", err)
	}
	return nil, fmt.Errorf("this machine or build has no %v kernels; it has %v", isa, Supported())
}

// Best returns the kernels of the fastest instruction set there is.
func Best() *Kernels {
	have := Supported()
	return kernelsFor(have[len(have)-1])
}

var genericKernels = &Kernels{ISA: Generic}

// chunkBytes bounds the weights that one assembly call reads. Rows beyond one tile read them again, from the second-level
// cache; and Go, which cannot stop assembly, waits for no more than some tens of microseconds.
const chunkBytes = 256 << 10

// RowBlock is how many rows are best taken together against the same weights, when there are more: whole steps of all
// squares there are, and with float weights no more than fit the second-level cache.
func (k *Kernels) RowBlock() int {
	switch k.ISA {
	case AMX:
		return rowsPerCall
	case AVX512VNNI:
		return 96
	}
	return 64
}

// QuantizeRow writes the int8 form of x to dst: len(x) a multiple of 32, len(dst) = ActBytes(len(x)).
func (k *Kernels) QuantizeRow(dst []byte, x []float32) {
	checkQuantize(dst, x)
	switch {
	case len(x) == 0:
	case k.quantize == nil:
		quantizeGeneric(dst, x)
	default:
		k.quantize(&dst[0], &x[0], len(x)/32)
	}
}

// Read loads all of data, but for a tail of less than 512 bytes, and does nothing else: the yardstick for kernels that wait
// for memory. The result means nothing; it keeps the loads.
func (k *Kernels) Read(data []byte) (x byte) {
	for ; len(data) >= 512; data = data[min(len(data), chunkBytes):] {
		if n := min(len(data), chunkBytes); k.read != nil {
			x ^= k.read(&data[0], n/512)
		} else {
			for i := 0; i+8 <= n; i += 8 {
				x ^= byte(le.Uint64(data[i:]))
			}
		}
	}
	return x
}

// MulInt8 multiplies m rows of quantised activations by panels panel0 … panel0+panels-1 of an integer matrix:
// out[i·outStride + j] = row i times weight row 16·panel0 + j, for j < 16·panels. Lanes beyond the matrix's last row are
// written too (as zeros), so rows of out have room for whole panels. act holds m rows of ActBytes(Cols).
func (k *Kernels) MulInt8(out []float32, outStride int, w *Packed, panel0, panels int, act []byte, m int) {
	actStride := ActBytes(w.Cols)
	if w.layout.scalar() || len(act) < m*actStride {
		panic(fmt.Sprintf("matmul: %d bytes of int8 activations for %d rows of %d and %v weights", len(act), m, w.Cols, w.DType))
	}
	checkMul(out, outStride, w, panel0, panels, m)
	if m == 0 || panels == 0 {
		return
	}
	if k.tiles == nil {
		mulInt8Generic(out, outStride, w, panel0, panels, act, m)
		return
	}
	weights := w.data[panel0*w.panelBytes : (panel0+panels)*w.panelBytes]
	if done := k.mulSquares(out, outStride, w, weights, act, m); done == m {
		return
	} else if done > 0 {
		out, act, m = out[done*outStride:], act[done*actStride:], m-done
	}
	run(k.tiles[w.DType], out, outStride, weights, w.panelBytes, w.groups(), act, actStride, m)
}

// ScratchLen is the length of the scratch that MulF32 needs: one panel in float32.
func (p *Packed) ScratchLen() int { return PanelRows * p.Cols }

// MulF32 is MulInt8 for float32 activations, m rows of Cols at xStride, and for every format. scratch has ScratchLen
// values of the caller's, one scratch a thread.
func (k *Kernels) MulF32(out []float32, outStride int, w *Packed, panel0, panels int, x []float32, xStride, m int, scratch []float32) {
	if m > 0 && (xStride < 0 || len(x) < (m-1)*xStride+w.Cols) || len(scratch) < w.ScratchLen() {
		panic(fmt.Sprintf("matmul: %d activations at stride %d for %d rows of %d, scratch %d", len(x), xStride, m, w.Cols, len(scratch)))
	}
	checkMul(out, outStride, w, panel0, panels, m)
	if m == 0 || panels == 0 {
		return
	}
	if k.tiles == nil {
		mulF32Generic(out, outStride, w, panel0, panels, x, xStride, m, scratch)
		return
	}
	bytes, byteStride := arena.AsBytes(x), 4*xStride
	if w.layout.scalar() {
		weights := w.data[panel0*w.panelBytes : (panel0+panels)*w.panelBytes]
		run(k.tiles[w.DType], out, outStride, weights, w.panelBytes, w.Cols, bytes, byteStride, m)
		return
	}
	wide := scratch[:w.ScratchLen()]
	for p := range panels {
		k.dequantize[w.DType](&wide[0], &w.panel(panel0 + p)[0], w.groups())
		run(k.tiles[tensor.F32], out[p*PanelRows:], outStride, arena.AsBytes(wide), 4*len(wide), w.Cols, bytes, byteStride, m)
	}
}

// run multiplies all rows by all panels of weights, a chunk of panels at a time. xStride is in bytes.
func run(tiles []tile, out []float32, outStride int, weights []byte, panelBytes, steps int, x []byte, xStride, m int) {
	for len(weights) > 0 {
		panels := min(panelsPerCall(panelBytes), len(weights)/panelBytes)
		for row, n := 0, 0; row < m; row += n {
			t := fitting(tiles, m-row)
			n = t[0].rows
			runRows(t, out[row*outStride:], outStride, weights, panelBytes, panels, steps, x[row*xStride:], xStride)
		}
		weights, out = weights[panels*panelBytes:], out[panels*PanelRows:]
	}
}

// fitting returns the tiles from the first on that suits the rows that are left: all of them, or else as many as there are
// of the first kind that is not too large, unless a smaller kind covers them in two equal parts.
func fitting(tiles []tile, left int) []tile {
	some := -1
	for i := range tiles {
		switch rows := tiles[i].rows; {
		case rows == left:
			return tiles[i:]
		case some < 0 && rows < left, some >= 0 && rows < tiles[some].rows && 2*rows == left:
			some = i
		}
	}
	return tiles[some:]
}

// runRows multiplies one tile's rows by panels: the widest kernels first, the one for single panels takes the rest.
func runRows(tiles []tile, out []float32, outStride int, weights []byte, panelBytes, panels, steps int, x []byte, xStride int) {
	for t := 0; panels > 0; t++ {
		n := panels - panels%tiles[t].panels
		if n == 0 {
			continue
		}
		tiles[t].run(&out[0], 4*outStride, &weights[0], panelBytes, n, steps, &x[0], xStride)
		panels -= n
		weights, out = weights[n*panelBytes:], out[n*PanelRows:]
	}
}

// panelsPerCall is the number of panels in one assembly call.
func panelsPerCall(panelBytes int) int { return max(1, chunkBytes/panelBytes) }

func checkMul(out []float32, outStride int, w *Packed, panel0, panels, m int) {
	cols := panels * PanelRows
	if panel0 < 0 || panels < 0 || panel0+panels > w.Panels() {
		panic(fmt.Sprintf("matmul: panels %d to %d of %d", panel0, panel0+panels, w.Panels()))
	}
	if m < 0 || outStride < 0 || m > 1 && outStride < cols || m > 0 && len(out) < (m-1)*outStride+cols {
		panic(fmt.Sprintf("matmul: %d outputs at stride %d for %d rows of %d", len(out), outStride, m, cols))
	}
}
