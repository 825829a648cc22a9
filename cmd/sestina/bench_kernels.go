package main

import (
	"encoding/json"
	"os"

	"github.com/spf13/cobra"

	"sestina"
	"sestina/bench/kernels"
	"sestina/tensor"
)

// benchKernelsFlags are the flags of both of its measurements.
type benchKernelsFlags struct {
	c             kernels.Config
	steps         kernels.Steps
	workingSet    byteSize
	model, output string
	dtypes        []string
	kv            []string
	markdown      bool
}

func newBenchKernels() *cobra.Command {
	f := benchKernelsFlags{c: kernels.Defaults()}
	f.workingSet = byteSize(f.c.WorkingSet)
	cmd := &cobra.Command{
		Use:   "kernels [-m MODEL]",
		Short: "Measure each kernel beside the machine's ceilings, or steps of M rows of a model",
		Long: `Measure GB/s and Gop/s of each matrix kernel, by weight format, matrix shape and rows, and of attention by
KV format at --depth, on one thread, beside the read bandwidth and the best product in the first-level cache.
With -m, measure instead what a
step of M rows of one sequence costs that model, c(M)/c(1), and in which of its operations: what speculation stands or falls with.
The last line is one JSON document.`,
		Example: `  sestina bench kernels --dtype q4_0,q8_0 --shapes smollm2-135m
  sestina bench kernels --isa avx2,avx512vnni --rows 1,8
  sestina bench kernels -m model.gguf --threads 2 --rows 1,2,4,8`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(cmd, f.output); err != nil {
				return err
			}
			if cmd.Flags().Changed("model") {
				return f.runSteps(cmd)
			}
			return f.run(cmd)
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&f.model, "model", "m", "", "measure steps of this model: alias, path, or org/repo[:QUANT]")
	fs.StringVar(&f.output, "output", "text", "text or json")
	fs.BoolVar(&f.markdown, "markdown", false, "tables for a page")
	fs.IntSliceVar(&f.c.Rows, "rows", f.c.Rows, "rows of activations, M")
	fs.IntVar(&f.c.Reps, "reps", f.c.Reps, "repetitions")
	fs.StringSliceVar(&f.c.ISAs, "isa", nil, "kernel families (default: the best; with -m one)")
	fs.StringSliceVar(&f.dtypes, "dtype", nil, "weight formats (default: all)")
	fs.StringSliceVar(&f.c.Models, "shapes", kernels.ModelNames(), "models whose matrices are taken")
	fs.DurationVar(&f.c.MinTime, "min-time", f.c.MinTime, "of one repetition of one kernel")
	fs.Var(&f.workingSet, "working-set", "bytes of weights used in turn; more than the last-level cache")
	fs.IntVar(&f.steps.Threads, "threads", 0, "with -m: compute threads (0 = free physical cores)")
	fs.IntVar(&f.c.Depth, "depth", f.c.Depth, "tokens in the KV cache (0 = no attention; with -m the default is 128)")
	fs.IntVar(&f.steps.PerRep, "steps", 15, "with -m: steps of each M in a repetition")
	fs.StringSliceVar(&f.kv, "kv-cache-dtype", nil, "f16, f32, bf16, q8_0, q4_0 (default: all; with -m one, f16)")
	return cmd
}

func (f *benchKernelsFlags) run(cmd *cobra.Command) error {
	f.c.WorkingSet = uint64(f.workingSet)
	for _, name := range f.dtypes {
		d, err := tensor.ParseDType(name)
		if err != nil {
			return usagef(cmd, "--dtype: %v", err)
		}
		f.c.DTypes = append(f.c.DTypes, d)
	}
	for _, name := range f.kv {
		d, err := tensor.ParseDType(name)
		if err != nil {
			return usagef(cmd, "--kv-cache-dtype: %v", err)
		}
		f.c.KVDTypes = append(f.c.KVDTypes, d)
	}
	if err := f.c.Check(); err != nil {
		return usageError{err, commandPath(cmd)}
	}
	r, err := kernels.Run(cmd.Context(), f.c, func(what string) { note("measuring: %s", what) })
	if err != nil {
		return err
	}
	if f.output == "text" {
		r.Print(os.Stdout, f.markdown)
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func (f *benchKernelsFlags) runSteps(cmd *cobra.Command) (err error) {
	if len(f.c.ISAs) > 1 {
		return usagef(cmd, "--isa %v: with -m, name one", f.c.ISAs)
	}
	for _, isa := range f.c.ISAs {
		f.steps.ISA = isa
	}
	if len(f.kv) > 1 {
		return usagef(cmd, "--kv-cache-dtype %v: with -m, name one", f.kv)
	}
	f.steps.KVDType = tensor.F16
	for _, name := range f.kv {
		if f.steps.KVDType, err = tensor.ParseDType(name); err != nil {
			return usagef(cmd, "--kv-cache-dtype: %v", err)
		}
	}
	f.steps.Depth = 128
	if cmd.Flags().Changed("depth") {
		f.steps.Depth = f.c.Depth
	}
	if !cmd.Flags().Changed("rows") {
		f.c.Rows = []int{1, 2, 4, 8}
	}
	f.steps.Rows, f.steps.Reps = f.c.Rows, f.c.Reps
	found, err := sestina.Resolve(cmd.Context(), f.model, sestina.Options{})
	if err != nil {
		return err
	}
	r, err := kernels.RunSteps(cmd.Context(), found.Path, f.steps)
	if err != nil {
		return err
	}
	if f.output == "text" {
		r.Print(os.Stdout, f.markdown)
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}
