package convert

import (
	"fmt"

	"sestina/checkpoint"
)

// Token types of GGUF.
const (
	normalToken  = int32(1)
	controlToken = int32(3)
)

// merges join a few frequent pairs; readers want the list not to be empty. Ġ stands for a space.
var merges = [][2]string{{"Ġ", "t"}, {"h", "e"}, {"Ġt", "he"}, {"i", "n"}, {"e", "r"}, {"a", "n"}}

// minVocab holds the bytes, the merged pairs and the two control tokens.
var minVocab = 256 + len(merges) + 2

// vocabulary is a byte-level tokenizer that any text passes through: the 256
// bytes, a few pairs, fillers that no text becomes up to size, and two control tokens.
func vocabulary(size int) []checkpoint.KV {
	tokens, types := make([]string, 0, size), make([]int32, size)
	for b := range 256 {
		tokens = append(tokens, string(byteRune(byte(b))))
	}
	var pairs []string
	for _, m := range merges {
		tokens = append(tokens, m[0]+m[1])
		pairs = append(pairs, m[0]+" "+m[1])
	}
	for id := len(tokens); id < size-2; id++ {
		tokens = append(tokens, fmt.Sprintf("<filler_%d>", id))
	}
	tokens = append(tokens, "<|begin_of_text|>", "<|end_of_text|>")
	for i := range types {
		types[i] = normalToken
	}
	types[size-2], types[size-1] = controlToken, controlToken
	return []checkpoint.KV{
		{Key: "tokenizer.ggml.model", Value: "gpt2"},
		{Key: "tokenizer.ggml.pre", Value: "llama-bpe"},
		{Key: "tokenizer.ggml.tokens", Value: tokens},
		{Key: "tokenizer.ggml.token_type", Value: types},
		{Key: "tokenizer.ggml.merges", Value: pairs},
		{Key: "tokenizer.ggml.bos_token_id", Value: uint32(size - 2)},
		{Key: "tokenizer.ggml.eos_token_id", Value: uint32(size - 1)},
		{Key: "tokenizer.ggml.add_bos_token", Value: true},
	}
}

// byteRune is the character that stands for a byte in byte-level vocabularies:
// itself where it is visible, else the next one from U+0100 on (GPT-2's bytes_to_unicode).
func byteRune(b byte) rune {
	visible := func(b int) bool { return b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE }
	if visible(int(b)) {
		return rune(b)
	}
	next := rune(0x100)
	for i := range int(b) {
		if !visible(i) {
			next++
		}
	}
	return next
}
