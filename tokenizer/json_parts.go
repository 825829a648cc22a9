package tokenizer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"unicode"
)

// jsonPart is any component of tokenizer.json that has a "type": the union of the fields that are read.
type jsonPart struct {
	Type string `json:"type"`

	Normalizers   []jsonPart `json:"normalizers"`
	PreTokenizers []jsonPart `json:"pretokenizers"`
	Processors    []jsonPart `json:"processors"`
	Decoders      []jsonPart `json:"decoders"`

	Prepend  string       `json:"prepend"` // Prepend
	Pattern  *jsonPattern `json:"pattern"` // Replace, Split
	Content  string       `json:"content"` // Replace, Strip
	Start    int          `json:"start"`   // Strip (decoder)
	Stop     int          `json:"stop"`
	Behavior string       `json:"behavior"` // Split
	Invert   bool         `json:"invert"`

	StripLeft  *bool `json:"strip_left"` // Strip (normalizer)
	StripRight *bool `json:"strip_right"`

	AddPrefixSpace   *bool  `json:"add_prefix_space"` // ByteLevel, old Metaspace
	UseRegex         *bool  `json:"use_regex"`
	IndividualDigits bool   `json:"individual_digits"` // Digits
	Replacement      string `json:"replacement"`       // Metaspace
	PrependScheme    string `json:"prepend_scheme"`
	Split            *bool  `json:"split"`

	Single        json.RawMessage              `json:"single"` // TemplateProcessing
	SpecialTokens map[string]jsonTemplateToken `json:"special_tokens"`
}

type jsonPattern struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

type jsonTemplateToken struct {
	IDs []int64 `json:"ids"`
}

// jsonTemplateItem is {"SpecialToken": {"id": …}} or {"Sequence": {"id": "A"}}.
type jsonTemplateItem struct {
	SpecialToken *struct {
		ID string `json:"id"`
	} `json:"SpecialToken"`
	Sequence *struct {
		ID string `json:"id"`
	} `json:"Sequence"`
}

func unsupported(what, kind string) error {
	return fmt.Errorf("tokenizer: tokenizer.json: %s %q is not supported; use the GGUF form of the model", what, kind)
}

func tooDeep(what string) error {
	return fmt.Errorf("tokenizer: tokenizer.json: more than %d nested or listed %ss", maxStages, what)
}

func (t *Tokenizer) readNormalizer(p *jsonPart, depth int) error {
	if p == nil {
		return nil
	}
	if depth > maxStages || len(t.normalizers) >= maxStages {
		return tooDeep("normalizer")
	}
	var n normalizer
	switch p.Type {
	case "Sequence":
		for i := range p.Normalizers {
			if err := t.readNormalizer(&p.Normalizers[i], depth+1); err != nil {
				return err
			}
		}
		return nil
	case "NFC":
		n = unicodeForm{canonical, true}
	case "NFD":
		n = unicodeForm{canonical, false}
	case "NFKC":
		n = unicodeForm{compatible, true}
	case "NFKD":
		n = unicodeForm{compatible, false}
	case "Lowercase":
		n = eachRune(lowercase)
	case "StripAccents":
		n = eachRune(withoutMark)
	case "Strip":
		n = trim{p.StripLeft == nil || *p.StripLeft, p.StripRight == nil || *p.StripRight}
	case "Prepend":
		n = prepend{p.Prepend}
	case "Replace":
		r, err := readReplace(p)
		if err != nil {
			return err
		}
		n = r
	default:
		return unsupported("normalizer", p.Type)
	}
	t.normalizers = append(t.normalizers, n)
	return nil
}

func readReplace(p *jsonPart) (normalizer, error) {
	switch {
	case p.Pattern != nil && p.Pattern.String != nil && *p.Pattern.String != "":
		return replace{old: *p.Pattern.String, new: p.Content}, nil
	case p.Pattern != nil && p.Pattern.Regex != nil && *p.Pattern.Regex == " {2,}" && p.Content == " ":
		return squeeze{}, nil
	case p.Pattern != nil && p.Pattern.Regex != nil && *p.Pattern.Regex != "":
		find, err := patternFinder(*p.Pattern.Regex)
		return replace{find: find, new: p.Content}, err
	}
	return nil, unsupported("replace pattern", "")
}

