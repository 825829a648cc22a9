package main

import (
	"encoding/json"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sestina/bench/fair"
	"sestina/bench/prefix"
)

func newBenchFair() *cobra.Command {
	var f modelFlags
	c := fair.Defaults()
	cmd := &cobra.Command{
		Use:   "fair [-m MODEL]",
		Short: "Measure what a long prompt does to running streams: in one step, in chunks, in chunks of measured cost",
		Long: `Let streams decode, send a long prompt, and compare the gaps between the streams' tokens while it is
computed with those before: with the prompt in one step, in chunks of 512, and in chunks sized by
the step times measured so far (the default). The price is printed too: the prompt's own time to
first token, beside the streams and alone. The last line is one JSON document.`,
		Example: "  sestina bench fair\n  sestina bench fair --streams 4 --prompt-len 2000 --reps 5 --threads 2",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			if err := c.Check(); err != nil {
				return usageError{err, commandPath(cmd)}
			}
			bar := newProgress()
			f.opt.Pull.Progress = bar
			r, err := fair.Run(cmd.Context(), f.model, f.opt, c, func(what string) { bar.stop(); note("measuring: %s", what) })
			bar.stop()
			if err != nil {
				return err
			}
			return printDocument(r, f.output)
		},
	}
	fs := cmd.Flags()
	f.registerLatency(fs)
	fs.IntVar(&c.Streams, "streams", c.Streams, "that decode")
	fs.IntVar(&c.StreamLen, "stream-len", c.StreamLen, "tokens of each stream's prompt")
	fs.IntVar(&c.PromptLen, "prompt-len", c.PromptLen, "tokens of the long prompt")
	fs.IntVar(&c.Before, "before", c.Before, "gaps of each stream measured before the prompt comes")
	fs.IntVar(&c.Reps, "reps", c.Reps, "long prompts of each row")
	return cmd
}

func newBenchPrefix() *cobra.Command {
	var f modelFlags
	c := prefix.Defaults()
	cmd := &cobra.Command{
		Use:   "prefix [-m MODEL]",
		Short: "Measure what the prefix cache does for time to first token",
		Long: `Send prompts whose beginning is new, then others with the same beginning, and compare their times to
first token. Each row says why the cache had no more. The last line is one JSON document.`,
		Example: "  sestina bench prefix\n  sestina bench prefix --prefix-lens 2000 --reps 9 --threads 2",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			if err := c.Check(); err != nil {
				return usageError{err, commandPath(cmd)}
			}
			bar := newProgress()
			f.opt.Pull.Progress, f.opt.ModelProgress = bar, bar.load
			r, err := prefix.Run(cmd.Context(), f.model, f.opt, c)
			bar.stop()
			if err != nil {
				return err
			}
			return printDocument(r, f.output)
		},
	}
	fs := cmd.Flags()
	f.registerLatency(fs)
	fs.IntSliceVar(&c.Lengths, "prefix-lens", c.Lengths, "tokens that prompts begin with alike")
	fs.IntVar(&c.TailLen, "tail-len", c.TailLen, "tokens of each prompt's own after that")
	fs.IntVar(&c.Reps, "reps", c.Reps, "new beginnings of each length")
	return cmd
}

// registerLatency adds the flags that say what is measured, and on what.
func (f *modelFlags) registerLatency(fs *pflag.FlagSet) {
	fs.SortFlags = false
	f.registerModel(fs)
	f.registerOutput(fs)
	fs.IntVar(&f.opt.Threads, "threads", 0, "compute threads (0 = free physical cores)")
	fs.StringVar(&f.opt.ISA, "isa", "", "force a kernel family: generic, avx2, avx512vnni, amx")
	fs.StringVar(&f.opt.KVCacheDType, "kv-cache-dtype", "auto", "auto (f16), f32, f16, bf16, q8_0, q4_0")
	fs.Var(&f.kvMem, "kv-cache-memory-bytes", "size of the KV pool, e.g. 2G (0 = a quarter of free memory, at most what is needed)")
}

// printDocument prints a report as a table, unless JSON alone is wanted, and as one line of JSON.
func printDocument(r interface{ Print(io.Writer) }, output string) error {
	if output == "text" {
		r.Print(os.Stdout)
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}
