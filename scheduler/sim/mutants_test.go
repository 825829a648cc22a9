package sim

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A simulator that finds nothing proves nothing. Here the bugs of the table are
// planted, one by one, and each must be found.
//
// The product has no hook for that: the test rewrites the sources of kvcache and
// scheduler in a folder of its own and compiles this test binary once more with
// them (go build's -overlay). The rewritten sources hold all the bugs, and the
// environment switches one on. A text of the table that the sources no longer
// have fails the test, so the table stays true.

const (
	maxSeeds   = 3000
	blindSeeds = 300
	mutantEnv  = "SESTINA_MUTANT"
	blindEnv   = "SESTINA_BLIND" // set: also look from outside
)

// kill is how a mutant was found.
type kill struct {
	Seeds     int
	Steps     uint64
	Invariant string
	What      string
	Trace     *Trace // shrunk, of the rare ones
	Outside   string // what a client sees of it, in as many seeds as blindSeeds
}

// A mutant that takes more seeds than this is rare: its trace is kept in
// testdata/traces, for TestReplay.
const rare = 10

func TestMain(m *testing.M) {
	if os.Getenv(mutantEnv) == "" {
		os.Exit(m.Run())
	}
	// This is the rewritten binary. A trace takes milliseconds; one that takes a
	// minute never ends. (How long all of them take is the machine's business.)
	stuck := time.AfterFunc(time.Minute, func() { report(kill{Invariant: "hang", What: "a trace does not end"}) })
	k := hunt(maxSeeds, func() { stuck.Reset(time.Minute) })
	stuck.Stop()
	if os.Getenv(blindEnv) != "" {
		k.Outside = huntBlind(blindSeeds)
		if k.Seeds > rare && k.Invariant != "" {
			k.Trace = Shrink(Generate(uint64(k.Seeds), opsPerTrace), Options{})
		}
	}
	report(k)
}

// report hands the result to the test that started this process.
func report(k kill) {
	if err := json.NewEncoder(os.Stdout).Encode(k); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// hunt runs seeds until one shows a violation, and tells of each trace that ended.
func hunt(seeds int, ended func()) (k kill) {
	for k.Seeds = 1; k.Seeds <= seeds; k.Seeds++ {
		ended()
		report, v := Run(Generate(uint64(k.Seeds), opsPerTrace), Options{})
		k.Steps += report.Steps
		if v == nil {
			if again, _ := Run(Generate(uint64(k.Seeds), opsPerTrace), Options{}); again.PlanHash != report.PlanHash {
				v = &Violation{Invariant: "I12", What: "two plans from one trace"}
			}
		}
		if v != nil {
			k.Invariant, k.What = v.Invariant, v.Error()
			return k
		}
		if os.Getenv(mutantEnv) == "none" && k.Seeds == 200 {
			return k
		}
	}
	return k
}

// huntBlind looks only at tokens and endings, as a client would.
func huntBlind(seeds int) string {
	for n := range seeds {
		if _, v := Run(Generate(uint64(n+1), opsPerTrace), Options{Blind: true}); v != nil {
			return fmt.Sprintf("%s after %d", v.Invariant, n+1)
		}
	}
	return "nothing"
}

func TestMutants(t *testing.T) {
	binary := buildMutants(t)
	if k := runMutant(t, binary, "none"); k.Invariant != "" {
		t.Fatalf("the rewritten sources fail with no mutant on: %s", k.What)
	}
	list := mutants
	if testing.Short() {
		list = mutants[:10]
	}
	kills := make([]kill, len(list))
	var group sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, m := range list {
		group.Go(func() {
			slots <- struct{}{}
			kills[i] = runMutant(t, binary, m.id)
			<-slots
		})
	}
	group.Wait()

	var table strings.Builder
	table.WriteString("| mutant | bug | upstream | seeds to kill | steps | killed by | seen from outside, after seeds |\n|---|---|---|---|---|---|---|\n")
	killed := 0
	var seeds []int
	for i, m := range list {
		k := kills[i]
		if k.Invariant == "" {
			t.Errorf("%s survives %d seeds: %s", m.id, k.Seeds, m.bug)
		} else {
			killed++
			seeds = append(seeds, k.Seeds)
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %d | %d | %s | %s |\n", m.id, m.bug, m.upstream, k.Seeds, k.Steps, k.Invariant, k.Outside)
		t.Logf("%s %v", m.id, k.What)
	}
	slices.Sort(seeds)
	if len(seeds) == 0 {
		t.Fatal("no mutant was killed")
	}
	fmt.Fprintf(&table, "\n%d of %d killed; seeds to kill: median %d, most %d.\n", killed, len(list), seeds[len(seeds)/2], seeds[len(seeds)-1])
	t.Logf("\n%s", table.String())
	t.Logf("T28 mutants made of known bugs %d, killed %d; seeds to kill median %d, most %d", len(list), killed, seeds[len(seeds)/2], seeds[len(seeds)-1])
	if *update && !testing.Short() {
		keep(t, "testdata/mutants.md", []byte(table.String()))
		for i, m := range list {
			if kills[i].Trace == nil {
				continue
			}
			text, err := json.Marshal(kills[i].Trace)
			if err != nil {
				t.Fatal(err)
			}
			keep(t, filepath.Join("testdata", "traces", m.id+".json"), append(text, '\n'))
		}
	}
}

func keep(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// buildMutants compiles the test binary from the rewritten sources.
func buildMutants(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	sources := map[string]string{}
	for _, m := range mutants {
		if m.old == "" {
			continue // planted together with another
		}
		if sources[m.file] == "" {
			text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(m.file)))
			if err != nil {
				t.Fatal(err)
			}
			sources[m.file] = strings.ReplaceAll(string(text), "\r\n", "\n")
		}
		if n := strings.Count(sources[m.file], m.old); n != 1 {
			t.Fatalf("%s: %s has %d times the text\n%s", m.id, m.file, n, m.old)
		}
		sources[m.file] = strings.Replace(sources[m.file], m.old, m.new, 1)
	}
	sources["kvcache/mutant.go"] = "package kvcache\n" + hook
	sources["scheduler/mutant.go"] = "package scheduler\n" + hook
	for file, text := range sources {
		path := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[filepath.Join(root, filepath.FromSlash(file))] = path
	}
	spec, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	specFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(specFile, spec, 0o644); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "mutants.exe")
	build := exec.Command("go", "test", "-c", "-overlay", specFile, "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("compiling the mutants: %v\n%s", err, out)
	}
	return binary
}

func runMutant(t *testing.T, binary, id string) (k kill) {
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Env = append(os.Environ(), mutantEnv+"="+id)
	if *update {
		cmd.Env = append(cmd.Env, blindEnv+"=1")
	}
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &k)
	}
	if err != nil {
		t.Errorf("%s: %v\n%s", id, err, out)
	}
	return k
}
