package cpu

import (
	"strings"
	"testing"

	"sestina/backend"
	"sestina/backend/backendtest"
	"sestina/backend/cpu/matmul"
	"sestina/backend/cpu/team"
	"sestina/tensor"
)

// TestConformance forces every kernel family that this machine has.
func TestConformance(t *testing.T) {
	for _, isa := range matmul.Supported() {
		t.Run(isa.String(), func(t *testing.T) {
			backendtest.Run(t, func(opt backend.Options) backend.Backend {
				opt.ISA = isa.String()
				b, err := New(opt)
				if err != nil {
					t.Fatal(err)
				}
				return b
			})
		})
	}
}

// TestWhatIsSlowIsSaid: pure Go kernels and threads without a core of their own, in the line that every command prints.
func TestWhatIsSlowIsSaid(t *testing.T) {
	for _, c := range []struct {
		isa           matmul.ISA
		numerics      string
		threads, free int
		want          string
	}{
		{matmul.AVX2, "", 1, 2, "cpu avx2, 1 thread"},
		{matmul.AVX512VNNI, "", 2, 2, "cpu avx512vnni, 2 threads"},
		{matmul.AMX, "BF16 in blocks of 32", 2, 2, "cpu amx, 2 threads, BF16 in blocks of 32"},
		{matmul.AVX2, "", 8, 2, "cpu avx2, 8 threads (more than the 2 free to use: slower than --threads 2)"},
		{matmul.Generic, "", 2, 4, "cpu generic, 2 threads (pure Go kernels: correct but slow on this machine)"},
	} {
		if got := describe(c.isa, c.numerics, c.threads, c.free); got != c.want {
			t.Errorf("%v, %d of %d: %q, want %q", c.isa, c.threads, c.free, got, c.want)
		}
	}
	b, err := New(backend.Options{Threads: team.DefaultThreads() + 1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if s := b.Describe(); !strings.Contains(s, "more than the") {
		t.Errorf("one thread more than cores is called %q", s)
	}
}

// TestBF16OrderIsNamed: blocks are told apart where a model has BF16 to multiply, and only there.
func TestBF16OrderIsNamed(t *testing.T) {
	for _, isa := range matmul.Supported() {
		k, _ := matmul.For(isa)
		for _, c := range []struct {
			dtype tensor.DType
			act   backend.ActivationDType
			bf16  bool
		}{{tensor.BF16, backend.ActivationsAuto, true}, {tensor.BF16, backend.ActivationsF32, false}, {tensor.F16, backend.ActivationsAuto, false}} {
			b, err := New(backend.Options{ISA: isa.String(), Threads: 1, Activations: c.act})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if _, err := b.NewMatrix(backend.Source{DType: c.dtype, Rows: 16, Cols: 32, Read: func([]byte, int, int) error { return nil }}); err != nil {
				t.Fatal(err)
			}
			want := ""
			if c.bf16 && k.BF16InBlocks() {
				want = "BF16 in blocks of 32"
			}
			if b.bf16 != c.bf16 || b.Numerics() != want || backend.NumericsOf(b) != want || strings.Contains(b.Describe(), "blocks") != (want != "") {
				t.Errorf("%v, %v: multiplies BF16 %v, named %q, want %q: %s", isa, c, b.bf16, b.Numerics(), want, b.Describe())
			}
			if byBlocks := backend.OrderOf(b) == backend.BF16ByBlocks; byBlocks != k.BF16InBlocks() {
				t.Errorf("%v: by blocks %v, the kernels %v", isa, byBlocks, k.BF16InBlocks())
			}
		}
	}
}

// TestAnUnsupportedFamilyIsRefused: never a slower one in silence.
func TestAnUnsupportedFamilyIsRefused(t *testing.T) {
	for isa := matmul.Generic; ; isa++ {
		if _, err := matmul.ParseISA(isa.String()); err != nil {
			break
		}
		_, missing := matmul.For(isa)
		b, err := New(backend.Options{ISA: isa.String()})
		if missing == nil {
			if err != nil {
				t.Fatalf("%v: %v", isa, err)
			}
			if !strings.Contains(b.Describe(), isa.String()) {
				t.Errorf("%v calls itself %q", isa, b.Describe())
			}
			b.Close()
			continue
		}
		want := "this machine or build has no " + isa.String() + " kernels"
		for _, err := range []error{err, CheckOptions(backend.Options{ISA: isa.String()})} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %v, want %q", isa, err, want)
			}
		}
	}
}
