package tensor

import (
	"math"
	"testing"
)

// value returns a half's value from the definition, in float64.
func (h Float16) value() float64 {
	exp, frac := int(h>>10)&31, float64(h&0x3ff)
	v := math.Ldexp(1024+frac, exp-25)
	switch {
	case exp == 0:
		v = math.Ldexp(frac, -24)
	case exp == 31 && frac == 0:
		v = math.Inf(1)
	case exp == 31:
		return math.NaN()
	}
	if h>>15 == 1 {
		v = -v
	}
	return v
}

func TestFloat16Exhaustive(t *testing.T) {
	for i := range 1 << 16 {
		h := Float16(i)
		f := h.Float32()
		if want := h.value(); float64(f) != want && !(f != f && want != want) || math.Signbit(float64(f)) != (i>>15 == 1) {
			t.Fatalf("Float16(%#04x) = %v, want %v", i, f, want)
		}
		want := h
		if f != f {
			want |= 0x200 // a NaN comes back quiet
		}
		if back := ToFloat16(f); back != want {
			t.Fatalf("Float16(%#04x) came back as %#04x", i, back)
		}
	}
}

func TestBFloat16Exhaustive(t *testing.T) {
	for i := range 1 << 16 {
		b := BFloat16(i)
		f := b.Float32()
		if math.Float32bits(f) != uint32(i)<<16 {
			t.Fatalf("BFloat16(%#04x) = %v", i, f)
		}
		want := b
		if f != f {
			want |= 0x40
		}
		if back := ToBFloat16(f); back != want {
			t.Fatalf("BFloat16(%#04x) came back as %#04x", i, back)
		}
	}
}

// Between each two neighbours lie the half-way value, which goes to the even one, and its neighbours, which go to the
// nearer one. Past the largest finite value the next one counts as infinity.
func TestRoundingBetweenAllNeighbours(t *testing.T) {
	check := func(name string, i int, lower, middle float32, round func(float32) int) {
		want := i + i&1
		below, above := math.Nextafter32(middle, 0), math.Nextafter32(middle, float32(math.Inf(1)))
		if below < lower || round(middle) != want || round(below) != i || round(above) != i+1 ||
			round(-middle) != want|1<<15 {
			t.Fatalf("%s %#04x: half way %v rounds to %#x, below it to %#x, above it to %#x",
				name, i, middle, round(middle), round(below), round(above))
		}
	}
	for i := range 0x7c00 {
		lower := Float16(i).Float32()
		upper := float32(65536)
		if i < 0x7bff {
			upper = Float16(i + 1).Float32()
		}
		check("Float16", i, lower, (lower+upper)/2, func(f float32) int { return int(ToFloat16(f)) })
	}
	for i := range 0x7f80 {
		lower := BFloat16(i).Float32()
		middle := math.Float32frombits(uint32(i)<<16 | 0x8000)
		check("BFloat16", i, lower, middle, func(f float32) int { return int(ToBFloat16(f)) })
	}
}

func TestFloat8(t *testing.T) {
	cases := []struct {
		d    DType
		bits byte
		want float32
	}{
		{F8E4M3, 0x00, 0}, {F8E4M3, 0x01, 0x1p-9}, {F8E4M3, 0x38, 1}, {F8E4M3, 0xb8, -1}, {F8E4M3, 0x7e, 448},
		{F8E4M3, 0xfe, -448}, {F8E4M3, 0x7f, float32(math.NaN())}, {F8E4M3, 0x08, 0x1p-6},
		{F8E5M2, 0x01, 0x1p-16}, {F8E5M2, 0x3c, 1}, {F8E5M2, 0x7b, 57344}, {F8E5M2, 0xfc, float32(math.Inf(-1))},
	}
	for _, c := range cases {
		var got [1]float32
		if err := Decode(c.d, got[:], []byte{c.bits}); err != nil {
			t.Fatal(err)
		}
		if got[0] != c.want && !(got[0] != got[0] && c.want != c.want) {
			t.Errorf("%v %#02x = %v, want %v", c.d, c.bits, got[0], c.want)
		}
	}
}
