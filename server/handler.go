package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"runtime/debug"
	"strings"
	"time"
)

// route is one row of the route table. Everything needs a key but what is open.
type route struct {
	method, path string
	handle       func(w http.ResponseWriter, r *http.Request, c *call) *apiError
	open         bool
}

func (s *Server) table() []route {
	return []route{
		{"POST", "/v1/chat/completions", s.chatCompletions, false},
		{"POST", "/v1/completions", s.completions, false},
		{"GET", "/v1/models", s.listModels, false},
		{"GET", "/v1/models/{id...}", s.showModel, false},
		{"POST", "/tokenize", s.tokenize, false},
		{"POST", "/detokenize", s.detokenize, false},
		{"GET", "/version", s.showVersion, false},
		{"GET", "/metrics", s.serveMetrics, s.cfg.MetricsPublic},
		{"GET", "/load", s.load, false},
		{"GET", "/ping", s.ping, false},
		{"POST", "/ping", s.ping, false},
		{"GET", "/health", s.health, true},
		{"GET", "/livez", s.livez, true},
		{"GET", "/readyz", s.health, true},
	}
}

// call is what is known about one HTTP request; the log line at its end shows it.
type call struct {
	id     string // X-Request-Id
	tenant int
	err    *apiError // what was answered, or would have been
	attrs  []slog.Attr
}

func (c *call) note(attrs ...slog.Attr) { c.attrs = append(c.attrs, attrs...) }

type callKey struct{}

func (s *Server) mux() *http.ServeMux {
	mux := http.NewServeMux()
	allow := map[string][]string{}
	for _, rt := range s.routes {
		allow[rt.path] = append(allow[rt.path], rt.method)
		mux.HandleFunc(rt.method+" "+rt.path, func(w http.ResponseWriter, r *http.Request) {
			c := r.Context().Value(callKey{}).(*call)
			if err := rt.handle(w, r, c); err != nil {
				s.answerError(w, c, err)
			}
		})
	}
	for path, methods := range allow {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", strings.Join(methods, ", "))
			s.answerError(w, r.Context().Value(callKey{}).(*call), &apiError{Status: http.StatusMethodNotAllowed,
				Message: "this path takes " + strings.Join(methods, " or ") + " only"})
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.answerError(w, r.Context().Value(callKey{}).(*call), &apiError{Status: http.StatusNotFound, Message: "there is nothing at this path"})
	})
	return mux
}

func (s *Server) answerError(w http.ResponseWriter, c *call, err *apiError) {
	if c.err = err; err != errLeft {
		writeError(w, err)
	}
}

// wrap puts the checks around the mux that hold for every path, known or not:
// request id, panics, Host, origin, key, log line.
func (s *Server) wrap(mux http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	open := map[string]bool{}
	for _, rt := range s.routes {
		if rt.open {
			open[rt.path] = true
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{id: requestID(r.Header.Get("X-Request-Id"))}
		w.Header().Set("X-Request-Id", c.id)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		rec := &statusWriter{ResponseWriter: w}
		began := time.Now()
		if r.ContentLength != 0 {
			// Until the body is read in full. Also where nobody reads it: net/http
			// waits for what is left of it before it takes the next request.
			http.NewResponseController(w).SetReadDeadline(began.Add(s.cfg.BodyTimeout))
		}
		defer func() {
			p := recover()
			s.ended(rec, r, c, p, time.Since(began))
			if p == http.ErrAbortHandler {
				panic(p)
			}
		}()
		tenant, known := s.keys.find(r.Header.Get("Authorization"))
		if c.tenant = tenant; known {
			c.note(slog.Int("tenant", tenant))
		}
		switch {
		case !s.hosts.Load().allows(r.Host):
			s.answerError(rec, c, errHost)
		case origin.Check(r) != nil:
			s.answerError(rec, c, errOrigin)
		case !s.keys.open() && !known && !open[r.URL.Path]:
			rec.Header().Set("WWW-Authenticate", "Bearer")
			s.answerError(rec, c, errKey)
		default:
			mux.ServeHTTP(rec, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
		}
	})
}

// ended answers after a panic and writes the log line of a request.
func (s *Server) ended(w *statusWriter, r *http.Request, c *call, panicked any, took time.Duration) {
	if panicked != nil && panicked != http.ErrAbortHandler {
		s.log.Error("handler panicked", "request_id", c.id, "panic", panicked, "stack", string(debug.Stack()))
		c.err = errInternal
		if w.status == 0 {
			writeError(w, errInternal)
		}
	}
	status := w.status
	if c.err == errLeft || status == 0 {
		status = errLeft.Status
	}
	level := slog.LevelInfo
	if r.Method == http.MethodGet && status < 400 {
		level = slog.LevelDebug // probes and scrapes
	}
	attrs := append([]slog.Attr{slog.String("request_id", c.id), slog.String("method", r.Method), slog.String("path", clip(r.URL.Path)),
		slog.Int("status", status), slog.Float64("ms", ms(took))}, c.attrs...)
	if c.err != nil {
		attrs = append(attrs, slog.String("error", c.err.Message))
	}
	s.log.LogAttrs(context.WithoutCancel(r.Context()), level, "request", attrs...)
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// requestID takes a client's id where it is plain, and makes one otherwise.
func requestID(given string) string {
	if plainID(given) {
		return given
	}
	return newID()
}

// plainID reports whether an id can be written anywhere as it is.
func plainID(id string) bool {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:"
	return id != "" && len(id) <= 128 && strings.Trim(id, plain) == ""
}

var (
	errMediaType = &apiError{Status: http.StatusUnsupportedMediaType, Message: "the body must be JSON: send Content-Type: application/json, without Content-Encoding"}
	errTooLarge  = &apiError{Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("the body is larger than %d bytes", maxBody)}
	errManyLarge = &apiError{Status: http.StatusTooManyRequests, Message: "too many large requests at once; retry later", RetryAfter: 1}
	errSlowBody  = badRequest("", "the body did not arrive in full, or not in time")
)

// readBody reads and checks a JSON body. release gives its memory's place back;
// call it when the body is no longer used.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) (v value, release func(), err *apiError) {
	release = func() {}
	kind, params, e := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset, ok := params["charset"]; e != nil || kind != "application/json" || ok && !strings.EqualFold(charset, "utf-8") ||
		r.Header.Get("Content-Encoding") != "" {
		return nil, release, errMediaType
	}
	if r.ContentLength > maxBody {
		return nil, release, errTooLarge
	}
	const small = 64 << 10
	from := http.MaxBytesReader(w, r.Body, maxBody)
	body, e := io.ReadAll(io.LimitReader(from, small))
	if e == nil && len(body) == small {
		select {
		case s.large <- struct{}{}:
			release = func() { <-s.large }
		default:
			return nil, release, errManyLarge
		}
		var rest []byte
		rest, e = io.ReadAll(from)
		body = append(body, rest...)
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(e, &tooLarge):
		err = errTooLarge
	case e != nil:
		err = errSlowBody
	default:
		http.NewResponseController(w).SetReadDeadline(time.Time{})
		v, err = parseBody(body)
	}
	if err != nil {
		release()
		release = func() {}
	}
	return v, release, err
}
