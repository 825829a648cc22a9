package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sestina"
	"sestina/server"
)

// serveFlags are the flags of serve.
type serveFlags struct {
	modelFlags
	server      server.Config
	host        string
	port        int
	logFormat   string
	logLevel    string
	config      string
	printConfig bool
	source      map[string]string // where each flag's value came from: flag | environment | config file
}

func newServe() *cobra.Command {
	f := serveFlags{source: map[string]string{}}
	cmd := &cobra.Command{
		Use:   "serve [MODEL]",
		Short: "Serve a model over HTTP as OpenAI's API does",
		Long: `Serve a model at /v1/chat/completions and /v1/completions, with /metrics, /health and /tokenize.

By default only programs on this machine are served. To serve others, set --host and --api-key.
SIGTERM and Ctrl-C drain: running requests may finish; a second one exits at once.`,
		Example: `  sestina serve
  sestina serve model.gguf --port 0 --max-num-seqs 32
  SESTINA_API_KEY=secret sestina serve --host 0.0.0.0 --allowed-hosts llm.example.org
  sestina serve --config serve.yaml --print-config`,
		Args:              args(0, 1, "at most one MODEL"),
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return f.settle(cmd) },
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if f.source["model"] == "flag" {
					return usagef(cmd, "give MODEL or --model, not both")
				}
				f.model, f.source["model"] = args[0], "argument"
			}
			return f.run(cmd)
		},
	}
	f.register(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.host, "host", "127.0.0.1", "address to listen on")
	fs.IntVar(&f.port, "port", 8000, "port to listen on (0 = a free one, printed)")
	fs.StringArrayVar(&f.server.APIKeys, "api-key", nil, "key that clients must send, may repeat; each has its own prefix cache")
	fs.StringSliceVar(&f.server.AllowedHosts, "allowed-hosts", nil, "host names that clients may use, beside localhost and the address (* = any)")
	fs.StringSliceVar(&f.server.ServedModelNames, "served-model-name", nil, "names of the model in the API (default: its own)")
	fs.BoolVar(&f.server.MetricsPublic, "metrics-public", false, "serve /metrics without a key")
	fs.IntVar(&f.opt.MaxNumSeqs, "max-num-seqs", 0, "sequences that run at once (0 = 16)")
	fs.IntVar(&f.opt.MaxQueuedSeqs, "max-num-queued-seqs", 0, "sequences that may wait before new ones get 429 (0 = 1024)")
	fs.IntVar(&f.opt.MaxQueuedTokens, "max-num-queued-tokens", 0, "prompt tokens that may wait before new ones get 429 (0 = 4 Mi)")
	fs.Float64Var(&f.opt.QueueShare, "queue-share", 0.5, "of the queue that one key may hold while others want in")
	fs.DurationVar(&f.opt.QueueTimeout, "queue-timeout", 0, "longest wait for a place (0 = no limit)")
	fs.DurationVar(&f.opt.StepTimeout, "step-timeout", 10*time.Second, "a step that takes longer makes /readyz fail")
	fs.DurationVar(&f.server.ShutdownTimeout, "shutdown-timeout", 30*time.Second, "how long running requests may take to finish after SIGTERM")
	fs.DurationVar(&f.server.WriteTimeout, "write-timeout", 30*time.Second, "how long a client may leave an event unread before its request ends")
	fs.DurationVar(&f.server.KeepAlive, "keep-alive-interval", 15*time.Second, "between comments on a silent stream (negative = none)")
	fs.IntVar(&f.server.MaxConns, "max-connections", 4096, "connections at once")
	fs.StringVar(&f.logFormat, "log-format", "text", "text or json")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error; prompts are logged at none of them")
	fs.StringVar(&f.config, "config", "", "file of settings, YAML or JSON, with flag names as keys; flags and environment win over it")
	fs.BoolVar(&f.printConfig, "print-config", false, "show every setting and where it came from, and exit")
	return cmd
}

