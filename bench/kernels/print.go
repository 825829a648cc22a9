package kernels

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Print writes the table; with markdown, as one for a page.
func (r *Report) Print(out io.Writer, markdown bool) {
	fmt.Fprintf(out, "%s, one thread\n", r.CPU)
	for _, c := range r.Ceilings {
		fmt.Fprintf(out, "%s: %.1f %s\n", c.Name, c.Value, c.Unit)
	}
	var rows [][]string
	for _, x := range r.Rows {
		rows = append(rows, []string{x.ISA, x.DType, x.Model, x.Matrix, fmt.Sprintf("%d×%d", x.Shape[0], x.Shape[1]), fmt.Sprint(x.M),
			fmt.Sprintf("%.1f", x.GBs), fmt.Sprintf("%.1f–%.1f", x.GBsMin, x.GBsMax), fmt.Sprintf("%.0f %%", 100*x.BandwidthPct),
			fmt.Sprintf("%.1f", x.Gops), fmt.Sprintf("%.0f %%", 100*x.PeakPct)})
	}
	table(out, markdown, []string{"isa", "format", "model", "matrix", "shape", "M", "GB/s", "spread", "of read", "Gop/s", "of L1 product"}, rows)
	if len(r.Attention) > 0 {
		r.printAttention(out, markdown)
	}
}

func (r *Report) printAttention(out io.Writer, markdown bool) {
	fmt.Fprintf(out, "\nattention of one layer at depth %d\n", r.Config.Depth)
	var rows [][]string
	for _, x := range r.Attention {
		rows = append(rows, []string{x.ISA, x.KVDType, x.Model, fmt.Sprintf("%d/%d×%d", x.Heads[0], x.Heads[1], x.Heads[2]), fmt.Sprint(x.M),
			fmt.Sprintf("%.0f", x.Us), fmt.Sprintf("%.1f", x.GBs), fmt.Sprintf("%.1f–%.1f", x.GBsMin, x.GBsMax), fmt.Sprintf("%.0f %%", 100*x.BandwidthPct),
			fmt.Sprintf("%.1f", x.Gops), fmt.Sprintf("%.0f %%", 100*x.PeakPct)})
	}
	table(out, markdown, []string{"isa", "KV", "model", "heads", "M", "µs", "GB/s", "spread", "of read", "Gop/s", "of L1 product"}, rows)
}

// Print writes the table; with markdown, as one for a page.
func (r *StepReport) Print(out io.Writer, markdown bool) {
	fmt.Fprintf(out, "%s, depth %d: a step of M rows of one sequence, logits for every row\n", r.Backend, r.Config.Depth)
	var rows [][]string
	for _, x := range r.Rows {
		rows = append(rows, []string{fmt.Sprint(x.M), fmt.Sprintf("%.2f", x.Ms), fmt.Sprintf("%.2f–%.2f", x.Min, x.Max), fmt.Sprintf("%.3f", x.Cost)})
	}
	table(out, markdown, []string{"M", "ms", "spread", "c(M)/c(1)"}, rows)
	r.printParts(out, markdown)
}

// printParts shows which operations the cost of more rows lies in.
func (r *StepReport) printParts(out io.Writer, markdown bool) {
	head, rows := []string{"µs a step"}, [][]string{}
	for _, x := range r.Rows {
		head = append(head, fmt.Sprintf("M=%d", x.M))
	}
	for i, part := range r.Rows[0].Parts {
		row := []string{part.Name}
		for _, x := range r.Rows {
			row = append(row, fmt.Sprintf("%.0f", x.Parts[i].Us))
		}
		rows = append(rows, row)
	}
	fmt.Fprintln(out)
	table(out, markdown, head, rows)
}

func table(out io.Writer, markdown bool, head []string, rows [][]string) {
	if markdown {
		fmt.Fprintf(out, "\n| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
		for _, r := range rows {
			fmt.Fprintf(out, "| %s |\n", strings.Join(r, " | "))
		}
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ToUpper(strings.Join(head, "\t")))
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	w.Flush()
}
