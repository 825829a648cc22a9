package team

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"
)

func newTeam(t testing.TB, threads int) *Team {
	t.Helper()
	team, err := New(threads)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(team.Close)
	return team
}

// count notes how often each index was visited.
type count struct {
	hits    []atomic.Int32
	grain   int
	workers int
	bad     atomic.Pointer[string]
}

func (c *count) Do(worker, i0, i1 int) {
	if worker < 0 || worker >= c.workers || i0 >= i1 || i1-i0 > c.grain {
		s := fmt.Sprintf("worker %d of %d got [%d, %d) with grain %d", worker, c.workers, i0, i1, c.grain)
		c.bad.Store(&s)
	}
	for i := i0; i < i1; i++ {
		c.hits[i].Add(1)
	}
}

func TestEveryIndexOnce(t *testing.T) {
	for _, threads := range []int{1, 2, 3, 7} {
		team := newTeam(t, threads)
		for _, n := range []int{0, 1, 2, 3, 5, 16, 17, 100, 1000} {
			for _, grain := range []int{0, 1, 3, 16, 2000} {
				for range 20 {
					c := &count{hits: make([]atomic.Int32, n), grain: max(grain, 1), workers: threads}
					team.Run(n, grain, c)
					for i := range c.hits {
						if h := c.hits[i].Load(); h != 1 {
							t.Fatalf("%d threads, n %d, grain %d: index %d ran %d times", threads, n, grain, i, h)
						}
					}
					if s := c.bad.Load(); s != nil {
						t.Fatal(*s)
					}
				}
			}
		}
	}
}

// TestLoopsFollowEachOther checks that plain memory written in one loop is seen
// in the next and by the caller; the race detector checks the fields of Team.
func TestLoopsFollowEachOther(t *testing.T) {
	team := newTeam(t, 4)
	x, y := make([]int, 64), make([]int, 64)
	forward := Func(func(_, i0, i1 int) {
		for i := i0; i < i1; i++ {
			y[i] = x[63-i] + 1
		}
	})
	back := Func(func(_, i0, i1 int) {
		for i := i0; i < i1; i++ {
			x[i] = y[63-i] + 1
		}
	})
	const rounds = 2000
	for r := range rounds {
		team.Run(64, 1, forward)
		team.Run(64, 3, back)
		if r%500 == 0 {
			time.Sleep(2 * spinTime) // some loops find the workers asleep
		}
	}
	if want := slices.Repeat([]int{2 * rounds}, 64); !slices.Equal(x, want) {
		t.Fatalf("x = %v", x)
	}
}

func TestWorkIsStolenFromABusyWorker(t *testing.T) {
	team := newTeam(t, 2)
	release := make(chan struct{})
	var left atomic.Int32
	left.Store(99)
	team.Run(100, 1, Func(func(_, i0, _ int) {
		if i0 == 50 { // the first of worker 1's share: hold whoever takes it
			<-release
			return
		}
		if left.Add(-1) == 0 {
			close(release) // everything else was done by the other worker
		}
	}))
}

func TestPanicReachesTheCaller(t *testing.T) {
	team := newTeam(t, 3)
	for at := range 30 {
		err := catch(func() {
			team.Run(30, 1, Func(func(_, i0, _ int) {
				if i0 == at {
					panic(io.ErrUnexpectedEOF)
				}
			}))
		})
		var p *Panic
		if e, ok := err.(error); !ok || !errors.As(e, &p) || !errors.Is(e, io.ErrUnexpectedEOF) || !strings.Contains(p.Error(), "team_test.go") {
			t.Fatalf("panic at %d arrives as %v", at, err)
		}
	}
	c := &count{hits: make([]atomic.Int32, 10), grain: 1, workers: 3}
	team.Run(10, 1, c) // still whole
	if c.hits[9].Load() != 1 {
		t.Fatal("the team is dead after a panic")
	}
}

func catch(f func()) (v any) {
	defer func() { v = recover() }()
	f()
	return nil
}

func TestMisuseIsRefused(t *testing.T) {
	for _, threads := range []int{1, 3} {
		team := newTeam(t, threads)
		nothing := Func(func(int, int, int) {})
		if v := catch(func() {
			team.Run(8, 1, Func(func(_, i0, _ int) { team.Run(8, 1, nothing) }))
		}); v == nil || !strings.Contains(fmt.Sprint(v), "do not nest") {
			t.Fatalf("nested Run: %v", v)
		}
		if v := catch(func() { team.Run(8, 1, Func(func(int, int, int) { team.Close() })) }); v == nil {
			t.Fatal("Close inside Run must be refused")
		}
		team.Close()
		team.Close()
		if v := catch(func() { team.Run(8, 1, nothing) }); v == nil {
			t.Fatal("Run after Close must be refused")
		}
	}
	for _, threads := range []int{-1, MaxThreads + 1} {
		if _, err := New(threads); err == nil {
			t.Fatalf("%d threads must be refused", threads)
		}
	}
}

