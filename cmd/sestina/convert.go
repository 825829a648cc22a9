package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"sestina/convert"
)

func newConvert() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "convert",
		Short:   "Turn model files into model files",
		Example: "  sestina convert synth --like llama-3.2-1b --out random-1b.gguf",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef(cmd, "say what to convert: synth")
		},
	}
	cmd.AddCommand(newConvertSynth())
	return cmd
}

func newConvertSynth() *cobra.Command {
	var like, out string
	var seed uint64
	cmd := &cobra.Command{
		Use:   "synth --like SHAPE --out FILE",
		Short: "Write a model of a published shape with random weights, to measure with",
		Long: `Write a GGUF file of a published shape with random BF16 weights and a byte-level tokenizer. It runs as fast
as the real model would, and says nothing. The file depends on the shape and the seed alone. Shapes:
` + strings.Join(convert.Shapes(), ", ") + ".",
		Example: "  sestina convert synth --like llama-3.2-1b --out random-1b.gguf\n  sestina bench -m random-1b.gguf",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if like == "" || out == "" {
				return usagef(cmd, "--like SHAPE and --out FILE are needed")
			}
			s, err := convert.ShapeOf(like)
			if err != nil {
				return usagef(cmd, "--like: %v", err)
			}
			err = convert.SynthFile(out, s, seed)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s exists: remove it or choose another --out", out)
			}
			if err != nil {
				return err
			}
			info, err := os.Stat(out)
			if err == nil {
				note("wrote %s: %.2f GB", out, float64(info.Size())/1e9)
			}
			return err
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&like, "like", "", "the shape: "+strings.Join(convert.Shapes(), ", "))
	fs.StringVar(&out, "out", "", "the file to write; it must not exist")
	fs.Uint64Var(&seed, "seed", 1, "of the weights")
	return cmd
}
