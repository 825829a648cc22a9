package kernels

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"sestina/backend/cpu/matmul"
	"sestina/internal/arena"
)

// Buffer is memory to measure read bandwidth with.
type Buffer struct {
	region *arena.Region
	data   []byte
}

// NewBuffer allocates bytes, off the Go heap, and touches every page of them.
func NewBuffer(bytes uint64) (*Buffer, error) {
	r, err := arena.Alloc(max(bytes&^4095, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("a buffer of %d bytes to measure read bandwidth: %w", bytes, err)
	}
	data := r.Bytes()
	for i := range data {
		data[i] = byte(i) // no shared zero page
	}
	return &Buffer{r, data}, nil
}

// Close releases the memory.
func (b *Buffer) Close() { b.region.Free() }

// readPasses is how many passes the median is taken of.
const readPasses = 7

// Bandwidth is the median of several passes over the buffer, in bytes a second,
// by that many threads, each reading its own part with a loop that does nothing else.
func (b *Buffer) Bandwidth(threads int) float64 {
	var passes []float64
	for range readPasses {
		passes = append(passes, float64(len(b.data))/b.pass(threads).Seconds())
	}
	return median(passes)
}

func (b *Buffer) pass(threads int) time.Duration {
	kernels, part := matmul.Best(), len(b.data)/threads&^63
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for i := range threads {
		ready.Add(1)
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			ready.Done()
			<-start
			kernels.Read(b.data[i*part:][:part])
		})
	}
	ready.Wait()
	begin := time.Now()
	close(start)
	done.Wait()
	return time.Since(begin)
}
