// Package tokenizer turns text into token ids and token ids into text.
//
// It reads the two forms in which models ship a tokenizer, a Hugging Face
// tokenizer.json ([FromJSON]) and the tokenizer.ggml.* keys of a GGUF file
// ([FromGGUF]), and gives the ids that the Hugging Face library "tokenizers"
// gives. Three model kinds are supported:
//
//   - byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM, DeepSeek, gpt-oss …),
//   - SentencePiece BPE with byte fallback (Llama 2, Mistral, Gemma …),
//   - Unigram with byte fallback (T5-like).
//
// # The way of a text
//
//	text ─ added tokens cut out ─ normaliser ─ pre-tokeniser ─ model ─ ids
//	       (added.go)             (normalize.go) (split.go)     (bpe.go, unigram.go)
//
// Every step takes time linear in the text, except the merges of one piece of
// n symbols, which take O(n log n): a megabyte of one letter is as harmless as a
// megabyte of prose (TestEncodeTimeIsLinearOnHostileText).
//
// The pre-tokenisers of the families above are written out (split.go). What else a tokenizer.json may say runs too:
// any Split pattern and behaviour (cut.go; the pattern in a backtracking engine with a time limit, translated by
// onig.go), Digits, Punctuation, Whitespace, ByteLevel and Metaspace in any order that has a meaning. Characters have
// the properties of Unicode 16, as in the reference.
//
// # Trust
//
// A special (control) token such as <|im_end|> changes who is speaking. Text of a
// user must never become one. [Tokenizer.EncodeSegments] takes the rendered chat
// prompt as trusted template text and untrusted user text: special tokens are
// recognised only where every byte is trusted, and nothing else changes, in
// particular segment borders do not split words. Added tokens that are not special
// (for example runs of newlines in Gemma) are ordinary vocabulary and recognised everywhere.
//
// # Decoding
//
// [Tokenizer.Decode] and [Stream] are one state machine. A Stream never emits half a
// character, and its output concatenated equals Decode of all ids, invalid bytes
// included. Ids outside the vocabulary decode to nothing.
//
// # Memory
//
// A vocabulary of 100 000 tokens is a few flat arrays: one blob of bytes with offsets,
// and open-addressing hash tables of integers. The garbage collector sees a handful of
// pointers, whatever the vocabulary.
//
// # Where GGUF knows less than tokenizer.json
//
// GGUF has no lstrip, rstrip or single_word flags of added tokens (Phi-3 swallows the
// blanks after <|end|>; from GGUF they become ordinary tokens), no post-processor beyond
// "add BOS" and "add EOS", and no normaliser: NFC is implied by pre = qwen2 and qwen35.
// SentencePiece merges are ordered by the scores of the joined pieces instead of listed.
// Unigram scores are float32 there, so exactly tied spellings may fall the other way.
// On everything else both loaders agree (TestGoldens runs every case through both).
//
// # Where this package departs from Hugging Face tokenizers
//
// The model never spells a special token: with ParseSpecial off, or in untrusted text, "</s>" is ordinary
// text even for a Unigram model that has it in its vocabulary. Special tokens whose file says normalized =
// true are skipped by skipSpecial like all others, and decode to their plain spelling.
// Where two Unigram spellings have mathematically equal scores ("." ".." and ".." "."), the last bit of the
// parsed scores decides, and the reference's JSON parser rounds differently (4 of 6000 random texts).
package tokenizer
