package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sestina/engine"
)

// leaks finds paths and addresses in what clients see.
var leaks = regexp.MustCompile(`/(root|home|tmp|work|usr|var)/|0x[0-9a-f]{6,}|goroutine|\.go:\d|panic`)

// TestRoutesNeedTheKey is T30: the route table is walked without a key.
func TestRoutesNeedTheKey(t *testing.T) {
	llm := open(t, randomModel(t), engine.Options{})
	walked, opened, leaked := 0, []string{}, 0
	for _, public := range []bool{false, true} {
		h := start(t, llm, Config{APIKeys: []string{"first-key", "second-key"}, MetricsPublic: public})
		want := []string{"/health", "/livez", "/readyz"}
		if public {
			want = append(want, "/metrics")
		}
		var open []string
		for _, rt := range append(slices.Clone(h.s.routes), route{method: "GET", path: "/"}, route{method: "POST", path: "/no/such"}, route{method: "GET", path: "/health/"},
			route{method: "GET", path: "//health"}, route{method: "GET", path: "/v1/../health"}, route{method: "DELETE", path: "/v1/models"}) {
			path := strings.Replace(rt.path, "{id...}", "x/y", 1)
			for _, key := range []string{"", "Bearer ", "Bearer first-ke", "Bearer first-keyx", "Basic first-key", "first-key", "Bearer first-key second-key"} {
				resp, data := h.do(rt.method, path, "{}", "Authorization", key)
				walked++
				if leaks.Match(data) && rt.path != "/metrics" {
					leaked++
					t.Errorf("%s: %s", path, data)
				}
				if resp.StatusCode == 401 {
					refusal(t, resp, data, 401)
				} else if !slices.Contains(open, rt.path) {
					open = append(open, rt.path)
				}
			}
			for _, key := range []string{"Bearer first-key", "bearer second-key"} {
				if resp, data := h.do(rt.method, path, "{}", "Authorization", key); resp.StatusCode == 401 {
					t.Errorf("%s with a key: %s", path, data)
				}
			}
		}
		slices.Sort(open)
		slices.Sort(want)
		if !slices.Equal(open, want) {
			t.Errorf("open without a key: %v, want %v", open, want)
		}
		opened = open
	}
	t.Logf("T30 requests without a key %d, open paths %v, leaks %d", walked, opened, leaked)
}

// TestStatuses of paths, methods, bodies and models.
func TestStatuses(t *testing.T) {
	h := start(t, open(t, randomModel(t), engine.Options{}), Config{ServedModelNames: []string{"tiny", "org/tiny"}})
	for _, c := range []struct {
		method, path, body string
		header             []string
		status             int
	}{
		{"GET", "/nothing", "", nil, 404},
		{"GET", "/v1/chat/completions", "", nil, 405},
		{"OPTIONS", "/v1/chat/completions", "", nil, 405},
		{"DELETE", "/v1/models", "", nil, 405},
		{"POST", "/v1/completions", `{"prompt":"a","model":"other"}`, nil, 404},
		{"GET", "/v1/models/other", "", nil, 404},
		{"POST", "/v1/completions", `{"prompt":"a"}`, []string{"Content-Type", "text/plain"}, 415},
		{"POST", "/v1/completions", `{"prompt":"a"}`, []string{"Content-Type", "application/json; charset=latin1"}, 415},
		{"POST", "/v1/completions", `{"prompt":"a"}`, []string{"Content-Encoding", "gzip"}, 415},
		{"POST", "/v1/completions", `{"prompt":"` + strings.Repeat("a", maxBody) + `"}`, nil, 413},
	} {
		resp, data := h.do(c.method, c.path, c.body, c.header...)
		refusal(t, resp, data, c.status)
		if c.status == 405 && resp.Header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", c.method, c.path)
		}
	}
	for _, path := range []string{"/v1/models", "/v1/models/org/tiny", "/version", "/ping", "/metrics"} {
		if resp, data := h.do("GET", path, ""); resp.StatusCode != 200 || len(data) == 0 {
			t.Errorf("%s: %s %s", path, resp.Status, data)
		}
	}
	resp, _ := h.do("POST", "/v1/completions", `{"prompt":"a","max_tokens":1,"model":"org/tiny"}`, "Content-Type", "application/json; charset=UTF-8", "X-Request-Id", "my-id.1")
	if resp.StatusCode != 200 || resp.Header.Get("X-Request-Id") != "my-id.1" || !strings.Contains(h.log.String(), "request_id=my-id.1") {
		t.Errorf("X-Request-Id is not echoed and logged: %s %v", resp.Status, resp.Header)
	}
	for _, bad := range []string{"a b", "a\"b", strings.Repeat("x", 200), "<script>"} {
		if resp, _ := h.do("GET", "/health", "", "X-Request-Id", bad); resp.Header.Get("X-Request-Id") == bad || len(resp.Header.Get("X-Request-Id")) != 32 {
			t.Errorf("X-Request-Id %q is echoed", bad)
		}
	}
}

