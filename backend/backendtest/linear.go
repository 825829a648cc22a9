package backendtest

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"sestina/backend"
	"sestina/backend/ref"
	"sestina/tensor"
)

// rowCounts are the numbers of rows where a tiled kernel changes its tile.
var rowCounts = []int{1, 2, 3, 15, 16, 17, 33, 63, 64, 65}

const maxRows = 65

// nanRow in a choice of rows stands for a row of NaNs.
const nanRow = -1

// linearCase is one operation; its rows of input are always the same 65, of
// which a run takes some.
type linearCase struct {
	seed     uint64
	act      backend.ActivationDType
	weights  []tensor.DType
	outs     []int // rows of each matrix
	cols     int
	epilogue backend.Epilogue
	norm     bool
	bias     string // "none", "all" or "first"
	choices  [][]int
}

func (c *linearCase) String() string {
	return fmt.Sprintf("%v %v×%d epilogue %d norm %v bias %s activations %d", c.weights, c.outs, c.cols, c.epilogue, c.norm, c.bias, c.act)
}

// linearChecks crosses every format with both arithmetics, every epilogue,
// norm, bias and number of matrices; widths take turns.
func linearChecks() []check {
	var cases []linearCase
	seed := uint64(1)
	add := func(c linearCase) {
		c.seed = seed
		seed++
		cases = append(cases, c)
	}
	for _, d := range Formats {
		for _, act := range arithmetics(d) {
			for _, norm := range []bool{false, true} {
				for _, bias := range []string{"none", "all", "first"} {
					for _, c := range []linearCase{
						{outs: []int{21}}, {outs: []int{16, 48}}, {outs: []int{40, 21, 16}},
						{outs: []int{33}, epilogue: backend.Add}, {outs: []int{37, 37}, epilogue: backend.SwiGLU},
					} {
						c.act, c.norm, c.bias, c.choices = act, norm, bias, allChoices()
						c.cols = widths(d)[seed%uint64(len(widths(d)))]
						c.weights = slices.Repeat([]tensor.DType{d}, len(c.outs))
						add(c)
					}
				}
			}
			add(linearCase{act: act, weights: []tensor.DType{d}, outs: []int{400}, cols: 512, bias: "none", choices: [][]int{upTo(5)}})
		}
	}
	for _, mix := range mixtures {
		for _, act := range []backend.ActivationDType{backend.ActivationsAuto, backend.ActivationsF32} {
			add(linearCase{act: act, weights: mix, outs: []int{32, 17, 16}, cols: 256, norm: true, bias: "first", choices: allChoices()})
		}
	}
	var out []check
	for _, c := range cases {
		out = append(out, check{fmt.Sprintf("linear/%v", c.weights[0]), c.String(), c.act, c.run})
	}
	return out
}

// mixtures are matrices of different formats that share an input, as in files
// quantised by importance.
var mixtures = [][]tensor.DType{
	{tensor.Q4_K, tensor.Q4_K, tensor.Q6_K}, {tensor.Q5_0, tensor.Q8_0, tensor.F16}, {tensor.F32, tensor.Q4_1, tensor.BF16},
}

// arithmetics lists the activation types that make a difference to a format.
func arithmetics(d tensor.DType) []backend.ActivationDType {
	if d.Quantized() {
		return []backend.ActivationDType{backend.ActivationsAuto, backend.ActivationsF32}
	}
	return []backend.ActivationDType{backend.ActivationsAuto}
}

// widths of input that a format allows, odd ones where it can.
func widths(d tensor.DType) []int {
	switch d.BlockSize() {
	case 1:
		return []int{1, 7, 33, 50, 96}
	case 32:
		return []int{32, 64, 96, 160}
	}
	return []int{256}
}

// allChoices: the first n rows for every n, the rows backwards, and rows among NaNs.
func allChoices() [][]int {
	var out [][]int
	for _, n := range rowCounts {
		out = append(out, upTo(n))
	}
	back := upTo(18)
	slices.Reverse(back)
	return append(out, back, []int{5, nanRow, 1, nanRow, 8, 8}, append(slices.Repeat([]int{nanRow}, 16), 10))
}

