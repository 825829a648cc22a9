// Package kernels measures the matrix and attention kernels one by one, beside what the
// machine could do at best: how many bytes of weights, or of K and V, they read a second, and
// how many multiplications and additions they do.
//
// # What is timed
//
// A figure is one kernel family, weight format, matrix shape and number of rows
// M, on one thread. The matrix is copied until all copies fill the working set, and they
// are used in turn, so that weights come from memory as in a real step of M
// rows. Panels are handed out as backend/cpu does: whole for few rows, 16 panels
// against blocks of 64 rows for many. Attention is that of one layer at a depth, in pools
// that fill the working set in the same way.
//
// # Ceilings
//
// GB/s stands beside one thread's read bandwidth (a loop that only loads, over a
// buffer of the working set's size). Gop/s stands beside the best product whose
// operands all stay in the first-level cache, with the same kernels: a practical
// peak of the multiply instruction, somewhat below what a loop of it alone does.
package kernels

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"sestina/backend/cpu/matmul"
	"sestina/internal/arena"
	"sestina/internal/cpuinfo"
	"sestina/tensor"
)

// Schema names the document's format.
const Schema = "sestina.bench-kernels/2"

// Config is what to measure.
type Config struct {
	ISAs   []string       `json:"isa"`    // empty = the best
	DTypes []tensor.DType `json:"-"`      // empty = all that have kernels
	Models []string       `json:"shapes"` // names of Shapes, empty = all
	Rows   []int          `json:"rows"`
	Reps   int            `json:"reps"`

	MinTime    time.Duration `json:"min_time_ns"`       // of one repetition
	WorkingSet uint64        `json:"working_set_bytes"` // more than the last-level cache holds

	Depth    int            `json:"depth"` // of attention; 0 = none
	KVDTypes []tensor.DType `json:"-"`     // empty = all
}

// Defaults take about two minutes a kernel family.
func Defaults() Config {
	return Config{Rows: []int{1, 2, 4, 8, 64, 512}, Reps: 3, MinTime: 20 * time.Millisecond, WorkingSet: 128 << 20, Depth: 4096}
}

// Check refuses what cannot be measured and fills in what was left open.
func (c *Config) Check() error {
	if c.Reps < 1 || len(c.Rows) == 0 || slices.Min(c.Rows) < 1 || slices.Max(c.Rows) > 4096 {
		return fmt.Errorf("--reps %d and --rows %v must be at least 1, rows at most 4096", c.Reps, c.Rows)
	}
	if c.WorkingSet < 1<<20 || c.WorkingSet > 16<<30 {
		return fmt.Errorf("a working set of %d bytes: choose 1M to 16G", c.WorkingSet)
	}
	if len(c.ISAs) == 0 {
		c.ISAs = []string{matmul.Best().ISA.String()}
	}
	for _, name := range c.ISAs {
		isa, err := matmul.ParseISA(name)
		if err == nil {
			_, err = matmul.For(isa)
		}
		if err != nil {
			return err
		}
	}
	if len(c.DTypes) == 0 {
		c.DTypes = matmul.DTypes()
	}
	if len(c.Models) == 0 {
		c.Models = ModelNames()
	}
	for _, name := range c.Models {
		if !slices.Contains(ModelNames(), name) {
			return fmt.Errorf("--shapes %q is unknown; choose from %v", name, ModelNames())
		}
	}
	return c.checkAttention()
}

// Shape is one matrix of a model: Rows outputs of Cols inputs.
type Shape struct {
	Model, Name string
	Rows, Cols  int
}

var shapes = []Shape{
	{"smollm2-135m", "qkv", 960, 576},
	{"smollm2-135m", "o", 576, 576},
	{"smollm2-135m", "gate+up", 3072, 576},
	{"smollm2-135m", "down", 576, 1536},
	{"smollm2-135m", "head", 49152, 576},
	{"llama-3.2-1b", "qkv", 3072, 2048},
	{"llama-3.2-1b", "o", 2048, 2048},
	{"llama-3.2-1b", "gate+up", 16384, 2048},
	{"llama-3.2-1b", "down", 2048, 8192},
	{"llama-3.2-1b", "head", 128256, 2048},
}

// ModelNames lists the models whose matrices can be measured.
func ModelNames() []string {
	var names []string
	for _, s := range shapes {
		if !slices.Contains(names, s.Model) {
			names = append(names, s.Model)
		}
	}
	return names
}

// Report is the document `sestina bench kernels` prints.
type Report struct {
	Schema   string    `json:"schema"`
	CPU      string    `json:"cpu"`
	Config   Config    `json:"config"`
	Ceilings []Ceiling `json:"ceilings"`
	Rows     []Row     `json:"rows"`

	Attention []AttentionRow `json:"attention,omitempty"`
}

// Ceiling is the best that the machine showed in this run.
type Ceiling struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
}

