package hub

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A hostile repository lists names that would leave the store. Nothing may be written outside it, and no pull with
// such a name among its files may succeed.
func TestHostileNames(t *testing.T) {
	outside, cases := 0, 0
	for _, bad := range append(hostileNames, "../../../tmp/evil", "CONFIG.JSON/../x") {
		for _, ending := range []string{".safetensors", ".gguf"} {
			cases++
			base := t.TempDir()
			repo := map[string][]byte{"config.json": []byte("{}")}
			hub := newFakeHub(t, repo)
			hub.describe = func(s []map[string]any) any {
				content := noise(1, 100)
				hub.files[bad+ending] = content
				return map[string]any{"sha": commit, "siblings": append(s, map[string]any{"rfilename": bad + ending,
					"lfs": map[string]any{"sha256": hexSum(content), "size": 100}})}
			}
			s := openTest(t, filepath.Join(base, "a", "store"), hub)
			spec := "org/repo"
			if ending == ".gguf" {
				spec += ":" + DefaultName // matches no good name
				if strings.Contains(bad, "evil") {
					spec = "org/repo:evil"
				}
			}
			_, err := s.Pull(context.Background(), spec, Options{})
			if checkPath(bad+ending) != nil && err == nil {
				t.Errorf("%q pulled", bad+ending)
			}
			for _, f := range tree(t, base) {
				if !strings.HasPrefix(f, s.Dir()+string(filepath.Separator)) {
					outside++
					t.Errorf("%q wrote %s", bad, f)
				}
			}
		}
	}
	t.Logf("T26 hostile names: %d cases, files outside the store: %d", cases, outside)
}

func lfs(digest string, size any) map[string]any {
	return map[string]any{"rfilename": "m.gguf", "lfs": map[string]any{"sha256": digest, "size": size}}
}

func TestHostileJSON(t *testing.T) {
	good := strings.Repeat("a", 64)
	one := func(s any) any { return map[string]any{"sha": commit, "siblings": []any{s}} }
	many := make([]any, 1<<16+1)
	for i := range many {
		many[i] = map[string]any{"rfilename": "x"}
	}
	cases := map[string]any{
		"9 MiB":            map[string]any{"sha": strings.Repeat("a", 9<<20)},
		"not an object":    []any{1, 2},
		"no files":         map[string]any{"sha": commit},
		"empty digest":     one(lfs("", 10)),
		"short digest":     one(lfs(good[1:], 10)),
		"upper-case":       one(lfs(strings.ToUpper(good), 10)),
		"digest is a path": one(lfs("../../../../../../../../../../../../../../../../../../../../../../../x", 10)),
		"negative size":    one(lfs(good, -1)),
		"huge size":        one(lfs(good, int64(1)<<60)),
		"size as text":     one(lfs(good, "10")),
		"no digest at all": one(map[string]any{"rfilename": "m.gguf", "size": 10}),
		"bad git digest":   one(map[string]any{"rfilename": "m.gguf", "size": 10, "blobId": "../x"}),
		"same name twice": map[string]any{"sha": commit, "siblings": []any{map[string]any{"rfilename": "config.json", "size": 1, "blobId": commit},
			map[string]any{"rfilename": "model.safetensors", "size": 1, "blobId": commit}, map[string]any{"rfilename": "Model.safetensors", "size": 1, "blobId": commit}}},
		"65537 files":        map[string]any{"sha": commit, "siblings": many},
		"commit is a path":   map[string]any{"sha": "../../x", "siblings": []any{}},
		"more than the disk": one(lfs(good, int64(1)<<45)),
	}
	for what, doc := range cases {
		hub := newFakeHub(t, map[string][]byte{})
		hub.describe = func([]map[string]any) any { return doc }
		s := openTest(t, t.TempDir(), hub)
		if m, err := s.Pull(context.Background(), "org/repo", Options{}); err == nil {
			t.Errorf("%s: pulled %+v", what, m)
		}
		if len(hub.asked) > 0 {
			t.Errorf("%s: files were asked for: %v", what, hub.asked)
		}
	}
	t.Logf("T26 hostile descriptions: %d cases, accepted: 0", len(cases))
}

