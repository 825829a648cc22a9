package backendtest

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"sestina/backend"
)

// normChecks normalises rows into other rows and in place.
func normChecks() []check {
	var out []check
	for _, rows := range []int{1, 2, 3, 16, 65} {
		for _, width := range []int{1, 7, 16, 50, 576} {
			for _, inPlace := range []bool{false, true} {
				out = append(out, check{"norm", fmt.Sprintf("%d rows of %d, in place: %v", rows, width, inPlace), backend.ActivationsAuto,
					func(b backend.Backend) (int, error) { return norm(b, rows, width, inPlace) }})
			}
		}
	}
	return out
}

func norm(b backend.Backend, rows, width int, inPlace bool) (int, error) {
	run := func(b backend.Backend) (guarded, error) {
		rng := rand.New(rand.NewPCG(uint64(rows), uint64(width)))
		w, err := b.NewVector(normals(rng, width))
		if err != nil {
			return guarded{}, err
		}
		x, dst := newRows(b, rows, width), newRows(b, rows, width)
		copy(x.Host, activations(rng, rows, width))
		if inPlace {
			dst = x
		}
		b.Norm(dst.Rows, x.Rows, &backend.Norm{Weight: w, Eps: 1e-5})
		return dst, errors.Join(dst.check("output"), x.check("input"))
	}
	want, err := run(oracle(backend.ActivationsAuto))
	if err != nil {
		return 0, err
	}
	got, err := run(b)
	if err != nil {
		return 0, err
	}
	return len(got.Host), equalBits(got.Host, want.Host)
}
