package backendtest

import (
	"testing"

	"sestina/backend"
)

// Attention holds only a backend's attention to the oracle: for variants that
// differ in nothing else.
func Attention(t *testing.T, make func(opt backend.Options) backend.Backend) {
	runChecks(t, make, 2, everyNth(attendChecks(), 3))
}
