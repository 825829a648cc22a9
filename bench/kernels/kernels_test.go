package kernels

import (
	"context"
	"strings"
	"testing"
	"time"

	"sestina/backend/cpu/matmul"
	"sestina/tensor"
)

const tiny = "../../testdata/tiny.gguf"

func TestEveryFormatAndRowCountIsMeasured(t *testing.T) {
	c := Config{Rows: []int{1, 65}, Reps: 2, MinTime: time.Microsecond, WorkingSet: 1 << 20, Models: []string{"smollm2-135m"}}
	for _, isa := range matmul.Supported() {
		c.ISAs = append(c.ISAs, isa.String())
	}
	if testing.Short() {
		c.ISAs = c.ISAs[len(c.ISAs)-1:]
	}
	c.DTypes = []tensor.DType{tensor.Q4_0, tensor.BF16, tensor.Q4_K}
	c.Depth, c.KVDTypes = 100, []tensor.DType{tensor.F16, tensor.Q8_0}
	r, err := Run(context.Background(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Rows of 576 hold no whole block of 256: only the matrix of 1536 columns has Q4_K.
	if want := len(c.ISAs) * 2 * (5 + 5 + 1); len(r.Rows) != want || len(r.Ceilings) != 1+len(products)*len(c.ISAs) {
		t.Fatalf("%d rows and %d ceilings, want %d and %d", len(r.Rows), len(r.Ceilings), want, 1+len(products)*len(c.ISAs))
	}
	for _, x := range r.Rows {
		// The two units describe the same time: bytes of a panel's weights against 2·M operations each.
		size, _ := matmul.PackedSize(mustDType(t, x.DType), x.Shape[0], x.Shape[1])
		perByte := 2 * float64(x.Shape[0]*x.Shape[1]*x.M) / float64(size)
		if got := x.Gops / x.GBs; got < 0.99*perByte || got > 1.01*perByte || x.GBsMin > x.GBs || x.GBs > x.GBsMax {
			t.Errorf("%+v: %.2f operations a byte, want %.2f", x, got, perByte)
		}
	}
	if len(r.Attention) != len(c.ISAs)*2*2 {
		t.Fatalf("%d rows of attention, want %d", len(r.Attention), len(c.ISAs)*2*2)
	}
	for _, x := range r.Attention {
		// 3 heads, K and V, 100 positions in blocks of 16, 64 values of f16 or 68 bytes of q8_0.
		bytes := 2 * 3 * 112 * map[string]float64{"F16": 128, "Q8_0": 68}[x.KVDType]
		keys := map[int]float64{1: 100, 65: 65*100 - 65*32}[x.M]
		ops := 4 * 9 * 64 * keys
		if got := x.Gops / x.GBs; got < 0.99*ops/bytes || got > 1.01*ops/bytes || x.Us <= 0 || x.GBsMin > x.GBs || x.GBs > x.GBsMax {
			t.Errorf("%+v: %.2f operations a byte, want %.2f", x, got, ops/bytes)
		}
	}
	var text, page strings.Builder
	r.Print(&text, false)
	r.Print(&page, true)
	if !strings.Contains(text.String(), "gate+up") || !strings.Contains(page.String(), "| gate+up | 3072×576 |") || !strings.Contains(page.String(), "| Q8_0 | smollm2-135m | 9/3×64 | 65 |") {
		t.Errorf("the tables lack rows:\n%s\n%s", text.String(), page.String())
	}
}

func mustDType(t *testing.T, name string) tensor.DType {
	t.Helper()
	d, err := tensor.ParseDType(name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestImpossibleMeasurementsAreRefused(t *testing.T) {
	for want, edit := range map[string]func(*Config){
		"unknown instruction set": func(c *Config) { c.ISAs = []string{"sse"} },
		"--reps 0":                func(c *Config) { c.Reps = 0 },
		"--rows [0]":              func(c *Config) { c.Rows = []int{0} },
		"choose from":             func(c *Config) { c.Models = []string{"gpt-9"} },
		"--depth -1":              func(c *Config) { c.Depth = -1 },
		"--kv-cache-dtype Q4_K":   func(c *Config) { c.KVDTypes = []tensor.DType{tensor.Q4_K} },
		"working set of 1":        func(c *Config) { c.WorkingSet = 1 },
	} {
		c := Defaults()
		edit(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

func TestBandwidthReadsTheWholeBuffer(t *testing.T) {
	b, err := NewBuffer(8 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, threads := range []int{1, 2} {
		if v := b.Bandwidth(threads) / 1e9; v < 0.05 || v > 10_000 {
			t.Errorf("%d threads read %v GB/s", threads, v)
		}
	}
}

func TestStepsOfManyRowsAreTimed(t *testing.T) {
	r, err := RunSteps(context.Background(), tiny, Steps{Threads: 1, Rows: []int{2, 8}, Depth: 600, Reps: 3, PerRep: 3, KVDType: tensor.F16})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 3 || r.Rows[0].M != 1 || r.Rows[0].Cost != 1 || r.Rows[0].N != 3 {
		t.Fatalf("%+v", r.Rows)
	}
	for _, x := range r.Rows {
		if x.Ms <= 0 || x.Min > x.Ms || x.Ms > x.Max || x.Cost <= 0 {
			t.Errorf("%+v", x)
		}
		sum := 0.0
		for _, p := range x.Parts {
			sum += p.Us
		}
		if len(x.Parts) != len(r.Rows[0].Parts) || sum < 200*x.Min || sum > 5000*x.Max { // means, against medians
			t.Errorf("M = %d: %d parts of %v µs in steps of at most %v ms", x.M, len(x.Parts), sum, x.Max)
		}
	}
	_, err = RunSteps(context.Background(), tiny, Steps{Rows: []int{1}, Depth: 1 << 19, Reps: 1, PerRep: 1, KVDType: tensor.F16})
	if err == nil || !strings.Contains(err.Error(), "exceed the model's context") {
		t.Errorf("a depth beyond the context gave %v", err)
	}
}
