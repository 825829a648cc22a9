//go:build linux || darwin

package filelock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func try(f *os.File, shared bool) (bool, error) {
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
