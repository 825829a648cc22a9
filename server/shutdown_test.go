package server

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sestina/engine"
)

// serving starts Serve on a listener of its own; cancel is the SIGTERM.
func serving(t *testing.T, opt engine.Options, cfg Config) (h *harness, cancel func(), ended chan error) {
	t.Helper()
	h = start(t, open(t, randomModel(t), opt), cfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(h.llm, Config{ShutdownTimeout: cfg.ShutdownTimeout, Log: h.s.log})
	if err != nil {
		t.Fatal(err)
	}
	h.s, h.url = s, "http://"+l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ended = make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	return h, cancel, ended
}

// TestShutdownDrains is T16 within the limit: everything that runs or waits is
// answered to its end, nothing new is taken.
func TestShutdownDrains(t *testing.T) {
	h, cancel, ended := serving(t, engine.Options{MaxNumSeqs: 4, Observer: device(2 * time.Millisecond)}, Config{ShutdownTimeout: 2 * time.Minute})
	var clients sync.WaitGroup
	var mu sync.Mutex
	complete, cut := 0, 0
	for i := range 12 {
		clients.Go(func() {
			s := h.stream("/v1/completions", fmt.Sprintf(`{"prompt":"drain %d","max_tokens":400,"ignore_eos":true,"stream":true}`, i))
			mu.Lock()
			defer mu.Unlock()
			if s.done && s.finish[0] == "length" {
				complete++
			} else {
				cut++
			}
		})
	}
	h.until("full", func(s engine.Stats) bool { return s.Running == 4 && s.Running+s.Waiting == 12 })
	began := time.Now()
	cancel()
	for h.llm.Engine.Ready() == nil {
		time.Sleep(time.Millisecond)
	}
	for _, path := range []string{"/readyz", "/health", "/v1/completions"} {
		method, body := "GET", ""
		if path == "/v1/completions" {
			method, body = "POST", `{"prompt":"late"}`
		}
		resp, data := h.do(method, path, body)
		if refusal(t, resp, data, 503); resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", path)
		}
	}
	if resp, data := h.do("GET", "/livez", ""); resp.StatusCode != 200 {
		t.Errorf("a server that drains lives: %s %s", resp.Status, data)
	}
	clients.Wait()
	if err := <-ended; err != nil || cut > 0 {
		t.Errorf("Serve: %v; %d complete, %d cut", err, complete, cut)
	}
	t.Logf("T16 within the limit: %d streams complete, %d cut, ended after %.2f s", complete, cut, time.Since(began).Seconds())
}

// TestShutdownCutsWithAnError is T16 past the limit: who is not finished hears so.
func TestShutdownCutsWithAnError(t *testing.T) {
	h, cancel, ended := serving(t, engine.Options{MaxNumSeqs: 2}, Config{ShutdownTimeout: 200 * time.Millisecond})
	var clients sync.WaitGroup
	var mu sync.Mutex
	told, silent := 0, 0
	for i := range 4 { // two run, two wait; of each kind one streams
		body := fmt.Sprintf(`{"prompt":"cut %d",%s}`, i, endless)
		if i%2 == 1 {
			body = strings.Replace(body, `"stream":true`, `"stream":false`, 1)
		}
		clients.Go(func() {
			resp, data := h.do("POST", "/v1/completions", body)
			ok := resp.StatusCode == 503
			if resp.StatusCode == 200 {
				s := readStream(t, bytes.NewReader(data))
				ok = s.err != "" && s.done && s.finish[0] == ""
			}
			mu.Lock()
			defer mu.Unlock()
			if ok {
				told++
			} else {
				silent++
				t.Errorf("cut without an error: %s …%s", resp.Status, data[max(0, len(data)-300):])
			}
		})
		h.until("admitted", func(s engine.Stats) bool { return s.Running+s.Waiting == i+1 })
	}
	began := time.Now()
	cancel()
	clients.Wait()
	err := <-ended
	if err == nil || !strings.Contains(err.Error(), "4 choices") {
		t.Errorf("Serve does not say that it cut 4: %v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	t.Logf("T16 past the limit of 0.2 s: %d told by an error, %d without a terminal event, ended after %.2f s", told, silent, time.Since(began).Seconds())
}

// TestDeadEngineIsSeen: every client is answered and the probes say so.
func TestDeadEngineIsSeen(t *testing.T) {
	h := start(t, open(t, randomModel(t), engine.Options{}), Config{})
	if err := h.llm.Engine.Close(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/health": 503, "/readyz": 503, "/livez": 503} {
		if resp, data := h.do("GET", path, ""); resp.StatusCode != want {
			t.Errorf("%s: %s %s", path, resp.Status, data)
		}
	}
	resp, data := h.do("POST", "/v1/completions", `{"prompt":"a"}`)
	refusal(t, resp, data, 503)
}

// TestLoadingAnswers: before the model is there the port answers 503, after it the same listener serves.
func TestLoadingAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := Loading(l.(*net.TCPListener))
	h := &harness{t: t, url: "http://" + l.Addr().String()}
	resp, data := h.do("GET", "/health", "")
	refusal(t, resp, data, 503)
	if resp, _ := h.do("GET", "/livez", ""); resp.StatusCode != 200 {
		t.Errorf("/livez while loading: %s", resp.Status)
	}
	stop()
	s, err := New(open(t, randomModel(t), engine.Options{}), Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	if resp, data := h.do("GET", "/health", ""); resp.StatusCode != 200 || string(data) != "{\"status\":\"ok\"}\n" {
		t.Errorf("/health: %s %s", resp.Status, data)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
