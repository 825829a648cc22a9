package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// The parts of tokenizer.json that are read. Parts with a "type" are decoded by json_parts.go.
type jsonFile struct {
	AddedTokens   []jsonAdded     `json:"added_tokens"`
	Normalizer    *jsonPart       `json:"normalizer"`
	PreTokenizer  *jsonPart       `json:"pre_tokenizer"`
	PostProcessor *jsonPart       `json:"post_processor"`
	Decoder       *jsonPart       `json:"decoder"`
	Model         *jsonModel      `json:"model"`
	Truncation    json.RawMessage `json:"truncation"` // ignored: the server decides what fits
}

type jsonAdded struct {
	ID         int64  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

type jsonModel struct {
	Type         string          `json:"type"`
	Vocab        json.RawMessage `json:"vocab"`
	Merges       json.RawMessage `json:"merges"`
	Dropout      float64         `json:"dropout"`
	UnkToken     *string         `json:"unk_token"`
	UnkID        *int64          `json:"unk_id"`
	Prefix       string          `json:"continuing_subword_prefix"`
	Suffix       string          `json:"end_of_word_suffix"`
	FuseUnk      bool            `json:"fuse_unk"`
	ByteFallback bool            `json:"byte_fallback"`
	IgnoreMerges bool            `json:"ignore_merges"`
}

// Config is what tokenizer_config.json adds to tokenizer.json. "" and nil mean absent.
type Config struct {
	Class              string
	AddBOS, AddEOS     *bool
	BOS, EOS, UNK, PAD string
}

// ParseConfig reads the contents of tokenizer_config.json.
func ParseConfig(data []byte) (*Config, error) {
	if len(data) > maxConfigBytes {
		return nil, fmt.Errorf("tokenizer: tokenizer_config.json has %d bytes, more than the limit of %d", len(data), maxConfigBytes)
	}
	var raw struct {
		Class  string    `json:"tokenizer_class"`
		AddBOS *bool     `json:"add_bos_token"`
		AddEOS *bool     `json:"add_eos_token"`
		BOS    tokenName `json:"bos_token"`
		EOS    tokenName `json:"eos_token"`
		UNK    tokenName `json:"unk_token"`
		PAD    tokenName `json:"pad_token"`
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("tokenizer: tokenizer_config.json: %w", err)
	}
	return &Config{raw.Class, raw.AddBOS, raw.AddEOS, string(raw.BOS), string(raw.EOS), string(raw.UNK), string(raw.PAD)}, nil
}

// tokenName is "name" or {"content": "name", …}.
type tokenName string

func (n *tokenName) UnmarshalJSON(data []byte) error {
	if bytes.HasPrefix(data, []byte("{")) {
		var object struct {
			Content string `json:"content"`
		}
		err := json.Unmarshal(data, &object)
		*n = tokenName(object.Content)
		return err
	}
	var name *string // null = absent
	if err := json.Unmarshal(data, &name); err != nil {
		return err
	}
	if name != nil {
		*n = tokenName(*name)
	}
	return nil
}

// FromJSON builds the tokenizer that the contents of a tokenizer.json describe. cfg may be nil.
func FromJSON(tokenizerJSON []byte, cfg *Config) (*Tokenizer, error) {
	if len(tokenizerJSON) > maxJSONBytes {
		return nil, fmt.Errorf("tokenizer: tokenizer.json has %d bytes, more than the limit of %d", len(tokenizerJSON), maxJSONBytes)
	}
	var f jsonFile
	if err := json.Unmarshal(tokenizerJSON, &f); err != nil {
		return nil, fmt.Errorf("tokenizer: tokenizer.json: %w", err)
	}
	if f.Model == nil {
		return nil, fmt.Errorf("tokenizer: tokenizer.json has no model; is it another file?")
	}
	t := &Tokenizer{names: specials{-1, -1, -1, -1, nil}}
	if err := t.readDecoder(f.Decoder); err != nil {
		return nil, err
	}
	scores, err := t.readVocab(&f)
	if err != nil {
		return nil, err
	}
	if err := t.readNormalizer(f.Normalizer, 0); err != nil {
		return nil, err
	}
	byteLevel, err := t.readPreTokenizer(f.PreTokenizer, false, 0)
	if err != nil {
		return nil, err
	}
	if err := t.readModel(f.Model, scores, byteLevel); err != nil {
		return nil, err
	}
	t.addAdded(f.AddedTokens)
	if err := t.readPostProcessor(f.PostProcessor, 0); err != nil {
		return nil, err
	}
	t.applyConfig(cfg)
	t.findEOG()
	return t, nil
}

// readVocab reads the model's vocabulary and the added tokens; scores only for Unigram.
func (t *Tokenizer) readVocab(f *jsonFile) (scores []float64, err error) {
	ids := map[string]int64{}
	switch f.Model.Type {
	case "BPE", "":
		if err := json.Unmarshal(f.Model.Vocab, &ids); err != nil {
			return nil, fmt.Errorf("tokenizer: tokenizer.json: model.vocab: %w", err)
		}
	case "Unigram":
		if ids, scores, err = unigramVocab(f.Model.Vocab); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("tokenizer: tokenizer.json: model type %q is not supported; supported are BPE and Unigram", f.Model.Type)
	}
	inModel := maps.Clone(ids)
	for i, a := range f.AddedTokens {
		if len(a.Content) > maxAddedBytes {
			return nil, fmt.Errorf("tokenizer: added token %d has %d bytes, more than the limit of %d", a.ID, len(a.Content), maxAddedBytes)
		}
		if id, ok := ids[a.Content]; ok {
			f.AddedTokens[i].ID = id // the model's id counts
		} else if a.Content != "" {
			ids[a.Content] = a.ID
		}
	}
	spellings, kinds, err := placeTokens(ids)
	if err != nil {
		return nil, err
	}
	for _, a := range f.AddedTokens {
		if a.Content != "" && kinds[a.ID] != Control {
			kinds[a.ID] = UserDefined
			if a.Special {
				kinds[a.ID] = Control
			}
		}
	}
	if t.decoder.bytes {
		for id, s := range spellings {
			if _, ok := parseByte(s); ok && kinds[id] == Normal {
				kinds[id] = Byte
			}
		}
	}
	if t.vocab, err = newVocab(spellings, kinds); err != nil {
		return nil, err
	}
	for _, id := range inModel {
		t.vocab.model[id] = true
	}
	if t.decoder.kind == byteLevelDecoder {
		t.vocab.setBytes(func(text []byte, _ int32) []byte { return unmapBytes(text) })
	} else {
		setFallbackBytes(t.vocab)
	}
	return scores, nil
}

// placeTokens arranges tokens by id.
func placeTokens(ids map[string]int64) (spellings []string, kinds []Kind, err error) {
	if len(ids) == 0 {
		return nil, nil, fmt.Errorf("tokenizer: tokenizer.json has an empty vocabulary")
	}
	size := int64(0)
	for s, id := range ids {
		if id < 0 || id >= maxTokens || id >= int64(len(ids)+maxHoles) {
			return nil, nil, fmt.Errorf("tokenizer: token %.40q has id %d, outside the limit of %d for %d tokens", s, id, min(maxTokens, len(ids)+maxHoles), len(ids))
		}
		size = max(size, id+1)
	}
	spellings, kinds = make([]string, size), make([]Kind, size)
	for s, id := range ids {
		if kinds[id] != Absent {
			return nil, nil, fmt.Errorf("tokenizer: tokens %.40q and %.40q both have id %d; the file is damaged, fetch it again", min(s, spellings[id]), max(s, spellings[id]), id)
		}
		spellings[id], kinds[id] = s, Normal
	}
	return spellings, kinds, nil
}

// unigramVocab reads [["token", score], …]; index = id.
func unigramVocab(data []byte) (map[string]int64, []float64, error) {
	var entries [][2]json.RawMessage
	if err := json.Unmarshal(data, &entries); err != nil {
		return nil, nil, fmt.Errorf("tokenizer: tokenizer.json: model.vocab: %w", err)
	}
	ids := make(map[string]int64, len(entries))
	scores := make([]float64, len(entries))
	for id, e := range entries {
		var text string
		if err := json.Unmarshal(e[0], &text); err != nil {
			return nil, nil, fmt.Errorf("tokenizer: tokenizer.json: token %d: %w", id, err)
		}
		if err := json.Unmarshal(e[1], &scores[id]); err != nil {
			return nil, nil, fmt.Errorf("tokenizer: tokenizer.json: score of token %d: %w", id, err)
		}
		if other, ok := ids[text]; ok {
			return nil, nil, fmt.Errorf("tokenizer: tokens %d and %d are both spelled %.40q; the file is damaged, fetch it again", other, id, text)
		}
		ids[text] = int64(id)
	}
	return ids, scores, nil
}

func (t *Tokenizer) readModel(m *jsonModel, scores []float64, byteLevel bool) error {
	if m.Type == "Unigram" {
		unk := int32(-1)
		if m.UnkID != nil && *m.UnkID >= 0 && *m.UnkID < int64(t.vocab.size()) {
			unk = int32(*m.UnkID)
		}
		// Added tokens behind the model's vocabulary are not part of the model.
		for len(scores) < t.vocab.size() {
			scores = append(scores, scores[0])
		}
		u, err := newUnigram(t.vocab, scores, unk, m.ByteFallback)
		t.model, t.names.unk = u, unk
		return err
	}
	switch {
	case m.Dropout != 0:
		return fmt.Errorf("tokenizer: tokenizer.json sets BPE dropout %v, which makes ids random; set it to null", m.Dropout)
	case m.Prefix != "" || m.Suffix != "":
		return fmt.Errorf("tokenizer: tokenizer.json marks sub-words (continuing_subword_prefix %q, end_of_word_suffix %q), which is not supported", m.Prefix, m.Suffix)
	}
	pairs, err := jsonMerges(m.Merges)
	if err != nil {
		return err
	}
	b, err := newBPE(t.vocab, pairs, byteLevel)
	if err != nil {
		return err
	}
	if m.UnkToken != nil {
		if b.unk = t.vocab.find(*m.UnkToken); b.unk < 0 && *m.UnkToken != "" {
			return fmt.Errorf("tokenizer: unk_token %.40q is not in the vocabulary; the file is damaged, fetch it again", *m.UnkToken)
		}
		t.names.unk = b.unk
	}
	b.byteFallback, b.fuseUnk, b.ignoreMerges = m.ByteFallback && !byteLevel, m.FuseUnk, m.IgnoreMerges
	if !byteLevel && len(t.splitters) == 0 && spaceStartsWord(t.vocab) && !m.IgnoreMerges {
		t.splitters = []stage{wordStarts{}}
	}
	t.model = b
	return nil
}

// jsonMerges reads merges written as ["a b", …] or [["a", "b"], …].
func jsonMerges(data []byte) ([]pair, error) {
	if len(data) == 0 {
		return nil, nil
	}
	var lines []string
	if json.Unmarshal(data, &lines) == nil {
		return ggufMerges(lines)
	}
	var lists [][]string
	if err := json.Unmarshal(data, &lists); err != nil {
		return nil, fmt.Errorf("tokenizer: tokenizer.json: model.merges: %w", err)
	}
	pairs := make([]pair, len(lists))
	for i, l := range lists {
		if len(l) != 2 {
			return nil, fmt.Errorf("tokenizer: tokenizer.json: merge %d has %d parts, want 2", i, len(l))
		}
		pairs[i] = pair{l[0], l[1]}
	}
	return pairs, nil
}

// addAdded builds the two matchers of added tokens.
func (t *Tokenizer) addAdded(added []jsonAdded) {
	var tokens [2][]addedToken
	var contents [2][]string
	for _, a := range added {
		if a.Content == "" {
			continue
		}
		which, content := 0, a.Content
		if a.Normalized {
			which = 1
			for _, n := range t.normalizers {
				content, _ = n.apply(content, nil)
			}
		}
		tokens[which] = append(tokens[which], addedToken{
			id: int32(a.ID), special: a.Special, normalized: a.Normalized,
			singleWord: a.SingleWord, lstrip: a.LStrip, rstrip: a.RStrip,
		})
		contents[which] = append(contents[which], content)
	}
	t.raw = newMatcher(tokens[0], contents[0])
	t.normalized = newMatcher(tokens[1], contents[1])
}

// flagClasses are the tokenizer classes that let add_bos_token and add_eos_token override the post-processor.
var flagClasses = []string{"LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast"}

func (t *Tokenizer) applyConfig(cfg *Config) {
	if len(t.before) > 0 {
		t.names.bos = t.before[0]
	}
	if len(t.after) > 0 {
		t.names.eos = t.after[len(t.after)-1]
	}
	if cfg == nil {
		return
	}
	for _, n := range []struct {
		id   *int32
		name string
	}{{&t.names.bos, cfg.BOS}, {&t.names.eos, cfg.EOS}, {&t.names.unk, cfg.UNK}, {&t.names.pad, cfg.PAD}} {
		if id := t.vocab.find(n.name); id >= 0 {
			*n.id = id
		}
	}
	if slices.Contains(flagClasses, cfg.Class) {
		t.before = override(t.before, cfg.AddBOS, t.names.bos)
		t.after = override(t.after, cfg.AddEOS, t.names.eos)
	}
}

func override(ids []int32, flag *bool, id int32) []int32 {
	switch {
	case flag == nil || id < 0:
		return ids
	case *flag:
		return []int32{id}
	}
	return nil
}
