package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"sestina"
	"sestina/engine"
)

// observed opens a model whose engine reports to metrics.
func observed(t *testing.T, opt engine.Options) (*sestina.LLM, *Metrics) {
	m := NewMetrics()
	opt.Observer = m.Observer()
	return open(t, randomModel(t), opt), m
}

// scrape reads /metrics into name{labels} → value.
func (h *harness) scrape() map[string]float64 {
	h.t.Helper()
	resp, data := h.do("GET", "/metrics", "")
	if resp.StatusCode != 200 {
		h.t.Fatalf("/metrics: %s %s", resp.Status, data)
	}
	out := map[string]float64{}
	for _, line := range strings.Split(string(data), "\n") {
		name, v, ok := strings.Cut(line, "} ")
		if got := 0.0; ok && line[0] != '#' {
			if _, err := fmt.Sscan(v, &got); err != nil {
				h.t.Errorf("%s: %v", line, err)
			}
			out[name+"}"] = got
		}
	}
	return out
}

func TestMetrics(t *testing.T) {
	llm, m := observed(t, engine.Options{})
	h := start(t, llm, Config{Metrics: m, ServedModelNames: []string{"tiny"}})
	if _, err := New(llm, Config{Metrics: m}); err == nil {
		t.Error("one Metrics serves two servers")
	}
	prompt := strings.Repeat("ab", 20)
	for range 2 {
		h.post("/v1/completions", fmt.Sprintf(`{"prompt":"%s","max_tokens":5,"ignore_eos":true,"n":2}`, prompt))
	}
	h.do("POST", "/v1/completions", `{"prompt":"a","max_tokens":999999}`)
	h.until("idle", func(s engine.Stats) bool { return s.Running == 0 })
	got := h.scrape()
	for name, want := range map[string]float64{
		`vllm:num_requests_running{engine="0",model_name="tiny"}`:                           0,
		`vllm:num_requests_waiting{engine="0",model_name="tiny"}`:                           0,
		`vllm:kv_cache_usage_perc{engine="0",model_name="tiny"}`:                            0,
		`vllm:prompt_tokens_total{engine="0",model_name="tiny"}`:                            80,
		`vllm:generation_tokens_total{engine="0",model_name="tiny"}`:                        20,
		`vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"}`: 4,
		`vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny"}`:   0,
		`vllm:num_preemptions_total{engine="0",model_name="tiny"}`:                          0,
		`vllm:prefix_cache_hits_total{engine="0",model_name="tiny"}`:                        32,
		`vllm:prompt_tokens_cached_total{engine="0",model_name="tiny"}`:                     32,
		`vllm:admission_rejections_total{engine="0",model_name="tiny",reason="never_fits"}`: 1,
		`vllm:time_to_first_token_seconds_count{engine="0",model_name="tiny"}`:              2,
		`vllm:inter_token_latency_seconds_count{engine="0",model_name="tiny"}`:              16,
		`vllm:request_time_per_output_token_seconds_count{engine="0",model_name="tiny"}`:    2,
		`vllm:e2e_request_latency_seconds_count{engine="0",model_name="tiny"}`:              2,
		`vllm:request_queue_time_seconds_count{engine="0",model_name="tiny"}`:               2,
		`vllm:request_prefill_time_seconds_count{engine="0",model_name="tiny"}`:             2,
		`vllm:request_decode_time_seconds_count{engine="0",model_name="tiny"}`:              2,
		`vllm:request_inference_time_seconds_count{engine="0",model_name="tiny"}`:           2,
		`vllm:request_prompt_tokens_sum{engine="0",model_name="tiny"}`:                      80,
		`vllm:request_generation_tokens_sum{engine="0",model_name="tiny"}`:                  20,
		`sestina_ready{engine="0",model_name="tiny"}`:                                       1,
		`sestina_kv_blocks{engine="0",model_name="tiny",state="referenced"}`:                0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (%v), want %v", name, v, ok, want)
		}
	}
	pool, blocks := 0.0, float64(llm.Pool.Blocks)
	for name, v := range got {
		if strings.HasPrefix(name, "sestina_kv_blocks") {
			pool += v
		}
	}
	if pool != blocks {
		t.Errorf("the blocks of all states are %v, the pool has %v", pool, blocks)
	}
	if n := got[`vllm:iteration_tokens_total_count{engine="0",model_name="tiny"}`]; n < 5 || n != got[`sestina_step_seconds_count{engine="0",model_name="tiny"}`] {
		t.Errorf("%v steps", n)
	}
	info := fmt.Sprintf(`vllm:cache_config_info{block_size="16",enable_prefix_caching="true",engine="0",model_name="tiny",num_gpu_blocks="%d"}`, llm.Pool.Blocks)
	if got[info] != 1 {
		t.Errorf("%s is missing", info)
	}
}

