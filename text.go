package sestina

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"sestina/batch"
	"sestina/chat"
	"sestina/checkpoint"
	"sestina/tokenizer"
)

// loadText reads tokenizer, chat template and sampling defaults. A checkpoint
// without a tokenizer still runs on token ids.
func (l *LLM) loadText(c *checkpoint.Checkpoint) error {
	t, err := LoadTokenizer(c)
	if err != nil && !errors.Is(err, errNoTokenizer) {
		return err
	}
	l.Tokenizer = t
	if t != nil {
		if id := t.BOS(); id >= 0 {
			l.bos = t.Token(id)
		}
		if id := t.EOS(); id >= 0 {
			l.eos = t.Token(id)
		}
	}
	source, err := templateSource(c)
	if err != nil {
		return err
	}
	if source == "" && t != nil && speaksChatML(t) {
		source = chat.ChatML
	}
	if source != "" {
		if l.Template, err = chat.Parse(source); err != nil {
			return fmt.Errorf("the model's chat template: %w", err)
		}
	}
	l.Defaults, err = samplingDefaults(c)
	return err
}

// speaksChatML reports whether a vocabulary has ChatML's markers, for
// checkpoints that carry them but no template.
func speaksChatML(t *tokenizer.Tokenizer) bool {
	for _, marker := range []string{"<|im_start|>", "<|im_end|>"} {
		if id, ok := t.ID(marker); !ok || !t.IsSpecial(id) {
			return false
		}
	}
	return true
}

var errNoTokenizer = errors.New("the checkpoint has no tokenizer")

// LoadTokenizer builds the tokenizer that a checkpoint carries.
func LoadTokenizer(c *checkpoint.Checkpoint) (*tokenizer.Tokenizer, error) {
	if c.Format() == checkpoint.GGUF {
		return ggufTokenizer(c)
	}
	data, err := c.File("tokenizer.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoTokenizer
	}
	if err != nil {
		return nil, err
	}
	raw, err := optionalFile(c, "tokenizer_config.json")
	if err != nil || raw == nil {
		if err != nil {
			return nil, err
		}
		return tokenizer.FromJSON(data, nil)
	}
	cfg, err := tokenizer.ParseConfig(raw)
	if err != nil {
		return nil, err
	}
	return tokenizer.FromJSON(data, cfg)
}

// tokenizerFolder loads a folder that holds tokenizer.json but no model; ok is
// false where name is no such folder.
func tokenizerFolder(name string) (t *tokenizer.Tokenizer, ok bool, err error) {
	root, err := os.OpenRoot(name)
	if name == "" || err != nil {
		return nil, false, nil
	}
	defer root.Close()
	if _, err := root.Stat("config.json"); err == nil {
		return nil, false, nil
	}
	data, err := root.ReadFile("tokenizer.json")
	if err != nil {
		return nil, false, nil
	}
	var cfg *tokenizer.Config
	if raw, err := root.ReadFile("tokenizer_config.json"); err == nil {
		if cfg, err = tokenizer.ParseConfig(raw); err != nil {
			return nil, true, err
		}
	}
	t, err = tokenizer.FromJSON(data, cfg)
	return t, true, err
}

// ggufTokenizer reads tokenizer.ggml.*.
func ggufTokenizer(c *checkpoint.Checkpoint) (*tokenizer.Tokenizer, error) {
	const k = "tokenizer.ggml."
	r := c.Config().Reader()
	if kind := r.StringOr(k+"model", "none"); kind == "none" || kind == "no_vocab" {
		return nil, errNoTokenizer
	}
	g := tokenizer.GGUF{
		Model:  r.String(k + "model"),
		Pre:    r.StringOr(k+"pre", ""),
		Tokens: r.Strings(k + "tokens"),
		Merges: r.StringsOr(k+"merges", nil),
	}
	for _, f := range r.FloatsOr(k+"scores", nil) {
		g.Scores = append(g.Scores, float32(f))
	}
	for _, t := range r.IntsOr(k+"token_type", nil) {
		g.Types = append(g.Types, int32(t))
	}
	id := func(key string) int32 { return int32(r.IntOr(k+key, -1)) }
	g.BOS, g.EOS, g.UNK, g.PAD, g.EOT = id("bos_token_id"), id("eos_token_id"), id("unknown_token_id"), id("padding_token_id"), id("eot_token_id")
	flag := func(key string) *bool {
		if !r.Has(k + key) {
			return nil
		}
		v := r.Bool(k + key)
		return &v
	}
	g.AddBOS, g.AddEOS, g.AddSpacePrefix = flag("add_bos_token"), flag("add_eos_token"), flag("add_space_prefix")
	g.RemoveExtraWhitespaces = flag("remove_extra_whitespaces")
	if err := r.Err(); err != nil {
		return nil, err
	}
	return tokenizer.FromGGUF(g)
}

