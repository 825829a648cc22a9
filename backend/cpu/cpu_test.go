package cpu

import (
	"testing"

	"sestina/backend"
	"sestina/backend/backendtest"
	"sestina/backend/cpu/matmul"
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
