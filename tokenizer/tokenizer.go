package tokenizer

import (
	"slices"
	"strings"
)

// Tokenizer is immutable after loading and safe for concurrent use.
type Tokenizer struct {
	vocab       *vocab
	model       model
	raw         matcher      // added tokens matched on the text as written
	normalized  matcher      // added tokens matched after the normaliser
	normalizers []normalizer // in order
	prefix      prefixRule
	splitters   []stage // in order, each works on the pieces of the one before
	before      []int32 // ids put before a text with AddSpecial (BOS)
	after       []int32 // ids put behind it (EOS)
	decoder     decoder
	names       specials
}

// model turns one piece of text into ids.
type model interface {
	appendPiece(dst []int32, piece string) []int32
}

// prefixRule puts a blank before a segment, between normaliser and splitters.
type prefixRule struct {
	rewrite   normalizer // nil = none
	otherwise normalizer // for segments that do not begin the text; nil = rewrite
}

// specials are the named ids, -1 where the model has none.
type specials struct {
	bos, eos, unk, pad int32
	eog                []int32
}

// EncodeOptions selects what Encode does with special tokens. The zero value treats the text as plain text.
type EncodeOptions struct {
	AddSpecial   bool // put BOS before and EOS behind the text, as the model's file says
	ParseSpecial bool // special tokens written in the text become their ids
}

// Encode returns the ids of text.
func (t *Tokenizer) Encode(text string, opt EncodeOptions) []int32 {
	return t.encode(text, opt.AddSpecial, guard{parseSpecial: opt.ParseSpecial})
}

// Segment is a part of a text from one source.
type Segment struct {
	Text    string
	Trusted bool // written by the chat template, not by a user
}

// EncodeSegments returns the ids of the segments' concatenation. Special tokens are recognised
// (given opt.ParseSpecial) only where all their bytes are trusted; segment borders have no
// other effect.
func (t *Tokenizer) EncodeSegments(segs []Segment, opt EncodeOptions) []int32 {
	var text strings.Builder
	g := guard{parseSpecial: opt.ParseSpecial}
	for _, s := range segs {
		start := text.Len()
		text.WriteString(s.Text)
		if s.Trusted || s.Text == "" {
			continue
		}
		if n := len(g.untrusted); n > 0 && g.untrusted[n-1].end == start {
			g.untrusted[n-1].end = text.Len()
		} else {
			g.untrusted = append(g.untrusted, span{start, text.Len()})
		}
	}
	return t.encode(text.String(), opt.AddSpecial, g)
}

func (t *Tokenizer) encode(text string, addSpecial bool, g guard) []int32 {
	dst := make([]int32, 0, len(text)/3+len(t.before)+len(t.after)+1)
	if addSpecial {
		dst = append(dst, t.before...)
	}
	at := 0
	for f, ok := t.raw.next(text, found{}, g); ok; f, ok = t.raw.next(text, f, g) {
		dst = t.encodeSegment(dst, text, at, f.start, g)
		dst = append(dst, f.id)
		at = f.stop
	}
	dst = t.encodeSegment(dst, text, at, len(text), g)
	if addSpecial {
		dst = append(dst, t.after...)
	}
	return dst
}

// within returns the guard of the part [start, end) of the text, positions counted from start.
func (g guard) within(start, end int) guard {
	part := guard{parseSpecial: g.parseSpecial}
	if len(g.untrusted) > 0 {
		m := mover{in: g.untrusted}
		m.same(start, end, 0)
		part.untrusted = m.out
	}
	return part
}

// encodeSegment encodes text[start:end], which has no raw added tokens.
func (t *Tokenizer) encodeSegment(dst []int32, text string, start, end int, g guard) []int32 {
	if start >= end {
		return dst
	}
	s, first := text[start:end], start == 0
	g = g.within(start, end)
	for _, n := range t.normalizers {
		s, g.untrusted = n.apply(s, g.untrusted)
	}
	at := 0
	for f, ok := t.normalized.next(s, found{}, g); ok; f, ok = t.normalized.next(s, f, g) {
		if f.start > at {
			dst = t.encodePlain(dst, s[at:f.start], first && at == 0)
		}
		dst = append(dst, f.id)
		at = f.stop
	}
	return t.encodePlain(dst, s[at:], first && at == 0)
}

// encodePlain encodes normalised text without added tokens.
func (t *Tokenizer) encodePlain(dst []int32, s string, first bool) []int32 {
	if s == "" {
		return dst
	}
	rewrite := t.prefix.rewrite
	if !first && t.prefix.otherwise != nil {
		rewrite = t.prefix.otherwise
	}
	if rewrite != nil {
		s, _ = rewrite.apply(s, nil)
	}
	return t.encodePieces(dst, s, t.splitters)
}

