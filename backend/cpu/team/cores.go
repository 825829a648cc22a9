package team

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// DefaultThreads is how many compute threads are worth having: one per physical
// core that the process may run on (two hyperthreads share the vector units and
// the path to memory), but no more than the CPU quota of its cgroup; at least 1.
func DefaultThreads() int { return max(1, defaultThreads()) }

// physicalCores counts the distinct cores among logical CPUs, by the lists of
// hyperthread siblings in /sys; a CPU without one counts as a core.
func physicalCores(root fs.FS, cpus []int) int {
	cores := map[string]bool{}
	for _, cpu := range cpus {
		id, err := fs.ReadFile(root, fmt.Sprintf("sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu))
		if err != nil {
			id = fmt.Append(nil, "cpu", cpu)
		}
		cores[string(id)] = true
	}
	return len(cores)
}

// cgroupQuota is the tightest CPU limit, in CPUs, of the process's cgroup and
// those above it (v2's cpu.max, v1's cpu.cfs_quota_us); 0 means none.
func cgroupQuota(root fs.FS) float64 {
	quota := 0.0
	limit := func(max, period string) {
		m, err1 := strconv.ParseFloat(max, 64) // "max" and -1 mean no limit
		p, err2 := strconv.ParseFloat(period, 64)
		if err1 == nil && err2 == nil && m > 0 && p > 0 && (quota == 0 || m/p < quota) {
			quota = m / p
		}
	}
	read := func(name string) string {
		b, _ := fs.ReadFile(root, name)
		return strings.TrimSpace(string(b))
	}
	for line := range strings.Lines(read("proc/self/cgroup")) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		mount := "sys/fs/cgroup"
		if fields[0] != "0" {
			if !strings.Contains(","+fields[1]+",", ",cpu,") {
				continue
			}
			mount = "sys/fs/cgroup/cpu"
		}
		// A container sees its own cgroup as the root of the mount, so the walk ends there.
		for dir := path.Clean("/" + fields[2]); ; dir = path.Dir(dir) {
			at := path.Join(mount, dir)
			if f := strings.Fields(read(at + "/cpu.max")); len(f) == 2 {
				limit(f[0], f[1])
			}
			limit(read(at+"/cpu.cfs_quota_us"), read(at+"/cpu.cfs_period_us"))
			if dir == "/" {
				break
			}
		}
	}
	return quota
}
