package hub

// The hub is not trusted. What it sends is bounded (JSON ≤ 8 MiB, bodies end at the announced size, nothing is
// decompressed), what it announces is checked, and where it points is checked twice: every redirect by CheckRedirect,
// every address by the dialer, after name resolution, so that a name that resolves to 127.0.0.1 is caught too.
// TestTokenStaysHome, TestRedirects and TestHostileJSON hold this.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const maxJSON = 8 << 20 // bytes

// client speaks to one hub.
type client struct {
	base  *url.URL // the endpoint, without a final slash
	token string
	http  *http.Client
	sleep func(context.Context, time.Duration) error

	connectTimeout time.Duration // until a connection stands, TLS included
	headerTimeout  time.Duration // then until the answer's header
	stallTimeout   time.Duration // then between two reads of the body
	attempts       int           // in a row without progress
	progressFloor  int64         // bytes that count as progress

	reached atomic.Bool // the hub has answered once: from now on a lost connection is worth another attempt
	private atomic.Bool // the endpoint itself is on a private address, so redirects may be too
	proxies sync.Map    // host:port of proxies from the environment, which may be private
}

func newClient() *client {
	c := &client{
		sleep:          sleep,
		connectTimeout: 5 * time.Second,
		headerTimeout:  30 * time.Second,
		stallTimeout:   30 * time.Second,
		attempts:       5,
		progressFloor:  1 << 20,
	}
	c.http = &http.Client{CheckRedirect: c.checkRedirect, Transport: &http.Transport{
		Proxy:               c.proxy,
		DialContext:         c.dial,
		TLSHandshakeTimeout: c.connectTimeout,
		DisableCompression:  true,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     30 * time.Second,
	}}
	return c
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func (c *client) setEndpoint(s string) error {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return fmt.Errorf("HF_ENDPOINT %q is not an http(s) address", clip(s))
	}
	u.Path, u.RawPath, u.Fragment = strings.TrimRight(u.Path, "/"), "", ""
	c.base = u
	return nil
}

// urlOf joins checked parts to the endpoint; each part is escaped.
func (c *client) urlOf(parts ...string) string {
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return c.base.String() + "/" + strings.Join(parts, "/")
}

func (c *client) fileURL(repo, rev, path string) string {
	parts := append(strings.Split(repo, "/"), "resolve", rev)
	return c.urlOf(append(parts, strings.Split(path, "/")...)...)
}

// errRefused marks answers that would lead somewhere we do not go. They are never retried.
var errRefused = errors.New("refused")

func (c *client) checkRedirect(req *http.Request, via []*http.Request) error {
	from := via[len(via)-1].URL
	switch {
	case len(via) >= 10:
		return fmt.Errorf("%w: more than 10 redirects", errRefused)
	case req.URL.Scheme != "https" && req.URL.Scheme != "http":
		return fmt.Errorf("%w: redirect to scheme %q", errRefused, clip(req.URL.Scheme))
	case from.Scheme == "https" && req.URL.Scheme == "http":
		return fmt.Errorf("%w: redirect from https to http (%s)", errRefused, clip(req.URL.Host))
	case isPrivateHost(req.URL.Hostname()) && !c.private.Load() && !isPrivateHost(c.base.Hostname()):
		return fmt.Errorf("%w: redirect to the private address %s", errRefused, clip(req.URL.Host))
	}
	c.authorize(req)
	return nil
}

