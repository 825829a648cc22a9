package matmul

import (
	"testing"

	"golang.org/x/sys/unix"

	"sestina/internal/arena"
	"sestina/tensor"
)

// atPageEnd returns a copy of b that ends where an unreadable page begins: one byte too far is a fault.
func atPageEnd(t *testing.T, b []byte) []byte {
	t.Helper()
	page := unix.Getpagesize()
	size := (len(b) + page - 1) / page * page
	mem, err := unix.Mmap(-1, 0, size+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(mem) })
	if err := unix.Mprotect(mem[size:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	copy(mem[size-len(b):], b)
	return mem[size-len(b) : size : size]
}

// TestNothingIsReadOrWrittenBeyond: weights, activations, scratch and outputs that end at the end of readable memory.
func TestNothingIsReadOrWrittenBeyond(t *testing.T) {
	const most = 35 // two squares and three rows
	for _, dt := range DTypes() {
		fx := newFixture(t, 13, dt, 48, columns(dt)[1]*8, most, ordinary)
		p, err := New(dt, fx.packed.Rows, fx.packed.Cols, atPageEnd(t, fx.packed.data))
		if err != nil {
			t.Fatal(err)
		}
		cols := p.Panels() * PanelRows
		act := atPageEnd(t, fx.act)
		half := atPageEnd(t, fx.half)
		x := arena.View[float32](atPageEnd(t, arena.AsBytes(fx.x)))
		scratch := arena.View[float32](atPageEnd(t, make([]byte, 4*p.ScratchLen())))
		out := arena.View[float32](atPageEnd(t, make([]byte, 4*most*cols)))
		var sets []*Kernels
		rows := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 32, most}
		if dt == tensor.BF16 {
			sets, rows = append(sets, scalarBlocks(1)), append(rows, 16, 17, 31, 33)
		}
		for _, isa := range Supported() {
			k, _ := For(isa)
			sets = append(sets, k)
		}
		for _, k := range sets {
			k.Read(p.data)
			for _, m := range rows {
				end := out[(most-m)*cols:]
				k.MulF32(end, cols, p, 0, p.Panels(), x[(most-m)*p.Cols:], p.Cols, m, scratch)
				if dt == tensor.BF16 {
					k.MulBF16(end, cols, p, 0, p.Panels(), half[(most-m)*BF16Bytes(p.Cols):], m)
					k.RoundRow(half[(most-1)*BF16Bytes(p.Cols):], x[(most-1)*p.Cols:])
				}
				if dt.Quantized() {
					k.MulInt8(end, cols, p, 0, p.Panels(), act[(most-m)*ActBytes(p.Cols):], m)
					k.QuantizeRow(act[(most-1)*ActBytes(p.Cols):], x[(most-1)*p.Cols:])
				}
			}
		}
		p.Row(p.Rows-1, x[:p.Cols])
	}
}
