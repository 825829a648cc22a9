// Package team is a fixed set of compute threads that share one parallel loop
// at a time.
//
// A decode step of a small model is some two hundred loops of 10–100 µs, so what
// a loop costs beside its work decides how fast it runs. Three rules keep that low:
//
//   - Worker 0 is the caller itself; a team of one has no synchronisation at all.
//   - A loop is never late because of a worker that is. Each worker has its own
//     share [w·n/T, (w+1)·n/T) of the indices, taken in chunks by an atomic
//     cursor; who is done steals chunks from the others. The caller waits only
//     for workers that are inside the loop, not for ones still asleep, so a
//     busy machine, or more threads than cores, costs time but never stalls.
//   - Workers that find nothing spin for at most 50 µs, then sleep; an idle team
//     uses no CPU.
//
// All of it hangs on one atomic word, state: the loop's number, whether it is
// open, and how many workers are inside. A worker adds itself and looks at what
// it found: only if the loop was open may it read the loop's fields, which the
// caller changes only when the loop is closed and nobody is inside. So the fields
// need no locks (the race detector is a test of this package).
//
// Workers are plain goroutines, not locked to threads: to wake a locked one, Go
// switches threads twice, and nothing here needs a thread of its own.
//
// Which worker runs which chunk is not determined. Kernels must therefore give
// the same bits for any split; worker numbers are for scratch memory only.
package team

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Task is the body of a loop: indices [i0, i1), on the given worker.
// A pointer as Task does not allocate when passed to [Team.Run].
type Task interface {
	Do(worker, i0, i1 int)
}

// Func makes a Task of a function. Kept in a variable, it does not allocate.
type Func func(worker, i0, i1 int)

// Do calls f.
func (f Func) Do(worker, i0, i1 int) { f(worker, i0, i1) }

// Team runs loops on Threads threads. One goroutine uses it at a time.
type Team struct {
	threads int
	state   atomic.Uint64 // see the constants
	asleep  atomic.Int32  // how many workers sleep or are about to
	busy    atomic.Bool   // a loop runs: refuses nested and concurrent ones
	done    chan struct{} // the last worker out, when the caller sleeps

	// The loop; written only while it is closed and empty.
	task  Task
	grain int64

	shares  []share // one per worker
	sleep   []bed   // one per worker; the caller's is unused
	failure atomic.Pointer[Panic]
	workers sync.WaitGroup
}

// Fields of Team.state.
const (
	inside  = 1<<12 - 1 // workers inside the loop
	waiting = 1 << 13   // the caller sleeps until they have left
	closed  = 1 << 14   // the team is closed
	open    = 1 << 15   // workers may enter
	loop    = 1 << 16   // one loop: the number is above

	// MaxThreads bounds a team.
	MaxThreads = inside
)

// spinTime is how long a worker looks for the next loop before it sleeps.
const spinTime = 50 * time.Microsecond

// share is a worker's part of the indices; a cache line pair of its own.
type share struct {
	next atomic.Int64
	end  int64
	_    [112]byte
}

// bed is where a worker sleeps.
type bed struct {
	taken atomic.Bool
	wake  chan struct{}
	_     [48]byte
}

// Panic is what [Team.Run] panics with when a Task did.
type Panic struct {
	Value  any // of the task's panic
	Worker int
	Stack  []byte // of the worker
}

func (p *Panic) Error() string {
	return fmt.Sprintf("%v\n\nin worker %d of the team:\n%s", p.Value, p.Worker, p.Stack)
}