func upTo(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// problem is a case's data: weights as files hold them, and 65 rows.
type problem struct {
	sources []backend.Source
	norm    []float32
	bias    [][]float32
	x, base []float32 // inputs; what dst holds before an Add
	width   int       // of dst
}

func (c *linearCase) problem() *problem {
	rng := rand.New(rand.NewPCG(c.seed, 2))
	p := &problem{x: activations(rng, maxRows, c.cols), norm: normals(rng, c.cols)}
	for i, n := range c.outs {
		p.sources = append(p.sources, source(rng, c.weights[i], n, c.cols))
		if c.epilogue != backend.SwiGLU || i == 0 {
			p.width += n
		}
		if c.bias == "all" || c.bias == "first" && i == 0 {
			p.bias = append(p.bias, normals(rng, n))
		} else {
			p.bias = append(p.bias, nil)
		}
	}
	p.base = normals(rng, maxRows*p.width)
	return p
}

// op loads the case's parameters into a backend.
func (c *linearCase) op(b backend.Backend, p *problem) (*backend.Linear, error) {
	op := &backend.Linear{Epilogue: c.epilogue}
	for _, s := range p.sources {
		m, err := b.NewMatrix(s)
		if err != nil {
			return nil, err
		}
		op.W = append(op.W, m)
	}
	if c.norm {
		v, err := b.NewVector(p.norm)
		if err != nil {
			return nil, err
		}
		op.Norm = &backend.Norm{Weight: v, Eps: 1e-5}
	}
	if c.bias == "none" {
		return op, nil
	}
	for _, values := range p.bias {
		var v backend.Vector
		if values != nil {
			var err error
			if v, err = b.NewVector(values); err != nil {
				return nil, err
			}
		}
		op.Bias = append(op.Bias, v)
	}
	return op, nil
}

// wants remembers the oracle's answers, which serve every backend and thread count.
var wants sync.Map // string → []float32

// remember computes once what belongs to a key.
func remember(key string, compute func() []float32) []float32 {
	if v, ok := wants.Load(key); ok {
		return v.([]float32)
	}
	v := compute()
	wants.Store(key, v)
	return v
}

// want is the oracle's output of all 65 rows.
func (c *linearCase) want(p *problem, order backend.BF16Order) []float32 {
	return remember(fmt.Sprintf("linear %d %v %d", c.seed, c, order), func() []float32 {
		b := ref.New(backend.Options{Activations: c.act, BF16: order})
		op, err := c.op(b, p)
		if err != nil {
			panic(err)
		}
		dst, x := newRows(b, maxRows, p.width), newRows(b, maxRows, c.cols)
		copy(x.Host, p.x)
		copy(dst.Host, p.base)
		b.Linear(dst.Rows, x.Rows, op)
		return dst.Host
	})
}

func (c *linearCase) run(b backend.Backend) (int, error) {
	p := c.problem()
	want := c.want(p, backend.OrderOf(b))
	op, err := c.op(b, p)
	if err != nil {
		return 0, err
	}
	total := 0
	for _, rows := range c.choices {
		if err := c.apply(b, p, op, rows, want); err != nil {
			return total, fmt.Errorf("rows %v: %w", rows, err)
		}
		total += len(rows) * p.width
	}
	return total, nil
}

// apply runs the chosen rows and compares each with the oracle's.
func (c *linearCase) apply(b backend.Backend, p *problem, op *backend.Linear, rows []int, want []float32) error {
	dst, x := newRows(b, len(rows), p.width), newRows(b, len(rows), c.cols)
	for i, r := range rows {
		if r != nanRow {
			copy(x.Row(i), p.x[r*c.cols:])
			copy(dst.Row(i), p.base[r*p.width:])
		}
	}
	before := slices.Clone(x.Host)
	b.Linear(dst.Rows, x.Rows, op)
	for i, r := range rows {
		if r == nanRow {
			continue
		}
		if err := equalBits(dst.Row(i), want[r*p.width:(r+1)*p.width]); err != nil {
			return fmt.Errorf("row %d: %w", i, err)
		}
	}
	if err := equalBits(x.Host, before); err != nil {
		return fmt.Errorf("the input was changed: %w", err)
	}
	return errors.Join(dst.check("output"), x.check("input"))
}

// embedChecks looks rows up in tables of every format, and gathers rows.
func embedChecks() []check {
	var out []check
	for _, d := range Formats {
		for _, scale := range []float32{1, 8, 0.3} {
			out = append(out, check{"embed", fmt.Sprintf("%v × %v", d, scale), backend.ActivationsAuto,
				func(b backend.Backend) (int, error) { return embed(b, d, scale) }})
		}
	}
	return append(out, check{"gather", "rows", backend.ActivationsAuto, gather})
}

func embed(b backend.Backend, d tensor.DType, scale float32) (int, error) {
	const vocab = 53
	ids := []int32{0, 52, 16, 15, 15, 31, 32, 47, 48}
	cols := slices.Max(widths(d))
	src := source(rand.New(rand.NewPCG(3, uint64(d))), d, vocab, cols)
	look := func(b backend.Backend) (guarded, error) {
		table, err := b.NewMatrix(src)
		if err != nil {
			return guarded{}, err
		}
		if r, c := table.Shape(); r != vocab || c != cols || table.DType() != d {
			return guarded{}, fmt.Errorf("the matrix is %d × %d %v, want %d × %d %v", r, c, table.DType(), vocab, cols, d)
		}
		dst := newRows(b, len(ids), cols)
		b.Embed(dst.Rows, table, ids, scale)
		return dst, nil
	}
	want, err := look(oracle(backend.ActivationsAuto))
	if err != nil {
		return 0, err
	}
	got, err := look(b)
	if err != nil {
		return 0, err
	}
	return len(got.Host), errors.Join(equalBits(got.Host, want.Host), got.check("output"))
}

func gather(b backend.Backend) (int, error) {
	rows := []int32{6, 0, 3, 3, 5}
	src, dst := newRows(b, 7, 13), newRows(b, len(rows), 13)
	copy(src.Host, normals(rand.New(rand.NewPCG(4, 4)), len(src.Host)))
	b.Gather(dst.Rows, src.Rows, rows)
	for i, r := range rows {
		if err := equalBits(dst.Row(i), src.Row(int(r))); err != nil {
			return 0, fmt.Errorf("row %d: %w", i, err)
		}
	}
	return len(dst.Host), errors.Join(dst.check("output"), src.check("input"))
}

// refusals: what can fail at run time returns an error.
func refusals(t *testing.T, b backend.Backend) {
	defer b.Close()
	broken := errors.New("the disk is gone")
	bad := source(rand.New(rand.NewPCG(5, 5)), tensor.F32, 40, 8)
	bad.Read = func([]byte, int, int) error { return broken }
	if _, err := b.NewMatrix(bad); !errors.Is(err, broken) {
		t.Errorf("a matrix that cannot be read: %v, want the reader's error", err)
	}
	for _, s := range []backend.Source{{Name: "half a block", DType: tensor.Q4_0, Rows: 2, Cols: 48}, {Name: "integers", DType: tensor.I32, Rows: 2, Cols: 4},
		{Name: "absurd", DType: tensor.F32, Rows: math.MaxInt / 2, Cols: 64}} {
		s.Read = func([]byte, int, int) error { return nil }
		if _, err := b.NewMatrix(s); err == nil {
			t.Errorf("matrix %q was accepted", s.Name)
		}
	}
	for d, dim := range map[tensor.DType]int{tensor.I32: 8, tensor.Q4_K: 256, tensor.Q8_0: 48, tensor.Q4_0: 80} {
		spec := backend.CacheSpec{Layers: []backend.CacheLayer{{KVHeads: 1, HeadDim: dim}}, Blocks: 2, BlockSize: 4, DType: d}
		if _, err := b.NewCache(spec); err == nil || !strings.Contains(err.Error(), d.String()) {
			t.Errorf("a KV cache of %v with heads of %d: %v, want an error that names the dtype", d, dim, err)
		}
	}
}
