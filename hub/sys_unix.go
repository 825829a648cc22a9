//go:build linux || darwin

package hub

import (
	"errors"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// tryLock takes an advisory lock on f without waiting; false when another open file holds it. The kernel drops the lock
// when the process dies, however it dies.
func tryLock(f *os.File, shared bool) (bool, error) {
	how := unix.LOCK_EX | unix.LOCK_NB
	if shared {
		how = unix.LOCK_SH | unix.LOCK_NB
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	var lockErr error
	err = conn.Control(func(fd uintptr) {
		for lockErr = unix.EINTR; lockErr == unix.EINTR; {
			lockErr = unix.Flock(int(fd), how)
		}
	})
	if lockErr == unix.EWOULDBLOCK {
		return false, err
	}
	return lockErr == nil && err == nil, errors.Join(err, lockErr)
}

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
