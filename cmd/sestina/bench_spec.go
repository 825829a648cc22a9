package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"sestina/bench/prompts"
	"sestina/bench/spec"
)

func newBenchSpec() *cobra.Command {
	var f modelFlags
	var sets []string
	var markdown bool
	c := spec.Defaults()
	cmd := &cobra.Command{
		Use:   "spec [-m MODEL]",
		Short: "Measure what speculative decoding buys: on and off in turn, by kind of text and number of streams",
		Long: `Measure decoding with speculation as configured and with it off, on two engines that take turns
on the same requests, greedy and at temperature 1 with fixed seeds, and compare their token ids.
--synthetic-acceptance times steps of 1 to 17 rows and says what an acceptance would bring on this
machine, and what published claims would take. The last line is one JSON document. Exits 1 when an id differs.`,
		Example: "  sestina bench spec --streams 1,4 --sets chat,edit --output-len 128 --reps 3\n  sestina bench spec --sets none --synthetic-acceptance 0.8",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			c.Sets = chosen(sets)
			if err := c.Check(); err != nil {
				return usageError{err, commandPath(cmd)}
			}
			if f.opt.Techniques.Speculation == "off" {
				return usagef(cmd, "--speculation off leaves nothing to compare")
			}
			bar := newProgress()
			f.opt.Pull.Progress, f.opt.ModelProgress = bar, bar.load
			r, err := spec.Run(cmd.Context(), f.model, f.opt, c, func(what string) { bar.stop(); note("measuring: %s", what) })
			bar.stop()
			if err != nil {
				return err
			}
			return printSpec(r, markdown, f.output)
		},
	}
	f.register(cmd)
	fs := cmd.Flags()
	fs.StringSliceVar(&sets, "sets", []string{"all"}, fmt.Sprintf("prompt sets: all, none, or some of %v and %s", prompts.Names(), prompts.Mixed))
	fs.IntSliceVar(&c.Streams, "streams", c.Streams, "requests at once")
	fs.Float32SliceVar(&c.Temperatures, "temperatures", c.Temperatures, "0 is greedy")
	fs.IntVar(&c.Prompts, "prompts", c.Prompts, "of each set, at most")
	fs.IntVar(&c.OutputLen, "output-len", c.OutputLen, "longest answer in tokens; the model may end sooner")
	fs.IntVar(&c.Reps, "reps", c.Reps, "repetitions of each side, after a cold one that is reported apart")
	fs.Float64Var(&c.Acceptance, "synthetic-acceptance", 0, "also time verification and say what this acceptance would bring (0 = do not)")
	fs.BoolVar(&markdown, "markdown", false, "print the table as markdown")
	return cmd
}

// chosen resolves all and none.
func chosen(sets []string) []string {
	if len(sets) == 1 {
		switch sets[0] {
		case "all":
			return prompts.Names()
		case "none", "":
			return []string{}
		}
	}
	return sets
}

func printSpec(r *spec.Report, markdown bool, output string) error {
	switch {
	case output != "text":
	case markdown:
		r.Markdown(os.Stdout)
	default:
		r.Print(os.Stdout)
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return err
	}
	if n := r.Differing(); n > 0 {
		return fmt.Errorf("%d answers differ between speculation on and off", n)
	}
	return nil
}
