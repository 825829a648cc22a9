package team

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

func defaultThreads() int {
	root := os.DirFS("/")
	n := runtime.NumCPU()
	if cpus := affinity(); len(cpus) > 0 {
		n = physicalCores(root, cpus)
	}
	if q := cgroupQuota(root); q > 0 {
		n = min(n, int(q))
	}
	return n
}

// affinity lists the logical CPUs that the process may run on.
func affinity() []int {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return nil
	}
	var cpus []int
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus
}
