package tokenizer

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestDamagedGGUFIsRefusedWithTheReason(t *testing.T) {
	yes := true
	for _, c := range []struct {
		name, want string
		damage     func(g *GGUF)
	}{
		{"unknown pre-tokenizer", `"klingon"`, func(g *GGUF) { g.Pre = "klingon" }},
		{"unknown model", `"rwkv"`, func(g *GGUF) { g.Model = "rwkv" }},
		{"no model", "no tokenizer", func(g *GGUF) { g.Model = "none" }},
		{"no tokens", "empty", func(g *GGUF) { g.Tokens, g.Types, g.Scores = nil, nil, nil }},
		{"types cut short", "token types", func(g *GGUF) { g.Types = g.Types[1:] }},
		{"scores too many", "scores", func(g *GGUF) { g.Scores = make([]float32, len(g.Tokens)+1) }},
		{"unknown type", "type 9", func(g *GGUF) { g.Types[5] = 9 }},
		{"negative type", "type -1", func(g *GGUF) { g.Types[5] = -1 }},
		{"malformed byte token", "<0x-1>", func(g *GGUF) { g.Types[5], g.Tokens[5] = int32(Byte), "<0x-1>" }},
		{"duplicate token", "both spelled", func(g *GGUF) { g.Tokens[5] = g.Tokens[6] }},
		{"merge of unknown token", "needs the token", func(g *GGUF) { g.Merges[0] = "qq ww" }},
		{"merge without blank", "want two tokens", func(g *GGUF) { g.Merges[0] = "qq" }},
		{"BOS outside", "outside the vocabulary", func(g *GGUF) { g.BOS = int32(len(g.Tokens)) }},
		{"EOS below -1", "outside the vocabulary", func(g *GGUF) { g.EOS = -2 }},
		{"extra EOG outside", "outside the vocabulary", func(g *GGUF) { g.ExtraEOG = []int32{1 << 30} }},
		{"add BOS without BOS", "bos_token_id", func(g *GGUF) { g.AddBOS = &yes }},
		{"add EOS without EOS", "eos_token_id", func(g *GGUF) { g.AddEOS = &yes }},
		{"huge token", "limit", func(g *GGUF) { g.Tokens[5] = strings.Repeat("x", maxTokenBytes+1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := readGGUF(t, "bpe_gpt2")
			c.damage(&g)
			if _, err := FromGGUF(g); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestDamagedJSONIsRefusedWithTheReason(t *testing.T) {
	for _, c := range []struct{ name, part, value, want string }{
		{"no model", "model", `null`, "no model"},
		{"other model", "model", `{"type":"WordPiece"}`, "WordPiece"},
		{"empty vocabulary", "model", `{"type":"BPE","vocab":{},"merges":[]}`, "empty"},
		{"vocabulary of strings", "model", `{"type":"BPE","vocab":{"a":"b"}}`, "model.vocab"},
		{"same id twice", "model", `{"type":"BPE","vocab":{"a":0,"b":0}}`, "both have id 0"},
		{"negative id", "model", `{"type":"BPE","vocab":{"a":-1}}`, "outside"},
		{"huge id", "model", `{"type":"BPE","vocab":{"a":99999999}}`, "outside"},
		{"merge of unknown token", "model", `{"type":"BPE","vocab":{"a":0},"merges":["a b"]}`, "needs the token"},
		{"merge of three", "model", `{"type":"BPE","vocab":{"a":0},"merges":[["a","b","c"]]}`, "want 2"},
		{"dropout", "model", `{"type":"BPE","vocab":{"a":0},"dropout":0.1}`, "dropout"},
		{"no unknown token", "model", `{"type":"Unigram","vocab":[["a",0]]}`, "unknown token"},
		{"unigram twice", "model", `{"type":"Unigram","vocab":[["a",0],["a",1]],"unk_id":0}`, "both spelled"},
		{"normalizer", "normalizer", `{"type":"Precompiled"}`, "Precompiled"},
		{"pre-tokenizer", "pre_tokenizer", `{"type":"UnicodeScripts"}`, "UnicodeScripts"},
		{"pattern", "pre_tokenizer", `{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"}`, "pattern"},
		{"decoder", "decoder", `{"type":"WordPiece"}`, "WordPiece"},
		{"template id", "post_processor", `{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}],"special_tokens":{"x":{"ids":[-5]}}}`, "-5"},
		{"nesting", "normalizer", strings.Repeat(`{"type":"Sequence","normalizers":[`, 40) + strings.Repeat(`]}`, 40), "nested"},
		{"JSON nesting", "normalizer", strings.Repeat(`[`, 20000) + strings.Repeat(`]`, 20000), "depth"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var file map[string]json.RawMessage
			if err := json.Unmarshal(readFile(t, "bpe_gpt2", "tokenizer.json"), &file); err != nil {
				t.Fatal(err)
			}
			file[c.part] = json.RawMessage(c.value)
			if c.part == "model" {
				file["added_tokens"] = json.RawMessage("[]")
			}
			var data []byte
			for k, v := range file { // by hand: Marshal would refuse the deep nesting
				data = fmt.Appendf(data, ",%q:%s", k, v)
			}
			data = append(append([]byte("{"), data[1:]...), '}')
			if _, err := FromJSON(data, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestIdsOutsideTheVocabularyDecodeToNothing(t *testing.T) {
	for _, name := range goldenNames {
		tok := loadJSON(t, name)
		ids := tok.Encode("a é", EncodeOptions{})
		noisy := []int32{-1, -1 << 31}
		for _, id := range ids {
			noisy = append(noisy, id, int32(tok.VocabSize()), 1<<31-1)
		}
		if got, want := tok.Decode(noisy, false), tok.Decode(ids, false); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if tok.Token(-1) != "" || tok.Bytes(1<<30) != nil || tok.Kind(-1) != Absent || tok.IsSpecial(1<<30) {
			t.Errorf("%s: an id outside the vocabulary has properties", name)
		}
	}
}

func TestEndOfGenerationIDs(t *testing.T) {
	for _, c := range []struct {
		tokens []string
		eos    int32
		want   []int32
	}{
		{[]string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}, 2, []int32{0, 2}},
		{[]string{"<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"}, 2, []int32{1, 2, 3}},
		{[]string{"<bos>", "<eos>", "<end_of_turn>"}, 1, []int32{1, 2}},
		{[]string{"<|endoftext|>", "<|return|>", "<|call|>", "<|end|>"}, 1, []int32{0, 1, 2}},
		{[]string{"<|end|>", "<|user|>", "<|endoftext|>"}, 2, []int32{0, 2}},
		{[]string{"<|endoftext|>", "[gMASK]", "<|user|>", "<|observation|>"}, 0, []int32{0, 2, 3}},
	} {
		types := make([]int32, len(c.tokens))
		for i := range types {
			types[i] = int32(Control)
		}
		tok := loadGGUF(t, GGUF{Model: "gpt2", Pre: "gpt-2", Tokens: c.tokens, Types: types, BOS: -1, EOS: c.eos, UNK: -1, PAD: -1, EOT: -1})
		if got := tok.EOG(); !slices.Equal(got, c.want) {
			t.Errorf("%q: EOG %v, want %v", c.tokens, got, c.want)
		}
	}
}

func TestConfigNamesTokensAndOverridesTheTemplate(t *testing.T) {
	data := readFile(t, "spm_llama", "tokenizer.json")
	cfg, err := ParseConfig([]byte(`{"tokenizer_class":"LlamaTokenizerFast","add_bos_token":false,"add_eos_token":true,
		"bos_token":{"content":"<s>","lstrip":false},"eos_token":"</s>","pad_token":null}`))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := FromJSON(data, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if tok.BOS() != 1 || tok.EOS() != 2 || tok.UNK() != 0 || tok.PAD() != -1 || !slices.Equal(tok.EOG(), []int32{2}) {
		t.Errorf("BOS %d EOS %d UNK %d PAD %d EOG %v", tok.BOS(), tok.EOS(), tok.UNK(), tok.PAD(), tok.EOG())
	}
	if got := tok.Encode("", EncodeOptions{AddSpecial: true}); !slices.Equal(got, []int32{2}) {
		t.Errorf("with add_bos_token false and add_eos_token true: %v", got)
	}
	cfg.Class = "PreTrainedTokenizerFast" // the flags mean nothing there
	if tok, err = FromJSON(data, cfg); err != nil {
		t.Fatal(err)
	}
	if got := tok.Encode("", EncodeOptions{AddSpecial: true}); !slices.Equal(got, []int32{1}) {
		t.Errorf("template overridden by a class without flags: %v", got)
	}
	if _, err := ParseConfig([]byte(`{"eos_token":5}`)); err == nil {
		t.Error("a number was taken for a token")
	}
}

func TestEveryNamedPreTokenizerLoads(t *testing.T) {
	for pre := range preTokenizers {
		g := readGGUF(t, "bpe_gpt2")
		g.Pre = pre
		tok := loadGGUF(t, g)
		text := "Hello, it's 12345 wörld!\n\n  done"
		if got := tok.Decode(tok.Encode(text, EncodeOptions{}), false); got != text {
			t.Errorf("%q: %q", pre, got)
		}
	}
}

// A large vocabulary must not give the garbage collector more to scan.
func TestVocabularyIsFewHeapObjects(t *testing.T) {
	tokens := make([]string, 50000)
	for i := range tokens {
		tokens[i] = fmt.Sprintf("t%d", i)
	}
	var before, after runtime.MemStats
	classes()
	runtime.GC()
	runtime.ReadMemStats(&before)
	tok := loadGGUF(t, GGUF{Model: "gpt2", Pre: "gpt-2", Tokens: tokens, BOS: -1, EOS: -1, UNK: -1, PAD: -1, EOT: -1})
	runtime.GC()
	runtime.ReadMemStats(&after)
	objects := int64(after.HeapObjects) - int64(before.HeapObjects)
	size := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d objects, %d KB", objects, size>>10)
	if objects > 1000 || size > 8<<20 {
		t.Errorf("%d heap objects, %d bytes", objects, size)
	}
	runtime.KeepAlive(tok)
	runtime.KeepAlive(tokens)
}
