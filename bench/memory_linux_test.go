package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sestina"
	"sestina/backend"
	"sestina/backend/cpu"
	"sestina/backend/cpu/matmul"
	"sestina/convert"
	"sestina/tensor"
)

// The bounds of loading: weights stay resident at 1.03 times the file, and while they are read nothing else of the file's
// size is: 1.15 times, and one tensor. Resident sizes are a process's, so each model is loaded by one of its own, this
// test again with what to load in its environment.
const (
	residentBound = 1.03
	peakBound     = 1.15

	// What a load leaves on the heap whatever the model: read buffers, tokenizer, work rows; and pages of 2 MiB that the
	// system gives where less is used.
	slack = 10 << 20

	childEnv = "SESTINA_TEST_LOAD"
)

// usage is what a child reports, in bytes.
type usage struct{ before, resident, peak, file, largest uint64 }

func TestMain(m *testing.M) {
	what := os.Getenv(childEnv)
	if what == "" {
		os.Exit(m.Run())
	}
	u, err := load(what)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(u.before, u.resident, u.peak, u.file, u.largest)
}

// load is the child: a file by its path, or matrices of a format by its name.
func load(what string) (u usage, err error) {
	u.before = status("RssAnon")
	if strings.Contains(what, "/") {
		opt := sestina.Options{Threads: 2, KVCacheMemoryBytes: 1 << 20}
		opt.MaxNumBatchedTokens, opt.MaxNumSeqs = 16, 1
		llm, err := sestina.Open(context.Background(), what, opt)
		if err != nil {
			return u, err
		}
		defer llm.Close()
		u.file, u.largest = llm.Info.FileBytes, uint64(llm.Info.Vocab*llm.Info.Hidden*2)
	} else if err = loadMatrices(&u, what); err != nil {
		return u, err
	}
	u.resident, u.peak = status("RssAnon"), status("VmHWM")-status("RssFile")
	return u, nil
}

func loadMatrices(u *usage, format string) error {
	dt, err := tensor.ParseDType(format)
	if err != nil {
		return err
	}
	b, err := cpu.New(backend.Options{Threads: 2})
	if err != nil {
		return err
	}
	matrices := 24
	if !dt.Quantized() {
		matrices = 6
	}
	for i := range matrices {
		src := backend.Source{Name: fmt.Sprint(i), DType: dt, Rows: 1024, Cols: 4096, Read: func(dst []byte, row0, _ int) error {
			for i := range dst {
				dst[i] = byte(row0 + i) // every page is written
			}
			return nil
		}}
		if i == 0 {
			src.Rows *= 4
		}
		row, err := src.RowBytes()
		if err != nil {
			return err
		}
		u.file += uint64(src.Rows * row)
		u.largest = max(u.largest, uint64(src.Rows*row))
		if _, err := b.NewMatrix(src); err != nil {
			return err
		}
	}
	return nil // the matrices stay until the process ends
}

// status reads a size of /proc/self/status.
func status(field string) uint64 {
	data, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == field+":" {
			kb, _ := strconv.ParseUint(f[1], 10, 64)
			return kb << 10
		}
	}
	return 0
}

func TestLoadingStaysWithinItsMemory(t *testing.T) {
	shape := convert.Shape{Name: "medium", Layers: 6, Heads: 12, KVHeads: 4, HeadDim: 64, Hidden: 768, FFN: 2048, Vocab: 8192, Context: 256,
		RopeBase: 10_000, NormEpsilon: 1e-5, Tied: true}
	file := filepath.Join(t.TempDir(), "medium.gguf")
	if err := convert.SynthFile(file, shape, 1); err != nil {
		t.Fatal(err)
	}
	loads := []string{file}
	for _, dt := range matmul.DTypes() {
		if !testing.Short() || dt == tensor.Q4_0 || dt == tensor.Q8_0 {
			loads = append(loads, dt.String())
		}
	}
	for _, what := range loads {
		t.Run(filepath.Base(what), func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"="+what)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			var u usage
			if n, _ := fmt.Sscan(string(out), &u.before, &u.resident, &u.peak, &u.file, &u.largest); err != nil || n != 5 {
				t.Fatalf("the child said %q: %v", out, err)
			}
			bound := residentBound
			if what == tensor.Q3_K.String() {
				bound = 1.04 // its 6-bit scales become bytes
			}
			mib := func(b uint64) float64 { return float64(b) / (1 << 20) }
			resident, peak := u.resident-u.before, u.peak-u.before
			t.Logf("%.1f MiB: resident %.1f (%.3fx), peak %.1f (%.3fx)", mib(u.file), mib(resident), float64(resident)/float64(u.file), mib(peak), float64(peak)/float64(u.file))
			if limit := uint64(bound*float64(u.file)) + slack; resident > limit || resident < u.file*9/10 {
				t.Errorf("%.1f MiB stay resident of a file of %.1f; at most %.1f", mib(resident), mib(u.file), mib(limit))
			}
			if limit := uint64(peakBound*float64(u.file)) + u.largest + slack; peak > limit {
				t.Errorf("%.1f MiB at the peak for a file of %.1f; at most %.1f", mib(peak), mib(u.file), mib(limit))
			}
		})
	}
}