// Raw answers to the description that JSON encoding cannot express.
func TestHostileRawDescriptions(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	io.CopyN(z, zeros{}, 64<<20)
	z.Close()
	for what, answer := range map[string]func(w http.ResponseWriter){
		"gzip bomb": func(w http.ResponseWriter) { w.Header().Set("Content-Encoding", "gzip"); w.Write(bomb.Bytes()) },
		"endless":   func(w http.ResponseWriter) { io.Copy(w, zeros{}) },
		"deep":      func(w http.ResponseWriter) { io.WriteString(w, strings.Repeat(`{"siblings":[`, 500_000)) },
		"cut off":   func(w http.ResponseWriter) { io.WriteString(w, `{"sha":"`) },
		"401":       func(w http.ResponseWriter) { w.WriteHeader(401) },
		"302 loop":  func(w http.ResponseWriter) { w.Header().Set("Location", "/loop"); w.WriteHeader(302) },
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w) }))
		s := openTest(t, t.TempDir(), &fakeHub{Server: srv})
		if _, err := s.Pull(context.Background(), "org/repo", Options{}); err == nil {
			t.Errorf("%s: accepted", what)
		} else if what == "401" && !strings.Contains(err.Error(), "HF_TOKEN") {
			t.Errorf("no remedy in %q", err)
		}
		srv.CloseClientConnections()
		srv.Close()
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Bodies that are not what was announced. Each lie ends in an error or, where an honest answer follows, in the right
// bytes; no lie ends in a blob.
func TestHostileBodies(t *testing.T) {
	const size = 300 << 10
	type answer = func(w http.ResponseWriter, r *http.Request, b []byte)
	flip := func(b []byte) []byte { c := bytes.Clone(b); c[len(c)/2] ^= 1; return c }
	lies := map[string]answer{
		"wrong bytes":    func(w http.ResponseWriter, r *http.Request, b []byte) { w.Write(flip(b)) },
		"short, honest":  func(w http.ResponseWriter, r *http.Request, b []byte) { w.Write(b[:size/2]) },
		"short, cut off": func(w http.ResponseWriter, r *http.Request, b []byte) { cut(w, r, b, 0) },
		"long":           func(w http.ResponseWriter, r *http.Request, b []byte) { w.Write(append(bytes.Clone(b), 'x')) },
		"endless, wrong": func(w http.ResponseWriter, r *http.Request, b []byte) { io.Copy(w, zeros{}) },
		"gzip": func(w http.ResponseWriter, r *http.Request, b []byte) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(b)
		},
		"another range": func(w http.ResponseWriter, r *http.Request, b []byte) {
			w.Header().Set("Content-Range", "bytes 5-9/10")
			w.WriteHeader(206)
			w.Write(b)
		},
		"malformed range": func(w http.ResponseWriter, r *http.Request, b []byte) {
			w.Header().Set("Content-Range", "bytes x")
			w.WriteHeader(206)
			w.Write(b)
		},
		"unsatisfiable":   func(w http.ResponseWriter, r *http.Request, b []byte) { w.WriteHeader(416) },
		"not found":       func(w http.ResponseWriter, r *http.Request, b []byte) { w.WriteHeader(404) },
		"empty":           func(w http.ResponseWriter, r *http.Request, b []byte) {},
		"an HTML apology": func(w http.ResponseWriter, r *http.Request, b []byte) { io.WriteString(w, "<html>") },
		"redirect to file:": func(w http.ResponseWriter, r *http.Request, b []byte) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(302)
		},
	}
	accepted, healed := 0, 0
	for what, lie := range lies {
		for _, lieOnce := range []bool{false, true} {
			hub := newFakeHub(t, ggufRepo(size))
			lied := false
			hub.serve = func(w http.ResponseWriter, r *http.Request, _ string, b []byte) bool {
				if lieOnce && lied {
					return false
				}
				lied = true
				lie(w, r, b)
				return true
			}
			s := openTest(t, t.TempDir(), hub)
			_, err := s.Pull(context.Background(), "org/repo", Options{})
			if !lieOnce && err == nil && what != "long" { // what follows the announced end is not read
				accepted++
				t.Errorf("%s: accepted", what)
			}
			if bad := corrupt(t, s.Dir()); bad > 0 {
				accepted += bad
				t.Errorf("%s: corrupt store", what)
			}
			hub.serve = nil
			mustPull(t, s, "org/repo") // without a restart
			healed++
		}
	}
	t.Logf("T26 lying bodies: %d cases, corrupt accepted: %d, healed without restart: %d", 2*len(lies), accepted, healed)
}

// The file changes between two halves of a download, with a new ETag: If-Range notices, and where it is ignored the
// digest does.
func TestETagChanges(t *testing.T) {
	for _, honoured := range []bool{true, false} {
		hub := newFakeHub(t, ggufRepo(300<<10))
		calls, conditions := 0, []string{}
		hub.serve = func(w http.ResponseWriter, r *http.Request, _ string, b []byte) bool {
			conditions = append(conditions, r.Header.Get("If-Range"))
			switch calls++; {
			case calls == 1: // the first half of another file
				w.Header().Set("ETag", `"old"`)
				cut(w, r, noise(99, len(b)), len(b)/2)
			case calls == 2 && !honoured:
				cut(w, r, b, len(b)) // goes on as asked, as if nothing had changed
			}
			return false // ServeContent compares If-Range with its own ETag
		}
		s := openTest(t, t.TempDir(), hub)
		mustPull(t, s, "org/repo")
		if conditions[1] != `"old"` {
			t.Errorf("If-Range is %q", conditions)
		}
		if bad := corrupt(t, s.Dir()); bad > 0 {
			t.Errorf("corrupt accepted: %d", bad)
		}
	}
}

