package sestina_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sestina/checkpoint"
	"sestina/tensor"
)

// testdata/tiny.gguf is a random Llama of 2 layers with a byte-level tokenizer
// and a ChatML template: it answers in gibberish, through every part of the
// engine, in microseconds. Its weights are drawn here; run
//
//	go test -run TestTinyModelIsCurrent -update .
//
// after changing it.
const tiny = "testdata/tiny.gguf"

var update = flag.Bool("update", false, "rewrite testdata")

func TestTinyModelIsCurrent(t *testing.T) {
	var want bytes.Buffer
	if err := writeTiny(&want, tinyShape{heads: 4, kv: 2, dim: 16}); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(tiny, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Fatal("testdata/tiny.gguf is not what writeTiny makes; run with -update")
	}
}

// tinyShape is what tests vary of the tiny model.
type tinyShape struct {
	heads, kv, dim int
	window         int     // of attention; 0 = none
	hybrid         bool    // only the second layer has it
	noise          float32 // over the weights: a draft model that often but not always agrees
}

func writeTiny(w *bytes.Buffer, tiny tinyShape) error {
	const hidden, ffn, layers = 64, 96, 2
	heads, kv, dim := tiny.heads, tiny.kv, tiny.dim
	tokens, types, merges := tinyVocabulary()
	pairs := []checkpoint.KV{
		{Key: "general.architecture", Value: "llama"}, {Key: "general.name", Value: "tiny"},
		{Key: "llama.context_length", Value: uint32(2048)}, {Key: "llama.embedding_length", Value: uint32(hidden)}, {Key: "llama.block_count", Value: uint32(layers)},
		{Key: "llama.feed_forward_length", Value: uint32(ffn)}, {Key: "llama.attention.head_count", Value: uint32(heads)}, {Key: "llama.attention.head_count_kv", Value: uint32(kv)},
		{Key: "llama.attention.layer_norm_rms_epsilon", Value: float32(1e-5)}, {Key: "llama.rope.freq_base", Value: float32(10000)},
		{Key: "tokenizer.ggml.model", Value: "gpt2"}, {Key: "tokenizer.ggml.pre", Value: "smollm"}, {Key: "tokenizer.ggml.tokens", Value: tokens}, {Key: "tokenizer.ggml.token_type", Value: types},
		{Key: "tokenizer.ggml.merges", Value: merges}, {Key: "tokenizer.ggml.bos_token_id", Value: uint32(1)}, {Key: "tokenizer.ggml.eos_token_id", Value: uint32(2)},
		{Key: "tokenizer.ggml.add_bos_token", Value: false},
		{Key: "tokenizer.chat_template", Value: "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"},
	}
	if tiny.dim != hidden/heads {
		pairs = append(pairs, checkpoint.KV{Key: "llama.attention.key_length", Value: uint32(dim)}, checkpoint.KV{Key: "llama.attention.value_length", Value: uint32(dim)})
	}
	if tiny.hybrid {
		for i := range pairs {
			pairs[i].Key = strings.Replace(pairs[i].Key, "llama.", "smollm3.", 1)
		}
		pairs[0].Value = "smollm3"
		pairs = append(pairs, checkpoint.KV{Key: "use_sliding_window", Value: true}, checkpoint.KV{Key: "no_rope_layer_interval", Value: uint32(2)},
			checkpoint.KV{Key: "smollm3.attention.sliding_window", Value: uint32(tiny.window)})
	} else if tiny.window > 0 {
		pairs = append(pairs, checkpoint.KV{Key: "llama.attention.sliding_window", Value: uint32(tiny.window)})
	}
	rng, other := rand.New(rand.NewPCG(3, 5)), rand.New(rand.NewPCG(8, 13))
	var tensors []checkpoint.Tensor
	add := func(name string, d tensor.DType, scale float32, shape ...int) error {
		n := 1
		for _, s := range shape {
			n *= s
		}
		values := make([]float32, n)
		for i := range values {
			values[i] = scale * (float32(rng.NormFloat64()) + tiny.noise*float32(other.NormFloat64()))
			if len(shape) == 1 {
				values[i] = 1 + 0.1*values[i]
			}
		}
		size, err := d.Bytes(shape)
		if err != nil {
			return err
		}
		raw := make([]byte, size)
		if err := tensor.Encode(d, raw, values); err != nil {
			return err
		}
		tensors = append(tensors, checkpoint.Tensor{Name: name, DType: d, Shape: shape, Data: bytes.NewReader(raw)})
		return nil
	}
	err := add("token_embd.weight", tensor.Q8_0, 1, len(tokens), hidden)
	for _, l := range []string{"blk.0.", "blk.1."} {
		for _, m := range []struct {
			name  string
			d     tensor.DType
			shape []int
		}{
			{"attn_norm", tensor.F32, []int{hidden}}, {"attn_q", tensor.Q4_0, []int{heads * dim, hidden}}, {"attn_k", tensor.Q4_0, []int{kv * dim, hidden}},
			{"attn_v", tensor.Q8_0, []int{kv * dim, hidden}}, {"attn_output", tensor.Q4_1, []int{hidden, heads * dim}}, {"ffn_norm", tensor.F32, []int{hidden}},
			{"ffn_gate", tensor.Q5_0, []int{ffn, hidden}}, {"ffn_up", tensor.Q5_1, []int{ffn, hidden}}, {"ffn_down", tensor.Q8_0, []int{hidden, ffn}},
		} {
			if err == nil {
				err = add(l+m.name+".weight", m.d, 0.25, m.shape...)
			}
		}
	}
	if err == nil {
		err = add("output_norm.weight", tensor.F32, 1, hidden)
	}
	if err != nil {
		return err
	}
	return checkpoint.WriteGGUF(w, pairs, tensors)
}

