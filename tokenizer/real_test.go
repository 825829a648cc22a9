//go:build real

package tokenizer

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// These tests need the SmolLM2-135M-Instruct GGUF file:
//
//	SESTINA_TEST_MODEL=/path/SmolLM2-135M-Instruct.Q4_1.gguf go test -tags real ./tokenizer

func realModel(t testing.TB) GGUF {
	t.Helper()
	path := os.Getenv("SESTINA_TEST_MODEL")
	if path == "" {
		t.Fatal("set SESTINA_TEST_MODEL to the path of SmolLM2-135M-Instruct.Q4_1.gguf")
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	kv := (&metadataReader{t, bufio.NewReader(f)}).read()
	strs := func(key string) (out []string) {
		for _, x := range kv[key].([]any) {
			out = append(out, x.(string))
		}
		return out
	}
	g := GGUF{
		Model: kv["tokenizer.ggml.model"].(string), Pre: kv["tokenizer.ggml.pre"].(string),
		Tokens: strs("tokenizer.ggml.tokens"), Merges: strs("tokenizer.ggml.merges"),
		BOS: int32(kv["tokenizer.ggml.bos_token_id"].(uint64)), EOS: int32(kv["tokenizer.ggml.eos_token_id"].(uint64)),
		UNK: -1, PAD: -1, EOT: -1,
	}
	for _, x := range kv["tokenizer.ggml.token_type"].([]any) {
		g.Types = append(g.Types, int32(x.(uint64)))
	}
	addBOS := kv["tokenizer.ggml.add_bos_token"].(bool)
	g.AddBOS = &addBOS
	return g
}

// metadataReader reads the key-value section of a trusted GGUF file.
type metadataReader struct {
	t testing.TB
	r io.Reader
}

func (m *metadataReader) uint(size int) uint64 {
	var b [8]byte
	if _, err := io.ReadFull(m.r, b[:size]); err != nil {
		m.t.Fatal(err)
	}
	return binary.LittleEndian.Uint64(b[:])
}

func (m *metadataReader) value(kind uint64) any {
	switch kind {
	case 0, 1:
		return m.uint(1)
	case 2, 3:
		return m.uint(2)
	case 4, 5:
		return m.uint(4)
	case 6:
		return math.Float32frombits(uint32(m.uint(4)))
	case 7:
		return m.uint(1) != 0
	case 8:
		b := make([]byte, m.uint(8))
		if _, err := io.ReadFull(m.r, b); err != nil {
			m.t.Fatal(err)
		}
		return string(b)
	case 9:
		kind, n := m.uint(4), m.uint(8)
		list := make([]any, n)
		for i := range list {
			list[i] = m.value(kind)
		}
		return list
	}
	return m.uint(8)
}

func (m *metadataReader) read() map[string]any {
	m.uint(8) // magic, version
	m.uint(8) // tensors
	kv := map[string]any{}
	for range m.uint(8) {
		key := m.value(8).(string)
		kv[key] = m.value(m.uint(4))
	}
	return kv
}

func TestSmolLM2GivesTheReferenceIDs(t *testing.T) {
	start := time.Now()
	g := realModel(t)
	read := time.Since(start)
	tok := loadGGUF(t, g)
	t.Logf("%d tokens: file %v, tokenizer %v", tok.VocabSize(), read, time.Since(start)-read)
	var cases struct {
		Encode []struct {
			Text string  `json:"text"`
			IDs  []int32 `json:"ids"`
		} `json:"encode"`
	}
	if err := json.Unmarshal(readFile(t, "smollm2_tokenize.json"), &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases.Encode) < 100 {
		t.Fatalf("only %d cases", len(cases.Encode))
	}
	for _, c := range cases.Encode {
		got := tok.Encode(c.Text, EncodeOptions{ParseSpecial: true, AddSpecial: true})
		if !slices.Equal(got, c.IDs) {
			t.Errorf("Encode(%.80q)\n got %v\nwant %v", c.Text, got, c.IDs)
		}
		if back := tok.Decode(got, false); back != c.Text {
			t.Errorf("Decode(Encode(%.80q)) = %.80q", c.Text, back)
		}
	}
	if want := fmt.Sprint([]int32{0, 2}); fmt.Sprint(tok.EOG()) != want {
		t.Errorf("EOG = %v, want %v", tok.EOG(), want)
	}
}

func BenchmarkRealEncodeEnglish(b *testing.B) {
	tok := loadGGUF(b, realModel(b))
	text := strings.Repeat(english, 100)
	b.SetBytes(int64(len(text)))
	b.ResetTimer()
	for b.Loop() {
		tok.Encode(text, EncodeOptions{ParseSpecial: true})
	}
}
