package server

import (
	"net"
	"net/http"
	"time"
)

// Loading answers on a listener while the model is being loaded: alive, not
// ready, 503 for everything else. stop ends it and leaves the listener to Serve.
func Loading(l *net.TCPListener) (stop func()) {
	busy := &apiError{Status: http.StatusServiceUnavailable, Message: "the model is loading", RetryAfter: 5}
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Request-Id", requestID(r.Header.Get("X-Request-Id")))
			if r.URL.Path == "/livez" {
				writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
				return
			}
			writeError(w, busy)
		})}
	srv.SetKeepAlivesEnabled(false)
	ended := make(chan struct{})
	go func() {
		srv.Serve(&lent{limitConns(l, 64), l})
		close(ended)
	}()
	return func() {
		srv.Close()
		<-ended
		l.SetDeadline(time.Time{})
	}
}

// lent is a listener whose Close only ends Accept.
type lent struct {
	net.Listener
	tcp *net.TCPListener
}

func (l *lent) Close() error { return l.tcp.SetDeadline(time.Now()) }
