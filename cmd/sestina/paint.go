package main

import (
	"strings"

	"sestina"
	"sestina/sampler"
	"sestina/tokenizer"
)

// painter colours an answer by what speculation had to do with each token:
// accepted drafts green, recovered tokens yellow, the rest as it is. Text comes
// later than its tokens where a rune or a stop string is not complete, so each
// token's share of the text waits in a queue until the text is there.
type painter struct {
	stream *tokenizer.Stream
	shares []share
}

type share struct {
	bytes  int
	origin sampler.Origin
}

const (
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	reset  = "\x1b[0m"
)

var colours = map[sampler.Origin]string{sampler.Accepted: green, sampler.Recovered: yellow}

// newPainter is nil for a model without a tokenizer, which has no text.
func newPainter(llm *sestina.LLM, showSpecial bool) *painter {
	if llm.Tokenizer == nil {
		return nil
	}
	return &painter{stream: llm.Tokenizer.Stream(!showSpecial)}
}

// paint returns the delta's text with colours. A nil painter has none.
func (p *painter) paint(d *sestina.Delta) string {
	if p == nil {
		return d.Text
	}
	for _, t := range d.Tokens {
		if n := len(p.stream.Push(t.Token)); n > 0 {
			p.shares = append(p.shares, share{n, t.Origin})
		}
	}
	var b strings.Builder
	text := d.Text
	for text != "" && len(p.shares) > 0 {
		s := &p.shares[0]
		n := min(s.bytes, len(text))
		if c := colours[s.origin]; c != "" {
			b.WriteString(c + text[:n] + reset)
		} else {
			b.WriteString(text[:n])
		}
		text = text[n:]
		if s.bytes -= n; s.bytes == 0 {
			p.shares = p.shares[1:]
		}
	}
	return b.String() + text
}
