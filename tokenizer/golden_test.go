package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The goldens were made with Hugging Face tokenizers 0.23.3. Each folder of testdata holds one small tokenizer
// as tokenizer.json and as GGUF arrays, and what it must do.
type golden struct {
	Encode []goldenEncode `json:"encode"`
	Decode []struct {
		IDs      []int32 `json:"ids"`
		Text     string  `json:"text"`
		TextSkip string  `json:"text_skip_special"`
	} `json:"decode"`
}

type goldenEncode struct {
	Text        string   `json:"text"`
	IDs         []int32  `json:"ids"`
	WithSpecial []int32  `json:"ids_with_special"`
	Tokens      []string `json:"tokens"`
	Decoded     string   `json:"decoded"`
	DecodedSkip string   `json:"decoded_skip_special"`
}

var goldenNames = []string{
	"bpe_gpt2", "bpe_llama3", "bpe_qwen2", "bpe_qwen35", "bpe_o200k", "bpe_deepseek3",
	"spm_llama", "spm_gemma", "unigram_bytefallback",
}

func readFile(t testing.TB, parts ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{"testdata"}, parts...)...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func readGolden(t testing.TB, name string) (g golden) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, name, "goldens.json"), &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Encode) < 100 || len(g.Decode) < 90 {
		t.Fatalf("%s: only %d encode and %d decode cases", name, len(g.Encode), len(g.Decode))
	}
	return g
}

// readGGUF reads the arrays of a gguf.json.
func readGGUF(t testing.TB, name string) GGUF {
	t.Helper()
	raw := struct {
		Model    string    `json:"tokenizer.ggml.model"`
		Pre      string    `json:"tokenizer.ggml.pre"`
		Tokens   []string  `json:"tokenizer.ggml.tokens"`
		Scores   []float32 `json:"tokenizer.ggml.scores"`
		Types    []int32   `json:"tokenizer.ggml.token_type"`
		Merges   []string  `json:"tokenizer.ggml.merges"`
		BOS      *int32    `json:"tokenizer.ggml.bos_token_id"`
		EOS      *int32    `json:"tokenizer.ggml.eos_token_id"`
		UNK      *int32    `json:"tokenizer.ggml.unknown_token_id"`
		AddBOS   *bool     `json:"tokenizer.ggml.add_bos_token"`
		AddEOS   *bool     `json:"tokenizer.ggml.add_eos_token"`
		AddSpace *bool     `json:"tokenizer.ggml.add_space_prefix"`
		Extra    *bool     `json:"tokenizer.ggml.remove_extra_whitespaces"`
	}{}
	if err := json.Unmarshal(readFile(t, name, "gguf.json"), &raw); err != nil {
		t.Fatal(err)
	}
	id := func(p *int32) int32 {
		if p == nil {
			return -1
		}
		return *p
	}
	return GGUF{
		Model: strings.Fields(raw.Model)[0], // the gemma file adds a remark
		Pre:   raw.Pre, Tokens: raw.Tokens, Scores: raw.Scores, Types: raw.Types, Merges: raw.Merges,
		BOS: id(raw.BOS), EOS: id(raw.EOS), UNK: id(raw.UNK), PAD: -1, EOT: -1,
		AddBOS: raw.AddBOS, AddEOS: raw.AddEOS, AddSpacePrefix: raw.AddSpace, RemoveExtraWhitespaces: raw.Extra,
	}
}

