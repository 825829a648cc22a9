package peers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sestina/bench/prompts"
	"sestina/bench/serve"
)

// The speculation rows: our server as it comes against the peer's with each of
// its ways to draft without a second model, the best of which counts. One stream,
// greedy, through the chat template, without prefix caches; every prompt once, so
// that no answer has been seen before. Tokens a second after the first.
var peerSpeculation = []string{"ngram-simple", "ngram-map-k", "ngram-mod", "ngram-cache"}

var speculationSets = []string{"edit", prompts.Mixed}

const (
	speculationPrompts = 10 // of a set, at most
	speculationLen     = 128
	speculationContext = 2048
)

func (c *Config) speculationTrials(model string) (all []trial, err error) {
	_, token, err := modelBytes(model, "f16")
	if err != nil {
		return nil, err
	}
	for _, kind := range peerSpeculation {
		t := trial{name: "speculation, " + kind, model: model, threads: c.most()}
		for _, set := range speculationSets {
			t.figures = append(t.figures, figure{fmt.Sprintf("speculation, %s prompts, peer's %s", set, kind), "tok/s", Speed})
		}
		t.ours = c.answer(server{c.Self, c.selfEnv, func(port string) []string {
			return c.forced("serve", model, "--port", port, "--threads", strconv.Itoa(c.most()), "--max-num-seqs", "1",
				"--kv-cache-memory-bytes", strconv.FormatUint(speculationContext*token, 10), "--kv-cache-dtype", "f16",
				"--no-enable-prefix-caching", "--log-level", "error")
		}})
		t.peer = c.answer(server{c.peer("llama-server"), c.peerEnv, func(port string) []string {
			n := strconv.Itoa(c.most())
			return []string{"-m", model, "--host", "127.0.0.1", "--port", port, "-t", n, "-tb", n, "-np", "1",
				"-c", strconv.Itoa(speculationContext), "-ctk", "f16", "-ctv", "f16", "--cache-ram", "0", "--spec-type", kind}
		}})
		all = append(all, t)
	}
	return all, nil
}

// answer asks a fresh server all prompts, one after the other: tokens a second of each set.
func (c *Config) answer(s server) measure {
	return func(ctx context.Context) ([]float64, error) {
		r, err := c.launch(ctx, s)
		if err != nil {
			return nil, err
		}
		defer r.stop()
		if err := firstToken(ctx, r.url); err != nil {
			return nil, describe(s.program, err, r.errs)
		}
		var speeds []float64
		for _, set := range speculationSets {
			texts, err := prompts.Set(set)
			if err != nil {
				return nil, err
			}
			tokens, took := 0, time.Duration(0)
			for _, text := range texts[:min(speculationPrompts, len(texts))] {
				n, t, err := chatAnswer(ctx, r.url, text)
				if err != nil {
					return nil, describe(s.program, err, r.errs)
				}
				tokens, took = tokens+n, took+t
			}
			if tokens == 0 || took <= 0 {
				return nil, fmt.Errorf("%d tokens in %v of set %s", tokens, took, set)
			}
			speeds = append(speeds, float64(tokens)/took.Seconds())
		}
		return speeds, nil
	}
}

// chatAnswer streams one greedy answer: how many tokens came after the first
// piece of text, and in what time.
func chatAnswer(ctx context.Context, url, text string) (tokens int, took time.Duration, err error) {
	body, err := json.Marshal(map[string]any{"messages": []map[string]string{{"role": "user", "content": text}}, "max_tokens": speculationLen,
		"temperature": 0, "stream": true, "stream_options": map[string]bool{"include_usage": true}, "cache_prompt": false})
	if err != nil {
		return 0, 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+serve.Chat, bytes.NewReader(body))
	if err != nil {
		return 0, 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true // the peer closes connections between requests, sometimes just as the next one comes
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return 0, 0, fmt.Errorf("a chat got status %d: %s", resp.StatusCode, text)
	}
	return readChat(resp.Body)
}

func readChat(stream io.Reader) (tokens int, took time.Duration, err error) {
	var first, last time.Time
	total := 0
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var chunk struct {
			Choices []struct{ Delta struct{ Content string } }
			Usage   *struct {
				CompletionTokens int `json:"completion_tokens"`
			}
		}
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			return 0, 0, fmt.Errorf("a chunk of the answer: %w", err)
		}
		if len(chunk.Choices) > 0 && chunk.Choices[0].Delta.Content != "" {
			if last = time.Now(); first.IsZero() {
				first = last
			}
		}
		if chunk.Usage != nil {
			total = chunk.Usage.CompletionTokens
		}
	}
	if err := lines.Err(); err != nil {
		return 0, 0, err
	}
	if first.IsZero() || total < 1 {
		return 0, 0, errors.New("the answer has no text or no usage")
	}
	return total - 1, last.Sub(first), nil
}
