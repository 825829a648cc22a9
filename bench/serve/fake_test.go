package serve

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeServer answers with planted delays and faults. It listens on in-memory
// pipes inside a synctest bubble, so delays are exact and cost no time.
type fakeServer struct {
	ttft, itl time.Duration
	fault     func(n int, r fakeRequest) string // by the request's number, from 0; "" = none
	answer    func(n int, r fakeRequest) ([]string, []int32)
	noUsage   bool

	mu       sync.Mutex
	requests []fakeRequest
	inFlight int
	peak     int
}

type fakeRequest struct {
	Model       string
	Prompt      any
	Messages    []struct{ Role, Content string }
	MaxTokens   int     `json:"max_tokens"`
	Temperature float64 `json:"temperature"`
	Seed        *uint64
	IgnoreEOS   bool `json:"ignore_eos"`
	ReturnIDs   bool `json:"return_token_ids"`
	TopK        int  `json:"top_k"`
	path, auth  string
}

// text identifies the prompt.
func (r fakeRequest) text() string {
	if len(r.Messages) > 0 {
		return r.Messages[0].Content
	}
	return fmt.Sprint(r.Prompt)
}

func (f *fakeServer) enter(r fakeRequest) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r)
	f.inFlight++
	f.peak = max(f.peak, f.inFlight)
	return len(f.requests) - 1
}

func (f *fakeServer) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inFlight--
}

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	if hr.URL.Path == "/v1/models" {
		io.WriteString(w, `{"object":"list","data":[{"id":"fake"}]}`)
		return
	}
	var r fakeRequest
	if err := json.NewDecoder(hr.Body).Decode(&r); err != nil {
		panic(err)
	}
	r.path, r.auth = hr.URL.Path, hr.Header.Get("Authorization")
	n := f.enter(r)
	defer f.leave()
	fault := ""
	if f.fault != nil {
		fault = f.fault(n, r)
	}
	switch fault {
	case "http 500":
		http.Error(w, `{"error":{"message":"planted"}}`, 500)
		return
	case "http 429":
		http.Error(w, `{"error":{"message":"busy"}}`, http.StatusTooManyRequests)
		return
	case "no response":
		panic(http.ErrAbortHandler)
	case "json":
		io.WriteString(w, `{"choices":[]}`)
		return
	}
	f.stream(w, hr.Context(), n, r, fault)
}

func (f *fakeServer) stream(w http.ResponseWriter, ctx context.Context, n int, r fakeRequest, fault string) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	send := func(format string, args ...any) {
		fmt.Fprintf(w, format, args...)
		w.(http.Flusher).Flush()
	}
	texts, ids := f.texts(n, r)
	if fault == "no output" {
		send("data: [DONE]\n\n")
		return
	}
	if r.path == Chat {
		send("data: %s\n\n", `{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}`)
	}
	for i, text := range texts {
		wait := f.itl
		if i == 0 {
			wait = f.ttft
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		if i == 1 {
			switch fault {
			case "cut":
				panic(http.ErrAbortHandler)
			case "short":
				return // ends in good order, without [DONE]
			case "malformed":
				send("data: {\"choices\":\n\n")
				return
			case "error event":
				send("data: {\"error\":{\"message\":\"out of memory\",\"code\":500}}\n\ndata: [DONE]\n\n")
				return
			case "named error":
				send("event: error\ndata: {\"message\":\"out of memory\"}\n\n")
				return
			case "stall":
				<-ctx.Done()
				return
			}
		}
		send(": ping\n\ndata: %s\n\n", chunkJSON(r, text, ids, i, i == len(texts)-1))
	}
	if !f.noUsage {
		send("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d}}\n\n", len(strings.Fields(r.text())), len(texts))
	}
	send("data: [DONE]\n\n")
}

// texts is the answer's pieces, one a token: by default made of the prompt and the position.
func (f *fakeServer) texts(n int, r fakeRequest) ([]string, []int32) {
	if f.answer != nil {
		return f.answer(n, r)
	}
	var texts []string
	var ids []int32
	for i := range r.MaxTokens {
		texts = append(texts, fmt.Sprintf(" %s%d", r.text()[:3], i))
		ids = append(ids, int32(len(r.text())+i))
	}
	return texts, ids
}

func chunkJSON(r fakeRequest, text string, ids []int32, i int, last bool) string {
	c := map[string]any{"finish_reason": nil}
	if last {
		c["finish_reason"] = "length"
	}
	if r.ReturnIDs {
		c["token_ids"] = ids[i : i+1]
	}
	if c["text"] = text; r.path == Chat {
		delete(c, "text")
		c["delta"] = map[string]any{"content": text}
	}
	data, err := json.Marshal(map[string]any{"choices": []any{c}})
	if err != nil {
		panic(err)
	}
	return string(data)
}

// pipeListener hands in-memory connections to an http.Server.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func testConfig() Config {
	return Config{BaseURL: "http://fake", Endpoint: Completions, Model: "fake", NumPrompts: 20, Reps: 1,
		RequestRate: inf, Burstiness: 1, InputLen: 8, OutputLen: 5, PercentileMetrics: metricNames,
		MetricPercentiles: []float64{0, 50, 90, 99, 100}, Timeout: time.Minute, Seed: 7}
}

// measure runs c against f in a bubble and hands the report to check.
func measure(t *testing.T, f *fakeServer, c Config, check func(*testing.T, *Report)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
		srv := &http.Server{Handler: f, ErrorLog: nil}
		go srv.Serve(l)
		defer srv.Close()
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		cl, err := newClient(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.close()
		cl.http.Transport.(*http.Transport).DialContext = l.dial
		r, err := run(t.Context(), c, cl, nil)
		if err != nil {
			t.Fatal(err)
		}
		check(t, r)
	})
}