// Unwrap gives the value when it is an error.
func (p *Panic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// New starts a team of threads − 1 goroutines beside the caller; 0 threads
// means [DefaultThreads]. See [EnsureProcs].
func New(threads int) (*Team, error) {
	if threads == 0 {
		threads = DefaultThreads()
	}
	if threads < 1 || threads > MaxThreads {
		return nil, fmt.Errorf("%d threads: choose 1 to %d, or 0 for one per free core", threads, MaxThreads)
	}
	t := &Team{
		threads: threads,
		done:    make(chan struct{}, 1),
		shares:  make([]share, threads),
		sleep:   make([]bed, threads),
	}
	for w := 1; w < threads; w++ {
		t.sleep[w].wake = make(chan struct{}, 1)
		t.workers.Add(1)
		go t.serve(w)
	}
	return t, nil
}

// Threads is the number of workers, the caller included.
func (t *Team) Threads() int { return t.threads }

// Run calls task.Do over [0, n) in pieces of at most grain indices (at least 1)
// and returns when all have returned. If the task panics, pieces not yet begun
// are dropped and, once every worker has left the loop, Run panics with a
// [*Panic] (with the task's own value where the caller alone ran the loop).
// A Run inside a Run, from two goroutines at once, or after Close panics.
func (t *Team) Run(n, grain int, task Task) {
	if !t.busy.CompareAndSwap(false, true) {
		panic("team: Run while another loop runs: loops do not nest, and one goroutine uses a team at a time")
	}
	defer t.busy.Store(false)
	if t.state.Load()&closed != 0 {
		panic("team: Run after Close")
	}
	grain = max(grain, 1)
	pieces := (n + grain - 1) / grain
	if t.threads == 1 || pieces <= 1 {
		for i := 0; i < n; i += grain {
			task.Do(0, i, min(i+grain, n))
		}
		return
	}
	t.open(n, grain, task, pieces)
	t.work(0)
	t.finish()
}

// open publishes a loop and wakes as many sleepers as it has pieces for.
func (t *Team) open(n, grain int, task Task, pieces int) {
	t.task, t.grain = task, int64(grain)
	for w := range t.shares {
		s := &t.shares[w]
		// whole pieces per share, so that grain keeps its meaning
		s.next.Store(int64(w*pieces/t.threads) * int64(grain))
		s.end = min(int64((w+1)*pieces/t.threads)*int64(grain), int64(n))
	}
	t.state.Add(loop + open)
	if t.asleep.Load() == 0 {
		return
	}
	for w := 1; w < min(t.threads, pieces); w++ {
		t.wake(w)
	}
}

// wake ends a worker's sleep, if it sleeps.
func (t *Team) wake(w int) {
	if b := &t.sleep[w]; b.taken.CompareAndSwap(true, false) {
		t.asleep.Add(-1)
		b.wake <- struct{}{}
	}
}

// finish closes the loop and waits until nobody is inside.
func (t *Team) finish() {
	t.state.Add(^uint64(open - 1))
	for begin, spins := (time.Time{}), 1; t.state.Load()&inside != 0; spins++ {
		pause()
		if spins%64 != 0 {
			continue
		}
		if begin.IsZero() {
			begin = time.Now()
		} else if time.Since(begin) > spinTime {
			t.state.Add(waiting)
			for t.state.Load()&inside != 0 {
				<-t.done // may be an old one: look again
			}
			t.state.Add(^uint64(waiting - 1))
		}
	}
	t.task = nil
	if p := t.failure.Swap(nil); p != nil {
		panic(p)
	}
}

// serve is the life of a worker.
func (t *Team) serve(w int) {
	defer t.workers.Done()
	last := uint64(0) // number of the last loop entered
	for {
		last = t.await(w, last)
		s := t.state.Add(1)
		if s&closed != 0 {
			t.leave()
			return
		}
		if s&open != 0 {
			last = s / loop
			t.work(w)
		}
		t.leave()
	}
}

// leave takes a worker out of the loop and tells a sleeping caller if it was the last.
func (t *Team) leave() {
	if s := t.state.Add(^uint64(0)); s&waiting != 0 && s&inside == 0 {
		select {
		case t.done <- struct{}{}:
		default: // the caller has a wake-up coming already
		}
	}
}

// await returns when a loop other than last is open or the team is closed; it
// spins, then sleeps.
func (t *Team) await(w int, last uint64) uint64 {
	news := func() bool {
		s := t.state.Load()
		return s&closed != 0 || s&open != 0 && s/loop != last
	}
	begin := time.Now()
	for spins := 1; !news(); spins++ {
		pause()
		if spins%64 != 0 || time.Since(begin) < spinTime {
			continue
		}
		b := &t.sleep[w]
		b.taken.Store(true)
		t.asleep.Add(1)
		if news() { // between the look and the lying down
			if b.taken.CompareAndSwap(true, false) {
				t.asleep.Add(-1)
				return last
			}
		}
		<-b.wake
		begin = time.Now()
	}
	return last
}

// work takes pieces of the worker's own share, then of the others', until none
// is left. A panic of the task is kept for the caller and ends the loop.
func (t *Team) work(w int) {
	defer func() {
		if v := recover(); v != nil {
			t.failure.CompareAndSwap(nil, &Panic{v, w, debug.Stack()})
		}
	}()
	for i := range t.threads {
		s := &t.shares[(w+i)%t.threads]
		for s.next.Load() < s.end && t.failure.Load() == nil {
			i0 := s.next.Add(t.grain) - t.grain
			if i0 >= s.end {
				break
			}
			t.task.Do(w, int(i0), int(min(i0+t.grain, s.end)))
		}
	}
}

// Close ends the workers and waits for them. A closed team stays closed.
func (t *Team) Close() {
	if !t.busy.CompareAndSwap(false, true) {
		panic("team: Close while a loop runs")
	}
	defer t.busy.Store(false)
	if t.state.Load()&closed == 0 {
		t.state.Add(closed)
	}
	for w := 1; w < t.threads; w++ {
		t.wake(w)
	}
	t.workers.Wait()
}

// EnsureProcs raises GOMAXPROCS to threads + 2, so that the collector and the
// server's goroutines do not take a compute thread's place.
func EnsureProcs(threads int) {
	if runtime.GOMAXPROCS(0) < threads+2 {
		runtime.GOMAXPROCS(threads + 2)
	}
}
