package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"sestina"
	"sestina/explain/plan"
	"sestina/tensor"
)

// planFlags describe a model by a file, a preset or its shape.
type planFlags struct {
	modelFlags
	like, dtype, kvDType string
	shape                plan.Shape
	params               float64
	req                  plan.Request
	memory               byteSize
}

func newPlan() *cobra.Command {
	var f planFlags
	cmd := &cobra.Command{
		Use:   "plan [-m MODEL | --like NAME | --layers N --heads N …]",
		Short: "Say what a model needs of the memory, before loading it",
		Long: `Say what a model needs of the memory: weights, KV cache, how many users at which context. The
figures come from the code that allocates. A model file is read for its shape alone. Shapes known to --like:
` + strings.Join(plan.Presets(), ", ") + ".",
		Example: `  sestina plan --context 8192 --users 16 --memory 24G
  sestina plan --like llama-2-70b --context 131072
  sestina plan --like llama-3.1-8b --window 1024 --full-every 6 --context 32768
  sestina plan --layers 32 --heads 32 --kv-heads 8 --head-dim 128 --params 8e9 --dtype q4_0 --memory 16G`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	f.registerModel(fs)
	f.registerOutput(fs)
	fs.StringVar(&f.like, "like", "", "a published shape; it and the flags below win over -m")
	fs.IntVar(&f.shape.Layers, "layers", 0, "layers")
	fs.IntVar(&f.shape.Heads, "heads", 0, "query heads a layer")
	fs.IntVar(&f.shape.KVHeads, "kv-heads", 0, "key and value heads a layer (default: as many as query heads)")
	fs.IntVar(&f.shape.HeadDim, "head-dim", 0, "dimensions of a head")
	fs.IntVar(&f.shape.Window, "window", 0, "sliding window of the layers' attention, in tokens")
	fs.IntVar(&f.shape.FullEvery, "full-every", 0, "of so many layers one sees everything, whatever the window")
	fs.IntVar(&f.shape.Hidden, "hidden", 0, "width of the residual stream")
	fs.IntVar(&f.shape.FFN, "ffn", 0, "width of the gated MLP")
	fs.IntVar(&f.shape.Vocab, "vocab", 0, "vocabulary")
	fs.Float64Var(&f.params, "params", 0, "parameters, e.g. 70e9, where the shape is not known in full")
	fs.StringVar(&f.dtype, "dtype", "f16", "weight format of a shape that is no file: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k")
	fs.StringVar(&f.kvDType, "kv-cache-dtype", "f16", "f16, bf16, f32, q8_0 or q4_0, and by layer as in q4_0,0-1=f16")
	fs.IntVar(&f.req.BlockSize, "block-size", 16, "tokens per KV block")
	fs.IntVar(&f.req.Context, "context", 0, "tokens of each user (default: the model's context, else 4096)")
	fs.IntVar(&f.req.Users, "users", 1, "users at once")
	fs.Var(&f.memory, "memory", "memory that there is, e.g. 24G: what fits in it")
	return cmd
}

func (f *planFlags) run(cmd *cobra.Command) error {
	if err := checkOutput(cmd, f.output); err != nil {
		return err
	}
	shape, err := f.weighed(cmd)
	if err != nil {
		return err
	}
	if f.req.Context == 0 {
		f.req.Context = shape.Context
		if f.req.Context == 0 {
			f.req.Context = 4096
		}
	}
	format, err := sestina.ParseKVFormat(f.kvDType)
	if err != nil {
		return usageError{err, commandPath(cmd)}
	}
	f.req.KVDType, f.req.KVLayers, f.req.KVName = format.DType, format.Layers, format.String()
	f.req.Memory = uint64(f.memory)
	p, err := plan.Make(shape, f.req)
	if err != nil {
		return usageError{err, commandPath(cmd)}
	}
	if f.output == "json" {
		return json.NewEncoder(os.Stdout).Encode(p)
	}
	p.Print(os.Stdout)
	return nil
}

// weighed is the shape with its weights: of a file unless flags describe one.
func (f *planFlags) weighed(cmd *cobra.Command) (plan.Shape, error) {
	described := f.like != ""
	for _, name := range []string{"layers", "heads", "head-dim", "params", "ffn"} {
		described = described || cmd.Flags().Changed(name)
	}
	if !described {
		return f.file(cmd)
	}
	s := plan.Shape{Name: "described by flags"}
	if f.like != "" {
		var err error
		if s, err = plan.Preset(f.like); err != nil {
			return s, usagef(cmd, "--like: %v", err)
		}
	}
	f.overlay(&s)
	if err := s.Check(); err != nil {
		return s, usageError{err, commandPath(cmd)}
	}
	d, err := tensor.ParseDType(f.dtype)
	if err == nil {
		err = s.Weigh(d)
	}
	if err != nil {
		return s, usagef(cmd, "--dtype %s: %v", f.dtype, err)
	}
	return s, nil
}

// overlay puts the flags that were given over a preset.
func (f *planFlags) overlay(s *plan.Shape) {
	for _, v := range []struct {
		to   *int
		from int
	}{
		{&s.Layers, f.shape.Layers}, {&s.Heads, f.shape.Heads}, {&s.KVHeads, f.shape.KVHeads}, {&s.HeadDim, f.shape.HeadDim},
		{&s.Hidden, f.shape.Hidden}, {&s.FFN, f.shape.FFN}, {&s.Vocab, f.shape.Vocab},
		{&s.Window, f.shape.Window}, {&s.FullEvery, f.shape.FullEvery},
	} {
		if v.from != 0 {
			*v.to = v.from
		}
	}
	if s.KVHeads == 0 {
		s.KVHeads = s.Heads
	}
	if f.params >= 1 && f.params < 1e18 {
		s.Params, s.FFN = uint64(f.params), 0
	}
}

func (f *planFlags) file(cmd *cobra.Command) (plan.Shape, error) {
	bar := newProgress()
	f.opt.Pull.Progress = bar
	found, err := sestina.Resolve(cmd.Context(), f.model, f.opt)
	bar.stop()
	if err != nil {
		return plan.Shape{}, err
	}
	s, err := plan.Read(found.Path)
	if err != nil {
		return s, fmt.Errorf("%s: %w", found.Name, err)
	}
	s.Name = found.Name
	return s, nil
}
