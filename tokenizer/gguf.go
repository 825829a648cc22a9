package tokenizer

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// GGUF is what the tokenizer.ggml.* keys of a GGUF file say. Ids are -1 where the file has none.
type GGUF struct {
	Model  string    // tokenizer.ggml.model: "gpt2", "llama", "gemma4", "t5"
	Pre    string    // tokenizer.ggml.pre: the pre-tokeniser of "gpt2"
	Tokens []string  // tokens; index = id
	Scores []float32 // scores, may be nil for "gpt2"
	Types  []int32   // token_type, nil = all normal
	Merges []string  // merges, "left right"

	BOS, EOS, UNK, PAD, EOT int32
	ExtraEOG                []int32 // further ids that end a generation

	AddBOS, AddEOS         *bool // add_bos_token, add_eos_token; nil = the model's default
	AddSpacePrefix         *bool // add_space_prefix; nil = true for "llama" and "t5"
	RemoveExtraWhitespaces *bool // remove_extra_whitespaces ("t5")
}

// preTokenizer is the meaning of a tokenizer.ggml.pre value.
type preTokenizer struct {
	splitters    func() []stage
	nfc          bool // Unicode composition first
	ignoreMerges bool
	addBOS       bool // default of add_bos_token
}

// preTokenizers maps tokenizer.ggml.pre values. Names on one line share one definition.
var preTokenizers = func() map[string]preTokenizer {
	table := map[string]preTokenizer{}
	for names, p := range map[string]preTokenizer{
		// A file without the key predates it; the GPT-2 pattern is the best guess.
		" default gpt-2 phi-2 olmo mpt jais trillion exaone4 gigachat modern-bert mellum a.x-4.0": {splitters: gpt2Splitters},
		"smollm starcoder refact command-r codeshell exaone minerva-7b":                           {splitters: smollmSplitters},
		"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral lfm2 midm-2.0 smollm3":               {splitters: llama3Splitters, ignoreMerges: true, addBOS: true},
		"dbrx smaug-bpe glm4 chatglm-bpe":                                                         {splitters: llama3Splitters},
		"qwen2 deepseek-r1-qwen megrez":                                                           {splitters: qwen2Splitters, nfc: true},
		"stablelm2 hunyuan grok-2 solar-open":                                                     {splitters: qwen2Splitters},
		"qwen35":                                                                                  {splitters: qwen35Splitters, nfc: true},
		"gpt-4o llama4 kanana2 minimax-m2":                                                        {splitters: o200kSplitters},
		"tekken":                                                                                  {splitters: tekkenSplitters, ignoreMerges: true, addBOS: true},
		"deepseek-v3 hunyuan-dense joyai-llm":                                                     {splitters: deepseekSplitters},
	} {
		for _, name := range strings.Split(names, " ") {
			table[name] = p
		}
	}
	return table
}()

// FromGGUF builds the tokenizer that a GGUF file describes.
func FromGGUF(g GGUF) (*Tokenizer, error) {
	v, err := ggufVocab(g)
	if err != nil {
		return nil, err
	}
	t := &Tokenizer{vocab: v, names: specials{g.BOS, g.EOS, g.UNK, g.PAD, nil}}
	if err := t.checkNames(append(slices.Clone(g.ExtraEOG), g.EOT)); err != nil {
		return nil, err
	}
	addBOS, addEOS := false, false
	switch g.Model {
	case "gpt2":
		addBOS, err = t.ggufByteLevel(g)
	case "llama":
		addBOS, err = true, t.ggufSentencePiece(g)
	case "gemma4":
		addBOS, err = true, t.ggufRankedSentencePiece(g)
	case "t5":
		addEOS, err = true, t.ggufUnigram(g)
	case "", "none":
		return nil, fmt.Errorf("tokenizer: the GGUF file has no tokenizer (tokenizer.ggml.model %q); pass ids, or use a file that has one", g.Model)
	default:
		return nil, fmt.Errorf("tokenizer: tokenizer.ggml.model %q is not supported; supported are gpt2, llama, gemma4 and t5", g.Model)
	}
	if err != nil {
		return nil, err
	}
	t.ggufAdded()
	if choose(g.AddBOS, addBOS && g.BOS >= 0) {
		if g.BOS < 0 {
			return nil, fmt.Errorf("tokenizer: add_bos_token is set but bos_token_id is missing; convert the file again")
		}
		t.before = []int32{g.BOS}
	}
	if choose(g.AddEOS, addEOS && g.EOS >= 0) {
		if g.EOS < 0 {
			return nil, fmt.Errorf("tokenizer: add_eos_token is set but eos_token_id is missing; convert the file again")
		}
		t.after = []int32{g.EOS}
	}
	t.findEOG(append(slices.Clone(g.ExtraEOG), g.EOT)...)
	return t, nil
}