// templateSource is the checkpoint's chat template, "" where it has none.
func templateSource(c *checkpoint.Checkpoint) (string, error) {
	if c.Format() == checkpoint.GGUF {
		r := c.Config().Reader()
		source := r.StringOr("tokenizer.chat_template", "")
		return source, r.Err()
	}
	if data, err := optionalFile(c, "chat_template.jinja"); err != nil || data != nil {
		return string(data), err
	}
	data, err := optionalFile(c, "tokenizer_config.json")
	if err != nil || data == nil {
		return "", err
	}
	var cfg struct {
		Template json.RawMessage `json:"chat_template"`
	}
	if err := json.Unmarshal(data, &cfg); err != nil {
		return "", fmt.Errorf("tokenizer_config.json: %w", err)
	}
	return namedTemplate(cfg.Template)
}

// namedTemplate reads the two forms of chat_template: a string, or a list of
// named ones of which "default" is meant.
func namedTemplate(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return one, nil
	}
	var list []struct{ Name, Template string }
	if err := json.Unmarshal(raw, &list); err != nil {
		return "", fmt.Errorf("tokenizer_config.json: chat_template is neither a string nor a list of named templates")
	}
	for _, t := range list {
		if t.Name == "default" {
			return t.Template, nil
		}
	}
	return "", nil
}

func optionalFile(c *checkpoint.Checkpoint, name string) ([]byte, error) {
	data, err := c.File(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// samplingDefaults reads generation_config.json; without it temperature is 1.
func samplingDefaults(c *checkpoint.Checkpoint) (batch.SamplingParams, error) {
	p := batch.DefaultSampling()
	r, err := generationConfig(c)
	if r == nil || err != nil {
		return p, err
	}
	p.Temperature = float32(r.FloatOr("temperature", 1))
	p.TopK = r.IntOr("top_k", 0)
	p.TopP = float32(r.FloatOr("top_p", 0))
	p.MinP = float32(r.FloatOr("min_p", 0))
	p.TypicalP = float32(r.FloatOr("typical_p", 0))
	p.RepetitionPenalty = float32(r.FloatOr("repetition_penalty", 0))
	return p, r.Err()
}

func generationConfig(c *checkpoint.Checkpoint) (*checkpoint.Reader, error) {
	if c.Format() == checkpoint.GGUF {
		return nil, nil
	}
	data, err := optionalFile(c, "generation_config.json")
	if err != nil || data == nil {
		return nil, err
	}
	cfg, err := checkpoint.ParseConfig("generation_config.json", data)
	if err != nil {
		return nil, err
	}
	return cfg.Reader(), nil
}

// endIDs are the ids that end a generation: the tokenizer's, and those that
// generation_config.json or config.json name.
func (l *LLM) endIDs(c *checkpoint.Checkpoint) []int32 {
	var ids []int32
	if l.Tokenizer != nil {
		ids = l.Tokenizer.EOG()
	}
	add := func(r *checkpoint.Reader) {
		for _, id := range r.IntsOr("eos_token_id", nil) {
			ids = append(ids, int32(id))
		}
	}
	if r, err := generationConfig(c); err == nil && r != nil {
		add(r)
	}
	if c.Format() == checkpoint.HF {
		add(c.Config().Reader())
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return slices.DeleteFunc(ids, func(id int32) bool { return id < 0 || int(id) >= l.Info.Vocab })
}
