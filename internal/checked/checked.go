// Package checked is the one place where sizes that come from a file or a request are added and multiplied. Every
// function works in uint64 and returns an error where the machine would wrap: a wrapped size is an allocation smaller
// than the copy that follows, the oldest hole of model loaders.
package checked

import (
	"errors"
	"fmt"
	"math/bits"
)

// ErrOverflow is wrapped by every error of this package.
var ErrOverflow = errors.New("size does not fit in 64 bits")

// Add returns a+b.
func Add(a, b uint64) (uint64, error) {
	sum, carry := bits.Add64(a, b, 0)
	if carry != 0 {
		return 0, fmt.Errorf("%d + %d: %w", a, b, ErrOverflow)
	}
	return sum, nil
}

// Mul returns a·b.
func Mul(a, b uint64) (uint64, error) {
	hi, lo := bits.Mul64(a, b)
	if hi != 0 {
		return 0, fmt.Errorf("%d x %d: %w", a, b, ErrOverflow)
	}
	return lo, nil
}

// Align returns the least multiple of alignment that is not below n. alignment must be a power of two.
func Align(n, alignment uint64) (uint64, error) {
	if bits.OnesCount64(alignment) != 1 {
		return 0, fmt.Errorf("alignment %d is not a power of two", alignment)
	}
	sum, err := Add(n, alignment-1)
	if err != nil {
		return 0, err
	}
	return sum &^ (alignment - 1), nil
}

// Product returns the product of dims, 1 for none. A negative dimension is an error.
func Product(dims []int) (uint64, error) {
	product := uint64(1)
	for _, d := range dims {
		if d < 0 {
			return 0, fmt.Errorf("dimension %d of %v is negative", d, dims)
		}
		var err error
		if product, err = Mul(product, uint64(d)); err != nil {
			return 0, fmt.Errorf("product of dimensions %v: %w", dims, err)
		}
	}
	return product, nil
}
