package checked

import (
	"errors"
	"math"
	"testing"
)

const top = math.MaxUint64

func TestArithmetic(t *testing.T) {
	cases := []struct {
		name     string
		op       func(a, b uint64) (uint64, error)
		a, b     uint64
		want     uint64
		overflow bool
	}{
		{"add", Add, 2, 3, 5, false},
		{"add to the top", Add, top - 1, 1, top, false},
		{"add past the top", Add, top, 1, 0, true},
		{"mul", Mul, 6, 7, 42, false},
		{"mul by zero", Mul, top, 0, 0, false},
		{"mul to 2^63", Mul, 1 << 32, 1 << 31, 1 << 63, false},
		{"mul to 2^64", Mul, 1 << 32, 1 << 32, 0, true},
		{"mul wraps to something small", Mul, top/2 + 2, 2, 0, true},
		{"align up", Align, 33, 32, 64, false},
		{"align exact", Align, 64, 32, 64, false},
		{"align zero", Align, 0, 4096, 0, false},
		{"align past the top", Align, top - 5, 32, 0, true},
	}
	for _, c := range cases {
		got, err := c.op(c.a, c.b)
		if got != c.want || errors.Is(err, ErrOverflow) != c.overflow {
			t.Errorf("%s: %d, %d gave %d, %v; want %d, overflow %v", c.name, c.a, c.b, got, err, c.want, c.overflow)
		}
	}
}

func TestAlignNeedsPowerOfTwo(t *testing.T) {
	for _, a := range []uint64{0, 3, 48} {
		if _, err := Align(10, a); err == nil {
			t.Errorf("Align(10, %d) was accepted", a)
		}
	}
}

func TestProduct(t *testing.T) {
	cases := []struct {
		dims []int
		want uint64
		ok   bool
	}{
		{nil, 1, true},
		{[]int{2, 3, 4}, 24, true},
		{[]int{5, 0}, 0, true},
		{[]int{1 << 32, 1 << 31}, 1 << 63, true},
		{[]int{1 << 32, 1 << 32}, 0, false},
		{[]int{-1, -1}, 0, false},
	}
	for _, c := range cases {
		got, err := Product(c.dims)
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("Product(%v) = %d, %v; want %d, ok %v", c.dims, got, err, c.want, c.ok)
		}
	}
}