// Row is one figure. Shares are of the ceilings.
type Row struct {
	ISA          string  `json:"isa"`
	DType        string  `json:"dtype"`
	Model        string  `json:"model"`
	Matrix       string  `json:"matrix"`
	Shape        [2]int  `json:"shape"` // outputs, inputs
	M            int     `json:"m"`
	GBs          float64 `json:"gb_per_s"`
	GBsMin       float64 `json:"gb_per_s_min"`
	GBsMax       float64 `json:"gb_per_s_max"`
	Gops         float64 `json:"gop_per_s"`
	BandwidthPct float64 `json:"share_of_read_bandwidth"`
	PeakPct      float64 `json:"share_of_l1_gemm"`
	N            int     `json:"n"`
}

// Run measures all of it on one thread. progress, if not nil, is told each format.
func Run(ctx context.Context, c Config, progress func(what string)) (*Report, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r := &Report{Schema: Schema, CPU: cpuinfo.Name(), Config: c}
	read, err := readCeiling(c.WorkingSet)
	if err != nil {
		return nil, err
	}
	r.Ceilings = append(r.Ceilings, Ceiling{"one thread's read bandwidth", "GB/s", read})
	for _, name := range c.ISAs {
		isa, _ := matmul.ParseISA(name)
		k, err := matmul.For(isa)
		if err != nil {
			return nil, err
		}
		peaks, err := peaks(k, c)
		if err != nil {
			return nil, err
		}
		for _, p := range products {
			r.Ceilings = append(r.Ceilings, Ceiling{name + ", best product in L1, " + p, "Gop/s", peaks[p]})
		}
		for _, dt := range c.DTypes {
			if progress != nil {
				progress(fmt.Sprintf("%s, %v", name, dt))
			}
			rows, err := measureFormat(ctx, k, dt, c, read, peaks[product(dt)])
			if err != nil {
				return nil, err
			}
			r.Rows = append(r.Rows, rows...)
		}
		if progress != nil && len(c.KVDTypes) > 0 {
			progress(name + ", attention")
		}
		rows, err := measureAttention(ctx, isa, c, read, peaks[f32Product])
		if err != nil {
			return nil, err
		}
		r.Attention = append(r.Attention, rows...)
	}
	return r, nil
}

func readCeiling(bytes uint64) (float64, error) {
	b, err := NewBuffer(bytes)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	return b.Bandwidth(1) / 1e9, nil
}

// The kinds of product, as backend/cpu chooses them by the weights' format.
const (
	int8Product = "int8 activations"
	bf16Product = "bf16 activations"
	f32Product  = "float32 activations"
)

var products = []string{int8Product, bf16Product, f32Product}

func product(dt tensor.DType) string {
	switch {
	case dt.Quantized():
		return int8Product
	case dt == tensor.BF16:
		return bf16Product
	}
	return f32Product
}

// peaks are the best Gop/s of each product when everything stays in the first-level cache, or nearly: of few rows and of
// a block of rows.
func peaks(k *matmul.Kernels, c Config) (map[string]float64, error) {
	best := map[string]float64{}
	for _, dt := range matmul.DTypes() {
		cols := 256
		set, err := newMatrices(Shape{Rows: 2 * matmul.PanelRows, Cols: cols}, dt, 1)
		if err != nil {
			return nil, err
		}
		for _, m := range []int{24, k.RowBlock()} {
			x := newOperands(m, cols, 2*matmul.PanelRows)
			for range c.Reps {
				t := set.time(k, x, m, c.MinTime)
				best[product(dt)] = max(best[product(dt)], set.ops(m)/t/1e9)
			}
		}
		set.close()
	}
	return best, nil
}

func measureFormat(ctx context.Context, k *matmul.Kernels, dt tensor.DType, c Config, read, peak float64) ([]Row, error) {
	var rows []Row
	for _, s := range shapes {
		if !slices.Contains(c.Models, s.Model) || s.Cols%dt.BlockSize() != 0 {
			continue // a format whose blocks do not fit the row cannot store this matrix
		}
		set, err := newMatrices(s, dt, c.WorkingSet)
		if err != nil {
			return nil, err
		}
		x := newOperands(slices.Max(c.Rows), s.Cols, s.Rows)
		for _, m := range c.Rows {
			if ctx.Err() != nil {
				set.close()
				return nil, ctx.Err()
			}
			var times []float64
			for range c.Reps {
				times = append(times, set.time(k, x, m, c.MinTime))
			}
			t := median(times)
			r := Row{ISA: k.ISA.String(), DType: dt.String(), Model: s.Model, Matrix: s.Name, Shape: [2]int{s.Rows, s.Cols}, M: m, N: c.Reps,
				GBs: set.bytes / t / 1e9, GBsMin: set.bytes / slices.Max(times) / 1e9, GBsMax: set.bytes / slices.Min(times) / 1e9,
				Gops: set.ops(m) / t / 1e9}
			r.BandwidthPct, r.PeakPct = r.GBs/read, r.Gops/peak
			rows = append(rows, r)
		}
		set.close()
	}
	return rows, nil
}