// TestHostAndOrigin: no web page can use a server on this machine, neither by
// its own origin nor under a name that its owner points here.
func TestHostAndOrigin(t *testing.T) {
	llm := open(t, randomModel(t), engine.Options{})
	local := start(t, llm, Config{AllowedHosts: []string{"llm.example.org"}})
	everywhere := start(t, llm, Config{})
	everywhere.s.setHosts(&net.TCPAddr{IP: net.IPv4zero})
	anyone := start(t, llm, Config{AllowedHosts: []string{"*"}})
	cases := 0
	for _, c := range []struct {
		h      *harness
		header []string
		status int
	}{
		{local, []string{"Host", "localhost"}, 200},
		{local, []string{"Host", "LocalHost:8000"}, 200},
		{local, []string{"Host", "127.0.0.1:8000"}, 200},
		{local, []string{"Host", "[::1]:8000"}, 200},
		{local, []string{"Host", "llm.example.org"}, 200},
		{local, []string{"Host", "evil.example"}, 403},
		{local, []string{"Host", "localhost.evil.example"}, 403},
		{local, []string{"Host", "192.0.2.1"}, 403},
		{everywhere, []string{"Host", "192.0.2.1:8000"}, 200},
		{everywhere, []string{"Host", "evil.example"}, 403},
		{anyone, []string{"Host", "evil.example"}, 200},
		{anyone, []string{"Origin", "http://evil.example"}, 403},
		{local, []string{"Origin", "http://evil.example"}, 403},
		{local, []string{"Origin", "null"}, 403},
		{local, []string{"Origin", "http://localhost", "Host", "localhost"}, 200},
		{local, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{local, []string{"Sec-Fetch-Site", "same-origin"}, 200},
	} {
		cases++
		resp, data := c.h.do("POST", "/v1/completions", `{"prompt":"a","max_tokens":1}`, c.header...)
		if resp.StatusCode != c.status {
			t.Errorf("%v: %s %s", c.header, resp.Status, data)
		}
		for name := range resp.Header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%v: %s is sent", c.header, name)
			}
		}
	}
	t.Logf("T30 Host and Origin cases %d as wanted", cases)
}

// TestTenantsDoNotShareTheCache looks both ways: the same key finds its prefix
// again, another one does not, and cache_salt only narrows.
func TestTenantsDoNotShareTheCache(t *testing.T) {
	h := start(t, open(t, randomModel(t), engine.Options{}), Config{APIKeys: []string{"one", "two"}})
	cached := func(key, prompt, extra string) int {
		h.key = key
		return h.post("/v1/completions", fmt.Sprintf(`{"prompt":"%s","max_tokens":1%s}`, prompt, extra)).Usage.PromptDetails.CachedTokens
	}
	prompt := strings.Repeat("a shared system prompt ", 10)
	for _, c := range []struct {
		key, extra string
		want       bool
	}{
		{"one", "", false}, {"one", "", true}, {"two", "", false}, {"two", "", true},
		{"one", `,"cache_salt":"x"`, false}, {"one", `,"cache_salt":"x"`, true}, {"two", `,"cache_salt":"x"`, false}, {"one", `,"cache_salt":"y"`, false}, {"one", "", true},
	} {
		if got := cached(c.key, prompt, c.extra); (got > 0) != c.want {
			t.Errorf("key %s%s: %d tokens from the cache", c.key, c.extra, got)
		}
	}
}