// TestMoreThreadsThanCores: a loop must not wait for workers that have no core.
func TestMoreThreadsThanCores(t *testing.T) {
	team := newTeam(t, 8*runtime.NumCPU())
	var stop atomic.Bool
	var others sync.WaitGroup
	for range 2 * runtime.NumCPU() {
		others.Go(func() {
			for !stop.Load() {
			}
		})
	}
	begin := time.Now()
	var sum atomic.Int64
	for range 200 {
		team.Run(64, 1, Func(func(_, i0, _ int) { sum.Add(int64(i0)) }))
	}
	took := time.Since(begin)
	stop.Store(true)
	others.Wait()
	t.Logf("200 loops in %v", took)
	if sum.Load() != 200*63*32 || took > 10*time.Second {
		t.Fatalf("sum %d after %v", sum.Load(), took)
	}
}

func TestWorkersSleepAndLeave(t *testing.T) {
	before := runtime.NumGoroutine()
	team, err := New(5)
	if err != nil {
		t.Fatal(err)
	}
	task := Func(func(int, int, int) {})
	for range 3 {
		team.Run(100, 1, task)
		deadline := time.Now().Add(5 * time.Second)
		for team.asleep.Load() != 4 {
			if time.Now().After(deadline) {
				t.Fatalf("%d of 4 workers asleep", team.asleep.Load())
			}
			time.Sleep(time.Millisecond)
		}
	}
	team.Close()
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%d goroutines left of %d", runtime.NumGoroutine(), before)
}

func TestRunDoesNotAllocate(t *testing.T) {
	team := newTeam(t, 2)
	c := &count{hits: make([]atomic.Int32, 100), grain: 1, workers: 2}
	f := Func(c.Do)
	if n := testing.AllocsPerRun(100, func() {
		team.Run(100, 1, c)
		team.Run(100, 1, f)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestCoresAndQuota(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	sys := fstest.MapFS{}
	for cpu, siblings := range []string{"0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"} {
		sys[fmt.Sprintf("sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu)] = file(siblings + "\n")
	}
	for _, c := range []struct {
		cpus []int
		want int
	}{{[]int{0, 1, 2, 3, 4, 5, 6, 7}, 4}, {[]int{0, 4}, 1}, {[]int{0, 5}, 2}, {[]int{8, 9}, 2}} {
		if got := physicalCores(sys, c.cpus); got != c.want {
			t.Errorf("%v: %d cores, want %d", c.cpus, got, c.want)
		}
	}
	for _, c := range []struct {
		name  string
		files fstest.MapFS
		want  float64
	}{
		{"none", fstest.MapFS{}, 0},
		{"v2 unlimited", fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/cpu.max": file("max 100000\n")}, 0},
		{"v2", fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/cpu.max": file("250000 100000\n")}, 2.5},
		{"v2 parent", fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/cpu.max": file("100000 100000"),
			"sys/fs/cgroup/a/b/cpu.max": file("300000 100000")}, 1},
		{"v1", fstest.MapFS{"proc/self/cgroup": file("5:memory:/x\n4:cpu,cpuacct:/docker/f00\n"),
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us": file("400000\n"), "sys/fs/cgroup/cpu/cpu.cfs_period_us": file("100000\n")}, 4},
		{"v1 unlimited", fstest.MapFS{"proc/self/cgroup": file("4:cpu:/\n"),
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us": file("-1\n"), "sys/fs/cgroup/cpu/cpu.cfs_period_us": file("100000\n")}, 0},
		{"nonsense", fstest.MapFS{"proc/self/cgroup": file("\x00:::\n0::../../..\n"), "sys/fs/cgroup/cpu.max": file("x y")}, 0},
	} {
		if got := cgroupQuota(c.files); got != c.want {
			t.Errorf("%s: quota %v, want %v", c.name, got, c.want)
		}
	}
	if n := DefaultThreads(); n < 1 || n > runtime.NumCPU() {
		t.Errorf("DefaultThreads = %d of %d CPUs", n, runtime.NumCPU())
	}
}

func TestEnsureProcs(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	EnsureProcs(9)
	if got := runtime.GOMAXPROCS(0); got < 11 {
		t.Fatalf("GOMAXPROCS = %d, want at least 11", got)
	}
}

func BenchmarkEmptyRun(b *testing.B) {
	EnsureProcs(2)
	for _, pause := range []time.Duration{0, 200 * time.Microsecond} {
		b.Run(fmt.Sprintf("pause=%v", pause), func(b *testing.B) {
			team := newTeam(b, 2)
			var by [2]struct {
				n int
				_ [120]byte
			}
			task := Func(func(w, i0, i1 int) { by[w].n++ })
			var took []time.Duration
			for b.Loop() {
				if pause > 0 {
					time.Sleep(pause)
				}
				begin := time.Now()
				team.Run(2, 1, task)
				took = append(took, time.Since(begin))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2]), "median-ns")
			b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
			b.ReportMetric(100*float64(by[1].n)/float64(by[0].n+by[1].n), "%by-worker-1")
		})
	}
}

// BenchmarkPair waits for both workers in each loop, so that it shows the true round trip.
func BenchmarkPair(b *testing.B) {
	EnsureProcs(2)
	team := newTeam(b, 2)
	var arrived atomic.Int32
	task := Func(func(w, _, _ int) {
		arrived.Add(1)
		for arrived.Load() < 2 {
			pause()
		}
	})
	var took []time.Duration
	for b.Loop() {
		arrived.Store(0)
		begin := time.Now()
		team.Run(2, 1, task)
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2]), "median-ns")
	b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
}
