package server

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"sestina"
	"sestina/engine"
)

// A model that a bias makes say one token for ever is drafted right every time:
// 64 tokens are the first, 12 passes of 1 + 4, and one of 1 + 2. Two choices share
// steps and have drafts of their own.
func TestSpeculationIsCounted(t *testing.T) {
	m := NewMetrics()
	o := sestina.Options{Options: engine.Options{Observer: m.Observer(), Log: slog.New(slog.DiscardHandler)}, Threads: 1, KVCacheMemoryBytes: 64 << 20,
		StoreDir: t.TempDir(), SpeculativeConfig: `{"num_speculative_tokens":4,"depth":"fixed"}`}
	llm, err := sestina.Open(t.Context(), randomModel(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { llm.Close() })
	h := start(t, llm, Config{Metrics: m, ServedModelNames: []string{"tiny"}})
	ids, err := llm.Encode("a")
	if err != nil || len(ids) != 1 {
		t.Fatalf("a is %v: %v", ids, err)
	}
	body := fmt.Sprintf(`{"prompt":"aaaaaaaa","max_tokens":64,"ignore_eos":true,"n":2,"temperature":0,"logit_bias":{"%d":100}}`, ids[0])
	_, data := h.do("POST", "/v1/completions", body)
	var reply struct {
		Metrics struct {
			Speculative *speculative `json:"speculative_decoding"`
		} `json:"metrics"`
	}
	if err := json.Unmarshal(data, &reply); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	if s := reply.Metrics.Speculative; s == nil || *s != (speculative{100, 100, 1}) {
		t.Errorf("%s", data)
	}
	h.until("idle", func(s engine.Stats) bool { return s.Running == 0 && s.Speculation.Accepted == 100 })
	got := h.scrape()
	at := func(position int) string {
		return fmt.Sprintf(`vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="tiny",position="%d"}`, position)
	}
	for name, want := range map[string]float64{
		`vllm:spec_decode_num_drafts_total{engine="0",model_name="tiny"}`:                   26,
		`vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="tiny"}`:             100,
		`vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="tiny"}`:          100,
		`sestina_spec_proposer_faults_total{engine="0",model_name="tiny",proposer="ngram"}`: 0,
		at(0): 26, at(1): 26, at(2): 24, at(3): 24,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (%v), want %v", name, v, ok, want)
		}
	}
}

// A reply without drafts says nothing of them.
func TestWithoutSpeculation(t *testing.T) {
	h := start(t, open(t, randomModel(t), engine.Options{Techniques: engine.Techniques{Speculation: "off"}}), Config{})
	_, data := h.do("POST", "/v1/completions", `{"prompt":"aaaaaaaa","max_tokens":8,"ignore_eos":true}`)
	var reply struct {
		Metrics map[string]any `json:"metrics"`
	}
	if err := json.Unmarshal(data, &reply); err != nil || len(reply.Metrics) == 0 {
		t.Fatalf("%s: %v", data, err)
	}
	if _, ok := reply.Metrics["speculative_decoding"]; ok {
		t.Errorf("%s", data)
	}
	for name := range h.scrape() {
		if len(name) > 16 && name[:16] == "vllm:spec_decode" {
			t.Errorf("%s is counted", name)
		}
	}
}
