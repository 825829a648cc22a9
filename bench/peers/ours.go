package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"sestina/bench/kernels"
)

// work is what a row asks of one process.
type work struct {
	model          string
	threads        int
	prompt, output int // tokens; one of them is 0 unless there are streams
	streams        int // 0 = one
	depth          int
	kv             string
}

// oursBench runs `sestina bench`: the median over its repetitions is the figure.
func (c *Config) oursBench(w work) measure {
	return func(ctx context.Context) ([]float64, error) {
		out, err := c.output(ctx, c.selfEnv, c.Self, c.forced(w.oursArgs()...)...)
		if err != nil {
			return nil, err
		}
		v, err := parseOurs(out, w.row())
		return []float64{v}, err
	}
}

// row is the row of `sestina bench` that holds the figure.
func (w work) row() string {
	if w.output > 0 {
		return "decode"
	}
	return "prefill"
}

// oursArgs are the flags of `sestina bench`. A prompt of 0 is one token, as
// llama-bench starts its generation; the first token of the output belongs to
// the prompt's step, so one more is asked for than is timed. The streams of a batch fill their
// prompts in one step, so that all of them are there while decoding is timed.
func (w work) oursArgs() []string {
	streams := max(w.streams, 1)
	args := []string{"bench", "-m", w.model, "--threads", strconv.Itoa(w.threads), "--prompt-len", strconv.Itoa(w.prompt),
		"--output-len", strconv.Itoa(w.output + 1), "--depth", strconv.Itoa(w.depth), "--streams", strconv.Itoa(streams),
		"--reps", strconv.Itoa(innerRuns), "--kv-cache-dtype", w.kv, "--speculation", "off", "--output", "json"}
	if streams > 1 {
		args = append(args, "--max-num-batched-tokens", strconv.Itoa(max(streams*w.prompt, 512)))
	}
	return args
}

// forced are the arguments of a command of ours, with the kernel family if one is forced.
func (c *Config) forced(args ...string) []string {
	if c.ISA != "" {
		args = append(args, "--isa", c.ISA)
	}
	return args
}

// document decodes the last line of a command's output.
func document(out []byte, schema string, into any) error {
	out = bytes.TrimSpace(out)
	line := out[bytes.LastIndexByte(out, '\n')+1:]
	var head struct{ Schema string }
	if err := json.Unmarshal(line, &head); err != nil || head.Schema != schema {
		return fmt.Errorf("our last line is no %s document: %.80q", schema, line)
	}
	return json.Unmarshal(line, into)
}

func parseOurs(out []byte, name string) (float64, error) {
	var doc struct {
		Rows []struct {
			Name   string
			Median float64
		}
	}
	if err := document(out, "sestina.bench/1", &doc); err != nil {
		return 0, err
	}
	for _, r := range doc.Rows {
		if r.Name == name && r.Median > 0 {
			return r.Median, nil
		}
	}
	return 0, fmt.Errorf("our document has no %q row", name)
}

// oursSteps runs `sestina bench kernels -m`: c(M)/c(1) for each of verifyRows.
func (c *Config) oursSteps(model string) measure {
	return func(ctx context.Context) ([]float64, error) {
		args := []string{"bench", "kernels", "-m", model, "--threads", strconv.Itoa(c.most()), "--depth", "128", "--output", "json", "--rows", "1"}
		for _, m := range verifyRows {
			args[len(args)-1] += "," + strconv.Itoa(m)
		}
		out, err := c.output(ctx, c.selfEnv, c.Self, c.forced(args...)...)
		if err != nil {
			return nil, err
		}
		var doc kernels.StepReport
		if err := document(out, kernels.StepsSchema, &doc); err != nil {
			return nil, err
		}
		var costs []float64
		for _, r := range doc.Rows {
			if r.M > 1 {
				costs = append(costs, r.Cost)
			}
		}
		return costs, nil
	}
}