// The token reaches the hub and no other host: not another port, not by redirect, not over another scheme.
func TestTokenStaysHome(t *testing.T) {
	var leaks []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization"); a != "" {
			leaks = append(leaks, r.URL.Path+" "+a)
		}
		w.Write(ggufRepo(5000)["m.Q4_K_M.gguf"])
	}))
	defer other.Close()
	hub := newFakeHub(t, ggufRepo(5000))
	hub.serve = func(w http.ResponseWriter, r *http.Request, path string, _ []byte) bool {
		http.Redirect(w, r, other.URL+"/cdn", http.StatusFound)
		return true
	}
	s := openTest(t, t.TempDir(), hub)
	s.hub.token = "hf_secret"
	mustPull(t, s, "org/repo")
	for _, a := range hub.tokens {
		if a != "Bearer hf_secret" {
			t.Errorf("the hub itself got %q", a)
		}
	}
	for url, want := range map[string]bool{hub.URL + "/x": true, other.URL: false, strings.Replace(hub.URL, "http:", "https:", 1): false,
		"http://sub." + hub.Listener.Addr().String(): false, "http://127.0.0.1": false} {
		req, err := http.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "left over")
		s.hub.authorize(req)
		if got := req.Header.Get("Authorization") != ""; got != want {
			t.Errorf("%s: token sent is %v", url, got)
		}
	}
	t.Logf("T26 token leaks: %d", len(leaks))
	if len(leaks) > 0 || len(hub.tokens) < 2 {
		t.Errorf("leaks %v, hub requests %d", leaks, len(hub.tokens))
	}
}

// redirector is a public hub, without a network, that answers every request with one redirect.
type redirector struct {
	to   string
	seen []string
}

func (r *redirector) RoundTrip(req *http.Request) (*http.Response, error) {
	r.seen = append(r.seen, req.URL.String())
	rec := httptest.NewRecorder()
	if len(r.seen) == 1 {
		rec.Header().Set("Location", r.to)
		rec.WriteHeader(http.StatusFound)
	}
	return rec.Result(), nil
}

func TestRedirects(t *testing.T) {
	for to, allowed := range map[string]bool{
		"https://cdn.example/x": true, "/elsewhere": true,
		"http://hub.example/x": false, "http://cdn.example/x": false, "ftp://cdn.example/x": false,
		"https://127.0.0.1/x": false, "https://localhost/x": false, "https://LOCALHOST./x": false, "https://a.localhost/": false,
		"https://[::1]/x": false, "https://[::ffff:10.0.0.1]/x": false, "https://10.1.2.3/x": false, "https://192.168.0.1:8080/x": false,
		"https://169.254.169.254/latest/meta-data": false, "https://0.0.0.0/": false, "https://[fe80::1]/": false, "https://[fd00::1]/": false,
		"https://100.64.0.1/": false, "https://172.31.255.1/": false,
	} {
		net := &redirector{to: to}
		s, err := OpenStore(t.TempDir(), WithEndpoint("https://hub.example"), WithTransport(net))
		if err != nil {
			t.Fatal(err)
		}
		res, err := s.hub.get(context.Background(), s.hub.urlOf("x"), nil, 0)
		if allowed != (err == nil) || (!allowed && (len(net.seen) != 1 || !errors.Is(err, errRefused))) {
			t.Errorf("%s: %v, requests %v", to, err, net.seen)
		}
		if err == nil {
			res.Close()
		}
	}
}

// A name that resolves to a private address is caught when it is dialled, unless it is the hub's own.
func TestDialRefusesPrivateAddresses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	c := newClient()
	if err := c.setEndpoint("https://hub.example"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.dial(context.Background(), "tcp", "localhost:"+port); !errors.Is(err, errRefused) {
		t.Errorf("dialled: %v", err)
	}
	if err := c.setEndpoint("http://localhost:" + port); err != nil {
		t.Fatal(err)
	}
	conn, err := c.dial(context.Background(), "tcp", "localhost:"+port)
	if err != nil {
		t.Fatal("a local mirror is refused:", err)
	}
	conn.Close()
}

func TestEndpoint(t *testing.T) {
	for _, bad := range []string{"", "hub", "ftp://hub", "https://", "https://user:pw@hub", "https://hub?x=1", "file:///x"} {
		if _, err := OpenStore(t.TempDir(), WithEndpoint(bad)); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
	s, err := OpenStore(t.TempDir(), WithEndpoint("https://mirror.example/hf/"))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.hub.fileURL("o/r", "refs/pr/1", "a/b.gguf"); got != "https://mirror.example/hf/o/r/resolve/refs%2Fpr%2F1/a/b.gguf" {
		t.Error(got)
	}
}

// A hub that takes connections and never answers costs its time-out, no more.
func TestSilentHub(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := OpenStore(t.TempDir(), WithEndpoint("http://"+l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	s.hub.headerTimeout = 50 * time.Millisecond
	start := time.Now()
	_, err = s.Pull(context.Background(), "org/repo", Options{})
	if err == nil || !strings.Contains(err.Error(), "no answer in 50ms") || time.Since(start) > 20*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Millisecond, fmt.Errorf("the caller's reason"))
	defer cancel()
	s.hub.headerTimeout = time.Minute
	if _, err := s.Pull(ctx, "org/repo", Options{}); err == nil || time.Since(start) > 40*time.Second {
		t.Errorf("cancellation: %v", err)
	}
}