// matrices are copies of one matrix, used in turn.
type matrices struct {
	region *arena.Region
	copies []*matmul.Packed
	bytes  float64 // of one copy
	next   int
}

// newMatrices fills about size bytes with copies of a random matrix, one at least.
func newMatrices(s Shape, dt tensor.DType, size uint64) (*matrices, error) {
	one, err := matmul.PackedSize(dt, s.Rows, s.Cols)
	if err != nil {
		return nil, err
	}
	stride := (one + 63) &^ 63
	n := max(1, size/stride)
	region, err := arena.Alloc(n * stride)
	if err != nil {
		return nil, err
	}
	set, data, panel := &matrices{region: region, bytes: float64(one)}, region.Bytes(), rawPanel(dt, s.Cols)
	for i := range n {
		bytes := data[i*stride:][:one]
		p, err := matmul.New(dt, s.Rows, s.Cols, bytes)
		if err != nil {
			region.Free()
			return nil, err
		}
		p.Pack(0, panel)
		for at := p.PanelBytes(); at < len(bytes); at += p.PanelBytes() {
			copy(bytes[at:], bytes[:p.PanelBytes()])
		}
		set.copies = append(set.copies, p)
	}
	return set, nil
}

func (s *matrices) close() { s.region.Free() }

// ops is the multiplications and additions of m rows by one copy.
func (s *matrices) ops(m int) float64 {
	return 2 * float64(s.copies[0].Rows) * float64(s.copies[0].Cols) * float64(m)
}

// rawPanel is 16 rows in the file's format: random values where the format can be
// encoded, else random bytes whose 16-bit scales are finite and below 2.
func rawPanel(dt tensor.DType, cols int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	raw := make([]byte, matmul.PanelRows*cols/dt.BlockSize()*dt.BlockBytes())
	if dt.CanEncode() {
		x := make([]float32, matmul.PanelRows*cols)
		for i := range x {
			x[i] = float32(rng.NormFloat64()) * 0.05
		}
		if tensor.Encode(dt, raw, x) == nil {
			return raw
		}
	}
	for i := range raw {
		raw[i] = byte(rng.Uint32()) &^ 0x40
	}
	return raw
}

// operands are activations in all forms and room for the result.
type operands struct {
	x, out, scratch []float32
	int8, bf16      []byte
	cols            int
}

func newOperands(m, cols, rows int) *operands {
	rng := rand.New(rand.NewPCG(3, 4))
	rows = (rows + matmul.PanelRows - 1) &^ (matmul.PanelRows - 1)
	q, h := matmul.ActBytes(cols), matmul.BF16Bytes(cols)
	o := &operands{x: make([]float32, m*cols), out: make([]float32, m*rows), scratch: make([]float32, matmul.PanelRows*cols),
		int8: make([]byte, m*q), bf16: make([]byte, m*h), cols: cols}
	for i := range o.x {
		o.x[i] = float32(rng.NormFloat64())
	}
	for i := range m {
		row := o.x[i*cols:][:cols]
		matmul.Best().QuantizeRow(o.int8[i*q:][:q], row)
		matmul.Best().RoundRow(o.bf16[i*h:][:h], row)
	}
	return o
}

// maxPanels is how many panels backend/cpu takes at a time when rows are many; rows it takes by Kernels.RowBlock.
const maxPanels = 16

// time is the mean seconds that m rows by one matrix take, over at least atLeast.
func (s *matrices) time(k *matmul.Kernels, x *operands, m int, atLeast time.Duration) float64 {
	panels, done := 0, 0.0
	begin := time.Now()
	for {
		w := s.copies[s.next]
		piece := w.Panels()
		if m > 8 || k.ISA == matmul.Generic {
			piece = min(piece, maxPanels)
		}
		from := panels
		n := min(piece, w.Panels()-from)
		for row := 0; row < m; row += k.RowBlock() {
			s.multiply(k, x, w, from, n, row, min(k.RowBlock(), m-row))
		}
		if panels += n; panels == w.Panels() {
			panels, s.next = 0, (s.next+1)%len(s.copies)
		}
		done += float64(n) / float64(w.Panels())
		if spent := time.Since(begin); spent >= atLeast {
			return spent.Seconds() / done
		}
	}
}

// multiply is rows [row, row+m) by panels [from, from+n).
func (s *matrices) multiply(k *matmul.Kernels, x *operands, w *matmul.Packed, from, n, row, m int) {
	stride := w.Panels() * matmul.PanelRows
	out := x.out[row*stride+from*matmul.PanelRows:]
	switch product(w.DType) {
	case int8Product:
		k.MulInt8(out, stride, w, from, n, x.int8[row*matmul.ActBytes(x.cols):], m)
	case bf16Product:
		k.MulBF16(out, stride, w, from, n, x.bf16[row*matmul.BF16Bytes(x.cols):], m)
	default:
		k.MulF32(out, stride, w, from, n, x.x[row*x.cols:], x.cols, m, x.scratch)
	}
}

// median of a non-empty list.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}
