package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"sestina"
	"sestina/checkpoint"
	"sestina/hub"
	"sestina/model"
)

// storeCommand is a command on the model store: a name, one argument or none.
type storeCommand struct {
	output string
	model  string // -m, the same as the positional MODEL
}

func (s *storeCommand) command(use, short, example string, positional cobra.PositionalArgs, run func(ctx context.Context, store *hub.Store, args []string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example, Args: positional,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(cmd, s.output); err != nil {
				return err
			}
			store, err := hub.OpenStore("")
			if err != nil {
				return err
			}
			defer store.Close()
			switch byDefault := isFromEnvironment(cmd, "model"); {
			case s.model == "" || byDefault && (len(args) > 0 || cmd.Name() == "rm"): // nothing is removed by default
			case len(args) > 0:
				return usagef(cmd, "give MODEL once: %q or -m %q", args[0], s.model)
			default:
				args = []string{s.model}
			}
			return run(cmd.Context(), store, args)
		},
	}
	if strings.Contains(use, "MODEL") {
		cmd.Flags().StringVarP(&s.model, "model", "m", "", "the same as MODEL")
	}
	cmd.Flags().StringVar(&s.output, "output", "text", "text or json")
	return cmd
}

// print writes v as one JSON line, or calls text.
func (s *storeCommand) print(v any, text func()) error {
	if s.output == "json" {
		return json.NewEncoder(os.Stdout).Encode(v)
	}
	text()
	return nil
}

const modelArgument = "one MODEL"

func newPull() *cobra.Command {
	var s storeCommand
	var revision string
	cmd := s.command("pull [MODEL]", "Fetch a model into the store", "  sestina pull\n  sestina pull Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M",
		args(0, 1, "at most one MODEL"), func(ctx context.Context, store *hub.Store, args []string) error {
			bar := newProgress()
			m, err := store.Pull(ctx, first(args), hub.Options{Revision: revision, Progress: bar})
			bar.stop()
			if err != nil {
				return err
			}
			return s.print(m, func() { fmt.Printf("%s  %.1f MiB  %s\n", m.Name, mib(m.Size()), m.Path) })
		})
	cmd.Flags().StringVar(&revision, "revision", "", "branch, tag or commit (default main)")
	return cmd
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func newList() *cobra.Command {
	var s storeCommand
	return s.command("list", "List the models in the store", "  sestina list --output json", noArgs,
		func(ctx context.Context, store *hub.Store, _ []string) error {
			models, err := store.List()
			if err != nil {
				return err
			}
			if models == nil {
				models = []hub.Model{}
			}
			return s.print(models, func() {
				w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "NAME\tKIND\tMIB\tPULLED\tSOURCE")
				for _, m := range models {
					fmt.Fprintf(w, "%s\t%s\t%.1f\t%s\t%s\n", m.Name, m.Kind, mib(m.Size()), m.Pulled.Format("2006-01-02"), m.Source)
				}
				w.Flush()
			})
		})
}

func newRemove() *cobra.Command {
	var s storeCommand
	return s.command("rm MODEL", "Remove a model from the store", "  sestina rm smollm2", args(0, 1, modelArgument),
		func(ctx context.Context, store *hub.Store, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("rm wants one MODEL"), "rm "}
			}
			if err := store.Remove(ctx, args[0]); err != nil {
				return err
			}
			return s.print(map[string]string{"removed": args[0]}, func() { fmt.Println("removed", args[0]) })
		})
}

func newVerify() *cobra.Command {
	var s storeCommand
	return s.command("verify [MODEL]", "Compare a stored model's files with their digests", "  sestina verify smollm2", args(0, 1, "at most one MODEL"),
		func(ctx context.Context, store *hub.Store, args []string) error {
			bar := newProgress()
			err := store.Verify(ctx, first(args), bar)
			bar.stop()
			if err != nil {
				return err
			}
			return s.print(map[string]any{"model": first(args), "ok": true}, func() { fmt.Println("ok") })
		})
}

// modelCard is what show prints.
type modelCard struct {
	Schema string         `json:"schema"`
	Name   string         `json:"name"`
	Path   string         `json:"path"`
	Source string         `json:"source,omitempty"`
	Format string         `json:"format"`
	Arch   string         `json:"architecture"`
	Params uint64         `json:"parameters"`
	Bytes  uint64         `json:"tensor_bytes"`
	Types  map[string]int `json:"tensor_types"`
	Config map[string]any `json:"config"`
}

func newShow() *cobra.Command {
	var s storeCommand
	return s.command("show [MODEL]", "Describe a model: architecture, sizes, tensor formats, configuration", "  sestina show model.gguf --output json",
		args(0, 1, "at most one MODEL"), func(ctx context.Context, store *hub.Store, args []string) error {
			bar := newProgress()
			found, err := sestina.Resolve(ctx, first(args), sestina.Options{Pull: hub.Options{Progress: bar}})
			bar.stop()
			if err != nil {
				return err
			}
			card, err := describe(found)
			if err != nil {
				return err
			}
			return s.print(card, card.print)
		})
}

func describe(found hub.Model) (*modelCard, error) {
	c, err := checkpoint.Open(found.Path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	arch, err := model.Arch(c)
	if err != nil {
		return nil, err
	}
	card := &modelCard{Schema: "sestina.show/1", Name: found.Name, Path: found.Path, Source: found.Source, Format: c.Format().String(),
		Arch: arch, Params: c.NumParams(), Bytes: c.Bytes(), Types: map[string]int{}, Config: map[string]any{}}
	for t := range c.Tensors() {
		card.Types[t.DType.String()]++
	}
	for _, k := range c.Config().Keys() {
		switch v, _ := c.Config().Value(k); v := v.(type) {
		case string:
			if len(v) <= 200 {
				card.Config[k] = v
			}
		case bool, int8, uint8, int16, uint16, int32, uint32, int64, uint64, float32, float64, int, json.Number:
			card.Config[k] = v
		}
	}
	return card, nil
}

func (c *modelCard) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "name\t%s\npath\t%s\nsource\t%s\nformat\t%s\narchitecture\t%s\nparameters\t%.1fM\ntensors\t%.1f MiB, %v\n",
		c.Name, c.Path, c.Source, c.Format, c.Arch, float64(c.Params)/1e6, mib(int64(c.Bytes)), c.Types)
	for _, k := range sortedKeys(c.Config) {
		fmt.Fprintf(w, "%s\t%v\n", k, c.Config[k])
	}
	w.Flush()
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
