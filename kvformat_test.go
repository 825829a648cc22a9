package sestina_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"sestina"
	"sestina/tensor"
)

func TestKVFormat(t *testing.T) {
	const f16, f32, q8, q4 = tensor.F16, tensor.F32, tensor.Q8_0, tensor.Q4_0
	for text, want := range map[string][]tensor.DType{
		"": nil, "auto": nil, "q8_0": nil,
		"f16,1=f32":            {f16, f32, f16, f16},
		"auto,3=f32,0-1=q4_0":  {q4, q4, f16, f32},
		"q4_0,0-3=q8_0":        {q8, q8, q8, q8},
		"f16,0-0=f16,1-2=auto": {f16, f16, f16, f16},
	} {
		f, err := sestina.ParseKVFormat(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got, err := f.Layers(4); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
		again, err := sestina.ParseKVFormat(f.String())
		if err != nil || again.String() != f.String() {
			t.Errorf("%q is %q and then %q, %v", text, f, again, err)
		}
	}
	for text, says := range map[string]string{
		"f8": "unknown", "fp8": "not built", "F16": "unknown", "f16,": "LAYER=DTYPE", "f16,1": "LAYER=DTYPE", "f16,=f32": "LAYER=DTYPE", "f16,-1=f32": "LAYER=DTYPE",
		"f16,2-1=f32": "LAYER=DTYPE", "f16,1-=f32": "LAYER=DTYPE", "f16,+1=f32": "LAYER=DTYPE", "f16,1= f32": "unknown", "f16,1=f99": "unknown", "1=f32": "unknown",
		"f16,0-2=f32,2=q8_0": "layer 2 has two", "f16,99999999999999999999=f32": "LAYER=DTYPE",
	} {
		if _, err := sestina.ParseKVFormat(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
		o := sestina.Options{KVCacheDType: text}
		if o.Check() == nil {
			t.Errorf("Check takes %q", text)
		}
	}
	if f, err := sestina.ParseKVFormat("f16,4=f32"); err != nil {
		t.Error(err)
	} else if _, err := f.Layers(4); err == nil || !strings.Contains(err.Error(), "no layer 4") {
		t.Errorf("a layer that is not there: %v", err)
	}
}

// TestKVFormatByLayer: the pool has the sum of its layers' bytes, and the fast
// backend and the oracle answer alike.
func TestKVFormatByLayer(t *testing.T) {
	ids := prefix(300, 4)
	answers := map[string][]int32{}
	for text, bytes := range map[string]uint64{"f16": 2 * 128, "f32": 2 * 256, "f16,1=f32": 128 + 256, "f32,0-1=f16": 2 * 128} {
		for _, backend := range []string{"cpu", "ref"} {
			llm := openTiny(t, sestina.Options{Backend: backend, KVCacheDType: text, KVCacheMemoryBytes: 4 << 20})
			if got := llm.Pool.TokenBytes; got != bytes {
				t.Errorf("%s: %d bytes a token, want %d", text, got, bytes)
			}
			_, answers[text+" "+backend], _ = collect(t, llm.GenerateIDs(context.Background(), ids, sestina.GenerateOptions{Sampling: greedy(), MaxTokens: 24}))
		}
		if !slices.Equal(answers[text+" cpu"], answers[text+" ref"]) {
			t.Errorf("%s: the backends differ: %v, %v", text, answers[text+" cpu"], answers[text+" ref"])
		}
	}
	if !slices.Equal(answers["f16 cpu"], answers["f32,0-1=f16 cpu"]) {
		t.Error("f16 in every layer by name is not f16")
	}
	_, err := sestina.Open(context.Background(), tiny, sestina.Options{KVCacheDType: "f16,2=f32"})
	if err == nil || !strings.Contains(err.Error(), "no layer 2") {
		t.Errorf("a layer that is not there: %v", err)
	}
}
