package f32

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// bigFMA is the oracle: exact rational arithmetic, rounded once.
func bigFMA(x, y, z float32) float32 {
	p := new(big.Float).SetPrec(400).Mul(big.NewFloat(float64(x)), big.NewFloat(float64(y)))
	p.SetPrec(400)
	s := new(big.Float).SetPrec(600).Add(new(big.Float).SetPrec(400).SetMode(big.ToNearestEven).Mul(
		new(big.Float).SetPrec(60).SetFloat64(float64(x)), new(big.Float).SetPrec(60).SetFloat64(float64(y))),
		new(big.Float).SetPrec(60).SetFloat64(float64(z)))
	r, _ := s.Float32()
	return r
}

func TestFMARoundsOnce(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	draw := func() float32 {
		e := r.IntN(60) - 30
		return float32((r.Float64()*2 - 1) * math.Ldexp(1, e))
	}
	for range 200000 {
		x, y := draw(), draw()
		z := draw()
		if r.IntN(3) == 0 { // cancellation and halfway cases
			z = -float32(float64(x)*float64(y)) * (1 + float32(r.IntN(3)-1)*1e-7)
		}
		if got, want := FMA(x, y, z), bigFMA(x, y, z); got != want {
			t.Fatalf("FMA(%b, %b, %b) = %b, want %b", x, y, z, got, want)
		}
	}
	if !math.IsNaN(float64(FMA(float32(math.Inf(1)), 0, 1))) {
		t.Fatal("inf*0+1 must be NaN")
	}
}

func TestExpIsAccurateAndExactAtTheEdges(t *testing.T) {
	if Exp(0) != 1 || Exp(float32(math.Copysign(0, -1))) != 1 {
		t.Fatal("exp(0) must be exactly 1")
	}
	if Exp(-87.5) != 0 || Exp(float32(math.Inf(-1))) != 0 {
		t.Fatal("exp must flush to 0 below -87")
	}
	worst := 0.0
	for x := float32(-87); x < 88; x += 0.00137 {
		want := math.Exp(float64(x))
		ulp := float64(math.Nextafter32(float32(want), math.MaxFloat32) - float32(want))
		worst = max(worst, math.Abs(float64(Exp(x))-want)/ulp)
	}
	t.Logf("worst error %.3f ulp", worst)
	if worst > 2 {
		t.Fatalf("worst error %.3f ulp, want at most 2", worst)
	}
}

func TestTree16Order(t *testing.T) {
	v := [16]float32{1e8, 1, -1e8, 1, 0, 0, 0, 0, -1e8, 1, 1e8, 1, 0, 0, 0, 0}
	// halves: (1e8-1e8)=0, 2, (-1e8+1e8)=0, 2, …; any left-to-right sum loses the ones.
	if got := Tree16(&v); got != 4 {
		t.Fatalf("Tree16 = %v, want 4", got)
	}
}
