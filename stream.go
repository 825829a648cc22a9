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
	stops   []string
	held    string // tail that could begin a stop string
	stopped bool
}

func (l *LLM) newText(opt GenerateOptions) *Text {
	t := &Text{stops: opt.Stop}
	if l.Tokenizer != nil {
		t.stream = l.Tokenizer.Stream(!opt.Special)
	}
	return t
}

// push adds tokens and returns the text that is now certain.
func (t *Text) push(tokens []sampler.Sample) string {
	var b strings.Builder
	for _, tok := range tokens {
		b.WriteString(t.token(tok.Token))
	}
	return b.String()
}

func (t *Text) token(id int32) string {
	if t.stream == nil || t.stopped {
		return ""
	}
	return t.scan(t.stream.Push(id))
}

// flush returns what was held back when generation ended without a stop string.
func (t *Text) flush() string {
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
	if len(t.stops) == 0 {
		return more
	}
	t.held += more
	cut := -1
	for _, s := range t.stops {
		if i := strings.Index(t.held, s); s != "" && i >= 0 && (cut < 0 || i < cut) {
			cut = i
		}
	}
	if cut >= 0 {
		out := t.held[:cut]
		t.held, t.stopped = "", true
		return out
	}
	keep := 0
	for _, s := range t.stops {
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

// stopChecker is Text as the engine's batch.StopChecker.
type stopChecker struct{ text *Text }

func (c stopChecker) Commit(token int32) bool {
	c.text.token(token)
	return c.text.stopped
}
