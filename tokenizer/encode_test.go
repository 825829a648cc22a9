package tokenizer

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

var parse = EncodeOptions{ParseSpecial: true}

func TestUntrustedTextNeverBecomesASpecialToken(t *testing.T) {
	for _, name := range goldenNames {
		for form, tok := range forms(t, name) {
			for id := range int32(tok.VocabSize()) {
				if !tok.IsSpecial(id) {
					continue
				}
				text := tok.Token(id)
				half := len(text) / 2
				for what, segs := range map[string][]Segment{
					"whole":       {{"a ", true}, {text, false}, {" b", true}},
					"first half":  {{text[:half], false}, {text[half:], true}},
					"second half": {{text[:half], true}, {text[half:], false}},
					"last byte":   {{text[:len(text)-1], true}, {text[len(text)-1:], false}},
					"two users":   {{text[:half], false}, {text[half:], false}},
				} {
					for _, got := range tok.EncodeSegments(segs, parse) {
						if tok.IsSpecial(got) && got != tok.UNK() {
							t.Errorf("%s/%s: %q, %s untrusted, became %q", name, form, text, what, tok.Token(got))
						}
					}
				}
				for _, got := range tok.Encode(text, EncodeOptions{}) {
					if tok.IsSpecial(got) && got != tok.UNK() {
						t.Errorf("%s/%s: %q became special without ParseSpecial", name, form, text)
					}
				}
			}
		}
	}
}

func TestTemplateTokensBesideUntrustedTextAreRecognised(t *testing.T) {
	tok := loadJSON(t, "bpe_qwen2")
	id := func(s string) int32 { id, _ := tok.ID(s); return id }
	got := tok.EncodeSegments([]Segment{
		{"<|im_start|>", true}, {"<|im_end|><|im", false}, {"", false}, {"<|im_end|>", true},
	}, parse)
	want := append([]int32{id("<|im_start|>")}, tok.Encode("<|im_end|><|im", EncodeOptions{})...)
	want = append(want, id("<|im_end|>"))
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", spellings(tok, got), spellings(tok, want))
	}
}

// A user text that ends with the beginning of a longer special token must not hide the template's shorter one.
func TestUntrustedTextCannotSwallowATemplateToken(t *testing.T) {
	g := readGGUF(t, "bpe_gpt2")
	g.Tokens = append(slices.Clone(g.Tokens), "x<|endoftext|>")
	g.Types = append(slices.Clone(g.Types), int32(Control))
	tok := loadGGUF(t, g)
	got := tok.EncodeSegments([]Segment{{"x", false}, {"<|endoftext|>", true}}, parse)
	if last := tok.Token(got[len(got)-1]); len(got) != 2 || last != "<|endoftext|>" {
		t.Errorf("got %q", spellings(tok, got))
	}
}

// Old Llama 2 files match special tokens after the normaliser, which moves every byte.
func TestTrustFollowsTextThroughTheNormaliser(t *testing.T) {
	data := strings.ReplaceAll(string(readFile(t, "spm_llama", "tokenizer.json")), `"normalized": false`, `"normalized": true`)
	data = strings.ReplaceAll(data, `"normalized":false`, `"normalized":true`)
	tok, err := FromJSON([]byte(data), nil)
	if err != nil || len(tok.normalized.tokens) == 0 {
		t.Fatal(err, len(tok.normalized.tokens))
	}
	bos, _ := tok.ID("<s>")
	count := func(segs ...Segment) int {
		n := 0
		for _, id := range tok.EncodeSegments(segs, parse) {
			if id == bos {
				n++
			}
		}
		return n
	}
	// "▁<s>" is what the file matches: at the start, or behind a blank.
	if n := count(Segment{"<s> é <s>", true}); n != 2 {
		t.Errorf("trusted: %d <s>, want 2", n)
	}
	if n := count(Segment{"<s> ", true}, Segment{"a b <s> <s> c", false}, Segment{" <s>", true}); n != 2 {
		t.Errorf("mixed: %d <s>, want 2", n)
	}
	if n := count(Segment{"x é", true}, Segment{" <s>", false}); n != 0 {
		t.Errorf("untrusted: %d <s>, want 0", n)
	}
}

func TestSegmentBordersDoNotSplitTokens(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range goldenNames {
		g := readGolden(t, name)
		tok := loadJSON(t, name)
		for _, c := range g.Encode {
			if ids := tok.Encode(c.Text, EncodeOptions{}); !slices.Equal(ids, c.IDs) {
				continue // holds a special token
			}
			var segs []Segment
			for rest := c.Text; rest != ""; {
				n := 1 + rng.IntN(min(len(rest), 7))
				segs = append(segs, Segment{rest[:n], rng.IntN(2) == 0})
				rest = rest[n:]
			}
			if got := tok.EncodeSegments(segs, parse); !slices.Equal(got, c.IDs) {
				t.Errorf("%s: %v gives %v, whole text %v", name, segs, got, c.IDs)
			}
		}
	}
}

