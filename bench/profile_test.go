package bench

import (
	"context"
	"math"
	"strings"
	"testing"

	"sestina"
)

// TestProfileAccountsForEveryStep: the parts of a step are all of it, and each operation ran as often as the model has it.
func TestProfileAccountsForEveryStep(t *testing.T) {
	for _, streams := range []int{1, 3} {
		c := Config{PromptLen: 8, OutputLen: 12, Streams: streams, Reps: 2, Profile: true}
		opt := sestina.Options{Threads: 2}
		c.Prepare(&opt)
		llm, err := sestina.Open(context.Background(), "../testdata/tiny.gguf", opt)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Run(context.Background(), llm, c)
		layers := float64(llm.Info.Layers)
		llm.Close()
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Profile) != 2 || r.Profile[0].Name != "prefill" || r.Profile[1].Name != "decode" {
			t.Fatalf("phases %+v", r.Profile)
		}
		decode := r.Profile[1]
		// Streams that are admitted late decode late: at most all their steps follow the last first token.
		if n := int(decode.Steps); n != 2*11 && (streams == 1 || n > 2*11) {
			t.Errorf("%d streams: %d steps of decoding, want %d", streams, n, 2*11)
		}
		shares, calls := 0.0, map[string]float64{}
		for _, p := range decode.Parts {
			shares += p.Share
			calls[p.Name] = p.Calls
			if strings.HasPrefix(p.Name, "ffn") && (p.GBs <= 0 || p.Bandwidth <= 0) {
				t.Errorf("%s reads weights at %v GB/s", p.Name, p.GBs)
			}
		}
		if math.Abs(shares-1) > 0.05 {
			t.Errorf("%d streams: the parts are %.3f of a step", streams, shares)
		}
		for name, want := range map[string]float64{"attention": layers, "attn_q+attn_k+attn_v": layers, "ffn_gate+ffn_up": layers, "ffn_down": layers, "embedding": 1} {
			if got := calls[name]; math.Abs(got-want) > 1e-9 {
				t.Errorf("%d streams: %s ran %v times a step, want %.0f (%v)", streams, name, got, want, calls)
			}
		}
		var text strings.Builder
		r.PrintProfile(&text)
		if !strings.Contains(text.String(), "decode: ") || !strings.Contains(text.String(), "attn_q+attn_k+attn_v") {
			t.Errorf("the table lacks rows:\n%s", text.String())
		}
	}
}

// TestProfileIsOffByDefault: nothing is wrapped and nothing reported.
func TestProfileIsOffByDefault(t *testing.T) {
	c := Config{PromptLen: 4, OutputLen: 3, Streams: 1, Reps: 1}
	var opt sestina.Options
	c.Prepare(&opt)
	llm, err := sestina.Open(context.Background(), "../testdata/tiny.gguf", opt)
	if err != nil {
		t.Fatal(err)
	}
	defer llm.Close()
	if r, err := Run(context.Background(), llm, c); err != nil || r.Profile != nil || llm.Parts() != nil {
		t.Errorf("%v: %+v, parts %v", err, r, llm.Parts())
	}
}
