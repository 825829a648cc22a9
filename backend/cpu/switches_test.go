package cpu

import (
	"testing"

	"sestina/backend"
	"sestina/backend/backendtest"
)

// TestTechniqueSwitchesChangeNoBit holds the backend to the same oracle with
// flash attention off, grouped heads off, and both.
func TestTechniqueSwitchesChangeNoBit(t *testing.T) {
	for name, set := range map[string]func(*backend.Options){
		"full":          func(o *backend.Options) { o.FullAttention = true },
		"expanded":      func(o *backend.Options) { o.ExpandHeads = true },
		"full+expanded": func(o *backend.Options) { o.FullAttention, o.ExpandHeads = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			backendtest.Attention(t, func(opt backend.Options) backend.Backend {
				set(&opt)
				b, err := New(opt)
				if err != nil {
					t.Fatal(err)
				}
				return b
			})
		})
	}
}
