package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"sestina/bench/peers"
)

func newBenchCompare() *cobra.Command {
	var c peers.Compare
	var output string
	var markdown bool
	cmd := &cobra.Command{
		Use:   "compare [-m MODEL]",
		Short: "Compare each kernel family, and flash attention and grouped heads on and off, on this machine",
		Long: `Measure prompt and decode speed with each kernel family that this machine has, and with flash attention
and grouped heads switched off, all in turn in one run: what a technique brings depends on the hardware.
The pure Go family runs once and may take minutes; --isa leaves it out. The last line is one JSON document.`,
		Example: "  sestina bench compare -m model.gguf --threads 2\n  sestina bench compare --isa avx2,avx512vnni --depth 4096 --reps 5 --markdown",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(cmd, output); err != nil {
				return err
			}
			if err := c.Check(); err != nil {
				return usageError{err, commandPath(cmd)}
			}
			var err error
			if c.Self, err = os.Executable(); err != nil {
				return err
			}
			r, err := peers.RunCompare(cmd.Context(), c, func(what string) { note("%s", what) })
			if err != nil {
				return err
			}
			if output == "text" {
				r.Print(os.Stdout, markdown)
			}
			if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
				return err
			}
			if n := r.Failed(); n > 0 {
				return fmt.Errorf("%d of %d settings failed: the reasons are above", n, len(r.Rows))
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&c.Model, "model", "m", "", "alias, path, or org/repo[:QUANT] (default SmolLM2-135M-Instruct)")
	fs.IntVar(&c.Threads, "threads", 0, "compute threads (0 = free physical cores)")
	fs.StringSliceVar(&c.ISAs, "isa", nil, "kernel families, the last being what the rest is compared with (default: all, best last)")
	fs.IntVar(&c.PromptLen, "prompt-len", 128, "tokens of each prompt")
	fs.IntVar(&c.OutputLen, "output-len", 33, "tokens generated, the first of which belongs to the prompt")
	fs.IntVar(&c.Depth, "depth", 1024, "tokens of context already in the cache")
	fs.IntVar(&c.Reps, "reps", 3, "repetitions, each one process a setting")
	fs.DurationVar(&c.Timeout, "timeout", 15*time.Minute, "longest run of one process")
	fs.StringVar(&output, "output", "text", "text or json")
	fs.BoolVar(&markdown, "markdown", false, "tables for a page")
	return cmd
}
