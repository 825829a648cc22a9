package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"sestina"
)

// Config of a server. The zero value is usable and safe: loopback names only,
// no key, a minute for a body, half a minute for a reader that stands still.
type Config struct {
	ServedModelNames []string // the first is the one that replies carry; empty = the model's own name
	APIKeys          []string // each one is a tenant; empty = no key is needed
	AllowedHosts     []string // names a request's Host may have besides loopback and the bound address; "*" = any
	MetricsPublic    bool     // /metrics needs no key

	ShutdownTimeout time.Duration // how long running requests may take to finish; 0 = 30 s
	HeaderTimeout   time.Duration // how long a request's header may take to arrive; 0 = 10 s
	BodyTimeout     time.Duration // how long a request's body may take to arrive; 0 = 60 s
	WriteTimeout    time.Duration // how long one write may wait for the reader; 0 = 30 s
	KeepAlive       time.Duration // between comments on a silent stream; 0 = 15 s, negative = none
	IdleTimeout     time.Duration // of a connection without request; 0 = 120 s
	MaxConns        int           // connections at once; 0 = 4096
	MaxLargeBodies  int           // request bodies above 64 KiB in memory at once; 0 = 32

	Metrics *Metrics     // nil = one without the engine's observations, see NewMetrics
	Log     *slog.Logger // nil = slog.Default()
}

func (c *Config) fill() {
	for _, d := range []struct {
		v         *time.Duration
		otherwise time.Duration
	}{
		{&c.ShutdownTimeout, 30 * time.Second}, {&c.HeaderTimeout, 10 * time.Second}, {&c.BodyTimeout, time.Minute}, {&c.WriteTimeout, 30 * time.Second},
		{&c.KeepAlive, 15 * time.Second}, {&c.IdleTimeout, 2 * time.Minute},
	} {
		if *d.v == 0 {
			*d.v = d.otherwise
		}
	}
	if c.MaxConns == 0 {
		c.MaxConns = 4096
	}
	if c.MaxLargeBodies == 0 {
		c.MaxLargeBodies = 32
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics()
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

// Server serves one model over HTTP.
type Server struct {
	cfg      Config
	llm      *sestina.LLM
	log      *slog.Logger
	names    []string
	created  int64
	keys     keyring
	metrics  *Metrics
	routes   []route
	handler  http.Handler
	http     *http.Server
	draining atomic.Bool
	hosts    atomic.Pointer[hostList]

	text     chan struct{} // places for rendering and tokenising, which cost CPU
	large    chan struct{} // places for large bodies
	breakers func() []int32

	unknownMu sync.Mutex
	unknown   map[string]bool // fields that were logged
}

// New makes a server for a loaded model.
func New(llm *sestina.LLM, cfg Config) (*Server, error) {
	if llm == nil {
		return nil, errors.New("a server needs a model; none was given")
	}
	cfg.fill()
	s := &Server{cfg: cfg, llm: llm, log: cfg.Log, names: cfg.ServedModelNames, created: time.Now().Unix(), metrics: cfg.Metrics,
		text: make(chan struct{}, runtime.GOMAXPROCS(0)), large: make(chan struct{}, cfg.MaxLargeBodies), unknown: map[string]bool{}}
	if len(s.names) == 0 {
		s.names = []string{modelName(llm.Name)}
	}
	for _, name := range s.names {
		if name == "" || len(name) > maxNameBytes {
			return nil, fmt.Errorf("--served-model-name %q: a name has 1 to %d bytes", name, maxNameBytes)
		}
	}
	var err error
	if s.keys, err = newKeyring(cfg.APIKeys, llm.CacheSecret()); err != nil {
		return nil, err
	}
	if err := s.metrics.register(s); err != nil {
		return nil, err
	}
	s.breakers = sync.OnceValue(func() []int32 { return s.breakerIDs(defaultBreakers) })
	s.setHosts(nil)
	s.routes = s.table()
	s.handler = s.wrap(s.mux())
	s.http = &http.Server{
		Handler: s.handler, ReadHeaderTimeout: cfg.HeaderTimeout, IdleTimeout: cfg.IdleTimeout, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Handler is the whole server as one handler, checks included.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers on a listener until ctx is done, then drains: no new requests,
// what runs may finish within ShutdownTimeout, the rest gets an error. It returns
// nil when everything was answered to its end.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.setHosts(l.Addr())
	failed := make(chan error, 1)
	go func() { failed <- s.http.Serve(limitConns(l, s.cfg.MaxConns)) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	limit, stop := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.ShutdownTimeout)
	defer stop()
	err := s.Shutdown(limit)
	if e := <-failed; err == nil && !errors.Is(e, http.ErrServerClosed) {
		err = e
	}
	return err
}

// Shutdown refuses new requests, waits for the running ones until ctx is done,
// ends the rest with an error, and closes all connections. Meanwhile /readyz
// answers 503, so that nobody sends more.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.http.SetKeepAlivesEnabled(false)
	err := s.llm.Engine.Drain(ctx)
	// Every request has its terminal event; its goroutine only has to write it.
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer stop()
	if s.http.Shutdown(last) != nil {
		s.http.Close() // readers that stand still
	}
	return err
}

// unavailable is why no generation can begin, or nil.
func (s *Server) unavailable() *apiError {
	if s.draining.Load() {
		return errDraining
	}
	if err := s.llm.Engine.Ready(); err != nil {
		return translate(err)
	}
	return nil
}

// logUnknown tells of a field that the server does not know, once.
func (s *Server) logUnknown(name string) {
	name = clip(name)
	s.unknownMu.Lock()
	defer s.unknownMu.Unlock()
	const most = 64
	if len(s.unknown) < most && !s.unknown[name] {
		s.unknown[name] = true
		s.log.Warn("a field of a request is unknown and was ignored; this is said once", "field", name)
	}
}

// newID is 16 random bytes in hex.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
