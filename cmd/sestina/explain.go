package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"sestina"
	"sestina/bench/techniques"
	"sestina/explain"
	"sestina/hub"
)

// explainFlags are the flags of explain.
type explainFlags struct {
	modelFlags
	noMeasure bool
	svg       string
	bench     string // a saved document of bench techniques
}

func newExplain() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain [TECHNIQUE]",
		Short: "Show what each technique buys, and where each figure comes from",
		Long: `Show what each technique buys. Each line says where its figure comes from: seed (the article this
project starts from), formula, counted (in the real scheduler, block manager and kernels) or
measured (the model given, now; the default model if it is in the store). Techniques:
` + strings.Join(explain.Techniques(), ", ") + ".",
		Example: `  sestina explain
  sestina explain continuous-batching --no-measure
  sestina explain stacked -m model.gguf --svg charts
  sestina explain --output json`,
		Args: args(0, 1, "at most one TECHNIQUE"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, first(args)) },
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	f.registerModel(fs)
	f.registerOutput(fs)
	fs.IntVar(&f.opt.Threads, "threads", 0, "compute threads (0 = free physical cores)")
	fs.BoolVar(&f.noMeasure, "no-measure", false, "load no model")
	fs.StringVar(&f.bench, "bench", "", "a file with the JSON of bench techniques, for the stacked figures")
	fs.StringVar(&f.svg, "svg", "", "write charts into this folder")
	return cmd
}

func (f *explainFlags) run(cmd *cobra.Command, technique string) error {
	if err := f.check(cmd); err != nil {
		return err
	}
	r, err := explain.New(technique)
	if err != nil {
		return usageError{err, commandPath(cmd)}
	}
	if err := f.measure(cmd.Context(), r, technique); err != nil {
		return err
	}
	if f.svg != "" {
		files, err := r.WriteSVG(f.svg)
		if err != nil {
			return err
		}
		note("%d charts written to %s", len(files), f.svg)
	}
	if f.output == "json" {
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	r.Print(os.Stdout)
	return nil
}

// measure adds the measured lines, or a note that says why there are none.
func (f *explainFlags) measure(ctx context.Context, r *explain.Report, technique string) error {
	if f.bench != "" {
		stacked, err := readTechniques(f.bench)
		if err != nil {
			return err
		}
		r.Stack(stacked)
	}
	if f.noMeasure {
		r.Notes = append(r.Notes, "nothing was measured: --no-measure")
		return nil
	}
	if f.model == "" { // the default model is measured if it is here; it is not fetched for this
		f.opt.Pull.Offline = true
		if _, err := sestina.Resolve(ctx, "", f.opt); errors.Is(err, hub.ErrNotFound) {
			r.Notes = append(r.Notes, "nothing was measured: the default model is not in the store; fetch it with `sestina pull`, or give -m MODEL")
			return nil
		} else if err != nil {
			return err
		}
	}
	if technique == "stacked" {
		if f.bench != "" {
			return nil
		}
		report, err := techniques.Run(ctx, f.model, f.opt, techniques.Defaults(), stepsOf("measuring"))
		if err != nil {
			return err
		}
		r.Stack(report)
		return nil
	}
	f.opt.Techniques.PrefixCaching, f.opt.Techniques.Speculation = "off", "off" // what is timed must be computed, token by token
	llm, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer llm.Close()
	return r.Measure(ctx, llm, f.opt)
}

// readTechniques reads the last line of a saved output of bench techniques.
func readTechniques(path string) (*techniques.Report, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	text := strings.TrimSpace(string(data))
	text = text[strings.LastIndexByte(text, '\n')+1:]
	var r techniques.Report
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, fmt.Errorf("%s: %w: give a file with the output of `sestina bench techniques`", path, err)
	}
	if r.Schema != techniques.Schema {
		return nil, fmt.Errorf("%s has schema %q, not %q: give the output of `sestina bench techniques` of this version", path, r.Schema, techniques.Schema)
	}
	return &r, nil
}

// stepsOf tells on stderr what a long measurement is at.
func stepsOf(doing string) func(string) {
	return func(what string) { note("%s: %s", doing, what) }
}
