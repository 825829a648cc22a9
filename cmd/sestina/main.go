// Command sestina runs, serves and measures language models.
//
// It turns flags into sestina.Options and prints what comes back; the façade
// wires the engine. Answers go to stdout, everything else to stderr. Exit codes:
// 0 ok, 1 failure, 2 usage, 130 interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sestina/sampler"
)

const (
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	debug.SetGCPercent(400) // weights and KV live off the heap; what is on it is small
	os.Exit(execute(os.Args[1:]))
}

// execute runs one command line and returns its exit code.
func execute(args []string) int {
	ctx, stop := untilInterrupt()
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var usage usageError
	var param *sampler.ParamError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errInterrupted), ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "sestina: %v\nSee `sestina %s--help`.\n", err, usage.command)
		return exitUsage
	case errors.As(err, &param):
		fmt.Fprintf(os.Stderr, "sestina: %v\n", err)
		return exitUsage
	default:
		fmt.Fprintf(os.Stderr, "sestina: %v\n", err)
		return exitFailure
	}
}

// untilInterrupt is done at the first Ctrl-C. The second ends the program.
func untilInterrupt() (context.Context, func()) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // interrupts kill again
	return ctx, stop
}

var errInterrupted = errors.New("interrupted")

// usageError is a mistake in the command line.
type usageError struct {
	error
	command string // "run " or ""
}

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...), commandPath(cmd)}
}

func commandPath(cmd *cobra.Command) string {
	if cmd == nil || !cmd.HasParent() {
		return ""
	}
	_, path, _ := strings.Cut(cmd.CommandPath(), " ")
	return path + " "
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "sestina",
		Short: "Run, serve and measure language models",
		Long: `Sestina answers with a language model on this machine.

MODEL is an alias, a path (a .gguf file, or a folder with config.json), or
org/repo[:QUANT] on Hugging Face. Without one, SmolLM2-135M-Instruct is used
and fetched on first use.`,
		Example: `  sestina run "Why is the sky blue?"
  sestina run -m model.gguf --temperature 0 "Write a haiku about memory."
  sestina bench --threads 2`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          func(cmd *cobra.Command, args []string) error { return noArgs(cmd, args) },
		RunE: func(cmd *cobra.Command, args []string) error {
			return usagef(cmd, "a command is missing")
		},
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error { return fromEnvironment(cmd) },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError{err, commandPath(cmd)} })
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newRun(), newBench(), newPull(), newList(), newRemove(), newShow(), newVerify(), newTokenize(), newLogits(), newServe(), newVersion())
	root.AddCommand(newExplain(), newPlan(), newConvert())
	return root
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		if !cmd.HasParent() {
			return usagef(cmd, "unknown command %q", args[0])
		}
		return usagef(cmd, "%s takes no arguments, got %q", cmd.Name(), args)
	}
	return nil
}

// args checks the number of positional arguments.
func args(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usagef(cmd, "%s wants %s, got %d arguments", cmd.Name(), what, len(args))
		}
		return nil
	}
}

// fromEnvironment gives every flag that was not set the value of its
// environment variable: --max-tokens is SESTINA_MAX_TOKENS, --model SESTINA_MODEL.
//
// A flag --no-NAME that was set keeps NAME's variable out, and the other way round.
func fromEnvironment(cmd *cobra.Command) (err error) {
	given := map[string]bool{}
	cmd.Flags().Visit(func(f *pflag.Flag) { given[f.Name] = true })
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name := "SESTINA_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := os.LookupEnv(name)
		if !ok || given[f.Name] || given[oppositeFlag(f.Name)] || f.Name == "help" || err != nil {
			return
		}
		if e := cmd.Flags().Set(f.Name, value); e != nil {
			err = usagef(cmd, "%s=%q: %v", name, value, e)
		}
		f.Annotations = map[string][]string{environment: {name}}
	})
	return err
}

// environment annotates a flag whose value came from there.
const environment = "environment"

func isFromEnvironment(cmd *cobra.Command, flag string) bool {
	f := cmd.Flags().Lookup(flag)
	return f != nil && f.Annotations[environment] != nil
}

// oppositeFlag is the other name of a pair that onOff made.
func oppositeFlag(name string) string {
	if rest, ok := strings.CutPrefix(name, "no-"); ok {
		return rest
	}
	return "no-" + name
}
