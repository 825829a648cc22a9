package matmul

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"sestina/internal/f32"
	"sestina/tensor"
)

// withSquares runs f for every instruction set here that has kernels for squares.
func withSquares(t *testing.T, f func(t *testing.T, k *Kernels)) {
	for _, isa := range Supported() {
		if k, _ := For(isa); k.squares != nil {
			t.Run(isa.String(), func(t *testing.T) { f(t, k) })
		}
	}
}

// TestSquaresMatchOracle: rows around the edges of steps and calls, columns in one piece, in equal ones and with a
// shorter last one, panels in full and partial groups.
func TestSquaresMatchOracle(t *testing.T) {
	const most = rowsPerCall + 37
	for _, dt := range DTypes() {
		if !dt.Quantized() {
			continue
		}
		withSquares(t, func(t *testing.T, k *Kernels) {
			t.Run(dt.String(), func(t *testing.T) {
				cols := []int{32, 64, 320, 608}
				if dt.BlockSize() == 256 {
					cols = []int{256, 768}
				}
				for _, n := range cols {
					fx := newFixture(t, uint64(n), dt, 83, n, most, ordinary)
					for _, m := range []int{12, 13, 14, 15, 16, 17, 23, 31, 32, 33, 47, 48, 63, 64, 80, 128, 129, 159, most} {
						fx.check(t, k, withInt8, 0, m, 0, fx.packed.Panels())
						fx.check(t, k, withInt8, most-m, m, 1, 3)
					}
				}
			})
		})
	}
}

// TestSquaresExtremes is TestExtremes for whole squares.
func TestSquaresExtremes(t *testing.T) {
	for _, dt := range DTypes() {
		for _, f := range []fill{ones, zeros, strange} {
			if dt.Quantized() {
				withSquares(t, func(t *testing.T, k *Kernels) {
					newFixture(t, 17, dt, 40, 512, 34, f).check(t, k, withInt8, 0, 34, 0, 3)
				})
			}
		}
	}
}

// TestSquaresInCalls: more panels than one call takes.
func TestSquaresInCalls(t *testing.T) {
	withSquares(t, func(t *testing.T, k *Kernels) {
		fx := newFixture(t, 19, tensor.Q4_1, 400, 1536, 38, ordinary)
		if rows, panels := squaresPerCall(1536); rows < 38 || fx.packed.Panels() <= panels {
			t.Fatal("the matrix fits one call")
		}
		fx.check(t, k, withInt8, 0, 38, 0, fx.packed.Panels())
	})
}

// TestSquaresAreUsed: many rows reach these kernels, all but the few that fill none, in calls that are not too long and of
// multiples of what they take; a second kernel is for what the first leaves, the tiles for the panels that no kernel takes.
func TestSquaresAreUsed(t *testing.T) {
	const most, cols, weightRows = 2*rowsPerCall + 35, 64, 3 * PanelRows
	fx, k := newFixture(t, 1, tensor.Q8_0, weightRows, cols, most, ordinary), *genericKernels
	pairs, rest := [2]int{}, 0
	kernel := func(i, multiple, panelMultiple, least int) squares {
		return squares{multiple, panelMultiple, least, func(_ *float32, _ int, _ *byte, _, panels, _ int, _ *byte, _, rows, _ int) {
			if rows%multiple != 0 || panels%panelMultiple != 0 || rows > rowsPerCall {
				t.Errorf("kernel %d: a call of %d rows and %d panels", i, rows, panels)
			}
			pairs[i] += rows * panels
		}}
	}
	k.squares = []map[tensor.DType]squares{{tensor.Q8_0: kernel(0, 16, 1, 32)}, {tensor.Q8_0: kernel(1, 6, 2, 12)}}
	k.tiles = map[tensor.DType][]tile{tensor.Q8_0: {{1, 1, func(_ *float32, _ int, _ *byte, _, panels, _ int, _ *byte, _ int) {
		rest += panels
	}}}}
	out := make([]float32, most*weightRows)
	for m, want := range map[int][2]int{1: {}, 11: {}, 12: {0, 12}, 17: {0, 12}, 18: {0, 18}, 31: {0, 30}, 32: {32, 0}, 43: {32, 0},
		44: {32, 12}, 48: {48, 0}, 128: {128, 0}, 143: {128, 12}, 144: {144, 0}, most: {most - 3, 0}} {
		pairs, rest = [2]int{}, 0
		done := k.mulSquares(out, weightRows, fx.packed, fx.packed.data, fx.act, m)
		if done != want[0]+want[1] || pairs != [2]int{3 * want[0], 2 * want[1]} || rest != want[1] {
			t.Errorf("%d rows: %d done, %v multiplied with three and two panels, %d with the last, want %v", m, done, pairs, rest, want)
		}
	}
	const wide = 8192 // of which one panel is a call
	w, err := New(tensor.Q8_0, weightRows, wide, make([]byte, weightRows*wide/32*34))
	if err != nil {
		t.Fatal(err)
	}
	pairs, rest = [2]int{}, 0
	k.squares = k.squares[1:]
	if done := k.mulSquares(out, weightRows, w, w.data, make([]byte, 66*ActBytes(wide)), 66); done != 66 || pairs[1] != 2*66 || rest != 66 {
		t.Errorf("66 rows of %d: %d done, %v multiplied, %d with the last panel", wide, done, pairs, rest)
	}
	for _, c := range [][3]int{{32, 128, 192}, {576, 128, 10}, {3072, 128, 2}, {3104, 64, 2}, {8192, 64, 1}, {16384, 32, 1},
		{32768, 16, 1}, {1 << 20, 16, 1}} {
		if rows, panels := squaresPerCall(c[0]); rows != c[1] || panels != c[2] {
			t.Errorf("%d columns: %d rows, %d panels a call, want %v", c[0], rows, panels, c[1:])
		}
	}
}

