package simd

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"sestina/internal/f32"
)

var inf = float32(math.Inf(1))
var nan = float32(math.NaN())

// everyLevel runs test once per instruction set of the machine.
func everyLevel(t *testing.T, test func(t *testing.T)) {
	for _, l := range Levels() {
		t.Run(l.String(), func(t *testing.T) {
			restore, err := Use(l)
			if err != nil {
				t.Fatal(err)
			}
			defer restore()
			test(t)
		})
	}
}

// guarded returns n elements between guard words, and a check that the guards
// (and nothing outside) were left alone.
func guarded[T comparable](n int, guard T) ([]T, func(t *testing.T, what string)) {
	const margin = 32
	all := slices.Repeat([]T{guard}, n+2*margin)
	return all[margin : margin+n : margin+n], func(t *testing.T, what string) {
		t.Helper()
		for i, v := range all {
			if (i < margin || i >= margin+n) && v != guard {
				t.Fatalf("%s of %d elements wrote at %d", what, n, i-margin)
			}
		}
	}
}

// vector draws n numbers of several magnitudes, with the edges of Exp among them.
func vector(r *rand.Rand, n int) []float32 {
	x, check := guarded(n, nan) // reading past the end would bring NaNs in
	_ = check
	edges := []float32{0, float32(math.Copysign(0, -1)), -87, 88, -87.00001, 88.5, 1e-40, -1e-40, inf, -inf}
	for i := range x {
		switch r.IntN(8) {
		case 0:
			x[i] = edges[r.IntN(len(edges))]
		case 1:
			x[i] = float32(r.NormFloat64() * 60)
		default:
			x[i] = float32(r.NormFloat64() * 3)
		}
	}
	return x
}

// finite is vector without infinities.
func finite(r *rand.Rand, n int) []float32 {
	x := vector(r, n)
	for i, v := range x {
		if math.IsInf(float64(v), 0) {
			x[i] = 0.5
		}
	}
	return x
}

func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		g, w := got[i], want[i]
		if math.Float32bits(g) != math.Float32bits(w) && (g == g || w == w) {
			t.Fatalf("%s of %d: [%d] = %g (%#x), want %g (%#x)", what, len(want), i, g, math.Float32bits(g), w, math.Float32bits(w))
		}
	}
}

func lengths() []int {
	var ns []int
	for n := range 70 {
		ns = append(ns, n)
	}
	return append(ns, 127, 128, 576, 1000)
}

// Each elementwise function and what it means in internal/f32.
var elementwise = []struct {
	name string
	run  func(dst, a, b []float32)
	want func(a, b float32) float32
}{
	{"Exp", func(dst, a, _ []float32) { Exp(dst, a) }, func(a, _ float32) float32 { return f32.Exp(a) }},
	{"Scale", func(dst, a, _ []float32) { Scale(dst, a, 0.3) }, func(a, _ float32) float32 { return a * 0.3 }},
	{"Add", func(dst, a, b []float32) { copy(dst, a); Add(dst, b) }, func(a, b float32) float32 { return a + b }},
	{"ScaleMul", func(dst, a, b []float32) { ScaleMul(dst, a, b, 0.7) }, func(a, b float32) float32 { return float32(a*0.7) * b }},
	{"SiLUMul", SiLUMul, func(a, b float32) float32 { return f32.SiLU(a) * b }},
}

func TestTwinsAgree(t *testing.T) {
	everyLevel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 1))
		for _, n := range lengths() {
			a, b := vector(r, n), vector(r, n)
			want := make([]float32, n)
			for _, f := range elementwise {
				dst, check := guarded(n, float32(12345))
				f.run(dst, a, b)
				check(t, f.name)
				for i := range want {
					want[i] = f.want(a[i], b[i])
				}
				sameBits(t, f.name, dst, want)
			}
		}
	})
}

func TestExpOverItsRange(t *testing.T) {
	everyLevel(t, func(t *testing.T) {
		var x []float32
		for v := float32(-90); v < 90; v += 0.0037 {
			x = append(x, v)
		}
		x = append(x, nan, -nan, math.MaxFloat32, -math.MaxFloat32)
		want, got := make([]float32, len(x)), make([]float32, len(x))
		for i, v := range x {
			want[i] = f32.Exp(v)
		}
		Exp(got, x)
		sameBits(t, "Exp", got, want)
	})
}