func choose(set *bool, otherwise bool) bool {
	if set != nil {
		return *set
	}
	return otherwise
}

func ggufVocab(g GGUF) (*vocab, error) {
	if g.Types != nil && len(g.Types) != len(g.Tokens) {
		return nil, fmt.Errorf("tokenizer: %d token types for %d tokens; the file is damaged, fetch or convert it again", len(g.Types), len(g.Tokens))
	}
	if g.Scores != nil && len(g.Scores) != len(g.Tokens) {
		return nil, fmt.Errorf("tokenizer: %d scores for %d tokens; the file is damaged, fetch or convert it again", len(g.Scores), len(g.Tokens))
	}
	kinds := make([]Kind, len(g.Tokens))
	for id := range kinds {
		kinds[id] = Normal
		if g.Types == nil {
			continue
		}
		kind := g.Types[id]
		switch {
		case kind == 0: // "undefined": some converters write it for ordinary tokens
		case kind >= int32(Normal) && kind <= int32(Byte):
			kinds[id] = Kind(kind)
		default:
			return nil, fmt.Errorf("tokenizer: token %d has type %d, known are 0 to 6; the file is damaged or newer than this program", id, kind)
		}
		if _, ok := parseByte(g.Tokens[id]); kinds[id] == Byte && !ok {
			return nil, fmt.Errorf("tokenizer: byte token %d is spelled %.40q, not <0xNN>; the file is damaged", id, g.Tokens[id])
		}
	}
	v, err := newVocab(g.Tokens, kinds)
	if err != nil {
		return nil, err
	}
	for id, k := range kinds {
		// User-defined tokens are not written in the byte alphabet.
		v.model[id] = k == Normal || k == Unused || k == Byte || k == UserDefined && g.Model != "gpt2"
	}
	return v, nil
}

// checkNames verifies that the named ids exist.
func (t *Tokenizer) checkNames(more []int32) error {
	for _, id := range append(more, t.names.bos, t.names.eos, t.names.unk, t.names.pad) {
		if id < -1 || int(id) >= t.vocab.size() {
			return fmt.Errorf("tokenizer: special token id %d is outside the vocabulary of %d tokens; the file is damaged", id, t.vocab.size())
		}
	}
	return nil
}

// ggufByteLevel returns the pre-tokeniser's default of add_bos_token.
func (t *Tokenizer) ggufByteLevel(g GGUF) (addBOS bool, err error) {
	pre, ok := preTokenizers[g.Pre]
	if !ok {
		known := slices.Sorted(maps.Keys(preTokenizers))
		return false, fmt.Errorf("tokenizer: pre-tokenizer %q (tokenizer.ggml.pre) is not supported; use the model's tokenizer.json, or a model with one of:%s", g.Pre, strings.Join(known, " "))
	}
	t.vocab.setBytes(func(text []byte, _ int32) []byte { return unmapBytes(text) })
	pairs, err := ggufMerges(g.Merges)
	if err != nil {
		return false, err
	}
	m, err := newBPE(t.vocab, pairs, true)
	if err != nil {
		return false, err
	}
	m.ignoreMerges = pre.ignoreMerges
	t.model, t.splitters = m, pre.splitters()
	if pre.nfc {
		t.normalizers = []normalizer{unicodeForm{canonical, true}}
	}
	return pre.addBOS, nil
}