// TestPieces: as few as the frames allow, as equal as they can be, never longer.
func TestPieces(t *testing.T) {
	for _, c := range []struct {
		dt         tensor.DType
		cols, want int
	}{{tensor.Q4_0, 32, 1}, {tensor.Q4_0, 288, 9}, {tensor.Q4_0, 320, 5}, {tensor.Q4_0, 576, 9}, {tensor.Q4_0, 1536, 8},
		{tensor.Q4_K, 256, 1}, {tensor.Q6_K, 768, 1}} {
		w := &Packed{DType: c.dt, Rows: 16, Cols: c.cols, layout: layoutOf(c.dt)}
		if got := pieceGroups(w); got != c.want || got*w.layout.blocks > pieceBlocks {
			t.Errorf("%v, %d columns: %d groups, want %d", c.dt, c.cols, got, c.want)
		}
	}
}

// TestSquaresSelfTest: kernels that confuse signs, saturate, ignore a piece or add in another order are refused.
func TestSquaresSelfTest(t *testing.T) {
	withSquares(t, func(t *testing.T, k *Kernels) {
		for _, set := range k.squares {
			if s, ok := set[tensor.Q8_0]; ok && !squaresAgree(s) {
				t.Error("its own kernel is refused")
			}
		}
	})
	for name, c := range map[string]struct {
		product func(w uint8, a int8) int32 // w is 128 more than the weight
		want    bool
	}{
		"right":                {func(w uint8, a int8) int32 { return int32(int8(w-128)) * int32(a) }, true},
		"unsigned rows":        {func(w uint8, a int8) int32 { return int32(int8(w-128)) * int32(uint8(a)) }, false},
		"unsigned weights":     {func(w uint8, a int8) int32 { return int32(w-128) * int32(a) }, false},
		"no offset":            {func(w uint8, a int8) int32 { return int32(int8(w)) * int32(a) }, false},
		"-128 is taken as 127": {func(w uint8, a int8) int32 { return max(-127, int32(int8(w-128))) * int32(a) }, false},
	} {
		mul := func(out *float32, outStride int, w *byte, panelBytes, panels, steps int, x *byte, xStride, rows, piece int) {
			weights, act := unsafe.Slice(w, panels*panelBytes), unsafe.Slice(x, rows*xStride)
			result := unsafe.Slice(out, (rows-1)*outStride/4+panels*PanelRows)
			for i := range rows {
				for j := range panels * PanelRows {
					sum := float32(0)
					for s := range steps {
						block, a := weights[j/16*panelBytes+s*544:], act[i*xStride+s*ActBlock:]
						dot := int32(0)
						for e := range 32 {
							dot += c.product(block[e/4*64+j%16*4+e%4], int8(a[e]))
						}
						sum = f32.FMA(float32(dot), half(block[512:], j%16)*math.Float32frombits(le.Uint32(a[actD:])), sum)
					}
					result[i*outStride/4+j] = sum
				}
			}
		}
		if got := squaresAgree(squares{run: mul}); got != c.want {
			t.Errorf("%s: agrees %v, want %v", name, got, c.want)
		}
	}
}

// TestSquaresUnderSignals: the scheduler interrupts running threads by signals, whose frames hold the tile registers.
func TestSquaresUnderSignals(t *testing.T) {
	withSquares(t, func(t *testing.T, k *Kernels) {
		fx := newFixture(t, 23, tensor.Q5_1, 320, 576, 48, ordinary)
		half := newFixture(t, 29, tensor.BF16, 320, 576, 48, ordinary)
		var wg sync.WaitGroup
		stop := make(chan struct{})
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
					runtime.GC() // stops the world: every thread gets a signal
				}
			}
		}()
		failed := make(chan error, 2)
		for range 2 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				out := make([]float32, 48*320)
				for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
					k.MulInt8(out, 320, fx.packed, 0, 20, fx.act, 48)
					for i, v := range out {
						if !same(v, fx.want[withInt8][i]) {
							failed <- fmt.Errorf("output %d: %v, the oracle says %v", i, v, fx.want[withInt8][i])
							return
						}
					}
					if !k.BF16InBlocks() {
						continue
					}
					k.MulBF16(out, 320, half.packed, 0, 20, half.half, 48)
					if !sameFloats(out, half.blocks) {
						failed <- errors.New("a product of bf16 tiles differs from the oracle's")
						return
					}
				}
			}()
		}
		time.Sleep(350 * time.Millisecond)
		close(stop)
		wg.Wait()
		select {
		case err := <-failed:
			t.Fatal(err)
		default:
		}
	})
}
