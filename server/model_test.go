package server

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"sestina"
	"sestina/engine"
)

// Two tiny models with a byte-level tokenizer, made on the spot.
//
// The script model has no attention to speak of: the next token is a function
// of the last one, fixed by its output matrix. So a test writes texts as tokens,
// cut wherever it hurts (inside a rune, inside a stop string), and the model says
// them: a prompt that ends in "①" is answered by the first text, and so on.
//
// The random model has two layers of random weights: its answers mean nothing
// and depend on every token before them, which is what neighbours, caches and
// cancellations must not change.

const (
	endOfText = "<|endoftext|>"
	imStart   = "<|im_start|>"
	imEnd     = "<|im_end|>"
	template  = `{% for m in messages %}<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{{ suffix | default('') }}{% endif %}`
)

// script is one answer: the tokens it is made of.
type script []string

// cue is the character that, ending a prompt, is answered by script i. It is one token.
func cue(i int) string { return string(rune('①' + i)) }

// cut splits texts into tokens of a few bytes, each used once, without regard to characters.
func cut(seed uint64, texts ...string) []script {
	r := rand.New(rand.NewPCG(seed, 0))
	used := map[string]bool{}
	for i := range texts {
		used[cue(i)], used[cue(i)[:2]] = true, true
	}
	out := make([]script, len(texts))
	for i, text := range texts {
		for text != "" {
			n := min(1+r.IntN(5), len(text))
			for n < len(text) && used[text[:n]] {
				n++
			}
			piece := text[:n]
			text = text[n:]
			for used[piece] { // the text's end: join what came before
				last := len(out[i]) - 1
				piece, out[i] = out[i][last]+piece, out[i][:last]
			}
			used[piece] = true
			out[i] = append(out[i], piece)
		}
	}
	return out
}

// vocabulary is the tokenizer of a test model.
type vocabulary struct {
	ids   map[string]int // spelling in the file
	order []string
}

func (v *vocabulary) add(raw string) int {
	s := spell(raw)
	id, ok := v.ids[s]
	if !ok {
		id = len(v.order)
		v.ids[s] = id
		v.order = append(v.order, s)
	}
	return id
}

// spell writes bytes as GPT-2 does: each as one printable character.
func spell(raw string) string {
	var b strings.Builder
	for i := range len(raw) {
		b.WriteRune(byteRunes[raw[i]])
	}
	return b.String()
}

var byteRunes = func() (r [256]rune) {
	next := rune(256)
	for b := range 256 {
		if c := rune(b); c > 32 && c < 127 || c > 160 && c != 173 {
			r[b] = c
			continue
		}
		r[b] = next
		next++
	}
	return r
}()

func newVocabulary() *vocabulary {
	v := &vocabulary{ids: map[string]int{}}
	for b := range 256 {
		v.add(string([]byte{byte(b)}))
	}
	return v
}

// tokenizerJSON writes the vocabulary; merges build the cue characters.
func (v *vocabulary) tokenizerJSON(merges []string) []byte {
	var added []map[string]any
	for i, s := range []string{endOfText, imStart, imEnd} {
		added = append(added, map[string]any{"id": len(v.order) + i, "content": s, "single_word": false, "lstrip": false, "rstrip": false,
			"normalized": false, "special": true})
	}
	level := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
	data, err := json.Marshal(map[string]any{
		"version": "1.0", "added_tokens": added, "normalizer": nil, "pre_tokenizer": level, "post_processor": nil, "decoder": level,
		"model": map[string]any{"type": "BPE", "vocab": v.ids, "merges": merges, "byte_fallback": false},
	})
	if err != nil {
		panic(err)
	}
	return data
}

// tensors are the weights of a model to be.
type tensors map[string]struct {
	shape []int
	data  []float32
}

func (ts tensors) put(name string, shape []int, at func(i int) float32) {
	n := 1
	for _, d := range shape {
		n *= d
	}
	data := make([]float32, n)
	for i := range data {
		data[i] = at(i)
	}
	ts[name] = struct {
		shape []int
		data  []float32
	}{shape, data}
}

func (ts tensors) write(t testing.TB, path string) {
	header := map[string]any{}
	var body []byte
	var names []string
	for name := range ts {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		start := len(body)
		for _, f := range ts[name].data {
			body = binary.LittleEndian.AppendUint32(body, math.Float32bits(f))
		}
		header[name] = map[string]any{"dtype": "F32", "shape": ts[name].shape, "data_offsets": []int{start, len(body)}}
	}
	head, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
	if err := os.WriteFile(path, append(append(file, head...), body...), 0o600); err != nil {
		t.Fatal(err)
	}
}

func zero(int) float32 { return 0 }
func one(int) float32  { return 1 }

// shape of the test models' layers.
const heads, kvHeads, headDim, inner, positions = 4, 2, 16, 32, 1 << 16

