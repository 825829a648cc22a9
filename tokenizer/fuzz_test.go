package tokenizer

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzFromJSON(f *testing.F) {
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"<0x41>":3},"merges":["a b"],"byte_fallback":true},
		"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}]},
		"added_tokens":[{"id":4,"content":"<s>","special":true},{"id":5,"content":"x","lstrip":true,"normalized":true}],
		"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Prepend","prepend":"▁"}]}}`))
	f.Add([]byte(`{"model":{"type":"Unigram","vocab":[["a",-1],["b",-2.5]],"unk_id":0},"decoder":{"type":"Metaspace"},"pre_tokenizer":{"type":"Metaspace"}}`))
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"Ã":2,"²":3,"1":4},"merges":[]},"decoder":{"type":"ByteLevel"},
		"normalizer":{"type":"Sequence","normalizers":[{"type":"NFKD"},{"type":"StripAccents"},{"type":"Lowercase"},{"type":"Strip"},{"type":"Replace","pattern":{"Regex":"\\s++"},"content":" "}]},
		"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Punctuation","behavior":"Contiguous"},{"type":"Split","pattern":{"Regex":"[a[b]]{1,2}+|(?=x)"},"behavior":"MergedWithNext","invert":true},
		{"type":"ByteLevel"},{"type":"Digits","individual_digits":true},{"type":"Whitespace"}]}}`))
	for _, name := range goldenNames {
		f.Add(readFile(f, name, "tokenizer.json"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := FromJSON(data, nil)
		if err != nil {
			return
		}
		for _, text := range []string{"", "ab <s> x Aé ▁\xff\n12", "e\u0301<|endoftext|>"} {
			ids := tok.Encode(text, EncodeOptions{AddSpecial: true, ParseSpecial: true})
			for _, id := range ids {
				if tok.Kind(id) == Absent {
					t.Fatalf("Encode gave id %d, which is no token", id)
				}
			}
			if got, want := streamed(t, tok, ids, false), tok.Decode(ids, false); got != want {
				t.Fatalf("streamed %q, decoded %q", got, want)
			}
		}
	})
}

func FuzzFromGGUF(f *testing.F) {
	f.Add("gpt2", "gpt-2", "a\x00b\x00ab\x00<s>", []byte{1, 1, 1, 3}, "a b", int32(3), true)
	f.Add("llama", "", "<unk>\x00<0x41>\x00▁\x00a\x00▁a", []byte{2, 6, 1, 1, 1}, "", int32(-1), false)
	f.Add("gemma4", "gemma4", "a\x00b\x00ab", []byte{1, 1, 4}, "a b", int32(0), true)
	f.Add("t5", "", "</s>\x00<unk>\x00a", []byte{3, 2, 1}, "", int32(0), false)
	f.Fuzz(func(t *testing.T, model, pre, tokens string, types []byte, merges string, bos int32, add bool) {
		g := GGUF{Model: model, Pre: pre, Tokens: strings.Split(tokens, "\x00"), BOS: bos, EOS: -1, UNK: bos, PAD: -1, EOT: -1, AddBOS: &add}
		if merges != "" {
			g.Merges = strings.Split(merges, "\x00")
		}
		for i, k := range types {
			g.Types = append(g.Types, int32(int8(k)))
			g.Scores = append(g.Scores, -float32(i))
		}
		tok, err := FromGGUF(g)
		if err != nil {
			return
		}
		ids := tok.Encode(tokens+" a\xff ", parse)
		if got, want := streamed(t, tok, ids, true), tok.Decode(ids, true); got != want {
			t.Fatalf("streamed %q, decoded %q", got, want)
		}
	})
}

// Byte-level models without a normaliser, and Gemma's but for its visible blank, lose nothing.
func FuzzEncodeDecodeRoundTrip(f *testing.F) {
	var toks []*Tokenizer
	for _, name := range []string{"bpe_gpt2", "bpe_llama3", "bpe_o200k", "bpe_deepseek3", "spm_gemma"} {
		toks = append(toks, loadJSON(f, name))
		for _, c := range readGolden(f, name).Encode[:40] {
			f.Add(c.Text, uint(3))
		}
	}
	f.Fuzz(func(t *testing.T, text string, cut uint) {
		if !utf8.ValidString(text) {
			return
		}
		for i, tok := range toks {
			if i == 4 && strings.Contains(text, underline) {
				continue
			}
			ids := tok.Encode(text, parse)
			if got := tok.Decode(ids, false); got != text {
				t.Fatalf("%d: Decode(Encode(%q)) = %q", i, text, got)
			}
			at := int(cut % uint(len(text)+1))
			segs := []Segment{{text[:at], true}, {text[at:], false}}
			for _, id := range tok.EncodeSegments(segs, EncodeOptions{}) {
				if tok.IsSpecial(id) {
					t.Fatalf("%d: %v gave a special token", i, segs)
				}
			}
			if got := tok.Decode(tok.EncodeSegments(segs, parse), false); got != text {
				t.Fatalf("%d: segments %v decode to %q", i, segs, got)
			}
		}
	})
}

func FuzzStreamEqualsDecode(f *testing.F) {
	var toks []*Tokenizer
	for _, name := range goldenNames {
		toks = append(toks, loadJSON(f, name))
	}
	f.Add([]byte{1, 2, 3, 0xF0, 0x9F, 0x99, 0x82, 0xE4, 0xBB, 0xFF}, uint16(3), false)
	f.Add([]byte("\x06\xc3\xa9\x80"), uint16(0), true)
	f.Fuzz(func(t *testing.T, raw []byte, offset uint16, skip bool) {
		for i, tok := range toks {
			ids := make([]int32, len(raw))
			for j, b := range raw {
				ids[j] = (int32(b) + int32(offset)) % int32(tok.VocabSize()+5)
			}
			got, want := streamed(t, tok, ids, skip), tok.Decode(ids, skip)
			if got != want || !utf8.ValidString(want) {
				t.Fatalf("%s: ids %v: streamed %q, decoded %q", goldenNames[i], ids, got, want)
			}
		}
	})
}