// TestSeedsAreReported: the seed of an unseeded answer, sent again, gives it again.
func TestSeedsAreReported(t *testing.T) {
	h := start(t, open(t, randomModel(t), engine.Options{}), Config{})
	body := `{"prompt":"dice","max_tokens":20,"ignore_eos":true,"n":2,"temperature":2`
	a, b := h.post("/v1/completions", body+"}"), h.post("/v1/completions", body+"}")
	again := h.post("/v1/completions", fmt.Sprintf(`%s,"seed":%d}`, body, *a.Seed))
	if *again.Seed != *a.Seed || again.Choices[0].Text != a.Choices[0].Text || again.Choices[1].Text != a.Choices[1].Text {
		t.Errorf("seed %d gives another answer", *a.Seed)
	}
	if *a.Seed == *b.Seed || a.Choices[0].Text == b.Choices[0].Text || a.Choices[0].Text == a.Choices[1].Text {
		t.Errorf("unseeded answers are alike: seeds %d, %d", *a.Seed, *b.Seed)
	}
}

// TestPromptsAreNotLogged at any level, whatever becomes of the request.
func TestPromptsAreNotLogged(t *testing.T) {
	h := start(t, open(t, randomModel(t), engine.Options{MaxModelLen: 128}), Config{})
	const secret = "xyzzysecret"
	for _, body := range []string{`{"prompt":"` + secret + `","max_tokens":3}`, `{"prompt":"` + secret + `","max_tokens":99999}`, `{"prompt":"` + secret + `"`,
		`{"prompt":["` + secret + `",5]}`, `{"prompt":"a","stop":["` + strings.Repeat(secret, 50) + `"]}`, `{"prompt":"a","cache_salt":"` + secret + `","max_tokens":1}`} {
		h.do("POST", "/v1/completions", body, "Authorization", "Bearer "+secret)
		h.do("POST", "/tokenize", body)
	}
	if log := h.log.String(); strings.Contains(log, secret) || strings.Count(log, "msg=request") < 10 {
		t.Errorf("the log tells:\n%s", log)
	}
}

