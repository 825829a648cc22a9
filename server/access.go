package server

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
)

// keyring holds the digests of the API keys. Keys are compared as digests in
// constant time, all of them each time, so that neither a key's text nor its
// place can be found by timing.
type keyring struct {
	digests [][sha256.Size]byte
	salts   []string // of the prefix cache, one for each key
	secret  []byte
}

// newKeyring makes salts with a secret; nil is one of this process alone.
func newKeyring(keys []string, secret []byte) (keyring, error) {
	k := keyring{secret: secret}
	if secret == nil {
		k.secret = make([]byte, 32)
		rand.Read(k.secret)
	}
	for _, key := range keys {
		if strings.TrimSpace(key) == "" {
			return k, errors.New("--api-key is empty; leave it out to serve without a key")
		}
		k.digests = append(k.digests, sha256.Sum256([]byte(key)))
		k.salts = append(k.salts, k.mac(key))
	}
	return k, nil
}

func (k *keyring) mac(parts ...string) string {
	m := hmac.New(sha256.New, k.secret)
	for _, p := range parts {
		d := sha256.Sum256([]byte(p)) // of fixed length, so that parts cannot run into each other
		m.Write(d[:])
	}
	return hex.EncodeToString(m.Sum(nil)[:16])
}

// open reports that no key is needed.
func (k *keyring) open() bool { return len(k.digests) == 0 }

// find returns the tenant of an Authorization header: the index of its key.
func (k *keyring) find(header string) (tenant int, ok bool) {
	scheme, key, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return 0, false
	}
	digest := sha256.Sum256([]byte(strings.TrimSpace(key)))
	for i := range k.digests {
		if subtle.ConstantTimeCompare(digest[:], k.digests[i][:]) == 1 {
			tenant, ok = i, true
		}
	}
	return tenant, ok
}

// salt separates the prefix caches of tenants. What a client adds can only make
// its cache narrower: the tenant's part is always in.
func (k *keyring) salt(tenant int, more string) string {
	base := ""
	if !k.open() {
		base = k.salts[tenant]
	}
	if more == "" {
		return base
	}
	return k.mac(base, more)
}

// owner is whom the engine's fairness charges: the key, whatever salt a request
// adds. Without keys everybody is one.
func (k *keyring) owner(tenant int) string {
	if k.open() {
		return "anybody"
	}
	return k.salts[tenant]
}

// hostList is which Host headers are served. A web page can make a browser send
// requests here under a name that its owner resolves to this machine (DNS
// rebinding); such a name is not on the list. Addresses cannot be rebound, so any
// is right when the server listens on all of them.
type hostList struct {
	any       bool
	addresses bool
	names     map[string]bool
}

func (s *Server) setHosts(bound net.Addr) {
	h := &hostList{names: map[string]bool{"localhost": true, "127.0.0.1": true, "::1": true}}
	for _, name := range s.cfg.AllowedHosts {
		h.any = h.any || name == "*"
		h.names[strings.ToLower(strings.TrimSpace(name))] = true
	}
	if a, ok := bound.(*net.TCPAddr); ok {
		h.names[a.IP.String()] = true
		h.addresses = a.IP.IsUnspecified()
	}
	s.hosts.Store(h)
}

// allows reports whether a Host header, with or without port, is on the list.
func (h *hostList) allows(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if h.any || h.names[host] {
		return true
	}
	_, err := netip.ParseAddr(host)
	return h.addresses && err == nil
}

var (
	errKey    = &apiError{Status: http.StatusUnauthorized, Message: "a valid API key is needed: send the header Authorization: Bearer KEY"}
	errHost   = &apiError{Status: http.StatusForbidden, Message: "this Host is not served; start the server with --allowed-hosts to add it"}
	errOrigin = &apiError{Status: http.StatusForbidden, Message: "requests from web pages of another origin are not served"}
)

// limitConns accepts at most n connections at a time; more wait in the
// listener's backlog.
func limitConns(l net.Listener, n int) net.Listener {
	return &limited{Listener: l, places: make(chan struct{}, n)}
}

type limited struct {
	net.Listener
	places chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	l.places <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &limitedConn{Conn: c, leave: sync.OnceFunc(func() { <-l.places })}, nil
}

type limitedConn struct {
	net.Conn
	leave func()
}

func (c *limitedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