// tinyVocabulary is GPT-2's 256 byte characters behind three control tokens,
// and the merges that spell a few words.
func tinyVocabulary() (tokens []string, types []int32, merges []string) {
	tokens, types = []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}, []int32{3, 3, 3}
	extra := 0
	var byteRunes [256]rune
	for b := range 256 {
		r := rune(b)
		if b < '!' || b > '~' && b < 0xA1 || b == 0xAD {
			r = rune(256 + extra)
			extra++
		}
		byteRunes[b] = r
		tokens = append(tokens, string(r))
	}
	known := map[string]bool{}
	for _, word := range strings.Fields("the and user assistant system sky blue hello world Ġthe Ġsky Ġblue Ġis Ġa Ġworld") {
		left := ""
		for _, r := range word {
			if left == "" {
				left = string(r)
				continue
			}
			joined := left + string(r)
			if !known[joined] {
				known[joined] = true
				tokens = append(tokens, joined)
				merges = append(merges, left+" "+string(r))
			}
			left = joined
		}
	}
	for len(types) < len(tokens) {
		types = append(types, 1)
	}
	return tokens, types, merges
}

// tinyMTP is an MTP file for the tiny model, of random weights: it drafts at random.
func tinyMTP(t testing.TB, tiny tinyShape) string {
	t.Helper()
	q, kv, rng := tiny.heads*tiny.dim, tiny.kv*tiny.dim, rand.New(rand.NewPCG(8, 1))
	var tensors []checkpoint.Tensor
	for _, m := range []struct {
		name  string
		shape []int
	}{
		{"enorm", []int{64}}, {"hnorm", []int{64}}, {"eh_proj", []int{64, 128}}, {"shared_head.norm", []int{64}},
		{"input_layernorm", []int{64}}, {"self_attn.q_proj", []int{q, 64}}, {"self_attn.k_proj", []int{kv, 64}}, {"self_attn.v_proj", []int{kv, 64}}, {"self_attn.o_proj", []int{64, q}},
		{"post_attention_layernorm", []int{64}}, {"mlp.gate_proj", []int{96, 64}}, {"mlp.up_proj", []int{96, 64}}, {"mlp.down_proj", []int{64, 96}},
	} {
		n := m.shape[0]
		if len(m.shape) == 2 {
			n *= m.shape[1]
		}
		values, raw := make([]float32, n), make([]byte, 4*n)
		for i := range values {
			values[i] = float32(rng.NormFloat64()) / 8
		}
		if err := tensor.Encode(tensor.F32, raw, values); err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, checkpoint.Tensor{Name: "model.layers.2." + m.name + ".weight", DType: tensor.F32, Shape: m.shape, Data: bytes.NewReader(raw)})
	}
	var file bytes.Buffer
	if err := checkpoint.WriteSafetensors(&file, nil, tensors); err != nil {
		t.Fatal(err)
	}
	tokens, _, _ := tinyVocabulary()
	config := fmt.Sprintf(`{"format":"sestina.mtp","version":1,"target":{"hidden_size":64,"num_hidden_layers":2,"vocab_size":%d}}`, len(tokens))
	dir := t.TempDir()
	for name, data := range map[string][]byte{"config.json": []byte(config), "model.safetensors": file.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
