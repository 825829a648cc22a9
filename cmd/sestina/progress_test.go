package main

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// TestSlowLoadingIsSaidOnce: a load of under a second says nothing; a longer one, without a terminal, one line.
func TestSlowLoadingIsSaidOnce(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func(old *os.File) { os.Stderr = old }(os.Stderr)
	os.Stderr = w
	quick := &progress{begin: time.Now()}
	slow := &progress{begin: time.Now().Add(-2 * time.Second)}
	for done := uint64(1); done <= 3; done++ {
		quick.load(done<<20, 3<<20)
		slow.load(done<<20, 3<<20)
	}
	w.Close()
	text, _ := io.ReadAll(r)
	if got := string(text); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "loading: 1.0 of 3.0 MiB after 2.0 s") {
		t.Errorf("said %q", got)
	}
}