// authorize sets the token on requests to the configured hub, over its scheme, and removes it from all others. (Go's
// own rule would keep it for other ports and for subdomains.)
func (c *client) authorize(req *http.Request) {
	req.Header.Del("Authorization")
	if c.token != "" && req.URL.Scheme == c.base.Scheme && hostPort(req.URL) == hostPort(c.base) {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

func (c *client) proxy(req *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(req)
	if u != nil {
		c.proxies.Store(hostPort(u), true)
	}
	return u, err
}

// dial connects within connectTimeout, and to private addresses only for a proxy, for the endpoint, or when the
// endpoint is itself private.
func (c *client) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	_, isProxy := c.proxies.Load(strings.ToLower(addr))
	isHub := strings.EqualFold(addr, hostPort(c.base))
	d := net.Dialer{Timeout: c.connectTimeout, Control: func(_, resolved string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(resolved)
		if err != nil || !isPrivateAddr(ap.Addr()) || isProxy || c.private.Load() {
			return err
		}
		if isHub {
			c.private.Store(true)
			return nil
		}
		return fmt.Errorf("%w: %s is the private address %s", errRefused, clip(addr), ap.Addr())
	}}
	return d.DialContext(ctx, network, addr)
}

func isPrivateHost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if a, err := netip.ParseAddr(host); err == nil {
		return isPrivateAddr(a)
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

var carrierNAT, thisNet = netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("0.0.0.0/8")

func isPrivateAddr(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() ||
		carrierNAT.Contains(a) || thisNet.Contains(a)
}

// response is an open answer whose every phase is watched: no step of it can hang for ever.
type response struct {
	*http.Response
	watch *watchdog
	stall time.Duration
}

// Read reads the body; a body that stalls is an error.
func (r *response) Read(p []byte) (int, error) {
	r.watch.expect("the transfer stalled for", r.stall)
	n, err := r.Body.Read(p)
	if err != nil && err != io.EOF {
		err = r.watch.explain(err)
	}
	return n, err
}

func (r *response) Close() error {
	err := r.Body.Close()
	r.watch.stop()
	return err
}

// get starts a GET. budget > 0 bounds the time to the answer's header as a whole; 0 leaves it to the client's timeouts.
func (c *client) get(ctx context.Context, url string, header http.Header, budget time.Duration) (*response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{ctx: ctx, cancel: cancel}
	phase := func(what string, d time.Duration) {
		if budget == 0 {
			w.expect(what, d)
		}
	}
	if budget > 0 {
		w.expect("no answer in", budget)
	}
	trace := &httptrace.ClientTrace{
		GetConn: func(string) { phase("no connection in", c.connectTimeout) },
		GotConn: func(httptrace.GotConnInfo) { phase("no answer in", c.headerTimeout) },
	}
	phase("no answer in", c.connectTimeout+c.headerTimeout) // for transports without trace
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodGet, url, nil)
	if err != nil {
		w.stop()
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", "sestina")
	req.Header.Set("Accept-Encoding", "identity")
	c.authorize(req)
	res, err := c.http.Do(req)
	if err != nil {
		err = w.explain(withoutURL(err))
		w.stop()
		if !c.reached.Load() {
			err = permanent{fmt.Errorf("cannot reach %s: %w (check the network and HF_ENDPOINT)", c.base.Host, err)}
		}
		return nil, err
	}
	c.reached.Store(true)
	r := &response{res, w, c.stallTimeout}
	if enc := res.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		r.Close()
		return nil, permanent{fmt.Errorf("%w: the hub sent Content-Encoding %q", errRefused, clip(enc))}
	}
	return r, nil
}

// withoutURL drops the address from an HTTP error: after a redirect it may carry a signature.
func withoutURL(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}

// statusError turns an HTTP status into an error; 408, 429 and 5xx are worth another attempt.
func (c *client) statusError(res *response, what string) error {
	after, _ := strconv.Atoi(res.Header.Get("Retry-After"))
	err := fmt.Errorf("%s: %s answered %d %s", what, c.base.Host, res.StatusCode, http.StatusText(res.StatusCode))
	switch code := res.StatusCode; {
	case code == 408 || code == 429 || code >= 500:
		return busy{err, time.Duration(min(max(after, 0), 30)) * time.Second}
	case code == 401 || code == 403:
		err = fmt.Errorf("%w: private, gated or misspelt; accept its terms on the hub and set HF_TOKEN", err)
	case code == 404:
		err = fmt.Errorf("%w: no such repository, revision or file", err)
	}
	return permanent{err}
}

// getJSON fetches a small document into v, with retries.
func (c *client) getJSON(ctx context.Context, url, what string, v any) error {
	return c.retry(ctx, func() (int64, error) {
		res, err := c.get(ctx, url, nil, 0)
		if err != nil {
			return 0, err
		}
		defer res.Close()
		if res.StatusCode != http.StatusOK {
			return 0, c.statusError(res, what)
		}
		body, err := io.ReadAll(io.LimitReader(res, maxJSON+1))
		if err != nil {
			return 0, fmt.Errorf("%s: %w", what, err)
		}
		if len(body) > maxJSON {
			return 0, permanent{fmt.Errorf("%w: %s: the description is larger than %d MiB", errRefused, what, maxJSON>>20)}
		}
		if err := json.Unmarshal(body, v); err != nil {
			return 0, permanent{fmt.Errorf("%s: the hub's description cannot be read: %w", what, err)}
		}
		return 0, nil
	})
}
