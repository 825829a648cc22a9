//go:build unix

package engine

import (
	"runtime"
	"syscall"
	"testing"
	"time"
)

// An idle engine costs nothing, and Close leaves no goroutine behind.
func TestIdleEngineUsesNoCPU(t *testing.T) {
	before := runtime.NumGoroutine()
	e := setup{}.open(t)
	ask(t, e, Request{Prompt: []int32{5}, MaxTokens: 5, Sampling: endless()})
	used := time.Hour
	for try := 0; try < 3 && used > 10*time.Millisecond; try++ { // the collector may still be at work
		start := cpuTime(t)
		time.Sleep(300 * time.Millisecond)
		used = cpuTime(t) - start
	}
	if used > 10*time.Millisecond {
		t.Errorf("%v of CPU time in 300 ms of idling", used)
	}
	closeChecked(t, e)
	settled(t, before)
	t.Logf("%v of CPU time in 300 ms", used)
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
