package matmul

import (
	"maps"
	"slices"
	"testing"

	"sestina/tensor"
)

func TestISAs(t *testing.T) {
	for _, isa := range []ISA{Generic, AVX2, AVX512VNNI, AMX} {
		if got, err := ParseISA(isa.String()); err != nil || got != isa {
			t.Errorf("ParseISA(%v) = %v, %v", isa, got, err)
		}
	}
	if _, err := ParseISA("sse2"); err == nil {
		t.Error("sse2 accepted")
	}
	if _, err := For(numISAs); err == nil {
		t.Error("For accepts an instruction set that does not exist")
	}
	have := Supported()
	if have[0] != Generic || Best().ISA != have[len(have)-1] {
		t.Errorf("supported %v, best %v", have, Best().ISA)
	}
}

// bf16Tiles stands for Kernels.bf16 in a map of tiles.
const bf16Tiles tensor.DType = 255

// TestTiles: every format has a kernel for one row, and tiles are in the order that run expects.
func TestTiles(t *testing.T) {
	for _, isa := range Supported()[1:] {
		k, _ := For(isa)
		if len(k.tiles) != len(DTypes()) {
			t.Errorf("%v: kernels for %d formats of %d", isa, len(k.tiles), len(DTypes()))
		}
		for _, dt := range DTypes() {
			inSquares := slices.ContainsFunc(k.squares, func(set map[tensor.DType]squares) bool { return set[dt].run != nil })
			if k.squares != nil && inSquares != (dt.Quantized() && (dt != tensor.Q8_0 || isa == AMX)) {
				t.Errorf("%v: %v is missing among the squares, or has no place there", isa, dt)
			}
		}
		sets := maps.Clone(k.tiles)
		sets[bf16Tiles] = k.bf16
		for dt, tiles := range sets {
			if len(tiles) == 0 || tiles[len(tiles)-1].rows != 1 {
				t.Fatalf("%v %v: no kernel for one row", isa, dt)
			}
			seen := map[int]bool{}
			for i, x := range tiles {
				if first := i == 0 || tiles[i-1].rows != x.rows; first && seen[x.rows] {
					t.Errorf("%v %v: tiles of %d rows stand apart", isa, dt, x.rows)
				}
				if last := i+1 == len(tiles) || tiles[i+1].rows != x.rows; last && x.panels != 1 {
					t.Errorf("%v %v: no tile of %d rows takes one panel", isa, dt, x.rows)
				}
				seen[x.rows] = true
			}
		}
	}
}

// TestRowsAreCut: a number of rows that has a kernel is one pass over the weights; others are passes of the first kind and
// what is left, or two equal ones.
func TestRowsAreCut(t *testing.T) {
	vnni := []tile{{rows: 6, panels: 2}, {rows: 6, panels: 1}, {rows: 8, panels: 1}, {rows: 7, panels: 1}, {rows: 5, panels: 1}, {rows: 4, panels: 2},
		{rows: 4, panels: 1}, {rows: 3, panels: 1}, {rows: 2, panels: 1}, {rows: 1, panels: 1}}
	avx2 := []tile{{rows: 4, panels: 1}, {rows: 3, panels: 1}, {rows: 2, panels: 1}, {rows: 1, panels: 1}}
	for _, c := range []struct {
		tiles []tile
		rows  int
		want  []int
	}{
		{vnni, 1, []int{1}}, {vnni, 3, []int{3}}, {vnni, 5, []int{5}}, {vnni, 7, []int{7}}, {vnni, 8, []int{8}},
		{vnni, 9, []int{6, 3}}, {vnni, 10, []int{5, 5}}, {vnni, 14, []int{6, 8}}, {vnni, 20, []int{6, 6, 8}},
		{avx2, 3, []int{3}}, {avx2, 5, []int{4, 1}}, {avx2, 6, []int{3, 3}}, {avx2, 8, []int{4, 4}}, {avx2, 11, []int{4, 4, 3}},
	} {
		var got []int
		for left := c.rows; left > 0; left -= got[len(got)-1] {
			got = append(got, fitting(c.tiles, left)[0].rows)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d rows are cut into %v, want %v", c.rows, got, c.want)
		}
	}
	if first := fitting(vnni, 4)[0]; first.panels != 2 {
		t.Errorf("four rows take %d panels first, want two", first.panels)
	}
}

// TestMisusePanics: lengths are checked before any assembly runs.
func TestMisusePanics(t *testing.T) {
	k, q, f := Best(), newFixture(t, 1, tensor.Q8_0, 32, 64, 2, ordinary), newFixture(t, 1, tensor.F16, 32, 64, 2, ordinary)
	b := newFixture(t, 1, tensor.BF16, 32, 64, 2, ordinary)
	out, scratch := make([]float32, 64), make([]float32, q.packed.ScratchLen())
	for name, call := range map[string]func(){
		"short activations": func() { k.MulInt8(out, 32, q.packed, 0, 2, q.act[1:], 2) },
		"short output":      func() { k.MulInt8(out[1:], 32, q.packed, 0, 2, q.act, 2) },
		"narrow stride":     func() { k.MulInt8(out, 31, q.packed, 0, 2, q.act, 2) },
		"panels":            func() { k.MulInt8(out, 32, q.packed, 1, 2, q.act, 2) },
		"negative panel":    func() { k.MulInt8(out, 32, q.packed, -1, 1, q.act, 2) },
		"short bf16":        func() { k.MulBF16(out, 32, b.packed, 0, 2, b.half[1:], 2) },
		"bf16 for f16":      func() { k.MulBF16(out, 32, f.packed, 0, 2, f.half, 2) },
		"round":             func() { k.RoundRow(make([]byte, 6), make([]float32, 3)) },
		"int8 for f16":      func() { k.MulInt8(out, 32, f.packed, 0, 2, q.act, 2) },
		"short x":           func() { k.MulF32(out, 32, f.packed, 0, 2, f.x[1:], 64, 2, scratch) },
		"short scratch":     func() { k.MulF32(out, 32, q.packed, 0, 2, q.x, 64, 2, scratch[1:]) },
		"quantize":          func() { k.QuantizeRow(make([]byte, 64), make([]float32, 33)) },
		"row":               func() { q.packed.Row(32, make([]float32, 64)) },
		"pack half a panel": func() { q.packed.Pack(0, q.raw[:68]) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			call()
		}()
	}
}

// TestNothingAllocates: kernels run for every token.
func TestNothingAllocates(t *testing.T) {
	for _, isa := range Supported() {
		k, _ := For(isa)
		for _, dt := range DTypes() {
			const m = 39
			fx := newFixture(t, 1, dt, 48, 256, m, ordinary)
			out, row, scratch := make([]float32, m*48), make([]float32, 256), make([]float32, fx.packed.ScratchLen())
			act := make([]byte, ActBytes(256))
			if n := testing.AllocsPerRun(3, func() {
				if dt.Quantized() {
					k.MulInt8(out, 48, fx.packed, 0, 3, fx.act, m)
				}
				if dt == tensor.BF16 {
					k.MulBF16(out, 48, fx.packed, 0, 3, fx.half, m)
					k.RoundRow(act[:BF16Bytes(256)], row)
				}
				k.MulF32(out, 48, fx.packed, 0, 3, fx.x, 256, m, scratch)
				k.QuantizeRow(act, row)
				fx.packed.Row(40, row)
			}); n != 0 {
				t.Errorf("%v %v: %v allocations", isa, dt, n)
			}
		}
	}
}