func TestReductions(t *testing.T) {
	everyLevel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(2, 2))
		for _, n := range lengths() {
			x := finite(r, n)
			sameBits(t, "SumSquares", []float32{SumSquares(x)}, []float32{f32.SumSquares(x)})

			dst, check := guarded(n, float32(12345))
			want := make([]float32, n)
			sum := SoftmaxWeights(dst, x, 3, 0.8)
			check(t, "SoftmaxWeights")
			if w := softmaxWeightsGeneric(want, x, 3, 0.8); w != sum {
				t.Fatalf("SoftmaxWeights of %d sums to %v, want %v", n, sum, w)
			}
			sameBits(t, "SoftmaxWeights", dst, want)

			if n > 0 {
				w := vector(r, n)
				RMSNorm(dst, x, w, 1e-5)
				factor := 1 / f32.Sqrt(f32.SumSquares(x)/float32(n)+1e-5)
				scaleMulGeneric(want, x, w, factor)
				sameBits(t, "RMSNorm", dst, want)
				if x[n-1] = nan; SumSquares(x) == SumSquares(x) {
					t.Fatalf("SumSquares of %d hides a NaN", n)
				}
			}
		}
	})
}

func TestMaxAndArgMax(t *testing.T) {
	everyLevel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 3))
		if i, m := ArgMax(nil); i != -1 || m != -inf {
			t.Fatalf("ArgMax(nil) = %d, %v", i, m)
		}
		for _, n := range lengths()[1:] {
			x := vector(r, n)
			for i := range x {
				x[i] = float32(r.IntN(5)) - 9 // ties; all negative
			}
			want := slices.Max(x)
			if got := Max(x); got != want {
				t.Fatalf("Max of %d = %v, want %v", n, got, want)
			}
			if i, m := ArgMax(x); i != slices.Index(x, want) || m != want {
				t.Fatalf("ArgMax of %d = %d, %v; want %d, %v", n, i, m, slices.Index(x, want), want)
			}
			for i := range x {
				x[i] = -inf
			}
			if i, m := ArgMax(x); i != 0 || m != -inf {
				t.Fatalf("ArgMax of %d times -Inf = %d, %v", n, i, m)
			}
			x[n/2] = float32(math.Copysign(0, -1))
			if math.Signbit(float64(Max(x))) {
				t.Fatal("Max must not be -0")
			}
			k := r.IntN(n)
			x[k] = nan
			if i, _ := ArgMax(x); i != -1 {
				t.Fatalf("ArgMax of %d with a NaN at %d = %d, want -1", n, k, i)
			}
			if n > 1 && k != n/2 && Max(x) != 0 {
				t.Fatalf("Max of %d with a NaN at %d = %v, want 0", n, k, Max(x))
			}
		}
	})
}

func TestSelection(t *testing.T) {
	everyLevel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(4, 4))
		for _, n := range lengths() {
			x := vector(r, n)
			if n > 0 {
				x[r.IntN(n)] = nan
			}
			for _, thr := range []float32{-inf, -1, 0, 2, 100, inf, nan} {
				want := []int32{}
				for i, v := range x {
					if v >= thr {
						want = append(want, int32(i))
					}
				}
				if got := CountGE(x, thr); got != len(want) {
					t.Fatalf("CountGE(%d, %v) = %d, want %d", n, thr, got, len(want))
				}
				for _, room := range []int{0, 1, 15, 16, 17, n, n + 16} {
					dst, check := guarded(room, int32(-7))
					got := CollectGE(dst, x, thr)
					check(t, "CollectGE")
					if w := want[:min(room, len(want))]; !slices.Equal(dst[:got], w) {
						t.Fatalf("CollectGE(%d, %v) into %d = %v, want %v", n, thr, room, dst[:got], w)
					}
				}
			}
		}
	})
}

func TestRoPE(t *testing.T) {
	everyLevel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(5, 5))
		for _, n := range lengths() { // pairs
			cos, sin, src := finite(r, n), finite(r, n), finite(r, 2*n+3)
			for _, interleaved := range []bool{false, true} {
				x, check := guarded(2*n+3, float32(12345))
				copy(x, src)
				want := slices.Clone(src)
				for k := range n {
					i, j := k, k+n
					if interleaved {
						i, j = 2*k, 2*k+1
					}
					a, b := want[i], want[j]
					want[i] = f32.FMA(a, cos[k], -float32(b*sin[k]))
					want[j] = f32.FMA(b, cos[k], float32(a*sin[k]))
				}
				if interleaved {
					RoPEInterleaved(x, cos, sin)
				} else {
					RoPE(x, cos, sin)
				}
				check(t, "RoPE")
				sameBits(t, fmt.Sprintf("RoPE interleaved=%v", interleaved), x, want)
			}
		}
	})
}

