package hub

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestMeasuredIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.KeepMeasured("a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Fatal("a store was made for a measurement")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	read := func(key string) string {
		data, err := s.Measured(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if got := read("a"); got != "" {
		t.Errorf("%q was never kept", got)
	}
	for _, v := range []string{"first", "second"} {
		if err := s.KeepMeasured("a", []byte(v)); err != nil {
			t.Fatal(err)
		}
		if got := read("a"); got != v || read("b") != "" {
			t.Errorf("%q, want %q; under another key %q", got, v, read("b"))
		}
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "tmp")); len(left) != 0 {
		t.Errorf("%v is left over", left)
	}
	if err := os.WriteFile(filepath.Join(dir, measuredPath("a")), bytes.Repeat([]byte("x"), maxMeasured+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Measured("a"); err == nil {
		t.Error("a file beyond the limit was read")
	}
}
