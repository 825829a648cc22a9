// Package peers runs this engine and llama.cpp side by side and prints the
// ratio. Absolute figures belong to one machine on one day; what can be compared
// is two programs measured alternately, in the same minutes, on the same file.
//
// # How a row is measured
//
// A trial is one kind of work on one file with one thread count. Each repetition
// runs our side, then the peer's (A B A B …), each as a whole process of its own;
// ours is this very binary. Both take the same prompt and output sizes, a KV cache of the
// same format, no speculation (but in its own rows) and no prefix cache, and greedy tokens. Rows show
// medians, their spread and the ratio of medians. A side that fails is reported in
// its row; the others go on.
//
// # Floor
//
// A decode step must read every tensor of the file once, and the K and V of the
// context. floor = those bytes / one thread's read bandwidth, measured in
// the same repetitions over a buffer of that size (two threads' is printed beside
// it, so a share may exceed 1). The share is floor / time of a step.
//
// trials.go lists the rows, ours.go and llama.go speak to the two programs,
// server.go drives both servers by HTTP. The tests put planted programs in place
// of both sides.
package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"sestina/internal/cpuinfo"
)

// Schema names the document's format.
const Schema = "sestina.bench-peers/1"

// Config is what to compare.
type Config struct {
	PeerDir string        `json:"-"`       // folder with llama-bench, llama-batched-bench and llama-server
	Self    string        `json:"-"`       // our own binary
	Models  []string      `json:"models"`  // GGUF files that both read
	Rows    []string      `json:"rows"`    // of RowNames; empty = all
	Threads []int         `json:"threads"` // decode and prefill take each, other rows the last
	Streams []int         `json:"streams"` // of the batch row
	Reps    int           `json:"reps"`
	ISA     string        `json:"isa,omitempty"` // our kernel family; empty = the best
	Timeout time.Duration `json:"timeout_ns"`    // of one process

	selfEnv, peerEnv []string // added to the environment of the sides, for tests
}

// Check refuses what cannot be compared.
func (c *Config) Check() error {
	switch {
	case c.PeerDir == "":
		return errors.New("--peer-dir is missing: the folder with llama-bench, llama-batched-bench and llama-server")
	case len(c.Models) == 0:
		return errors.New("--model is missing: the GGUF files that both sides read, separated by commas")
	case c.Reps < 1 || c.Timeout <= 0:
		return fmt.Errorf("--reps %d and --timeout %v must be positive", c.Reps, c.Timeout)
	case len(c.Threads) == 0 || slices.Min(c.Threads) < 1:
		return fmt.Errorf("--threads %v must name at least one count, each at least 1", c.Threads)
	case len(c.Streams) == 0 || slices.Min(c.Streams) < 1:
		return fmt.Errorf("--streams %v must name at least one count, each at least 1", c.Streams)
	}
	if len(c.Rows) == 0 {
		c.Rows = RowNames()
	}
	for _, r := range c.Rows {
		if !slices.Contains(RowNames(), r) {
			return fmt.Errorf("--rows %q is unknown; choose from %s", r, strings.Join(RowNames(), ","))
		}
	}
	return nil
}

// Report is the document `sestina bench peers` prints.
type Report struct {
	Schema  string  `json:"schema"`
	Date    string  `json:"date"`
	Machine Machine `json:"machine"`
	Peer    string  `json:"peer"`
	Config  Config  `json:"config"`
	Rows    []Row   `json:"rows"`
}

// Machine says where the figures come from. Load is the load average at the
// start: above the number of cores, something else runs and the figures are not to be kept.
type Machine struct {
	CPU      string   `json:"cpu"`
	Cores    int      `json:"cores"`
	Features []string `json:"features"`
	OS       string   `json:"os"`
	Load     string   `json:"load_average,omitempty"`
}

// Row is one figure of both sides.
type Row struct {
	Model   string `json:"model"`
	Name    string `json:"name"`
	Threads int    `json:"threads"`
	Unit    string `json:"unit"`
	Better  Better `json:"better"`

	Ours  *Spread `json:"ours,omitempty"`
	Peer  *Spread `json:"peer,omitempty"`
	Ratio float64 `json:"ratio,omitempty"` // see Better.Ratio
	Floor *Floor  `json:"floor,omitempty"`

	OursError string `json:"ours_error,omitempty"`
	PeerError string `json:"peer_error,omitempty"`
}

// Better says what the ratio means: speed is ours over the peer's (rates), time
// the peer's over ours (both: above 1 we are ahead), size ours over the peer's
// (below 1 we take less), alone has no other side.
type Better string

// The kinds of figures.
const (
	Speed Better = "speed"
	Time  Better = "time"
	Size  Better = "size"
	Alone Better = "alone"
)

// Ratio compares two medians.
func (b Better) Ratio(ours, peer float64) float64 {
	switch {
	case b == Alone || ours <= 0 || peer <= 0:
		return 0
	case b == Time:
		return peer / ours
	}
	return ours / peer
}

// Spread is the runs of one side.
type Spread struct {
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Runs   []float64 `json:"runs"` // in order
}

func spread(v []float64) *Spread {
	if len(v) == 0 {
		return nil
	}
	return &Spread{median(v), slices.Min(v), slices.Max(v), v}
}

// Floor is what memory allows a decode row.
type Floor struct {
	Bytes      uint64  `json:"bytes"`           // read by a step
	OneThread  float64 `json:"one_thread_gbs"`  // read bandwidth in this row's repetitions
	TwoThreads float64 `json:"two_threads_gbs"` // beside it
	Rate       float64 `json:"tokens_per_s"`    // with one thread's bandwidth
	OursShare  float64 `json:"ours_share,omitempty"`
	PeerShare  float64 `json:"peer_share,omitempty"`
}

// Failed counts the rows in which a side failed.
func (r *Report) Failed() int {
	n := 0
	for _, row := range r.Rows {
		if row.OursError != "" || row.PeerError != "" {
			n++
		}
	}
	return n
}

// Run measures all trials. progress, if not nil, is told each process before it starts.
func Run(ctx context.Context, c Config, progress func(what string)) (*Report, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if err := c.findPeers(); err != nil {
		return nil, err
	}
	trials, err := c.trials()
	if err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(string) {}
	}
	r := &Report{Schema: Schema, Date: time.Now().UTC().Format(time.DateOnly), Peer: c.peerVersion(ctx), Config: c, Machine: machine()}
	for i, t := range trials {
		rows, err := t.run(ctx, c.Reps, func(rep int, side string) {
			progress(fmt.Sprintf("%d/%d %s, %s, t=%d: run %d of %d, %s", i+1, len(trials), t.name, filepath.Base(t.model), t.threads, rep+1, c.Reps, side))
		})
		if err != nil {
			return nil, err
		}
		r.Rows = append(r.Rows, rows...)
	}
	return r, nil
}

func machine() Machine {
	m := Machine{CPU: cpuinfo.Name(), Cores: runtime.NumCPU(), Features: cpuinfo.Features(), OS: runtime.GOOS + "/" + runtime.GOARCH}
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.Join(strings.Fields(string(data))[:3], " ")
	}
	return m
}

// median of a non-empty list.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}
