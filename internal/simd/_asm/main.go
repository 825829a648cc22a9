// Command asm writes the assembly of package simd.
package main

import (
	. "github.com/mmcloughlin/avo/build"

	"sestina/internal/simd/asm/vec"
)

func main() {
	Package("sestina/internal/simd/asm")
	ConstraintExpr("amd64,!purego")
	for _, s := range vec.ISAs() {
		elementwise(s)
		reductions(s)
		selection(s)
		rotations(s)
		conversions(s)
	}
	Generate()
}
