//go:build linux || darwin

package hub

import (
	"errors"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if size := uint64(st.Bsize); size != 0 && uint64(st.Bavail) < math.MaxInt64/size {
		return int64(uint64(st.Bavail) * size), nil
	}
	return math.MaxInt64, nil
}

func isNoSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// syncDir makes a rename in dir survive a power cut. File systems that cannot sync a folder say EINVAL or ENOTSUP.
func syncDir(root *os.Root, dir string) error {
	f, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}
