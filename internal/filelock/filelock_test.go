package filelock

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOneExclusiveOrManyShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	want := func(f *os.File, shared, want bool) {
		t.Helper()
		if got, err := Try(f, shared); got != want || err != nil {
			t.Fatalf("locked: %v, %v; want %v", got, err, want)
		}
	}
	first, second := open(), open()
	want(first, false, true)
	want(second, false, false)
	want(second, true, false)
	first.Close()
	want(second, true, true)
	want(open(), true, true)
	want(open(), false, false)
}
