//go:build !amd64 || purego

package matmul

func kernelsFor(isa ISA) *Kernels {
	if isa == Generic {
		return genericKernels
	}
	return nil
}

func whyNoAMX() error    { return nil }
func whyNoBlocks() error { return nil }
