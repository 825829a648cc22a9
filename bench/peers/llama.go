package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"os/exec"
	"regexp"
	"strconv"
)

// llamaBench runs llama-bench: the median over its repetitions is the figure.
func (c *Config) llamaBench(w work) measure {
	return func(ctx context.Context) ([]float64, error) {
		out, err := c.output(ctx, c.peerEnv, c.peer("llama-bench"), "-m", w.model, "-t", strconv.Itoa(w.threads), "-p", strconv.Itoa(w.prompt),
			"-n", strconv.Itoa(w.output), "-d", strconv.Itoa(w.depth), "-ctk", w.kv, "-ctv", w.kv, "-r", strconv.Itoa(innerRuns), "-o", "jsonl")
		if err != nil {
			return nil, err
		}
		v, err := parseLlamaBench(out, w.prompt, w.output)
		return []float64{v}, err
	}
}

// parseLlamaBench takes the samples of the test with these sizes from JSON lines.
func parseLlamaBench(out []byte, prompt, output int) (float64, error) {
	for line := range jsonLines(out) {
		var test struct {
			Prompt  int       `json:"n_prompt"`
			Gen     int       `json:"n_gen"`
			Samples []float64 `json:"samples_ts"`
		}
		if json.Unmarshal(line, &test) == nil && test.Prompt == prompt && test.Gen == output && len(test.Samples) > 0 {
			return median(test.Samples), nil
		}
	}
	return 0, fmt.Errorf("llama-bench printed no test of prompt %d and output %d", prompt, output)
}

// llamaBatched runs llama-batched-bench: the generation's tokens a second over all
// streams. It measures once a process.
func (c *Config) llamaBatched(w work) measure {
	return func(ctx context.Context) ([]float64, error) {
		t := strconv.Itoa(w.threads)
		out, err := c.output(ctx, c.peerEnv, c.peer("llama-batched-bench"), "-m", w.model, "-t", t, "-tb", t,
			"-c", strconv.Itoa(w.streams*(w.prompt+w.output)), "-ctk", w.kv, "-ctv", w.kv, "-npp", strconv.Itoa(w.prompt),
			"-ntg", strconv.Itoa(w.output), "-npl", strconv.Itoa(w.streams), "--output-format", "jsonl")
		if err != nil {
			return nil, err
		}
		v, err := parseLlamaBatched(out, w.streams)
		return []float64{v}, err
	}
}

func parseLlamaBatched(out []byte, streams int) (float64, error) {
	for line := range jsonLines(out) {
		var test struct {
			Streams int     `json:"pl"`
			Speed   float64 `json:"speed_tg"`
		}
		if json.Unmarshal(line, &test) == nil && test.Streams == streams && test.Speed > 0 {
			return test.Speed, nil
		}
	}
	return 0, fmt.Errorf("llama-batched-bench printed no test of %d streams", streams)
}

// jsonLines are the lines that look like objects; programs print others between them.
func jsonLines(out []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for line := range bytes.Lines(out) {
			if line = bytes.TrimSpace(line); bytes.HasPrefix(line, []byte("{")) && !yield(line) {
				return
			}
		}
	}
}

var commit = regexp.MustCompile(`\bcommit ([0-9a-f]{7,40})\b`)

// peerVersion names the peer's build as one of its programs tells it, "llama.cpp" where none does.
func (c *Config) peerVersion(ctx context.Context) string {
	for _, row := range c.Rows {
		name, ok := peerPrograms[row]
		if !ok {
			continue
		}
		cmd := exec.CommandContext(ctx, c.peer(name), "--version")
		cmd.Env = environment(c.peerEnv)
		out, err := cmd.CombinedOutput()
		if hash := commit.FindSubmatch(out); err == nil && hash != nil {
			return "llama.cpp " + string(hash[1])
		}
	}
	return "llama.cpp"
}