func (t *Tokenizer) ggufSentencePiece(g GGUF) error {
	if g.Scores == nil {
		return t.ggufRankedSentencePiece(g)
	}
	setFallbackBytes(t.vocab)
	m, err := newScoredBPE(t.vocab, g.Scores)
	if err != nil {
		return err
	}
	t.useSentencePiece(g, m, true)
	return nil
}

func (t *Tokenizer) ggufRankedSentencePiece(g GGUF) error {
	setFallbackBytes(t.vocab)
	pairs, err := ggufMerges(g.Merges)
	if err != nil {
		return err
	}
	if len(pairs) == 0 {
		return fmt.Errorf("tokenizer: the file has neither tokenizer.ggml.scores nor tokenizer.ggml.merges; convert it again")
	}
	m, err := newBPE(t.vocab, pairs, false)
	if err != nil {
		return err
	}
	t.useSentencePiece(g, m, g.Model != "gemma4")
	return nil
}

func (t *Tokenizer) useSentencePiece(g GGUF, m *bpe, spacePrefix bool) {
	m.byteFallback, m.fuseUnk, m.unk = true, true, g.UNK
	t.model = m
	t.decoder = decoder{kind: fallbackDecoder}
	blanks := replace{old: " ", new: underline}
	t.normalizers = []normalizer{blanks}
	if choose(g.AddSpacePrefix, spacePrefix) {
		t.normalizers = []normalizer{prepend{underline}, blanks}
		t.decoder.strip = 1
	}
	if spaceStartsWord(t.vocab) {
		t.splitters = []stage{wordStarts{}}
	}
}

func (t *Tokenizer) ggufUnigram(g GGUF) error {
	setFallbackBytes(t.vocab)
	scores := make([]float64, len(g.Scores))
	for i, s := range g.Scores {
		scores[i] = float64(s)
	}
	m, err := newUnigram(t.vocab, scores, g.UNK, slices.Contains(t.vocab.kinds, Byte))
	if err != nil {
		return err
	}
	t.model = m
	t.decoder = decoder{kind: metaspaceDecoder}
	if choose(g.RemoveExtraWhitespaces, false) {
		t.normalizers = []normalizer{squeeze{}}
	}
	t.prefix.rewrite = metaspace{underline}
	if !choose(g.AddSpacePrefix, true) {
		t.prefix.rewrite = replace{old: " ", new: underline}
	}
	t.splitters = []stage{literal{underline, withNext}}
	return nil
}

// ggufMerges cuts "left right" at the first blank that is not the first byte.
func ggufMerges(merges []string) ([]pair, error) {
	pairs := make([]pair, len(merges))
	for i, line := range merges {
		at := -1
		if len(line) > 1 {
			at = strings.IndexByte(line[1:], ' ')
		}
		if at < 0 {
			return nil, fmt.Errorf("tokenizer: merge %d is %.40q, want two tokens and a blank between; the file is damaged", i, line)
		}
		pairs[i] = pair{line[:at+1], line[at+2:]}
	}
	return pairs, nil
}

// ggufAdded makes the control, unknown and user-defined tokens added tokens.
func (t *Tokenizer) ggufAdded() {
	var tokens []addedToken
	var contents []string
	for id, k := range t.vocab.kinds {
		text := t.vocab.text.at(int32(id))
		if k == Control || k == Unknown || k == UserDefined {
			if len(text) == 0 || len(text) > maxAddedBytes {
				continue
			}
			tokens = append(tokens, addedToken{id: int32(id), special: k != UserDefined})
			contents = append(contents, string(text))
		}
	}
	t.raw = newMatcher(tokens, contents)
}
