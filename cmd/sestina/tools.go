package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sestina"
	"sestina/internal/cpuinfo"
	"sestina/tokenizer"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func newTokenize() *cobra.Command {
	var f modelFlags
	var noSpecial bool
	cmd := &cobra.Command{
		Use:   "tokenize [-m MODEL] (TEXT|-)",
		Short: "Print a text's token ids as a JSON array",
		Long: `Print a text's token ids as a JSON array. "-" reads stdin byte for byte. Special tokens
written in the text are parsed; --no-special leaves out the BOS and EOS that the model adds.`,
		Example: "  sestina tokenize \"Hello, world\"\n  sestina tokenize --no-special - < file.txt",
		Args:    args(1, 1, "one TEXT, or - for stdin"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(cmd, f.output); err != nil {
				return err
			}
			text := args[0]
			if text == "-" {
				var err error
				if text, err = readStdin(cmd.Context(), 1<<30); err != nil {
					return err
				}
			}
			t, err := sestina.OpenTokenizer(cmd.Context(), f.model, f.opt)
			if err != nil {
				return err
			}
			ids := t.Encode(text, tokenizer.EncodeOptions{AddSpecial: !noSpecial, ParseSpecial: true})
			if ids == nil {
				ids = []int32{}
			}
			return json.NewEncoder(os.Stdout).Encode(ids)
		},
	}
	f.registerModel(cmd.Flags())
	f.registerOutput(cmd.Flags())
	cmd.Flags().BoolVar(&noSpecial, "no-special", false, "do not add BOS and EOS")
	return cmd
}

// readStdin reads all of stdin, or what came before an interrupt made it useless.
func readStdin(ctx context.Context, limit int64) (string, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(os.Stdin, limit+1))
		done <- result{data, err}
	}()
	select {
	case <-ctx.Done():
		return "", errInterrupted
	case r := <-done:
		switch {
		case r.err != nil:
			return "", fmt.Errorf("reading stdin: %w", r.err)
		case int64(len(r.data)) > limit:
			return "", fmt.Errorf("stdin holds more than %d bytes, which no context fits", limit)
		}
		return string(r.data), nil
	}
}

func newLogits() *cobra.Command {
	var f modelFlags
	var ids, out string
	cmd := &cobra.Command{
		Use:   "logits [-m MODEL] --ids 1,2,3 --out FILE.npy",
		Short: "Write the logits of every position as a float32 [n, vocab] array",
		Long: `Write the logits of every position of a token sequence as a NumPy file, float32 [n, vocab].
Activations and KV cache are float32 unless --activation-dtype or --kv-cache-dtype say otherwise.`,
		Example: "  sestina logits -m model.gguf --ids 1,2,3 --out logits.npy",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			if ids == "" || out == "" {
				return usagef(cmd, "--ids and --out are both needed")
			}
			list, err := idList(cmd, ids)
			if err != nil {
				return err
			}
			for flag, v := range map[string]*string{"activation-dtype": &f.opt.ActivationDType, "kv-cache-dtype": &f.opt.KVCacheDType} {
				if !cmd.Flags().Changed(flag) {
					*v = "f32"
				}
			}
			return f.logits(cmd, list, out)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&ids, "ids", "", "token ids: 1,2,3")
	cmd.Flags().StringVar(&out, "out", "", "file to write")
	return cmd
}

func (f *modelFlags) logits(cmd *cobra.Command, ids []int32, path string) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if e := file.Close(); err == nil {
			err = e
		}
		if err != nil {
			os.Remove(path)
		}
	}()
	w := bufio.NewWriter(file)
	rows := 0
	err = sestina.Logits(cmd.Context(), f.model, f.opt, ids, func(pos int, row []float32) error {
		if pos == 0 {
			if err := npyHeader(w, len(ids), len(row)); err != nil {
				return err
			}
		}
		rows++
		return binary.Write(w, binary.LittleEndian, row)
	})
	if err != nil {
		return err
	}
	note("%d rows of logits written to %s", rows, path)
	return w.Flush()
}

// npyHeader writes the header of a NumPy file, format 1.0: float32 [rows, cols].
func npyHeader(w io.Writer, rows, cols int) error {
	h := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", rows, cols)
	h += strings.Repeat(" ", 63-(10+len(h))%64) + "\n"
	_, err := fmt.Fprintf(w, "\x93NUMPY\x01\x00%c%c%s", len(h)&255, len(h)>>8, h)
	return err
}

func newVersion() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "version", Short: "Print the commit, the CPU path and its features", Example: "  sestina version --output json", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(cmd, output); err != nil {
				return err
			}
			v := versionInfo()
			if output == "json" {
				return json.NewEncoder(os.Stdout).Encode(v)
			}
			for _, k := range []string{"version", "commit", "go", "platform", "cpu_path", "cpu_bf16", "cpu_features"} {
				fmt.Printf("%-13s %v\n", k, v[k])
			}
			if v["cpu_path"] == "generic" {
				note("this machine runs on the pure-Go kernels: correct but slow")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	return cmd
}

func versionInfo() map[string]any {
	v := map[string]any{"schema": "sestina.version/1", "version": "devel", "commit": "unknown", "go": runtime.Version(),
		"platform": runtime.GOOS + "/" + runtime.GOARCH, "cpu_path": sestina.CPUPath(), "cpu_bf16": sestina.CPUBF16(), "cpu_features": cpuinfo.Features()}
	if info, ok := debug.ReadBuildInfo(); ok {
		v["version"] = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v["commit"] = s.Value
			}
		}
	}
	return v
}
