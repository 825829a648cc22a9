//go:build !linux || !amd64 || purego

package cpuinfo

import "errors"

// RequestTiles asks the operating system for the use of the tile registers: here there is no way that was tried.
func RequestTiles() error {
	return errors.New("tile registers are used on Linux for amd64 only")
}