func loadJSON(t testing.TB, name string) *Tokenizer {
	t.Helper()
	tok, err := FromJSON(readFile(t, name, "tokenizer.json"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func loadGGUF(t testing.TB, g GGUF) *Tokenizer {
	t.Helper()
	tok, err := FromGGUF(g)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// forms returns the tokenizer in every form it can be loaded from.
func forms(t testing.TB, name string) map[string]*Tokenizer {
	g := readGGUF(t, name)
	out := map[string]*Tokenizer{"json": loadJSON(t, name), "gguf": loadGGUF(t, g)}
	if name == "spm_llama" || name == "spm_gemma" {
		g.Scores = nil
		out["gguf ranked"] = loadGGUF(t, g)
	}
	if name == "spm_gemma" {
		g.Model = "gemma4"
		out["gemma4"] = loadGGUF(t, g)
	}
	return out
}

// tied lists texts whose best two Unigram paths have mathematically equal scores ("." ".." and ".." "."), so that
// rounding decides: GGUF keeps scores as float32, tokenizer.json as float64.
var tied = map[string]string{"unigram_bytefallback/gguf": "!!!???..."}

func TestGoldens(t *testing.T) {
	for _, name := range goldenNames {
		g := readGolden(t, name)
		for form, tok := range forms(t, name) {
			t.Run(name+"/"+form, func(t *testing.T) {
				g := g
				if text := tied[name+"/"+form]; text != "" {
					before := len(g.Encode)
					g.Encode = slices.DeleteFunc(slices.Clone(g.Encode), func(c goldenEncode) bool { return c.Text == text })
					if len(g.Encode) != before-1 {
						t.Fatalf("the tied text %q is not a golden", text)
					}
				}
				checkEncode(t, tok, g)
				checkDecode(t, tok, g)
			})
		}
	}
}

func checkEncode(t *testing.T, tok *Tokenizer, g golden) {
	for _, c := range g.Encode {
		if got := tok.Encode(c.Text, EncodeOptions{ParseSpecial: true}); !slices.Equal(got, c.IDs) {
			t.Errorf("Encode(%.80q)\n got %v %q\nwant %v %q", c.Text, got, spellings(tok, got), c.IDs, c.Tokens)
			continue
		}
		if got := tok.Encode(c.Text, EncodeOptions{ParseSpecial: true, AddSpecial: true}); !slices.Equal(got, c.WithSpecial) {
			t.Errorf("Encode(%.80q) with special = %v, want %v", c.Text, got, c.WithSpecial)
		}
		if got := spellings(tok, c.IDs); !slices.Equal(got, c.Tokens) {
			t.Errorf("tokens of %v = %q, want %q", c.IDs, got, c.Tokens)
		}
		checkText(t, tok, c.IDs, false, c.Decoded)
		checkText(t, tok, c.IDs, true, c.DecodedSkip)
	}
}

func checkDecode(t *testing.T, tok *Tokenizer, g golden) {
	for _, c := range g.Decode {
		checkText(t, tok, c.IDs, false, c.Text)
		checkText(t, tok, c.IDs, true, c.TextSkip)
	}
}

// checkText decodes in one go and as a stream.
func checkText(t *testing.T, tok *Tokenizer, ids []int32, skip bool, want string) {
	t.Helper()
	if got := tok.Decode(ids, skip); got != want {
		t.Errorf("Decode(%v, %v) %q\n got %q\nwant %q", ids, skip, spellings(tok, ids), got, want)
	}
	if got := streamed(t, tok, ids, skip); got != want {
		t.Errorf("streamed %v, %v\n got %q\nwant %q", ids, skip, got, want)
	}
}

func spellings(tok *Tokenizer, ids []int32) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = tok.Token(id)
	}
	return out
}

// Normalisers and pre-tokenisers that no whole golden has, one at a time on the same vocabulary.
func TestStagesEqualTheReference(t *testing.T) {
	var golden struct {
		Texts []string `json:"texts"`
		Cases []struct {
			Name         string          `json:"name"`
			Normalizer   json.RawMessage `json:"normalizer"`
			PreTokenizer json.RawMessage `json:"pre_tokenizer"`
			IDs          [][]int32       `json:"ids"`
		} `json:"cases"`
	}
	var file map[string]json.RawMessage
	for _, f := range []struct {
		data []byte
		into any
	}{{readFile(t, "stages.json"), &golden}, {readFile(t, "bpe_gpt2", "tokenizer.json"), &file}} {
		if err := json.Unmarshal(f.data, f.into); err != nil {
			t.Fatal(err)
		}
	}
	if len(golden.Cases) < 30 {
		t.Fatalf("only %d cases", len(golden.Cases))
	}
	for _, c := range golden.Cases {
		t.Run(c.Name, func(t *testing.T) {
			file["normalizer"], file["pre_tokenizer"] = c.Normalizer, c.PreTokenizer
			data, err := json.Marshal(file)
			if err != nil {
				t.Fatal(err)
			}
			tok, err := FromJSON(data, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, text := range golden.Texts {
				if got := tok.Encode(text, EncodeOptions{ParseSpecial: true}); !slices.Equal(got, c.IDs[i]) {
					t.Errorf("%q\n got %v\nwant %v", text, got, c.IDs[i])
				}
			}
		})
	}
}