func TestConversions(t *testing.T) {
	everyLevel(t, func(t *testing.T) {
		all := make([]uint16, 1<<16)
		for i := range all {
			all[i] = uint16(i)
		}
		wide, back := make([]float32, len(all)), make([]uint16, len(all))
		for _, c := range []struct {
			name  string
			widen func([]float32, []uint16)
			round func([]uint16, []float32)
			from  func(uint16) float32
			to    func(float32) uint16
			quiet uint16
			isNaN func(h uint16) bool
		}{
			{"f16", F16ToF32, F32ToF16, FromF16, ToF16, 0x200, func(h uint16) bool { return h&0x7fff > 0x7c00 }},
			{"bf16", BF16ToF32, F32ToBF16, FromBF16, ToBF16, 0x40, func(h uint16) bool { return h&0x7fff > 0x7f80 }},
		} {
			c.widen(wide, all)
			c.round(back, wide)
			for i, h := range all {
				want := h
				if c.isNaN(h) {
					want |= c.quiet
				}
				if back[i] != want {
					t.Fatalf("%s %#x → %v → %#x", c.name, h, wide[i], back[i])
				}
				if g, w := math.Float32bits(wide[i]), math.Float32bits(c.from(h)); g != w {
					t.Fatalf("%s %#x = %#x, want %#x", c.name, h, g, w)
				}
			}
			// between neighbours: half way, and one bit to each side
			r := rand.New(rand.NewPCG(6, 6))
			for _, n := range lengths() {
				x := vector(r, n)
				for i := range x {
					bits := math.Float32bits(c.from(uint16(r.Uint32())))
					mid := []uint32{0, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, r.Uint32() & 0xffff}
					x[i] = math.Float32frombits(bits + mid[r.IntN(len(mid))])
				}
				dst, check := guarded(n, uint16(0xdead))
				c.round(dst, x)
				check(t, c.name)
				for i, v := range x {
					if dst[i] != c.to(v) {
						t.Fatalf("%s of %b (%d of %d) = %#x, want %#x", c.name, v, i, n, dst[i], c.to(v))
					}
				}
			}
		}
	})
}

func TestRoundingTo16BitsIsNearest(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for range 100000 {
		v := math.Float32frombits(r.Uint32())
		if v != v || math.Abs(float64(v)) > 60000 {
			continue
		}
		for _, c := range []struct {
			to   func(float32) uint16
			from func(uint16) float32
		}{{ToF16, FromF16}, {ToBF16, FromBF16}} {
			h := c.to(v)
			err := math.Abs(float64(c.from(h)) - float64(v))
			for _, near := range []uint16{h - 1, h + 1} {
				if e := math.Abs(float64(c.from(near)) - float64(v)); e < err || e == err && h&1 == 1 && e > 0 {
					t.Fatalf("%v rounds to %#x, but %#x is nearer", v, h, near)
				}
			}
		}
	}
}

func TestUnequalLengthsPanic(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Fatal("want a panic")
		}
	}()
	Add(make([]float32, 3), make([]float32, 4))
}

func TestNothingAllocates(t *testing.T) {
	everyLevel(t, func(t *testing.T) {
		var x, y [100]float32
		var idx [100]int32
		if n := testing.AllocsPerRun(10, func() {
			RMSNorm(y[:], x[:], x[:], 1e-5)
			SiLUMul(y[:], y[:], x[:])
			SoftmaxWeights(y[:], x[:], 0, 1)
			CollectGE(idx[:], x[:], 0)
			ArgMax(x[:])
		}); n != 0 {
			t.Fatalf("%v allocations", n)
		}
	})
}

func FuzzExp(f *testing.F) {
	for _, v := range []float32{0, -87, 88, 1, -1e-30, inf} {
		f.Add(math.Float32bits(v))
	}
	f.Fuzz(func(t *testing.T, bits uint32) {
		x := slices.Repeat([]float32{math.Float32frombits(bits)}, 19)
		want, got := make([]float32, 19), make([]float32, 19)
		expGeneric(want, x)
		for _, l := range Levels() {
			restore, _ := Use(l)
			Exp(got, x)
			restore()
			sameBits(t, l.String(), got, want)
		}
	})
}

func BenchmarkSimd(b *testing.B) {
	r := rand.New(rand.NewPCG(8, 8))
	for _, l := range Levels()[1:] {
		for _, n := range []int{576, 49152, 131072} {
			x, y, idx := finite(r, n), make([]float32, n), make([]int32, n)
			top := Max(x)
			for _, f := range []struct {
				name string
				run  func()
			}{
				{"SoftmaxWeights", func() { SoftmaxWeights(y, x, top, 1) }},
				{"ArgMax", func() { ArgMax(x) }},
				{"CountGE", func() { CountGE(x, 5) }},
				{"CollectGE", func() { CollectGE(idx, x, 50) }},
				{"RMSNorm", func() { RMSNorm(y, x, x, 1e-5) }},
				{"SiLUMul", func() { SiLUMul(y, x, x) }},
			} {
				b.Run(fmt.Sprintf("%s/%d/%s", f.name, n, l), func(b *testing.B) {
					restore, _ := Use(l)
					defer restore()
					for b.Loop() {
						f.run()
					}
				})
			}
		}
	}
}