func (f *serveFlags) run(cmd *cobra.Command) error {
	if f.printConfig {
		return f.show(cmd)
	}
	if err := f.check(cmd); err != nil {
		return err
	}
	if f.port < 0 || f.port > 65535 {
		return usagef(cmd, "--port is %d; it must be between 0 and 65535", f.port)
	}
	log, err := f.logger(cmd)
	if err != nil {
		return err
	}
	slog.SetDefault(log)
	f.opt.Log, f.server.Log = log, log
	f.server.Metrics = server.NewMetrics()
	f.opt.Observer = f.server.Metrics.Observer()

	l, err := net.Listen("tcp", net.JoinHostPort(f.host, strconv.Itoa(f.port)))
	if err != nil {
		return fmt.Errorf("%w: choose another --host or --port (0 = a free one)", err)
	}
	defer l.Close()
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	loaded := server.Loading(l.(*net.TCPListener))
	llm, err := f.open(ctx)
	loaded()
	if err != nil {
		if ctx.Err() != nil {
			return errInterrupted
		}
		return err
	}
	defer llm.Close()
	s, err := server.New(llm, f.server)
	if err != nil {
		return usageError{err, commandPath(cmd)}
	}
	f.announce(llm, l.Addr().(*net.TCPAddr))
	return s.Serve(ctx, l)
}

// announce says where the server listens and what its pool holds.
func (f *serveFlags) announce(llm *sestina.LLM, addr *net.TCPAddr) {
	opt := llm.Engine.Options()
	note("KV pool: %d tokens; up to %d sequences run at once, %d tokens each when all do, up to %d tokens when alone",
		llm.Pool.Tokens(), opt.MaxNumSeqs, min(opt.KVTokens(llm.Pool.Windows, llm.Pool.Blocks/opt.MaxNumSeqs), opt.MaxModelLen), llm.Engine.MaxLen())
	if len(f.server.APIKeys) == 0 && !addr.IP.IsLoopback() {
		note("warning: anyone who reaches %s may use this model; set --api-key", addr)
	}
	note("listening on http://%s", addr)
}

func (f *serveFlags) logger(cmd *cobra.Command) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, usagef(cmd, "--log-level is %q; choose debug, info, warn or error", f.logLevel)
	}
	opt := &slog.HandlerOptions{Level: level}
	switch f.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, opt)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, opt)), nil
	}
	return nil, usagef(cmd, "--log-format is %q; choose text or json", f.logFormat)
}

// untilSignal is done at the first SIGTERM or Ctrl-C. The second exits at once.
func untilSignal(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() {
		select {
		case s := <-signals:
			note("%v: draining; once more to exit at once", s)
			cancel()
		case <-ctx.Done():
			return
		}
		<-signals
		os.Exit(exitInterrupted)
	}()
	return ctx, func() { signal.Stop(signals); cancel() }
}

// settle gives every flag its value: the command line's, else the environment's,
// else the config file's, else the default.
func (f *serveFlags) settle(cmd *cobra.Command) error {
	f.mark(cmd, "flag")
	if err := fromEnvironment(cmd); err != nil {
		return err
	}
	f.mark(cmd, "environment")
	if f.config == "" {
		return nil
	}
	settings, err := readConfig(f.config)
	if err != nil {
		return usageError{err, commandPath(cmd)}
	}
	for _, s := range settings {
		flag := cmd.Flags().Lookup(s.name)
		switch {
		case flag == nil || s.name == "config" || s.name == "help" || s.name == "print-config":
			return usagef(cmd, "%s: %q is no setting; `sestina serve --help` lists them", f.config, s.name)
		case f.source[s.name] != "" || f.source[oppositeFlag(s.name)] != "":
			continue
		}
		for _, v := range s.values {
			if err := flag.Value.Set(v); err != nil {
				return usagef(cmd, "%s: %s: %v", f.config, s.name, err)
			}
			flag.Changed = true
		}
	}
	f.mark(cmd, "config file")
	return nil
}

// mark notes the source of flags that have a value since the last call.
func (f *serveFlags) mark(cmd *cobra.Command, source string) {
	cmd.Flags().VisitAll(func(flag *pflag.Flag) {
		if flag.Changed && f.source[flag.Name] == "" {
			f.source[flag.Name] = source
		}
	})
}

