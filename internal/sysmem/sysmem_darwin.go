package sysmem

import "golang.org/x/sys/unix"

// Available is half of the machine's memory: darwin has no cheap estimate of
// what is free, and its file cache gives way.
func Available() (uint64, error) {
	total, err := unix.SysctlUint64("hw.memsize")
	return total / 2, err
}