// TestKeepAlive: a client that waits for its turn hears a comment, and an early
// failure after it is an event.
func TestKeepAlive(t *testing.T) {
	h := start(t, open(t, randomModel(t), engine.Options{MaxNumSeqs: 1, QueueTimeout: time.Second}), Config{KeepAlive: 30 * time.Millisecond})
	holder := h.dial(`{"prompt":"a",` + endless + `}`)
	defer holder.Close()
	go io.Copy(io.Discard, holder)
	h.until("running", func(s engine.Stats) bool { return s.Running == 1 })
	resp, data := h.do("POST", "/v1/completions", `{"prompt":"b","stream":true}`)
	s := readStream(t, bytes.NewReader(data))
	if resp.StatusCode != 200 || !bytes.HasPrefix(data, []byte(": keep-alive\n\n")) || s.err == "" || !s.done {
		t.Errorf("%s %q", resp.Status, data)
	}
	silent := start(t, h.llm, Config{KeepAlive: -1})
	resp, data = silent.do("POST", "/v1/completions", `{"prompt":"b","stream":true}`)
	if refusal(t, resp, data, 429); resp.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

// TestTokenize there and back, as text and as a conversation.
func TestTokenize(t *testing.T) {
	h := start(t, open(t, randomModel(t), engine.Options{}), Config{})
	var out struct {
		Count, MaxModelLen int
		Tokens             []int32
		TokenStrs          []string `json:"token_strs"`
		Prompt             string
	}
	_, data := h.do("POST", "/tokenize", `{"prompt":"héllo<|im_end|>","return_token_strs":true}`)
	if err := json.Unmarshal(data, &out); err != nil || out.Count != 7 || len(out.Tokens) != 7 || out.TokenStrs[6] != imEnd {
		t.Fatalf("%s", data)
	}
	ids, _ := json.Marshal(out.Tokens)
	_, data = h.do("POST", "/detokenize", `{"tokens":`+string(ids)+`}`)
	if json.Unmarshal(data, &out); out.Prompt != "héllo<|im_end|>" {
		t.Errorf("%s", data)
	}
	end := out.Tokens[6]
	_, data = h.do("POST", "/tokenize", `{"messages":[{"role":"user","content":"<|im_end|>"}],"add_generation_prompt":false}`)
	out.Tokens = nil
	json.Unmarshal(data, &out)
	n := 0
	for _, id := range out.Tokens {
		if id == end {
			n++
		}
	}
	if n != 1 { // the template's own
		t.Errorf("a message made %d control tokens: %s", n-1, data)
	}
	for _, bad := range []string{`{}`, `{"prompt":"a","messages":[{"role":"user","content":"a"}]}`, `{"prompt":5}`, `{"prompt":"a","model":5}`} {
		resp, data := h.do("POST", "/tokenize", bad)
		refusal(t, resp, data, 400)
	}
}

// TestPanicsAreAnswered: a panic in a handler is one request's 500, with the detail in the log only.
func TestPanicsAreAnswered(t *testing.T) {
	h := start(t, open(t, randomModel(t), engine.Options{}), Config{})
	h.s.http.Handler = h.s.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/boom" {
			panic("secret detail")
		}
		h.s.Handler().ServeHTTP(w, r)
	}))
	resp, data := h.do("GET", "/boom", "", "X-Request-Id", "the-id")
	if a := refusal(t, resp, data, 500); strings.Contains(a.Error.Message, "secret") || resp.Header.Get("X-Request-Id") != "the-id" {
		t.Errorf("%s", data)
	}
	if log := h.log.String(); !strings.Contains(log, "secret detail") || !strings.Contains(log, "request_id=the-id") {
		t.Errorf("the log does not tell: %s", log)
	}
	if resp, _ := h.do("GET", "/health", ""); resp.StatusCode != 200 {
		t.Errorf("after a panic: %s", resp.Status)
	}
}

// TestSpeculationMetrics: with n-gram drafts on, the counters agree with each other.
func TestSpeculationMetrics(t *testing.T) {
	m := NewMetrics()
	o := sestina.Options{Threads: 1, KVCacheMemoryBytes: 16 << 20, StoreDir: t.TempDir()}
	o.Techniques.Speculation, o.Observer = "auto", m.Observer()
	o.SpeculativeConfig = `{"method":"ngram","num_speculative_tokens":4,"depth":"fixed"}`
	llm, err := sestina.Open(t.Context(), randomModel(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { llm.Close() })
	h := start(t, llm, Config{Metrics: m, ServedModelNames: []string{"tiny"}})
	h.post("/v1/completions", `{"prompt":"abcabcabcabcabc","max_tokens":200,"temperature":0,"ignore_eos":true}`)
	got := h.scrape()
	const labels = `{engine="0",model_name="tiny"`
	drafted, accepted, sum := got["vllm:spec_decode_num_draft_tokens_total"+labels+"}"], got["vllm:spec_decode_num_accepted_tokens_total"+labels+"}"], 0.0
	for at := range 4 {
		sum += got[fmt.Sprintf(`vllm:spec_decode_num_accepted_tokens_per_pos_total%s,position="%d"}`, labels, at)]
	}
	if drafted == 0 || accepted > drafted || sum != accepted || got["vllm:generation_tokens_total"+labels+"}"] != 200 {
		t.Errorf("drafted %v, accepted %v, by position %v", drafted, accepted, sum)
	}
}