func TestAddSpecialSurroundsTheText(t *testing.T) {
	tok := loadJSON(t, "bpe_llama3")
	segs := []Segment{{"hello", false}}
	got := tok.EncodeSegments(segs, EncodeOptions{AddSpecial: true})
	want := append([]int32{tok.BOS()}, tok.Encode("hello", EncodeOptions{})...)
	if !slices.Equal(got, want) || !tok.AddsBOS() || tok.BOS() != 700 {
		t.Errorf("got %v, want %v (BOS %d, AddsBOS %v)", got, want, tok.BOS(), tok.AddsBOS())
	}
}

func TestUserDefinedTokensAreRecognisedEverywhere(t *testing.T) {
	g := readGGUF(t, "bpe_qwen2")
	g.Tokens = append(slices.Clone(g.Tokens), "<think>")
	g.Types = append(slices.Clone(g.Types), int32(UserDefined))
	tok := loadGGUF(t, g)
	want := []int32{int32(len(g.Tokens) - 1)}
	if got := tok.EncodeSegments([]Segment{{"<think>", false}}, EncodeOptions{}); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := tok.Decode(want, true); got != "<think>" {
		t.Errorf("skipSpecial dropped it: %q", got)
	}
}

func TestInvalidUTF8KeepsItsBytes(t *testing.T) {
	for _, name := range []string{"bpe_gpt2", "bpe_llama3", "bpe_deepseek3", "bpe_o200k", "bpe_qwen2", "spm_gemma"} {
		tok := loadJSON(t, name)
		for _, text := range []string{"\xff", "a\xc3", "\xe4\xbb b", "\xf0\x9f\x99x\x80\x80", "é\xcc\xff"} {
			var raw []byte
			for _, id := range tok.Encode(text, EncodeOptions{}) {
				raw = append(raw, tok.Bytes(id)...)
			}
			if string(raw) != text {
				t.Errorf("%s: %q became %q", name, text, raw)
			}
		}
	}
}

// naiveMerge is the definition: the lowest rank first, leftmost on ties.
func naiveMerge(m *bpe, ids []int32) []int32 {
	for {
		best, at := noRank, -1
		for i := 0; i+1 < len(ids); i++ {
			if r := m.rank(ids[i], ids[i+1]); r < best {
				best, at = r, i
			}
		}
		if at < 0 {
			return ids
		}
		ids[at] = m.merges.get(ids[at], ids[at+1]).id
		ids = slices.Delete(ids, at+1, at+2)
	}
}

func TestMergeOrderMatchesNaive(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, name := range []string{"bpe_gpt2", "spm_llama", "spm_gemma"} {
		for form, tok := range forms(t, name) {
			m := tok.model.(*bpe)
			tokens := make([]string, 40)
			for n := range 300 {
				for i := range tokens {
					tokens[i] = string(tok.Bytes(rng.Int32N(int32(tok.VocabSize()))))
				}
				text := strings.ReplaceAll(strings.Join(tokens[:1+n%len(tokens)], ""), " ", underline)
				want := naiveMerge(m, m.symbols(nil, text))
				s := &scratch{ids: m.symbols(nil, text)}
				if got := m.mergeLong(nil, s); !slices.Equal(got, want) {
					t.Fatalf("%s/%s: heap %v, naive %v for %q", name, form, got, want, text)
				}
				if got := m.merge(nil, text); !slices.Equal(got, want) {
					t.Fatalf("%s/%s: %v, naive %v for %q", name, form, got, want, text)
				}
			}
		}
	}
}

// Cutting SentencePiece text at word starts must not change anything.
func TestCuttingAtWordStartsChangesNothing(t *testing.T) {
	for _, name := range []string{"spm_llama", "spm_gemma"} {
		cut, whole := loadJSON(t, name), loadJSON(t, name)
		if len(cut.splitters) == 0 {
			t.Fatalf("%s: no splitter to test", name)
		}
		whole.splitters = nil
		for _, c := range readGolden(t, name).Encode {
			if a, b := cut.Encode(c.Text, parse), whole.Encode(c.Text, parse); !slices.Equal(a, b) {
				t.Errorf("%s: %q: cut %v, whole %v", name, c.Text, a, b)
			}
		}
	}
	g := readGGUF(t, "spm_llama")
	g.Tokens = append(slices.Clone(g.Tokens), "o▁t")
	g.Types = append(slices.Clone(g.Types), int32(Normal))
	g.Scores = append(slices.Clone(g.Scores), 5)
	if tok := loadGGUF(t, g); len(tok.splitters) != 0 {
		t.Error("a token spans a word start, but text is cut there")
	}
}
