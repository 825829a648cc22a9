package spec

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Print writes the tables.
func (r *Report) Print(out io.Writer) {
	fmt.Fprintf(out, "%s\n", r.title())
	if len(r.Cells) > 0 {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, row := range r.rows() {
			fmt.Fprintln(w, strings.Join(row, "\t"))
		}
		w.Flush()
	}
	if r.Synthetic != nil {
		r.Synthetic.print(out)
	}
}

// Markdown writes the cells as a table for a document.
func (r *Report) Markdown(out io.Writer) {
	fmt.Fprintf(out, "%s\n\n", r.title())
	for i, row := range r.rows() {
		fmt.Fprintf(out, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(out, "|%s\n", strings.Repeat("---|", len(row)))
		}
	}
}

func (r *Report) title() string {
	t := fmt.Sprintf("%s · %s · %s", r.Machine.CPU, r.Machine.Backend, r.Model.Name)
	if len(r.Cells) > 0 {
		t += fmt.Sprintf(" · %d prompts a set, answers of up to %d tokens, %d repetitions after the cold one", r.Config.Prompts, r.Config.OutputLen, r.Config.Reps)
	}
	if r.Load != "" {
		t += " · load average " + r.Load
	}
	return t
}

// rows are the table's, its heading first.
func (r *Report) rows() [][]string {
	rows := [][]string{{"set", "streams", "temp", "tok/s on", "tok/s off", "on/off", "cold", "tokens/pass", "drafts/step", "over time", "accepted", "by position", "ids"}}
	for _, c := range r.Cells {
		accepted, ids := "–", "equal"
		if c.Drafted > 0 {
			accepted = fmt.Sprintf("%.0f %%", 100*float64(c.Accepted)/float64(c.Drafted))
		}
		if c.Differing > 0 {
			ids = fmt.Sprintf("%d DIFFER", c.Differing)
		}
		rows = append(rows, []string{c.Set, fmt.Sprint(c.Streams), fmt.Sprint(c.Temperature), c.On.String(), c.Off.String(),
			fmt.Sprintf("%.2fx (%.2f–%.2f)", c.Ratio.OfMedians, c.Ratio.Min, c.Ratio.Max), fmt.Sprintf("%.2fx", c.Cold),
			fmt.Sprintf("%.2f", c.TokensPerPass), fmt.Sprintf("%.2f", c.DraftsPerPass), decimals(c.OverTime), accepted, percents(c.ByPosition), ids})
	}
	return rows
}

func (s Speed) String() string { return fmt.Sprintf("%.1f (%.1f–%.1f)", s.Median, s.Min, s.Max) }

func decimals(v []float64) string {
	var parts []string
	for _, x := range v {
		parts = append(parts, fmt.Sprintf("%.1f", x))
	}
	return strings.Join(parts, " ")
}

// percents lists acceptance by position, the first eight.
func percents(v []float64) string {
	var parts []string
	for _, p := range v[:min(8, len(v))] {
		parts = append(parts, fmt.Sprintf("%.0f", 100*p))
	}
	if len(parts) == 0 {
		return "–"
	}
	return strings.Join(parts, " ")
}

func (s *Synthetic) print(out io.Writer) {
	fmt.Fprintf(out, "\nacceptance %.2f at every position, one stream, proposing for free; c(rows) measured, the rest formula\n", s.Acceptance)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "drafts\tstep ms (measured)\tfastest\tcost in plain steps\ttokens/pass (formula)\tgain (formula)\tpays from acceptance")
	fmt.Fprintf(w, "0\t%.2f\t%.2f\t1.00\t1.00\t1.00x\t\n", s.Curve[0].MS, s.Curve[0].Min)
	for _, d := range s.Depths {
		fmt.Fprintf(w, "%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.2fx\t%s\n", d.Drafts, s.Curve[d.Drafts].MS, s.Curve[d.Drafts].Min, d.Cost, d.Tokens, d.Gain, reachable(d.Even))
	}
	w.Flush()
	fmt.Fprintf(out, "best: %d drafts, %.2fx (formula)\n", s.Best.Drafts, s.Best.Gain)
	for _, c := range s.Claims {
		fmt.Fprintf(out, "%s: %.1fx published", c.Name, c.Published)
		if c.Gain > 0 {
			fmt.Fprintf(out, " at about %.0f %% acceptance; here %.2fx at that acceptance (formula)", 100*c.Acceptance, c.Gain)
		}
		fmt.Fprintf(out, "; needs acceptance %s on this curve, at most %.2fx (formula)\n", reachable(c.Needed), c.Bound)
	}
}

func reachable(p float64) string {
	if p > 1 {
		return "out of reach"
	}
	return fmt.Sprintf("%.2f", p)
}
