package arena

import "golang.org/x/sys/unix"

// mapMemory asks for anonymous pages, and for huge ones where the kernel can give them: a sweep over gigabytes of weights
// would otherwise spend its time in the TLB. The advice may be refused, which costs speed only.
func mapMemory(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	return b, nil
}

func unmapMemory(b []byte) error { return unix.Munmap(b) }
