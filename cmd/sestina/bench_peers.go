package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"sestina/bench/peers"
)

func newBenchPeers() *cobra.Command {
	var c peers.Config
	var output string
	var markdown bool
	cmd := &cobra.Command{
		Use:   "peers --peer-dir DIR -m FILE[,FILE…]",
		Short: "Run this engine and llama.cpp alternately on the same files and print the ratios",
		Long: `Run this engine and llama.cpp alternately, each as whole processes, on the same GGUF files with the same
threads, sizes and KV format, without prefix caches and, but for the speculation rows, without drafts. Prints medians, spread and the ratio of
medians for each row; decode rows also as shares of the memory floor. A side that fails is reported in its
row. The last line is one JSON document. Exits 1 when a row failed. Keep the machine idle meanwhile.`,
		Example: `  sestina bench peers --peer-dir ~/llama.cpp/build/bin -m model.Q4_0.gguf,model.Q8_0.gguf
  sestina bench peers --peer-dir ~/llama.cpp/build/bin -m model.gguf --rows decode,prefill --reps 8 --markdown`,
		Args: noArgs,
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
			r, err := peers.Run(cmd.Context(), c, func(what string) { note("%s", what) })
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
				return fmt.Errorf("%d of %d rows failed: the reasons are above", n, len(r.Rows))
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&c.PeerDir, "peer-dir", "", "folder with llama-bench, llama-batched-bench and llama-server")
	fs.StringSliceVarP(&c.Models, "model", "m", nil, "GGUF files that both sides read")
	fs.StringSliceVar(&c.Rows, "rows", peers.RowNames(), "what to measure")
	fs.IntSliceVar(&c.Threads, "threads", []int{1, 2}, "threads of decode and prefill; the other rows take the last")
	fs.IntSliceVar(&c.Streams, "streams", []int{8, 16, 32}, "streams of the batch row")
	fs.StringVar(&c.ISA, "isa", "", "force our kernel family, for a peer that was built without the newer instructions")
	fs.IntVar(&c.Reps, "reps", 5, "repetitions, each one process a side")
	fs.DurationVar(&c.Timeout, "timeout", 15*time.Minute, "longest run of one process")
	fs.StringVar(&output, "output", "text", "text or json")
	fs.BoolVar(&markdown, "markdown", false, "tables for a page")
	return cmd
}
