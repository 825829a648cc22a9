package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"sestina/backend/cpu/matmul"
)

// CompareSchema names the format of the comparison of our own settings.
const CompareSchema = "sestina.bench-compare/1"

// Compare is one model on one machine under several settings of this engine: each
// kernel family forced, and techniques that trade memory traffic switched off.
// How much a technique brings depends on the hardware; this shows it on yours.
type Compare struct {
	Self      string        `json:"-"`
	Model     string        `json:"model"` // "" = the default model
	Threads   int           `json:"threads"`
	ISAs      []string      `json:"isa"` // empty = all that this machine has
	PromptLen int           `json:"prompt_len"`
	OutputLen int           `json:"output_len"`
	Depth     int           `json:"depth"`
	Reps      int           `json:"reps"`
	Timeout   time.Duration `json:"timeout_ns"`

	env []string // added to the environment, for tests
}

// Check refuses what cannot be compared and fills in what was left open.
func (c *Compare) Check() error {
	switch {
	case c.Threads < 0:
		return fmt.Errorf("--threads %d must be at least 1, or 0 for the free cores", c.Threads)
	case c.PromptLen < 1 || c.OutputLen < 2 || c.Depth < 0:
		return fmt.Errorf("--prompt-len %d must be at least 1, --output-len %d at least 2, --depth %d at least 0", c.PromptLen, c.OutputLen, c.Depth)
	case c.Reps < 1 || c.Timeout <= 0:
		return fmt.Errorf("--reps %d and --timeout %v must be positive", c.Reps, c.Timeout)
	}
	if len(c.ISAs) == 0 {
		for _, isa := range matmul.Supported() {
			c.ISAs = append(c.ISAs, isa.String())
		}
	}
	for _, name := range c.ISAs {
		isa, err := matmul.ParseISA(name)
		if err == nil {
			_, err = matmul.For(isa)
		}
		if err != nil {
			return fmt.Errorf("--isa: %w", err)
		}
	}
	return nil
}

// CompareReport is the document `sestina bench compare` prints. Rows[0] is what the others are compared with.
type CompareReport struct {
	Schema  string       `json:"schema"`
	Date    string       `json:"date"`
	Machine Machine      `json:"machine"`
	Config  Compare      `json:"config"`
	Rows    []CompareRow `json:"rows"`
}

// CompareRow is one setting. The ratios are to the first row's medians.
type CompareRow struct {
	Name         string  `json:"name"`
	Prefill      *Spread `json:"prefill,omitempty"` // tok/s
	Decode       *Spread `json:"decode,omitempty"`  // tok/s
	PrefillRatio float64 `json:"prefill_ratio,omitempty"`
	DecodeRatio  float64 `json:"decode_ratio,omitempty"`
	Error        string  `json:"error,omitempty"`
}

// variant is one setting.
type variant struct {
	name  string
	flags []string
	once  bool // a single run: pure Go is so slow that one tells
}

// variants are the best family with everything on, the other families, then the switches.
func (c *Compare) variants() []variant {
	best := c.ISAs[len(c.ISAs)-1]
	v := []variant{{name: best, flags: []string{"--isa", best}, once: best == matmul.Generic.String()}}
	for _, isa := range slices.Backward(c.ISAs[:len(c.ISAs)-1]) {
		v = append(v, variant{name: isa, flags: []string{"--isa", isa}, once: isa == matmul.Generic.String()})
	}
	return append(v,
		variant{name: best + ", flash attention off", flags: []string{"--isa", best, "--attention", "full"}},
		variant{name: best + ", grouped heads off", flags: []string{"--isa", best, "--gqa", "expanded"}},
		variant{name: best + ", both off", flags: []string{"--isa", best, "--attention", "full", "--gqa", "expanded"}})
}

// RunCompare measures all settings in turn, repetition after repetition, each as
// a process of its own. A setting that fails is reported in its row.
func RunCompare(ctx context.Context, c Compare, progress func(what string)) (*CompareReport, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	variants := c.variants()
	prefill, decode := make([][]float64, len(variants)), make([][]float64, len(variants))
	r := &CompareReport{Schema: CompareSchema, Date: time.Now().UTC().Format(time.DateOnly), Machine: machine(), Config: c, Rows: make([]CompareRow, len(variants))}
	for rep := range c.Reps {
		for i, v := range variants {
			if r.Rows[i].Name = v.name; r.Rows[i].Error != "" || v.once && rep > 0 {
				continue
			}
			if progress != nil {
				progress(fmt.Sprintf("run %d of %d: %s", rep+1, c.Reps, v.name))
			}
			p, d, err := c.measure(ctx, v)
			switch {
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case err != nil:
				r.Rows[i].Error = err.Error()
			default:
				prefill[i], decode[i] = append(prefill[i], p), append(decode[i], d)
			}
		}
	}
	for i := range r.Rows {
		row := &r.Rows[i]
		row.Prefill, row.Decode = spread(prefill[i]), spread(decode[i])
		if first := r.Rows[0]; row.Prefill != nil && first.Prefill != nil {
			row.PrefillRatio, row.DecodeRatio = row.Prefill.Median/first.Prefill.Median, row.Decode.Median/first.Decode.Median
		}
	}
	return r, nil
}

// measure is one process: prefill and decode in tokens a second.
func (c *Compare) measure(ctx context.Context, v variant) (prefill, decode float64, err error) {
	reps := innerRuns
	if v.once {
		reps = 1
	}
	args := []string{"bench", "--threads", strconv.Itoa(c.Threads), "--prompt-len", strconv.Itoa(c.PromptLen), "--output-len", strconv.Itoa(c.OutputLen),
		"--depth", strconv.Itoa(c.Depth), "--reps", strconv.Itoa(reps), "--speculation", "off", "--output", "json"}
	if c.Model != "" {
		args = append(args, "-m", c.Model)
	}
	run := Config{Timeout: c.Timeout}
	out, err := run.output(ctx, c.env, c.Self, append(args, v.flags...)...)
	if err != nil {
		return 0, 0, err
	}
	prefill, err = parseOurs(out, "prefill")
	decode, err2 := parseOurs(out, "decode")
	return prefill, decode, errors.Join(err, err2)
}

// Failed counts the settings that could not be measured.
func (r *CompareReport) Failed() int {
	n := 0
	for _, row := range r.Rows {
		if row.Error != "" {
			n++
		}
	}
	return n
}

// Print writes the table; with markdown, as one for a page.
func (r *CompareReport) Print(out io.Writer, markdown bool) {
	c := r.Config
	fmt.Fprintf(out, "%s · %s: %d cores of %s; prompts of %d tokens after %d in the cache, %d generated; tok/s, medians of %d (min–max), settings alternating\n",
		r.Date, r.Machine.OS, r.Machine.Cores, r.Machine.CPU, c.PromptLen, c.Depth, c.OutputLen, c.Reps)
	var rows [][]string
	for _, row := range r.Rows {
		cells := []string{row.Name, side(row.Prefill, row.Error), "", side(row.Decode, row.Error), ""}
		if row.PrefillRatio > 0 {
			cells[2], cells[4] = fmt.Sprintf("%.2fx", row.PrefillRatio), fmt.Sprintf("%.2fx", row.DecodeRatio)
		}
		rows = append(rows, cells)
	}
	table(out, markdown, []string{"setting", "prefill", "of the first", "decode", "of the first"}, rows)
	for _, row := range r.Rows {
		if row.Error != "" {
			fmt.Fprintf(out, "failed: %s: %s\n", row.Name, row.Error)
		}
	}
}
