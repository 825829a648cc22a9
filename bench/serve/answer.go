package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"
)

// Result is what became of one request. Times are in milliseconds, from the sending.
type Result struct {
	Sent         float64   `json:"sent_ms"` // from the start of the load
	Lag          float64   `json:"lag_ms"`  // sent later than planned
	TTFT         float64   `json:"ttft_ms"`
	E2EL         float64   `json:"e2el_ms"`
	ITL          []float64 `json:"itl_ms"`
	InputTokens  int       `json:"input_tokens"`
	OutputTokens int       `json:"output_tokens"`
	Estimated    bool      `json:"tokens_estimated,omitempty"` // no usage came: ids or chunks were counted
	FinishReason string    `json:"finish_reason"`
	Text         string    `json:"-"`
	IDs          []int32   `json:"-"` // when the server sends token_ids
	Failure      *Failure  `json:"failure,omitempty"`
}

// metric returns a latency by its name, and whether this answer has it.
func (r *Result) metric(name string) (float64, bool) {
	switch name {
	case "ttft":
		return r.TTFT, true
	case "e2el":
		return r.E2EL, true
	case "tpot":
		return (r.E2EL - r.TTFT) / float64(r.OutputTokens-1), r.OutputTokens > 1
	}
	panic("serve: unknown metric " + name)
}

// chunk is the part of a streamed chunk that counts, for both endpoints.
type chunk struct {
	Choices []choice `json:"choices"`
	Usage   *struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
	} `json:"usage"`
	Error  json.RawMessage `json:"error"`
	Object string          `json:"object"`
}

type choice struct {
	Text         string  `json:"text"` // completions
	Delta        delta   `json:"delta"`
	TokenIDs     []int32 `json:"token_ids"`
	FinishReason string  `json:"finish_reason"`
}

type delta struct {
	Role             string `json:"role"`
	Content          string `json:"content"`
	Reasoning        string `json:"reasoning"`
	ReasoningContent string `json:"reasoning_content"`
	ToolCalls        []struct {
		Function struct {
			Name      string `json:"name"`
			Arguments string `json:"arguments"`
		} `json:"function"`
	} `json:"tool_calls"`
}

// text is all the output of a choice in one string.
func (c *choice) text() string {
	s := c.Text + c.Delta.Reasoning + c.Delta.ReasoningContent + c.Delta.Content
	for _, t := range c.Delta.ToolCalls {
		s += t.Function.Name + t.Function.Arguments
	}
	return s
}

// isToken reports whether the chunk is a token chunk, as serve.go defines it.
func (c *choice) isToken(text string) bool {
	return text != "" || len(c.TokenIDs) > 0 || (c.FinishReason == "" && c.Delta.Role == "")
}

// answer gathers one stream.
type answer struct {
	start       time.Time
	first, last time.Time // token chunks
	any         time.Time // last chunk with a choice
	chunks      int
	usage       bool
	text        strings.Builder
	res         Result
}

// read consumes the stream up to its end, so that the connection can be reused.
func (a *answer) read(ctx context.Context, body io.Reader) {
	events := newEventReader(body)
	for {
		ev, err := events.next()
		now := time.Now()
		if err != nil {
			a.res.Failure = cut(ctx, err)
			return
		}
		if bytes.Equal(ev.data, []byte("[DONE]")) {
			break
		}
		if a.res.Failure = a.take(ev, now); a.res.Failure != nil {
			return
		}
	}
	// What follows [DONE] is the end of the body; the answer is already complete.
	_, _ = io.Copy(io.Discard, io.LimitReader(events.r, maxEvent))
}

// cut classifies an error inside the stream.
func cut(ctx context.Context, err error) *Failure {
	if f := stopped(ctx); f != nil {
		return f
	}
	if errors.Is(err, errEventTooLong) {
		return failf(reasonMalformed, "%v", err)
	}
	return failf(reasonCut, "before [DONE]: %v", err)
}

// take adds one event that arrived now.
func (a *answer) take(ev event, now time.Time) *Failure {
	var c chunk
	if err := json.Unmarshal(ev.data, &c); err != nil {
		return failf(reasonMalformed, "%v in %s", err, excerpt(ev.data))
	}
	if ev.name == "error" || c.Object == "error" || (len(c.Error) > 0 && string(c.Error) != "null") {
		return failf(reasonErrorEvent, "%s", excerpt(ev.data))
	}
	if c.Usage != nil {
		a.usage, a.res.InputTokens, a.res.OutputTokens = true, c.Usage.Prompt, c.Usage.Completion
	}
	if len(c.Choices) == 0 {
		return nil
	}
	ch := &c.Choices[0]
	a.any = now
	a.res.IDs = append(a.res.IDs, ch.TokenIDs...)
	if ch.FinishReason != "" {
		a.res.FinishReason = ch.FinishReason
	}
	text := ch.text()
	a.text.WriteString(text)
	if !ch.isToken(text) {
		return nil
	}
	if a.chunks++; a.chunks == 1 {
		a.first = now
	} else {
		a.res.ITL = append(a.res.ITL, millis(now.Sub(a.last)))
	}
	a.last = now
	return nil
}

// result closes the account.
func (a *answer) result() Result {
	r := a.res
	r.Text = a.text.String()
	if r.Failure != nil {
		return r
	}
	if !a.usage {
		r.Estimated, r.OutputTokens = true, max(len(r.IDs), a.chunks)
	}
	if a.any.IsZero() || r.OutputTokens < 0 || r.InputTokens < 0 || (r.OutputTokens == 0 && a.chunks == 0) {
		r.Failure = failf(reasonNoOutput, "the stream ended with %d chunks and %d tokens", a.chunks, r.OutputTokens)
		return r
	}
	if a.chunks == 0 { // hidden tokens only: the finish is the first sign of them
		a.first = a.any
	}
	r.TTFT, r.E2EL = millis(a.first.Sub(a.start)), millis(a.any.Sub(a.start))
	return r
}
