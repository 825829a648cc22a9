package arena

import (
	"math"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

func TestAllocIsZeroedAlignedAndFreed(t *testing.T) {
	before := InUse()
	for _, n := range []uint64{1, 63, 4096, 4097, 3 << 20} {
		r, err := Alloc(n)
		if err != nil {
			t.Fatal(err)
		}
		b := r.Bytes()
		if uint64(len(b)) != n {
			t.Fatalf("Alloc(%d) gave %d bytes", n, len(b))
		}
		if p := uintptr(unsafe.Pointer(&b[0])); p%4096 != 0 {
			t.Errorf("Alloc(%d): address %#x is not page aligned", n, p)
		}
		for i, x := range b {
			if x != 0 {
				t.Fatalf("Alloc(%d): byte %d is %d, want 0", n, i, x)
			}
		}
		b[0], b[n-1] = 1, 2
		if got := InUse() - before; got != int64(n) {
			t.Errorf("InUse grew by %d, want %d", got, n)
		}
		if err := r.Free(); err != nil {
			t.Fatal(err)
		}
		if r.Bytes() != nil || InUse() != before {
			t.Errorf("after Free: %d bytes, InUse %d, want none and %d", len(r.Bytes()), InUse(), before)
		}
		if err := r.Free(); err != nil {
			t.Errorf("second Free: %v", err)
		}
	}
}

func TestAllocStaysOffTheHeap(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, err := Alloc(256 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Free()
	runtime.ReadMemStats(&after)
	grown := after.TotalAlloc - before.TotalAlloc
	t.Logf("256 MiB allocated, Go heap grew by %d bytes", grown)
	if grown > 1<<20 {
		t.Errorf("Go heap grew by %d bytes", grown)
	}
}

func TestAllocFailureNamesTheSize(t *testing.T) {
	for n, name := range map[uint64]string{1 << 62: "4611686018427387904", math.MaxUint64: "18446744073709551615"} {
		_, err := Alloc(n)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Alloc(%d): error %v does not name the size", n, err)
		}
	}
	r, err := Alloc(0)
	if err != nil || len(r.Bytes()) != 0 {
		t.Errorf("Alloc(0) = %v, %v", r, err)
	}
}

func TestViews(t *testing.T) {
	r, err := Alloc(64)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Free()
	f := View[float32](r.Bytes())
	f[0], f[15] = 1.5, -2
	if got := View[uint32](r.Bytes())[15]; got != math.Float32bits(-2) {
		t.Errorf("float32 view wrote %#x", got)
	}
	if n := len(View[uint16](r.Bytes()[:6])); n != 3 {
		t.Errorf("6 bytes are %d uint16", n)
	}
	if back := AsBytes(f); &back[0] != &r.Bytes()[0] || len(back) != 64 {
		t.Errorf("AsBytes does not return the same memory")
	}
	mustPanic(t, "odd length", func() { View[float32](r.Bytes()[:6]) })
	mustPanic(t, "misaligned", func() { View[float32](r.Bytes()[2:6]) })
}

func mustPanic(t *testing.T, name string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: no panic", name)
		}
	}()
	f()
}