func (t *Tokenizer) encodePieces(dst []int32, s string, stages []stage) []int32 {
	if len(stages) == 0 {
		return t.model.appendPiece(dst, s)
	}
	switch st := stages[0].(type) {
	case splitter:
		for s != "" {
			n := st.next(s)
			dst = t.encodePieces(dst, s[:n], stages[1:])
			s = s[n:]
		}
	case cutter:
		for _, p := range st.pieces(s) {
			dst = t.encodePieces(dst, s[p.start:p.end], stages[1:])
		}
	case normalizer:
		s, _ = st.apply(s, nil)
		return t.encodePieces(dst, s, stages[1:])
	}
	return dst
}

// VocabSize returns the number of ids: all ids are below it.
func (t *Tokenizer) VocabSize() int { return t.vocab.size() }

// Token returns the spelling of id in the model's file ("Ġthe", "▁the", "<0x0A>"), "" for no token.
func (t *Tokenizer) Token(id int32) string {
	if !t.vocab.valid(id) {
		return ""
	}
	return string(t.vocab.text.at(id))
}

// Bytes returns the bytes that id adds to a text (" the", "\n"), which need not be whole characters.
// The caller must not change them.
func (t *Tokenizer) Bytes(id int32) []byte {
	if !t.vocab.valid(id) {
		return nil
	}
	return t.vocab.bytes.at(id)
}

// Kind says what id is for.
func (t *Tokenizer) Kind(id int32) Kind {
	if !t.vocab.valid(id) {
		return Absent
	}
	return t.vocab.kinds[id]
}

// ID returns the id of the token with this spelling.
func (t *Tokenizer) ID(spelling string) (int32, bool) {
	id := t.vocab.find(spelling)
	return id, id >= 0
}

// IsSpecial reports whether id is a special token: skipped by Decode with skipSpecial, never made from untrusted text.
func (t *Tokenizer) IsSpecial(id int32) bool { return t.vocab.valid(id) && t.vocab.special(id) }

// BOS, EOS, UNK and PAD return the named ids, -1 where the model has none.
func (t *Tokenizer) BOS() int32 { return t.names.bos }
func (t *Tokenizer) EOS() int32 { return t.names.eos }
func (t *Tokenizer) UNK() int32 { return t.names.unk }
func (t *Tokenizer) PAD() int32 { return t.names.pad }

// EOG returns the ids that end a generation (EOS, end of turn …), ascending.
func (t *Tokenizer) EOG() []int32 { return slices.Clone(t.names.eog) }

// AddsBOS reports whether AddSpecial puts BOS before the text.
func (t *Tokenizer) AddsBOS() bool { return t.names.bos >= 0 && slices.Contains(t.before, t.names.bos) }

// endOfGeneration lists the names of tokens that end a turn or a text in the model families supported.
var endOfGeneration = []string{
	"</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>",
	"<|end|>", "<end_of_turn>", "<turn|>", "<|return|>", "<|call|>", "<｜end▁of▁sentence｜>", "<|endofturn|>",
	"<|end_of_turn|>", "<end_of_utterance>", "<|user|>", "<|observation|>", "<EOT>", "<|eot|>",
}

// findEOG collects the ids that end a generation: eos, the given ones, and control tokens with a
// known name.
func (t *Tokenizer) findEOG(more ...int32) {
	ids := append([]int32{t.names.eos}, more...)
	for _, name := range endOfGeneration {
		if id := t.vocab.find(name); id >= 0 && t.vocab.kinds[id] == Control && !t.opensTurn(name) {
			ids = append(ids, id)
		}
	}
	ids = slices.DeleteFunc(ids, func(id int32) bool { return id < 0 })
	slices.Sort(ids)
	t.names.eog = slices.Compact(ids)
}

// opensTurn reports whether a name from endOfGeneration means something else in this vocabulary.
// GLM ends its turn by opening the next one (<|user|>, <|observation|>), other models only
// begin one with it. gpt-oss writes <|end|> between the messages of one answer.
func (t *Tokenizer) opensTurn(name string) bool {
	has := func(name string) bool { return t.vocab.find(name) >= 0 }
	switch name {
	case "<|user|>", "<|observation|>":
		return !has("<|observation|>") || !has("[gMASK]")
	case "<|end|>":
		return has("<|return|>") && has("<|call|>")
	}
	return false
}

// byteTokens finds the <0xNN> tokens; -1 where there is none.
func byteTokens(v *vocab) (ids [256]int32) {
	for b := range ids {
		ids[b] = v.find(byteSpelling(byte(b)))
	}
	return ids
}

func byteSpelling(b byte) string {
	const hex = "0123456789ABCDEF"
	return "<0x" + string(hex[b>>4]) + string(hex[b&15]) + ">"
}

// parseByte reads exactly <0xNN>.
func parseByte(s string) (byte, bool) {
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	hi, ok1 := hexDigit(s[3])
	lo, ok2 := hexDigit(s[4])
	return hi<<4 | lo, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case toLower(c) >= 'a' && toLower(c) <= 'f':
		return toLower(c) - 'a' + 10, true
	}
	return 0, false
}
