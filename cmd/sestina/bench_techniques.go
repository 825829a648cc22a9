package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"sestina/bench/techniques"
)

func newBenchTechniques() *cobra.Command {
	var f modelFlags
	var svg string
	c := techniques.Defaults()
	cmd := &cobra.Command{
		Use:   "techniques [-m MODEL]",
		Short: "Measure what each technique buys: all on, each off in turn, and the ladder from naive",
		Long: `Measure the same greedy requests with all techniques on, with each one off in turn, and on the
ladder from naive (no KV cache, contiguous, full attention, expanded heads, one request at a time),
adding one at a time. Answers are compared with those of all on. Techniques that are not built yet
are listed as such. The last line is one JSON document. Exits 1 when an answer differs.`,
		Example: "  sestina bench techniques\n  sestina bench techniques -m model.gguf --users 8 --output-len 16 --svg techniques.svg",
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
			r, err := techniques.Run(cmd.Context(), f.model, f.opt, c, func(what string) { bar.stop(); note("measuring: %s", what) })
			bar.stop()
			if err != nil {
				return err
			}
			return printTechniques(r, svg, f.output)
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	f.registerModel(fs)
	f.registerOutput(fs)
	fs.IntVar(&c.Users, "users", c.Users, "requests at once")
	fs.IntVar(&c.SerialUsers, "serial-users", c.SerialUsers, "of them in rows without a KV cache, or one at a time without prefix caching: more would take longer at the same speed")
	fs.IntVar(&c.PromptLen, "prompt-len", c.PromptLen, "tokens of each prompt")
	fs.IntVar(&c.SharedLen, "shared-len", c.SharedLen, "of them the same for all users")
	fs.IntVar(&c.OutputLen, "output-len", c.OutputLen, "tokens of every second answer")
	fs.IntVar(&c.LongLen, "long-output-len", c.LongLen, "tokens of the others (0 = the same)")
	fs.IntVar(&c.Seats, "max-num-seqs", c.Seats, "sequences in a step (0 = as many as users)")
	fs.IntVar(&c.MaxModelLen, "max-model-len", 0, "what a contiguous layout reserves for a request (0 = 2048, or the model's context)")
	fs.IntVar(&c.BatchTokens, "max-num-batched-tokens", c.BatchTokens, "rows of one step (0 = auto: prompts are held back to keep running answers smooth, which costs throughput)")
	fs.IntVar(&c.Reps, "reps", c.Reps, "runs of each row, for 20 s at most; the fastest counts")
	fs.IntVar(&f.opt.Threads, "threads", 0, "compute threads (0 = free physical cores)")
	fs.StringVar(&f.opt.ISA, "isa", "", "force a kernel family: generic, avx2, avx512vnni, amx")
	fs.StringVar(&f.opt.ActivationDType, "activation-dtype", "auto", "auto (int8 for integer weight formats) or f32")
	fs.StringVar(&f.opt.KVCacheDType, "kv-cache-dtype", "auto", "auto (f16), f32, f16, bf16, q8_0, q4_0")
	fs.StringVar(&svg, "svg", "", "write a chart to this file")
	return cmd
}

func printTechniques(r *techniques.Report, svg, output string) error {
	if svg != "" {
		text, err := r.Chart().SVG()
		if err == nil {
			err = os.WriteFile(svg, []byte(text), 0o644)
		}
		if err != nil {
			return err
		}
	}
	if output == "text" {
		r.Print(os.Stdout)
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return err
	}
	if n := r.Differing(); n > 0 {
		return fmt.Errorf("%d answers differ from those with all techniques on", n)
	}
	return nil
}
