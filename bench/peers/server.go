package peers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"sestina/bench/serve"
)

// The load of the server rows: half short answers, half long ones, prompts of
// about 27 tokens, seats at a time. Every answer runs to its full length.
const serverLoads = 3 // loads of one server process, whose median speed counts

var serverMix = []serve.MixPart{{Count: 50, OutputLen: 20}, {Count: 50, OutputLen: 200}}

// serverTrials is the load with both prefix caches off.
func (c *Config) serverTrials(model string) ([]trial, error) {
	return c.loadTrial(model, "server", "--cache-ram", "0")
}

// memoryTrials is the load against the peer's defaults, which keep past prompts in host memory.
func (c *Config) memoryTrials(model string) ([]trial, error) {
	return c.loadTrial(model, "server, peer's default cache")
}

func (c *Config) loadTrial(model, name string, peerFlags ...string) ([]trial, error) {
	_, token, err := modelBytes(model, "f16")
	if err != nil {
		return nil, err
	}
	t := trial{name: name, model: model, threads: c.most(), figures: []figure{
		{name, "tok/s", Speed}, {name + ", TTFT p50", "ms", Time}, {name + ", resident after", "MiB", Size}}}
	t.ours = c.load(c.ownServer(model, token))
	t.peer = c.load(c.llamaServer(model, peerFlags...))
	return []trial{t}, nil
}

// startTrials is the time from starting a server process to its first token, the model being in the page cache.
func (c *Config) startTrials(model string) ([]trial, error) {
	_, token, err := modelBytes(model, "f16")
	if err != nil {
		return nil, err
	}
	t := trial{name: "start to first token", model: model, threads: c.most(), figures: []figure{
		{"start to first token", "ms", Time}, {"resident after one token", "MiB", Size}}}
	t.ours = c.start(c.ownServer(model, token))
	t.peer = c.start(c.llamaServer(model, "--cache-ram", "0"))
	return []trial{t}, nil
}

// server is how a side's server is started on a port.
type server struct {
	program string
	env     []string
	args    func(port string) []string
}

func (c *Config) ownServer(model string, tokenBytes uint64) server {
	return server{c.Self, c.selfEnv, func(port string) []string {
		return c.forced("serve", model, "--port", port, "--threads", strconv.Itoa(c.most()), "--max-num-seqs", strconv.Itoa(seats),
			"--kv-cache-memory-bytes", strconv.FormatUint(poolTokens*tokenBytes, 10), "--kv-cache-dtype", "f16",
			"--speculation", "off", "--no-enable-prefix-caching", "--log-level", "error")
	}}
}

func (c *Config) llamaServer(model string, more ...string) server {
	return server{c.peer("llama-server"), c.peerEnv, func(port string) []string {
		t := strconv.Itoa(c.most())
		return append([]string{"-m", model, "--host", "127.0.0.1", "--port", port, "-t", t, "-tb", t, "-np", strconv.Itoa(seats),
			"-c", strconv.Itoa(poolTokens), "-ctk", "f16", "-ctv", "f16"}, more...)
	}}
}

// running is a server process that answers.
type running struct {
	url     string
	started time.Time
	pid     int
	ended   chan error // receives how the process ended
	errs    *tail
	program string
	cancel  context.CancelFunc
}

// launch starts a server and waits until it is healthy.
func (c *Config) launch(ctx context.Context, s server) (*running, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().(*net.TCPAddr)
	l.Close()
	ctx, cancel := context.WithCancel(ctx)
	r := &running{url: "http://" + addr.String(), ended: make(chan error, 1), errs: &tail{most: 64 << 10}, program: s.program, cancel: cancel}
	cmd := exec.CommandContext(ctx, s.program, s.args(strconv.Itoa(addr.Port))...)
	cmd.Env, cmd.Stderr, cmd.WaitDelay = environment(s.env), r.errs, waitDelay
	r.started = time.Now()
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, describe(s.program, err, r.errs)
	}
	r.pid = cmd.Process.Pid
	go func() { r.ended <- cmd.Wait() }()
	if err := r.wait(ctx, c.Timeout); err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

// healthPause is how often a starting server is asked whether it is ready.
const healthPause = 2 * time.Millisecond

func (r *running) wait(ctx context.Context, limit time.Duration) error {
	for time.Since(r.started) < limit {
		if resp, err := http.Get(r.url + "/health"); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-r.ended:
			r.ended <- err
			if err == nil {
				err = errors.New("ended before it was healthy")
			}
			return describe(r.program, err, r.errs)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(healthPause):
		}
	}
	return describe(r.program, fmt.Errorf("was not healthy after %v", limit), r.errs)
}

// stop ends the process and waits for it.
func (r *running) stop() {
	r.cancel()
	<-r.ended
}

// load offers the load to a fresh server: tokens a second, median TTFT, resident memory.
func (c *Config) load(s server) measure {
	return func(ctx context.Context) ([]float64, error) {
		r, err := c.launch(ctx, s)
		if err != nil {
			return nil, err
		}
		defer r.stop()
		report, err := serve.Run(ctx, c.serveConfig(r.url), nil)
		if err != nil {
			return nil, err
		}
		var speed, ttft []float64
		for _, run := range report.Runs {
			if run.Failed > 0 {
				return nil, describe(s.program, fmt.Errorf("%d of %d requests failed (%s: %s)", run.Failed, run.Failed+run.Completed,
					run.Failures[0].Reason, run.Failures[0].Example), r.errs)
			}
			speed, ttft = append(speed, run.OutputThroughput), append(ttft, run.Metrics["ttft"].Percentiles["p50"])
		}
		mib, err := resident(r.pid)
		return []float64{median(speed), median(ttft), mib}, err
	}
}

func (c *Config) serveConfig(url string) serve.Config {
	return serve.Config{BaseURL: url, Endpoint: serve.Completions, Mix: serverMix, NumWarmups: seats, Reps: serverLoads, MaxConcurrency: seats,
		RequestRate: serve.Rate(math.Inf(1)), Burstiness: 1, InputLen: 27, OutputLen: 16, IgnoreEOS: true, Seed: 1,
		ExtraBody:         map[string]json.RawMessage{"cache_prompt": json.RawMessage("false")}, // unknown fields are ignored
		PercentileMetrics: []string{"ttft"}, MetricPercentiles: []float64{50}, Timeout: c.Timeout, DisableKeepAlive: true}
}

// start measures a fresh server's first token and what it then holds.
func (c *Config) start(s server) measure {
	return func(ctx context.Context) ([]float64, error) {
		r, err := c.launch(ctx, s)
		if err != nil {
			return nil, err
		}
		defer r.stop()
		if err := firstToken(ctx, r.url); err != nil {
			return nil, describe(s.program, err, r.errs)
		}
		took := time.Since(r.started)
		mib, err := resident(r.pid)
		return []float64{float64(took) / float64(time.Millisecond), mib}, err
	}
}

// firstToken asks for one streamed token and returns when it is there.
func firstToken(ctx context.Context, url string) error {
	body := []byte(`{"prompt":"The capital of France is","max_tokens":1,"stream":true,"temperature":0}`)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+serve.Completions, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return fmt.Errorf("the first request got status %d: %s", resp.StatusCode, text)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && strings.Contains(data, `"choices"`) {
			return nil
		}
	}
	return fmt.Errorf("the stream ended without a token: %w", errors.Join(lines.Err(), io.ErrUnexpectedEOF))
}

// resident is a process's resident memory in MiB.
func resident(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("resident memory can be read on Linux only: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "VmRSS:" {
			kib, err := strconv.ParseFloat(f[1], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no VmRSS", pid)
}