// show prints every setting with its source; keys are not shown.
func (f *serveFlags) show(cmd *cobra.Command) error {
	type setting struct {
		Name   string `json:"name"`
		Value  string `json:"value"`
		Source string `json:"source"`
	}
	var all []setting
	cmd.Flags().VisitAll(func(flag *pflag.Flag) {
		s := setting{flag.Name, flag.Value.String(), f.source[flag.Name]}
		pair, paired := flag.Value.(*switchFlag)
		switch {
		case flag.Name == "help" || flag.Name == "print-config" || paired && pair.yes == "off": // --no-NAME is shown as NAME
			return
		case paired:
			if s.Source == "" {
				s.Source = f.source["no-"+flag.Name]
			}
			s.Value = strconv.FormatBool(*pair.value != pair.not)
		case flag.Name == "api-key":
			s.Value = fmt.Sprintf("(%d set)", len(f.server.APIKeys))
		case s.Value == "":
			s.Value = flag.DefValue
		}
		if s.Source == "" {
			s.Source = "default"
		}
		all = append(all, s)
	})
	if f.output == "json" {
		return json.NewEncoder(os.Stdout).Encode(map[string]any{"schema": "sestina.config/1", "settings": all})
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, s := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, s.Value, s.Source)
	}
	return w.Flush()
}

// configSetting is one key of a config file with its values.
type configSetting struct {
	name   string
	values []string
}

// readConfig reads a flat file: a JSON object, or YAML of `key: value` lines,
// lists as [a, b] or as indented `- item` lines.
func readConfig(path string) ([]configSetting, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(data) > 1<<20 {
		return nil, fmt.Errorf("%s: %d bytes are too many for a config file", path, len(data))
	}
	var settings []configSetting
	if strings.HasPrefix(strings.TrimSpace(string(data)), "{") {
		settings, err = jsonConfig(data)
	} else {
		settings, err = yamlConfig(string(data))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return settings, nil
}

func jsonConfig(data []byte) (settings []configSetting, err error) {
	var object map[string]any
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	if err := d.Decode(&object); err != nil {
		return nil, err
	}
	for name, v := range object {
		s := configSetting{name: name}
		list, ok := v.([]any)
		if !ok {
			list = []any{v}
		}
		for _, item := range list {
			switch item.(type) {
			case string, bool, json.Number:
				s.values = append(s.values, fmt.Sprint(item))
			default:
				return nil, fmt.Errorf("%s: write a string, a number, a boolean or a list of these", name)
			}
		}
		settings = append(settings, s)
	}
	return settings, nil
}

func yamlConfig(text string) (settings []configSetting, err error) {
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimRight(line, " \t\r")
		trimmed := strings.TrimLeft(line, " ")
		item, isItem := strings.CutPrefix(trimmed, "- ")
		key, value, isPair := strings.Cut(trimmed, ":")
		switch {
		case trimmed == "" || trimmed[0] == '#' || line == "---":
		case isItem && len(settings) > 0:
			last := &settings[len(settings)-1]
			v, e := yamlScalar(item)
			last.values, err = append(last.values, v), e
		case isPair && line == trimmed && (value == "" || value[0] == ' '):
			s := configSetting{name: strings.TrimSpace(key)}
			s.values, err = yamlValues(strings.TrimSpace(value))
			settings = append(settings, s)
		default:
			err = errors.New("expected `key: value` or `- item`")
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	return settings, nil
}

// yamlValues reads what stands behind a key.
func yamlValues(s string) (values []string, err error) {
	inner, isList := strings.CutPrefix(s, "[")
	if !isList {
		if s == "" || s[0] == '#' {
			return nil, nil // items follow
		}
		v, err := yamlScalar(s)
		return []string{v}, err
	}
	inner, closed := strings.CutSuffix(inner, "]")
	if !closed {
		return nil, errors.New("a list [a, b] must end on its line")
	}
	for _, item := range strings.Split(inner, ",") {
		v, e := yamlScalar(strings.TrimSpace(item))
		if values, err = append(values, v), e; err != nil {
			return nil, err
		}
	}
	return values, nil
}

// yamlScalar reads one plain or quoted value and drops a comment behind it.
func yamlScalar(s string) (string, error) {
	switch {
	case strings.HasPrefix(s, `"`):
		quoted, err := strconv.QuotedPrefix(s)
		if err != nil {
			return "", fmt.Errorf("%s is no quoted string", s)
		}
		return strconv.Unquote(quoted)
	case strings.HasPrefix(s, "'"):
		if end := strings.Index(s[1:], "'"); end >= 0 {
			return s[1 : end+1], nil
		}
		return "", fmt.Errorf("%s is no quoted string", s)
	case strings.ContainsAny(s[:min(1, len(s))], "{&*!|>%@`"):
		return "", fmt.Errorf("%q: only plain values are read; quote it", s)
	}
	if at := strings.Index(s, " #"); at >= 0 {
		s = strings.TrimSpace(s[:at])
	}
	return s, nil
}
