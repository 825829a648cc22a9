package peers

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Print writes the report as text; with markdown, as a section of a page.
func (r *Report) Print(out io.Writer, markdown bool) {
	fmt.Fprintf(out, "%s · %s: %d cores of %s, %s", r.Date, r.Machine.OS, r.Machine.Cores, r.Machine.CPU, r.Peer)
	if r.Machine.Load != "" {
		fmt.Fprintf(out, ", load average at the start %s", r.Machine.Load)
	}
	fmt.Fprintf(out, ", medians of %d (min–max), sides alternating\n", r.Config.Reps)
	head := []string{"file", "row", "t", "unit", "ours", "peer", "ratio", "floor", "ours / floor", "peer / floor"}
	var rows [][]string
	for i := range r.Rows {
		rows = append(rows, r.Rows[i].cells())
	}
	table(out, markdown, head, rows)
	fmt.Fprintln(out, "ratio: ours over the peer's for rates, the peer's over ours for times (both: above 1 we are ahead); ours over the peer's for memory (below 1 we take less).")
	for _, row := range r.Rows {
		for _, e := range []struct{ side, text string }{{"ours", row.OursError}, {"the peer", row.PeerError}} {
			if e.text != "" {
				fmt.Fprintf(out, "failed: %s, %s, t=%d, %s: %s\n", row.Model, row.Name, row.Threads, e.side, e.text)
			}
		}
	}
	r.printFloors(out)
}

// printFloors says what the floors stand on.
func (r *Report) printFloors(out io.Writer) {
	for _, row := range r.Rows {
		if f := row.Floor; f != nil {
			fmt.Fprintf(out, "floor of %s, %s, t=%d: %.1f MB a step; read bandwidth %.1f GB/s with one thread, %.1f with two\n",
				row.Model, row.Name, row.Threads, float64(f.Bytes)/1e6, f.OneThread, f.TwoThreads)
		}
	}
}

func (r *Row) cells() []string {
	c := []string{r.Model, r.Name, fmt.Sprint(r.Threads), r.Unit, side(r.Ours, r.OursError), side(r.Peer, r.PeerError), "", "", "", ""}
	if r.Better == Alone {
		c[5] = "–"
	}
	if r.Ratio > 0 {
		c[6] = fmt.Sprintf("%.2fx", r.Ratio)
	}
	if f := r.Floor; f != nil {
		c[7] = fmt.Sprintf("%.0f", f.Rate)
		for i, share := range []float64{f.OursShare, f.PeerShare} {
			if share > 0 {
				c[8+i] = fmt.Sprintf("%.2f", share)
			}
		}
	}
	return c
}

func side(s *Spread, failed string) string {
	switch {
	case s != nil && failed == "":
		return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Min), number(s.Max))
	case s != nil:
		return fmt.Sprintf("%s (%s–%s), then failed", number(s.Median), number(s.Min), number(s.Max))
	case failed != "":
		return "failed"
	}
	return ""
}

// number has three significant digits or more.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func table(out io.Writer, markdown bool, head []string, rows [][]string) {
	if markdown {
		fmt.Fprintf(out, "\n| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
		for _, r := range rows {
			fmt.Fprintf(out, "| %s |\n", strings.Join(r, " | "))
		}
		fmt.Fprintln(out)
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ToUpper(strings.Join(head, "\t")))
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	w.Flush()
}
