package server

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"sestina"
	"sestina/engine"
)

// harness is a server on loopback.
type harness struct {
	t   testing.TB
	s   *Server
	llm *sestina.LLM
	url string
	log *logBuffer
	key string
}

func start(t testing.TB, llm *sestina.LLM, cfg Config) *harness {
	t.Helper()
	return startOn(t, llm, cfg, func(l net.Listener) net.Listener { return l })
}

func startOn(t testing.TB, llm *sestina.LLM, cfg Config, listen func(net.Listener) net.Listener) *harness {
	t.Helper()
	h := &harness{t: t, llm: llm, log: &logBuffer{}}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if len(cfg.APIKeys) > 0 {
		h.key = cfg.APIKeys[0]
	}
	var err error
	if h.s, err = New(llm, cfg); err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewUnstartedServer(h.s.Handler())
	ts.Config = h.s.http
	ts.Listener = listen(ts.Listener)
	ts.Start()
	t.Cleanup(ts.Close)
	h.url = ts.URL
	return h
}

// do sends a request and returns status, header and body.
func (h *harness) do(method, path, body string, header ...string) (*http.Response, []byte) {
	h.t.Helper()
	req, err := http.NewRequest(method, h.url+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if h.key != "" {
		req.Header.Set("Authorization", "Bearer "+h.key)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp, data
}

// answer is what tests read of a reply or a chunk.
type answer struct {
	ID      string
	Object  string
	Choices []struct {
		Index   int
		Text    string
		Message struct{ Role, Content string }
		Delta   struct {
			Role    string
			Content *string
		}
		FinishReason *string         `json:"finish_reason"`
		StopReason   any             `json:"stop_reason"`
		TokenIDs     []int32         `json:"token_ids"`
		Logprobs     json.RawMessage `json:"logprobs"`
	}
	Usage   *usage
	Seed    *uint64
	Timings *timings
	Error   *struct {
		Message, Type string
		Param         *string
		Code          int
	}
}

func (a *answer) text() string {
	if c := a.Choices[0]; c.Text != "" {
		return c.Text
	}
	return a.Choices[0].Message.Content
}

// post sends a body that must succeed.
func (h *harness) post(path, body string) *answer {
	h.t.Helper()
	resp, data := h.do("POST", path, body)
	var a answer
	if err := json.Unmarshal(data, &a); err != nil || resp.StatusCode != 200 {
		h.t.Fatalf("POST %s %s: %s %s", path, clip(body), resp.Status, data)
	}
	return &a
}

// streamed is a stream put together again.
type streamed struct {
	texts  map[int]string
	finish map[int]string
	ids    map[int][]int32
	chunks int
	usage  *usage
	last   *answer
	err    string
	done   bool
}

// readStream reads events to the end of the body.
func readStream(t testing.TB, body io.Reader) *streamed {
	t.Helper()
	s := &streamed{texts: map[int]string{}, finish: map[int]string{}, ids: map[int][]int32{}}
	data, _ := io.ReadAll(body)
	for _, event := range strings.Split(string(data), "\n\n") {
		line, ok := strings.CutPrefix(event, "data: ")
		if !ok {
			continue
		}
		if line == "[DONE]" {
			s.done = true
			continue
		}
		if s.done {
			t.Errorf("an event after [DONE]: %s", line)
		}
		var a answer
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatalf("event %q: %v", line, err)
		}
		s.chunks++
		if a.Error != nil {
			s.err = a.Error.Message
			continue
		}
		s.last = &a
		if a.Usage != nil {
			s.usage = a.Usage
		}
		for _, c := range a.Choices {
			s.texts[c.Index] += c.Text
			if c.Delta.Content != nil {
				s.texts[c.Index] += *c.Delta.Content
			}
			s.ids[c.Index] = append(s.ids[c.Index], c.TokenIDs...)
			if c.FinishReason != nil {
				if s.finish[c.Index] != "" {
					t.Errorf("choice %d ends twice", c.Index)
				}
				s.finish[c.Index] = *c.FinishReason
			}
		}
	}
	return s
}

func (h *harness) stream(path, body string) *streamed {
	h.t.Helper()
	resp, data := h.do("POST", path, body)
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		h.t.Fatalf("POST %s: %s %s", path, resp.Status, data)
	}
	return readStream(h.t, bytes.NewReader(data))
}

func TestAnswers(t *testing.T) {
	h := start(t, open(t, scriptModel(t, script{"Hel", "lo, ", "wor", "ld", "!"}, script{"日"[:1], "日"[1:] + "本"[:2], "本"[2:]}), engine.Options{}), Config{})
	a := h.post("/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}],"chat_template_kwargs":{"suffix":"①"}}`)
	if a.text() != "Hello, world!" || *a.Choices[0].FinishReason != "stop" || a.Object != "chat.completion" || a.Choices[0].Message.Role != "assistant" {
		t.Errorf("chat: %+v", a)
	}
	if a.Usage.CompletionTokens != 6 || a.Usage.TotalTokens != a.Usage.PromptTokens+6 || a.Seed == nil || a.Timings.PredictedN != 6 {
		t.Errorf("usage %+v timings %+v", a.Usage, a.Timings)
	}
	b := h.post("/v1/completions", `{"prompt":"go: ②","echo":true}`)
	if b.text() != "go: ②日本" || b.Object != "text_completion" {
		t.Errorf("completion: %+v", b)
	}
	s := h.stream("/v1/chat/completions", `{"messages":[{"role":"user","content":[{"type":"text","text":"h"},{"type":"text","text":"i"}]}],
		"chat_template_kwargs":{"suffix":"①"},"stream":true,"stream_options":{"include_usage":true},"n":2}`)
	if s.texts[0] != "Hello, world!" || s.texts[1] != s.texts[0] || s.finish[1] != "stop" || !s.done || s.usage.CompletionTokens != 12 {
		t.Errorf("stream: %+v", s)
	}
	if s.usage.PromptTokens != a.Usage.PromptTokens {
		t.Errorf("prompt of %d tokens in parts, %d as a string", s.usage.PromptTokens, a.Usage.PromptTokens)
	}
}

// logBuffer is a log that is written and read by many goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