// readPreTokenizer adds p's stages. byteLevel says whether the text before them is in GPT-2's byte alphabet, and the
// result whether it is behind them.
func (t *Tokenizer) readPreTokenizer(p *jsonPart, byteLevel bool, depth int) (bool, error) {
	if p == nil {
		return byteLevel, nil
	}
	if depth > maxStages || len(t.splitters) >= maxStages {
		return false, tooDeep("pre_tokenizer")
	}
	var err error
	switch p.Type {
	case "Sequence":
		for i := range p.PreTokenizers {
			if byteLevel, err = t.readPreTokenizer(&p.PreTokenizers[i], byteLevel, depth+1); err != nil {
				return false, err
			}
		}
		return byteLevel, nil
	case "ByteLevel":
		if byteLevel {
			return false, unsupported("pre_tokenizer", "ByteLevel twice")
		}
		if p.AddPrefixSpace == nil || *p.AddPrefixSpace {
			t.addRewriter(prefixBlank{})
		}
		if p.UseRegex == nil || *p.UseRegex {
			t.splitters = append(t.splitters, gpt2{classes()})
		}
		return true, nil
	case "Metaspace":
		if byteLevel {
			return false, unsupported("pre_tokenizer", "Metaspace after ByteLevel")
		}
		return false, t.readMetaspace(p)
	}
	st, err := readStage(p)
	if err != nil {
		return false, err
	}
	if byteLevel {
		st = mapped{st}
	}
	t.splitters = append(t.splitters, st)
	return byteLevel, nil
}

// addRewriter puts a rewriting of every piece behind the stages so far.
func (t *Tokenizer) addRewriter(n normalizer) {
	if len(t.splitters) == 0 && t.prefix.rewrite == nil {
		t.prefix.rewrite = n
		return
	}
	t.splitters = append(t.splitters, n)
}

// readStage reads a pre-tokeniser that only cuts.
func readStage(p *jsonPart) (stage, error) {
	switch p.Type {
	case "Digits":
		limit := 1
		if !p.IndividualDigits {
			limit = maxVocabBytes // any number
		}
		return digitRuns{classes(), limit}, nil
	case "Split":
		return readSplit(p)
	case "Punctuation":
		rule, ok := cutRules[cmp.Or(p.Behavior, "Isolated")]
		if !ok {
			return nil, unsupported("punctuation behavior", p.Behavior)
		}
		return cut{find: runes(punctuation), rule: rule}, nil
	case "Whitespace":
		return cut{find: words, rule: removed, invert: true}, nil
	case "WhitespaceSplit":
		return cut{find: runes(unicode.IsSpace), rule: removed}, nil
	}
	return nil, unsupported("pre_tokenizer", p.Type)
}

func readSplit(p *jsonPart) (stage, error) {
	rule, ok := cutRules[p.Behavior]
	if !ok {
		return nil, unsupported("split behavior", p.Behavior)
	}
	switch {
	case p.Pattern == nil:
	case p.Pattern.String != nil && *p.Pattern.String != "":
		if !p.Invert && rule != removed && rule != contiguous {
			return literal{*p.Pattern.String, rule}, nil
		}
		return cut{literals(*p.Pattern.String), rule, p.Invert}, nil
	case p.Pattern.Regex != nil && *p.Pattern.Regex != "":
		if rule == isolated { // both sides of a match are pieces, whichever counts as the match
			return patternSplitter(*p.Pattern.Regex)
		}
		find, err := patternFinder(*p.Pattern.Regex)
		return cut{find, rule, p.Invert}, err
	}
	return nil, unsupported("split pattern", "")
}