// layer adds the weights of one layer; out makes those that write to the residual stream.
func (ts tensors) layer(i, hidden int, in, out func(int) float32) {
	p := fmt.Sprintf("model.layers.%d.", i)
	ts.put(p+"input_layernorm.weight", []int{hidden}, one)
	ts.put(p+"post_attention_layernorm.weight", []int{hidden}, one)
	ts.put(p+"self_attn.q_proj.weight", []int{heads * headDim, hidden}, in)
	ts.put(p+"self_attn.k_proj.weight", []int{kvHeads * headDim, hidden}, in)
	ts.put(p+"self_attn.v_proj.weight", []int{kvHeads * headDim, hidden}, in)
	ts.put(p+"self_attn.o_proj.weight", []int{hidden, heads * headDim}, out)
	ts.put(p+"mlp.gate_proj.weight", []int{inner, hidden}, in)
	ts.put(p+"mlp.up_proj.weight", []int{inner, hidden}, in)
	ts.put(p+"mlp.down_proj.weight", []int{hidden, inner}, out)
}

// writeModel puts a checkpoint into a folder.
func writeModel(t testing.TB, v *vocabulary, merges []string, hidden, layers int, ts tensors) string {
	t.Helper()
	dir := t.TempDir()
	eos := len(v.order)
	config := map[string]any{"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "vocab_size": eos + 3, "hidden_size": hidden,
		"intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kvHeads, "head_dim": headDim,
		"hidden_act": "silu", "max_position_embeddings": positions, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false,
		"attention_bias": false, "mlp_bias": false, "torch_dtype": "float32", "eos_token_id": []int{eos, eos + 2}}
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"config.json": data, "tokenizer.json": v.tokenizerJSON(merges), "chat_template.jinja": []byte(template),
		"tokenizer_config.json": []byte(`{"eos_token":"` + endOfText + `"}`)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ts.write(t, filepath.Join(dir, "model.safetensors"))
	return dir
}

// scriptModel writes a model that says the scripts.
func scriptModel(t testing.TB, scripts ...script) string {
	t.Helper()
	v := newVocabulary()
	next := map[int]int{}
	var merges []string
	for i, s := range scripts {
		raw := cue(i) // three bytes, joined by two merges
		v.add(raw[:2])
		last := v.add(raw)
		if i == 0 {
			merges = append(merges, spell(raw[:1])+" "+spell(raw[1:2]))
		}
		merges = append(merges, spell(raw[:2])+" "+spell(raw[2:]))
		for _, token := range s {
			id := v.add(token)
			if _, taken := next[last]; taken {
				t.Fatalf("script %d: the token before %q is used twice: cut it otherwise", i, token)
			}
			next[last] = id
			last = id
		}
		next[last] = -1
	}
	size := len(v.order) + 3
	for from, to := range next {
		if to < 0 {
			next[from] = size - 1 // <|im_end|>
		}
	}
	ts := tensors{}
	ts.put("model.embed_tokens.weight", []int{size, size}, func(i int) float32 {
		if i/size == i%size {
			return 1
		}
		return 0
	})
	head := make([]float32, size*size)
	for from, to := range next {
		head[to*size+from] = 2
	}
	ts.put("lm_head.weight", []int{size, size}, func(i int) float32 { return head[i] })
	ts.put("model.norm.weight", []int{size}, one)
	ts.layer(0, size, zero, zero)
	return writeModel(t, v, merges, size, 1, ts)
}

// randomModel writes a model of random weights.
func randomModel(t testing.TB) string {
	t.Helper()
	const hidden, layers = 64, 2
	v := newVocabulary()
	size := len(v.order) + 3
	r := rand.New(rand.NewPCG(1, 2))
	normal := func(scale float64) func(int) float32 {
		return func(int) float32 { return float32(r.NormFloat64() * scale) }
	}
	ts := tensors{}
	ts.put("model.embed_tokens.weight", []int{size, hidden}, normal(1))
	ts.put("lm_head.weight", []int{size, hidden}, normal(0.4))
	ts.put("model.norm.weight", []int{hidden}, one)
	for i := range layers {
		ts.layer(i, hidden, normal(0.2), normal(0.3))
	}
	return writeModel(t, v, nil, hidden, layers, ts)
}

// open loads a test model with a KV pool that is large enough.
func open(t testing.TB, dir string, opt engine.Options) *sestina.LLM {
	t.Helper()
	return openPool(t, dir, opt, 64<<20)
}

func openPool(t testing.TB, dir string, opt engine.Options, pool uint64) *sestina.LLM {
	t.Helper()
	o := sestina.Options{Options: opt, Threads: 1, KVCacheMemoryBytes: pool, StoreDir: t.TempDir()}
	o.Log = slog.New(slog.DiscardHandler)
	llm, err := sestina.Open(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { llm.Close() })
	return llm
}
