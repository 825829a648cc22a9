package serve

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Print writes the report for people: figures, then latencies, failures and
// what the verification found. With several repetitions a figure is the median
// with [min–max].
func (r *Report) Print(out io.Writer) {
	fmt.Fprintf(out, "%s · %s%s · %s\n", r.Config.Model, strings.TrimSuffix(r.Config.BaseURL, "/"), r.Config.Endpoint, r.load())
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	rows := map[string]Row{}
	for _, row := range r.Rows {
		rows[row.Name] = row
		if row.Unit != "ms" {
			fmt.Fprintf(w, "%s\t%s\n", strings.ReplaceAll(row.Name, "_", " "), strings.TrimSpace(figure(row)+" "+row.Unit))
		}
	}
	if lag, ok := rows["send_lag_p99"]; ok {
		fmt.Fprintf(w, "send lag p99\t%s ms\n", figure(lag))
	}
	w.Flush()
	r.printLatencies(out, rows)
	r.printNotes(out)
}

// load says in words what was offered.
func (r *Report) load() string {
	c := &r.Config
	s := "all at once"
	switch {
	case c.RampUp != "":
		s = fmt.Sprintf("%s ramp %g→%g req/s", c.RampUp, c.RampStart, c.RampEnd)
	case c.planned():
		s = fmt.Sprintf("%g req/s, burstiness %g", c.RequestRate, c.Burstiness)
	}
	if c.MaxConcurrency > 0 {
		s += fmt.Sprintf(", at most %d in flight", c.MaxConcurrency)
	}
	return fmt.Sprintf("%d × %d requests, %s", c.Reps, c.total(), s)
}

func figure(r Row) string {
	format := "%.2f"
	if r.Median == float64(int64(r.Median)) && r.Min == float64(int64(r.Min)) && r.Max == float64(int64(r.Max)) {
		format = "%.0f"
	}
	if r.N < 2 {
		return fmt.Sprintf(format, r.Median)
	}
	return fmt.Sprintf(format+" ["+format+"–"+format+"]", r.Median, r.Min, r.Max)
}

func (r *Report) printLatencies(out io.Writer, rows map[string]Row) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "ms")
	for _, p := range r.Config.MetricPercentiles {
		fmt.Fprintf(w, "\t%s", percentileName(p))
	}
	fmt.Fprintln(w)
	for _, name := range r.Config.PercentileMetrics {
		fmt.Fprint(w, strings.ToUpper(name))
		for _, p := range r.Config.MetricPercentiles {
			row, ok := rows[name+"_"+percentileName(p)]
			if !ok {
				fmt.Fprint(w, "\t–")
				continue
			}
			fmt.Fprintf(w, "\t%s", figure(row))
		}
		fmt.Fprintln(w)
	}
	w.Flush()
}

func (r *Report) printNotes(out io.Writer) {
	estimated := 0
	for i, run := range r.Runs {
		estimated += run.Estimated
		for _, f := range run.Failures {
			fmt.Fprintf(out, "failed in repetition %d: %d × %s (%s)\n", i+1, f.Count, f.Reason, f.Example)
		}
	}
	if estimated > 0 {
		fmt.Fprintf(out, "%d answers came without usage: their tokens are counted from the stream\n", estimated)
	}
	if r.PromptsRepeated > 0 {
		fmt.Fprintf(out, "%d prompts were sent more than once: a prefix cache may have known them\n", r.PromptsRepeated)
	}
	if r.Verify == nil {
		return
	}
	for _, f := range r.Verify.Failures {
		fmt.Fprintf(out, "failed alone, not compared: %d × %s (%s)\n", f.Count, f.Reason, f.Example)
	}
	for _, d := range r.Verify.Differences {
		fmt.Fprintf(out, "repetition %d, request %d parts at token %d, byte %d: under load %q, alone %q\n", d.Rep+1, d.Request, d.Token, d.Byte, d.Loaded, d.Alone)
	}
	if r.Verify.IDsCompared < r.Verify.Compared {
		fmt.Fprintf(out, "%d answers came without token ids: their texts alone were compared\n", r.Verify.Compared-r.Verify.IDsCompared)
	}
	fmt.Fprintf(out, "differing answers: %d of %d\n", r.Verify.Differing, r.Verify.Compared)
}
