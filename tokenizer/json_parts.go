package tokenizer

import (
	"encoding/json"
	"fmt"
	"regexp"
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
	Start    int          `json:"start"`   // Strip
	Stop     int          `json:"stop"`
	Behavior string       `json:"behavior"` // Split
	Invert   bool         `json:"invert"`

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
		n = nfc{}
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
	case p.Pattern != nil && p.Pattern.Regex != nil:
		re, err := regexp.Compile(*p.Pattern.Regex)
		if err != nil {
			return nil, unsupported("replace pattern", *p.Pattern.Regex)
		}
		return replace{re: re, new: p.Content}, nil
	}
	return nil, unsupported("replace pattern", "")
}

// readPreTokenizer adds p's splitters and reports whether it maps text to GPT-2's byte alphabet.
func (t *Tokenizer) readPreTokenizer(p *jsonPart, depth int) (byteLevel bool, err error) {
	if p == nil {
		return false, nil
	}
	if depth > maxStages || len(t.splitters) >= maxStages {
		return false, tooDeep("pre_tokenizer")
	}
	switch p.Type {
	case "Sequence":
		for i := range p.PreTokenizers {
			if byteLevel {
				return false, unsupported("pre_tokenizer after ByteLevel", p.PreTokenizers[i].Type)
			}
			if byteLevel, err = t.readPreTokenizer(&p.PreTokenizers[i], depth+1); err != nil {
				return false, err
			}
		}
		return byteLevel, nil
	case "ByteLevel":
		if p.AddPrefixSpace == nil || *p.AddPrefixSpace {
			if len(t.splitters) > 0 || t.prefix.rewrite != nil {
				return false, unsupported("pre_tokenizer", "ByteLevel with add_prefix_space after another")
			}
			t.prefix.rewrite = prefixBlank{}
		}
		if p.UseRegex == nil || *p.UseRegex {
			t.splitters = append(t.splitters, gpt2{classes()})
		}
		return true, nil
	case "Digits":
		limit := 1
		if !p.IndividualDigits {
			limit = maxVocabBytes // any number
		}
		t.splitters = append(t.splitters, digitRuns{classes(), limit})
		return false, nil
	case "Split":
		s, err := readSplit(p)
		t.splitters = append(t.splitters, s)
		return false, err
	case "Metaspace":
		return false, t.readMetaspace(p)
	}
	return false, unsupported("pre_tokenizer", p.Type)
}

func readSplit(p *jsonPart) (splitter, error) {
	if p.Invert || p.Pattern == nil {
		return nil, unsupported("pre_tokenizer", "Split with invert or without pattern")
	}
	if p.Pattern.String != nil && *p.Pattern.String != "" {
		modes := map[string]literalMerge{"Isolated": isolated, "MergedWithPrevious": withPrevious, "MergedWithNext": withNext}
		mode, ok := modes[p.Behavior]
		if !ok {
			return nil, unsupported("split behavior", p.Behavior)
		}
		return literal{*p.Pattern.String, mode}, nil
	}
	if p.Pattern.Regex == nil || *p.Pattern.Regex == "" {
		return nil, unsupported("split pattern", "")
	}
	if p.Behavior != "Isolated" {
		return nil, unsupported("split behavior", p.Behavior)
	}
	return patternSplitter(*p.Pattern.Regex)
}

func (t *Tokenizer) readMetaspace(p *jsonPart) error {
	if p.Replacement != "" && p.Replacement != underline {
		return unsupported("metaspace replacement", p.Replacement)
	}
	if len(t.splitters) > 0 || t.prefix.rewrite != nil {
		return unsupported("pre_tokenizer", "Metaspace after another")
	}
	blanks := replace{old: " ", new: underline}
	switch metaspaceScheme(p) {
	case "always":
		t.prefix.rewrite = metaspace{underline}
	case "first":
		t.prefix.rewrite, t.prefix.otherwise = metaspace{underline}, blanks
	case "never":
		t.prefix.rewrite = blanks
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
