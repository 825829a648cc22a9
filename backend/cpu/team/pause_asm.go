//go:build (amd64 || arm64) && !purego

package team

// pause tells the processor that this is a spin loop, for some 10–100 ns.
func pause()
