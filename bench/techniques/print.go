package techniques

import (
	"fmt"
	"io"
	"text/tabwriter"

	"sestina/explain/chart"
)

// Print writes the table.
func (r *Report) Print(out io.Writer) {
	c := r.Config
	fmt.Fprintf(out, "%s · %s\n%d users on %d seats, prompts of %d tokens (%d shared), answers of %d and %d; up to %d tokens each; %.1f MiB for K and V\n",
		r.Machine, r.Model, c.Users, c.seats(), c.PromptLen, c.SharedLen, c.output(0), c.output(1), c.MaxModelLen, mib(r.KVBytes))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tUSERS\tTOK/S\tSLOWEST\tGAIN\tTTFT MS\tTPOT MS\tPEAK KV MIB\tUSERS THAT FIT\tANSWERS")
	for _, row := range r.Rows {
		if row.NotBuilt != "" {
			fmt.Fprintf(w, "%s\tnot built\n", row.Name)
			continue
		}
		gain, answers := "", "equal"
		if row.Gain > 0 {
			gain = fmt.Sprintf("%.2fx", row.Gain)
		}
		if row.Differing > 0 {
			answers = fmt.Sprintf("%d differ", row.Differing)
		}
		if row.Against != "" {
			answers += ", gain " + row.Against
		}
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%s\t%.0f\t%.2f\t%.1f\t%d\t%s\n", row.Name, row.Users, row.Speed, row.Slowest, gain, row.TTFT, row.TPOT, mib(row.PeakKV), row.Fitting, answers)
	}
	w.Flush()
	fmt.Fprintf(out, "all on over naive: %.1fx; product of single gains: %.1fx\n", r.Total, r.Product)
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }

// Differing counts the answers of all rows that are not those of all on.
func (r *Report) Differing() int {
	n := 0
	for _, row := range r.Rows {
		n += row.Differing
	}
	return n
}

// Chart shows tokens per second of every row, by group.
func (r *Report) Chart() chart.Chart {
	colour := map[string]int{AllOn: 2, Off: 1, Ladder: 0}
	b := chart.Bars{Title: "Techniques on " + r.Model, Unit: "output tokens per second, all users"}
	for _, row := range r.Rows {
		text := "not built"
		if row.NotBuilt == "" {
			text = fmt.Sprintf("%.1f", row.Speed)
		}
		b.Bars = append(b.Bars, chart.Bar{Label: row.Name, Value: row.Speed, Text: text, Colour: colour[row.Group]})
	}
	return b
}
