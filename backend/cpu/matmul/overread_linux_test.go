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
	for _, dt := range DTypes() {
		fx := newFixture(t, 13, dt, 48, columns(dt)[1]*8, 9, ordinary)
		p, err := New(dt, fx.packed.Rows, fx.packed.Cols, atPageEnd(t, fx.packed.data))
		if err != nil {
			t.Fatal(err)
		}
		cols := p.Panels() * PanelRows
		act := atPageEnd(t, fx.act)
		half := atPageEnd(t, fx.half)
		x := arena.View[float32](atPageEnd(t, arena.AsBytes(fx.x)))
		scratch := arena.View[float32](atPageEnd(t, make([]byte, 4*p.ScratchLen())))
		out := arena.View[float32](atPageEnd(t, make([]byte, 4*9*cols)))
		for _, isa := range Supported() {
			k, _ := For(isa)
			k.Read(p.data)
			for m := 1; m <= 9; m++ {
				end := out[(9-m)*cols:]
				k.MulF32(end, cols, p, 0, p.Panels(), x[(9-m)*p.Cols:], p.Cols, m, scratch)
				if dt == tensor.BF16 {
					k.MulBF16(end, cols, p, 0, p.Panels(), half[(9-m)*BF16Bytes(p.Cols):], m)
					k.RoundRow(half[8*BF16Bytes(p.Cols):], x[8*p.Cols:])
				}
				if dt.Quantized() {
					k.MulInt8(end, cols, p, 0, p.Panels(), act[(9-m)*ActBytes(p.Cols):], m)
					k.QuantizeRow(act[8*ActBytes(p.Cols):], x[8*p.Cols:])
				}
			}
		}
		p.Row(p.Rows-1, x[:p.Cols])
	}
}
