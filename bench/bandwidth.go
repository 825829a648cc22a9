package bench

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"sestina/backend/cpu/matmul"
	"sestina/internal/arena"
)

// readBuffer is memory of the weights' size, read to find the bandwidth that
// one thread reaches: the ceiling that MBU is measured against.
type readBuffer struct {
	region *arena.Region
	data   []byte
}

func newReadBuffer(bytes uint64) readBuffer {
	r, err := arena.Alloc(max(bytes&^63, 1<<20))
	if err != nil {
		return readBuffer{}
	}
	data := r.Bytes()
	for i := range data {
		data[i] = byte(i) // every page is touched: no shared zero page
	}
	return readBuffer{r, data}
}

func (b readBuffer) close() {
	if b.region != nil {
		b.region.Free()
	}
}

// readPasses is how many passes the median is taken of.
const readPasses = 7

// bandwidth is the median of several passes over the buffer, in bytes per
// second, on this one thread, by the loop that does nothing but read.
func (b readBuffer) bandwidth() float64 {
	if len(b.data) == 0 {
		return 0
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	kernels := matmul.Best()
	var passes []float64
	for range readPasses {
		begin := time.Now()
		kernels.Read(b.data)
		passes = append(passes, float64(len(b.data))/time.Since(begin).Seconds())
	}
	return median(passes)
}

// residentBytes is the process's resident memory, where the system tells.
func residentBytes() (uint64, bool) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "VmRSS:" {
			kb, err := strconv.ParseUint(f[1], 10, 64)
			return kb << 10, err == nil
		}
	}
	return 0, false
}
