package main

import (
	"encoding/json"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"sestina/bench"
)

func newBench() *cobra.Command {
	var f modelFlags
	var c bench.Config
	cmd := &cobra.Command{
		Use:   "bench [-m MODEL]",
		Short: "Measure prompt and decode speed beside the machine's memory bandwidth",
		Long: `Measure prompt and decode speed on random prompts, greedy, without prefix cache or
speculation: medians of the repetitions with their spread. mbu is the bytes a decode step
must read over its time, as a share of one thread's read bandwidth. The last line is one JSON document.`,
		Example: "  sestina bench --threads 2 --prompt-len 512 --output-len 128 --reps 5\n  sestina bench --streams 16 --depth 1024 --output json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			if err := c.Check(); err != nil {
				return usagef(cmd, "%v", err)
			}
			c.Prepare(&f.opt)
			llm, err := f.open(cmd.Context())
			if err != nil {
				return err
			}
			defer llm.Close()
			r, err := bench.Run(cmd.Context(), llm, c)
			if err != nil {
				return err
			}
			if f.output == "text" {
				printReport(r)
				r.PrintProfile(os.Stdout)
			}
			return json.NewEncoder(os.Stdout).Encode(r)
		},
	}
	f.register(cmd)
	fs := cmd.Flags()
	fs.IntVar(&c.PromptLen, "prompt-len", 512, "tokens of each prompt (0 = one, not measured)")
	fs.IntVar(&c.OutputLen, "output-len", 128, "tokens each stream generates")
	fs.IntVar(&c.Streams, "streams", 1, "requests at once")
	fs.IntVar(&c.Depth, "depth", 0, "tokens of context in the cache before the prompt")
	fs.IntVar(&c.Reps, "reps", 5, "repetitions, after one that is not counted")
	fs.BoolVar(&c.Profile, "profile", false, "say where the steps' time goes, by operation")
	cmd.AddCommand(newBenchServe())
	cmd.AddCommand(newBenchTechniques())
	cmd.AddCommand(newBenchPeers(), newBenchKernels(), newBenchCompare())
	cmd.AddCommand(newBenchSpec(), newBenchFair(), newBenchPrefix())
	return cmd
}

func printReport(r *bench.Report) {
	fmt.Printf("%s · %s · %s\n", r.Machine.CPU, r.Machine.Backend, r.Model.Name)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tMEDIAN\tMIN\tMAX\tN\tUNIT")
	for _, row := range r.Rows {
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%d\t%s\n", row.Name, row.Median, row.Min, row.Max, row.N, row.Unit)
	}
	w.Flush()
}
