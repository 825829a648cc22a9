package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"sestina/internal/filelock"
)

// open returns the handle below which every path of the store is opened. create makes the folder when it is missing;
// without it a missing store is fs.ErrNotExist.
func (s *Store) open(create bool) (*os.Root, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.root == nil {
		if create {
			if err := os.MkdirAll(s.dir, 0o755); err != nil {
				return nil, fmt.Errorf("hub: %w; set SESTINA_HOME to a folder you can write", err)
			}
		}
		root, err := os.OpenRoot(s.dir)
		if err != nil {
			return nil, fmt.Errorf("hub: %w", err)
		}
		s.root = root
	}
	if create {
		for _, d := range []string{"blobs", "manifests", "models", "locks", "tmp"} {
			if err := s.root.MkdirAll(d, 0o755); err != nil {
				return nil, fmt.Errorf("hub: %w; set SESTINA_HOME to a folder you can write", err)
			}
		}
	}
	return s.root, nil
}

// at marks a point where tests make the disk fail or the process die.
func (s *Store) at(point string) error {
	if s.fail == nil {
		return nil
	}
	return s.fail(point)
}

var errBusy = errors.New("locked by another process")

// lock takes locks/<key>.lock and returns the function that releases it. It polls, so that ctx can end the wait;
// wait = false answers errBusy instead. A lock file is never removed while it may be held, so holding the lock on
// the file is holding the lock on the name.
func (s *Store) lock(ctx context.Context, key string, shared, wait bool) (unlock func(), err error) {
	root, err := s.open(true)
	if err != nil {
		return nil, err
	}
	path := "locks/" + key + ".lock"
	f, err := root.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		ok, err := filelock.Try(f, shared)
		switch {
		case err != nil:
			f.Close()
			return nil, fmt.Errorf("hub: cannot lock %s: %w; set SESTINA_HOME to a disk that has file locks", path, err)
		case ok:
			return func() { f.Close() }, nil
		case !wait:
			f.Close()
			return nil, errBusy
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// hasBlob says whether the content is there. Its name is proof of its digest: see publish.
func (s *Store) hasBlob(d Digest, size int64) bool {
	root, err := s.open(false)
	if err != nil {
		return false
	}
	st, err := root.Lstat(d.blob())
	return err == nil && st.Mode().IsRegular() && st.Size() == size
}

// publish gives a finished, verified file its lasting name: flush, close, rename, flush the folder. The order is what
// makes the name a proof after a power cut.
func (s *Store) publish(f *os.File, from, to string) error {
	root, err := s.open(true)
	if err != nil {
		return err
	}
	steps := []struct {
		point string
		do    func() error
	}{
		{"sync", f.Sync},
		{"close", f.Close},
		{"rename", func() error { return root.Rename(from, to) }},
		{"syncdir", func() error { return syncDir(root, parent(to)) }},
		{"published", func() error { return nil }},
	}
	for _, step := range steps {
		err := s.at(step.point)
		if err == nil {
			err = step.do()
		}
		if err != nil {
			f.Close()
			return diskError(err)
		}
	}
	return nil
}

func parent(p string) string {
	for i := len(p) - 1; i > 0; i-- {
		if p[i] == '/' {
			return p[:i]
		}
	}
	return "."
}

// diskError names a full disk in the package's own terms.
func diskError(err error) error {
	if err != nil && isNoSpace(err) {
		return fmt.Errorf("%w (%w); free some and pull again: what was fetched is kept", ErrNoSpace, err)
	}
	return err
}

// needSpace refuses a transfer that cannot fit before it starts. An unknown amount of space is no refusal.
func (s *Store) needSpace(n int64) error {
	free, err := s.FreeSpace()
	if err != nil || n <= free {
		return nil
	}
	return fmt.Errorf("hub: %w: %s needs %d MiB more and has %d MiB free; free some or set SESTINA_HOME to another disk",
		ErrNoSpace, s.dir, n>>20+1, free>>20)
}

// missing reports whether err says that the store or a file in it is not there.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
