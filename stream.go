package sestina

import (
	"strings"

	"sestina/sampler"
	"sestina/tokenizer"
)

// Text turns committed tokens into the text a client sees: whole runes only,
// and nothing that may yet turn out to be the beginning of a stop string.
//
// Two of them run over the same tokens: one in the engine, as StopChecker, to
// end the sequence exactly where a stop string is complete, and one with the
// reader, to cut the text there. They agree because both are functions of the
// tokens alone.
type Text struct {
	stream  *tokenizer.Stream
	opt     TextOptions
	held    string // tail that could begin a stop string
	stopped bool
	stop    string // the stop string that was found
}

// TextOptions say how tokens become text.
type TextOptions struct {
	Stop        []string // text that ends the generation
	IncludeStop bool     // the stop string is part of the text
	Special     bool     // show special tokens
}

// NewText returns the text side of one choice. Without a tokenizer its text is empty.
func (l *LLM) NewText(opt TextOptions) *Text {
	t := &Text{opt: opt}
	if l.Tokenizer != nil {
		t.stream = l.Tokenizer.Stream(!opt.Special)
	}
	return t
}

func (l *LLM) newText(opt GenerateOptions) *Text {
	return l.NewText(TextOptions{Stop: opt.Stop, Special: opt.Special})
}

// push adds tokens and returns the text that is now certain.
func (t *Text) push(tokens []sampler.Sample) string {
	var b strings.Builder
	for _, tok := range tokens {
		b.WriteString(t.Push(tok.Token))
	}
	return b.String()
}

// Push adds a token and returns the text that is now certain, possibly "".
func (t *Text) Push(id int32) string {
	if t.stream == nil || t.stopped {
		return ""
	}
	return t.scan(t.stream.Push(id))
}

// Commit is Push as the engine's batch.StopChecker: it reports whether a stop string is complete.
func (t *Text) Commit(id int32) bool {
	t.Push(id)
	return t.stopped
}

// Stopped returns the stop string that ended the text.
func (t *Text) Stopped() (stop string, ok bool) { return t.stop, t.stopped }

// Flush returns what was held back when generation ended without a stop string.
func (t *Text) Flush() string {
	if t.stream == nil || t.stopped {
		return ""
	}
	out := t.scan(t.stream.Flush())
	if !t.stopped {
		out += t.held
		t.held = ""
	}
	return out
}

// scan appends text and returns its certain part: up to the first stop string,
// or all but the longest tail that begins one.
func (t *Text) scan(more string) string {
	if len(t.opt.Stop) == 0 {
		return more
	}
	t.held += more
	cut := -1
	for _, s := range t.opt.Stop {
		if i := strings.Index(t.held, s); s != "" && i >= 0 && (cut < 0 || i < cut) {
			cut, t.stop = i, s
		}
	}
	if cut >= 0 {
		if t.opt.IncludeStop {
			cut += len(t.stop)
		}
		out := t.held[:cut]
		t.held, t.stopped = "", true
		return out
	}
	keep := 0
	for _, s := range t.opt.Stop {
		for n := min(len(s)-1, len(t.held)); n > keep; n-- {
			if strings.HasSuffix(t.held, s[:n]) {
				keep = n
			}
		}
	}
	out := t.held[:len(t.held)-keep]
	t.held = t.held[len(t.held)-keep:]
	return out
}
