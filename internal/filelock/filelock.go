// Package filelock takes advisory locks on open files. The kernel drops a lock
// when the process dies, however it dies.
package filelock

import "os"

// Try takes a lock on f without waiting; false when another open file holds one
// that excludes it. Closing f releases it.
func Try(f *os.File, shared bool) (bool, error) { return try(f, shared) }