func (t *Tokenizer) readMetaspace(p *jsonPart) error {
	if p.Replacement != "" && p.Replacement != underline {
		return unsupported("metaspace replacement", p.Replacement)
	}
	blanks := replace{old: " ", new: underline}
	switch metaspaceScheme(p) {
	case "always":
		t.addRewriter(metaspace{underline})
	case "first":
		if len(t.splitters) > 0 || t.prefix.rewrite != nil {
			return unsupported("pre_tokenizer", "Metaspace with prepend_scheme first after another")
		}
		t.prefix.rewrite, t.prefix.otherwise = metaspace{underline}, blanks
	case "never":
		t.addRewriter(blanks)
	default:
		return unsupported("metaspace prepend_scheme", p.PrependScheme)
	}
	if p.Split == nil || *p.Split {
		t.splitters = append(t.splitters, literal{underline, withNext})
	}
	return nil
}

// metaspaceScheme returns prepend_scheme, which older files write as add_prefix_space.
func metaspaceScheme(p *jsonPart) string {
	switch {
	case p.PrependScheme != "":
		return p.PrependScheme
	case p.AddPrefixSpace != nil && !*p.AddPrefixSpace:
		return "never"
	}
	return "always"
}

// readPostProcessor finds the ids put around a text.
func (t *Tokenizer) readPostProcessor(p *jsonPart, depth int) error {
	if p == nil {
		return nil
	}
	if depth > maxStages {
		return tooDeep("post_processor")
	}
	switch p.Type {
	case "ByteLevel": // moves offsets only
		return nil
	case "Sequence":
		for i := range p.Processors {
			if err := t.readPostProcessor(&p.Processors[i], depth+1); err != nil {
				return err
			}
		}
		return nil
	case "TemplateProcessing":
		return t.readTemplate(p)
	}
	return unsupported("post_processor", p.Type)
}

func (t *Tokenizer) readTemplate(p *jsonPart) error {
	var items []jsonTemplateItem
	if err := json.Unmarshal(p.Single, &items); err != nil {
		return fmt.Errorf("tokenizer: tokenizer.json: post_processor template: %w", err)
	}
	var before, after []int32
	seen := false
	for _, item := range items {
		switch {
		case item.Sequence != nil && !seen:
			seen = true
		case item.SpecialToken != nil:
			for _, id := range p.SpecialTokens[item.SpecialToken.ID].IDs {
				if id < 0 || id >= int64(t.vocab.size()) || !t.vocab.valid(int32(id)) {
					return fmt.Errorf("tokenizer: tokenizer.json: post_processor adds id %d, which the vocabulary lacks; the file is damaged, fetch it again", id)
				}
				if seen {
					after = append(after, int32(id))
				} else {
					before = append(before, int32(id))
				}
			}
		default:
			return unsupported("post_processor template", "several texts")
		}
	}
	t.before, t.after = append(before, t.before...), append(t.after, after...)
	return nil
}

func (t *Tokenizer) readDecoder(p *jsonPart) error {
	if p == nil {
		return unsupported("decoder", "null")
	}
	parts := []jsonPart{*p}
	if p.Type == "Sequence" {
		parts = p.Decoders
	}
	var shape string
	t.decoder.bytes = slices.ContainsFunc(parts, func(p jsonPart) bool { return p.Type == "ByteFallback" })
	for _, part := range parts {
		shape += part.Type + " "
		switch part.Type {
		case "Replace":
			if part.Pattern == nil || part.Pattern.String == nil || *part.Pattern.String != underline || part.Content != " " {
				return unsupported("decoder", "Replace of other than ▁ by a blank")
			}
		case "Strip":
			if part.Content != " " || part.Stop != 0 || part.Start < 0 || part.Start > maxStages {
				return unsupported("decoder", "Strip")
			}
			t.decoder.strip = part.Start
		case "Metaspace":
			t.decoder.keepFirst = metaspaceScheme(&part) == "never"
		}
	}
	switch shape {
	case "ByteLevel ":
		t.decoder.kind = byteLevelDecoder
	case "Replace ByteFallback Fuse ", "Replace ByteFallback Fuse Strip ":
		t.decoder.kind = fallbackDecoder
	case "ByteFallback Metaspace ", "Metaspace ":
		t.decoder.kind = metaspaceDecoder
	default:
		return unsupported("decoder", shape)
	}
	return nil
}