// TestHostileHTTP is T31 in small, with shorter times than the server's own.
func TestHostileHTTP(t *testing.T) {
	llm := open(t, randomModel(t), engine.Options{})
	h := start(t, llm, Config{BodyTimeout: 300 * time.Millisecond, HeaderTimeout: 300 * time.Millisecond})
	address := strings.TrimPrefix(h.url, "http://")
	talk := func(request string, then func(c net.Conn)) string {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		io.WriteString(c, request)
		if then != nil {
			then(c)
		}
		data, _ := io.ReadAll(c)
		return string(data)
	}
	head := "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	body := `{"prompt":"a","max_tokens":1}`

	var attack sync.WaitGroup
	for range 50 { // slowloris: headers that never end, bodies that never come, read by a handler or not
		for _, start := range []string{"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", head + "Content-Length: 100\r\n\r\n{",
			strings.Replace(head, "/v1/completions", "/nothing", 1) + "Content-Length: 100\r\n\r\n{", "GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"} {
			attack.Go(func() {
				began := time.Now()
				if talk(start, nil); time.Since(began) > 20*time.Second {
					t.Errorf("%q holds its connection", clip(start))
				}
			})
		}
	}
	var honest []time.Duration
	for range 30 {
		began := time.Now()
		h.post("/v1/completions", body)
		honest = append(honest, time.Since(began))
	}
	attack.Wait() // the deadlines ended them all
	slices.Sort(honest)
	h = start(t, llm, Config{}) // what follows may take its time
	address = strings.TrimPrefix(h.url, "http://")

	if got := talk(head+"X-Big: "+strings.Repeat("x", 128<<10)+"\r\n\r\n", nil); !strings.Contains(got, " 431 ") {
		t.Errorf("a huge header: %.60q", got)
	}
	if got := talk(head+"Content-Length: 1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n", nil); strings.Contains(got, "200 OK") {
		t.Errorf("two lengths: %.60q", got)
	}
	chunks := &strings.Builder{}
	for _, b := range body {
		fmt.Fprintf(chunks, "1\r\n%c\r\n", b)
	}
	if got := talk(head+"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"+chunks.String()+"0\r\n\r\n", nil); !strings.Contains(got, "200 OK") {
		t.Errorf("a body in chunks of one byte: %.200q", got)
	}
	one := fmt.Sprintf("%sContent-Length: %d\r\n", head, len(body))
	got := talk(one+"\r\n"+body+one+"Connection: close\r\n\r\n"+body, nil)
	if strings.Count(got, "200 OK") != 2 {
		t.Errorf("two requests in one piece: %.300q", got)
	}
	flood := talk(head+"Transfer-Encoding: chunked\r\n\r\n", func(c net.Conn) {
		w := bufio.NewWriter(c)
		for range 9 << 20 / 1024 {
			if _, err := fmt.Fprintf(w, "400\r\n%s\r\n", strings.Repeat(" ", 1024)); err != nil {
				return
			}
		}
		w.Flush()
	})
	if flood != "" && !strings.Contains(flood, " 413 ") { // "" = reset while it was still sending
		t.Errorf("nine megabytes in chunks: %.200q", flood)
	}
	if resp, _ := h.do("GET", "/health", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("after all this: %s", resp.Status)
	}
	t.Logf("T31 slow connections 200 all ended, honest requests meanwhile p50 %.1f ms, worst %.1f ms, deaths 0", ms(honest[len(honest)/2]), ms(honest[len(honest)-1]))
}

// TestConnectionCap: more connections than allowed wait, and are served when others leave.
func TestConnectionCap(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	limited := limitConns(l, 2)
	defer l.Close()
	for range 3 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first, _ := limited.Accept()
	if _, err := limited.Accept(); err != nil {
		t.Fatal(err)
	}
	third := make(chan error, 1)
	go func() { _, err := limited.Accept(); third <- err }()
	select {
	case <-third:
		t.Fatal("a third connection was accepted")
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	first.Close() // twice counts once
	if err := <-third; err != nil {
		t.Error(err)
	}
}
