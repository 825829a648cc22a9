//go:build amd64 && !purego

package cpuinfo

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// RequestTiles asks Linux (5.16 or later) for the use of the tile registers, for all threads of this process. Tile data is
// 8 KiB that only those who ask for it pay for on a context switch. A signal that finds it in use needs a frame of some
// 12 KiB: the kernel refuses when an alternate signal stack is too small, and Go's are of 32 KiB.
func RequestTiles() error {
	const reqXCompPerm, xTileData = 0x1023, 18 // asm/prctl.h, asm/fpu/types.h
	if !AMXInt8 {
		return fmt.Errorf("this processor or system has no tile registers of int8")
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_ARCH_PRCTL, reqXCompPerm, xTileData, 0); errno != 0 {
		return fmt.Errorf("the system refused the use of tile registers (arch_prctl): %w", errno)
	}
	return nil
}
