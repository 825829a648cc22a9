package serve

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"
)

// Why a request failed. Statuses other than 200 are "http NNN".
const (
	reasonTimeout     = "timeout"     // --timeout passed
	reasonConnect     = "connect"     // no connection
	reasonNoResponse  = "no response" // the connection closed before the status line
	reasonCut         = "cut"         // the stream ended before [DONE]
	reasonMalformed   = "malformed"   // not an event stream of JSON chunks
	reasonErrorEvent  = "error event" // the server reported an error in the stream
	reasonNoOutput    = "no output"   // [DONE] with neither a chunk nor tokens
	reasonInterrupted = "interrupted" // the benchmark was stopped
)

// Failure is why one request has no answer.
type Failure struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func failf(reason, format string, args ...any) *Failure {
	return &Failure{reason, fmt.Sprintf(format, args...)}
}

var errTimeout = errors.New("the request's time is over")

// client sends requests to one server.
type client struct {
	c      Config
	model  string
	http   *http.Client
	opened atomic.Int64 // connections opened
}

// newClient sizes the connection pool to the load and, when no model is named, asks for one.
func newClient(ctx context.Context, c Config) (*client, error) {
	idle := c.MaxConcurrency
	if idle == 0 {
		idle = max(c.total(), c.NumWarmups)
	}
	cl := &client{c: c, model: c.Model, http: &http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		MaxIdleConns:        idle,
		MaxIdleConnsPerHost: idle,
		IdleConnTimeout:     90 * time.Second,
		DisableKeepAlives:   c.DisableKeepAlive,
		DisableCompression:  true,
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1: a connection a request in flight
	}}}
	if cl.model == "" {
		var err error
		if cl.model, err = cl.firstModel(ctx); err != nil {
			return nil, err
		}
	}
	return cl, nil
}

func (cl *client) close() { cl.http.CloseIdleConnections() }

func (cl *client) newRequest(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(cl.c.BaseURL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if cl.c.APIKey != "" {
		req.Header.Set("Authorization", "Bearer "+cl.c.APIKey)
	}
	return req, nil
}

func (cl *client) firstModel(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, min(cl.c.Timeout, 30*time.Second))
	defer cancel()
	req, err := cl.newRequest(ctx, http.MethodGet, "/v1/models", nil)
	if err != nil {
		return "", err
	}
	resp, err := cl.http.Do(req)
	if err != nil {
		return "", fmt.Errorf("no model named and %w", err)
	}
	defer resp.Body.Close()
	var list struct{ Data []struct{ ID string } }
	err = json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&list)
	if resp.StatusCode != http.StatusOK || err != nil || len(list.Data) == 0 {
		return "", fmt.Errorf("/v1/models answered %s and lists no model; name one with --model", resp.Status)
	}
	return list.Data[0].ID, nil
}

// body is the JSON of one request.
func (cl *client) body(r Request) ([]byte, error) {
	c := cl.c
	m := map[string]any{
		"model": cl.model, "max_tokens": r.MaxTokens, "temperature": c.Temperature,
		"stream": true, "stream_options": map[string]bool{"include_usage": true},
	}
	switch {
	case c.Endpoint == Chat:
		m["messages"] = []map[string]string{{"role": "user", "content": r.Prompt}}
	case r.PromptIDs != nil:
		m["prompt"] = r.PromptIDs
	default:
		m["prompt"] = r.Prompt
	}
	if c.IgnoreEOS {
		m["ignore_eos"] = true
	}
	if c.Temperature > 0 {
		m["seed"] = r.Seed
	}
	if c.VerifyAlone {
		m["return_token_ids"] = true
	}
	for name, v := range c.ExtraBody {
		m[name] = v
		if string(v) == "null" {
			delete(m, name)
		}
	}
	return json.Marshal(m)
}

// send makes one request and reads its whole answer.
func (cl *client) send(ctx context.Context, r Request) (res Result) {
	body, err := cl.body(r)
	if err != nil {
		return Result{Failure: failf(reasonMalformed, "the request: %v", err)}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cl.c.Timeout, errTimeout)
	defer cancel()
	var reused bool
	req, err := cl.newRequest(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if reused = i.Reused; !reused {
			cl.opened.Add(1)
		}
	}}), http.MethodPost, cl.c.Endpoint, body)
	if err != nil {
		return Result{Failure: failf(reasonConnect, "%v", err)}
	}
	start := time.Now()
	resp, err := cl.http.Do(req)
	if err != nil {
		return Result{Failure: noAnswer(ctx, err, reused)}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return Result{Failure: failf(fmt.Sprintf("http %d", resp.StatusCode), "%s", excerpt(text))}
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind != "text/event-stream" {
		return Result{Failure: failf(reasonMalformed, "the answer is %q, not text/event-stream", resp.Header.Get("Content-Type"))}
	}
	a := answer{start: start}
	a.read(ctx, resp.Body)
	res = a.result()
	if !cl.c.VerifyAlone {
		res.Text, res.IDs = "", nil // nothing will read them
	}
	return res
}

// noAnswer classifies an error before the response's header.
func noAnswer(ctx context.Context, err error, reused bool) *Failure {
	if f := stopped(ctx); f != nil {
		return f
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return failf(reasonConnect, "%v", err)
	}
	if reused {
		return failf(reasonNoResponse, "on a reused connection: %v", err)
	}
	return failf(reasonNoResponse, "%v", err)
}

// stopped is the failure of a request whose context has ended, or nil.
func stopped(ctx context.Context) *Failure {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return nil
	case errors.Is(cause, errTimeout):
		return failf(reasonTimeout, "%v", cause)
	default:
		return failf(reasonInterrupted, "%v", cause)
	}
}

// excerpt is the start of a server's text, on one line.
func excerpt(text []byte) string {
	s := strings.Join(strings.Fields(strings.ToValidUTF8(string(text[:min(len(text), 300)]), "\uFFFD")), " ")
	if len(text) > 300 {
		s += " …"
	}
	return s
}
