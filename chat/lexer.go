package chat

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind int

const (
	tokEOF tokenKind = iota
	tokData
	tokVarBegin
	tokVarEnd
	tokBlockBegin
	tokBlockEnd
	tokName
	tokString
	tokInt
	tokFloat
	tokOp
)

// token is a lexeme; text is the decoded string for tokString.
type token struct {
	kind tokenKind
	text string
	line int
}

func (t token) String() string {
	switch t.kind {
	case tokEOF:
		return "end of template"
	case tokVarEnd:
		return "'}}'"
	case tokBlockEnd:
		return "'%}'"
	}
	return "'" + t.text + "'"
}

// lexer cuts a template as jinja2's does with trim_blocks and lstrip_blocks:
// the newline after a block or comment goes, and so do blanks before one that
// begins its line. A '-' in a tag strips all white space on its side, a '+'
// keeps it.
type lexer struct {
	src       string
	pos, line int
	lineStart bool // the last match ended a line
	tokens    []token
}

func lex(src string) ([]token, error) {
	src = strings.ReplaceAll(src, "\r\n", "\n")
	src = strings.ReplaceAll(src, "\r", "\n")
	src = strings.TrimSuffix(src, "\n")
	l := &lexer{src: src, line: 1, lineStart: true}
	for l.pos < len(l.src) {
		if err := l.root(); err != nil {
			return nil, err
		}
	}
	l.emit(tokEOF, "")
	return l.tokens, nil
}

func (l *lexer) errorf(format string, args ...any) error {
	return &SyntaxError{l.line, fmt.Sprintf(format, args...)}
}

func (l *lexer) rest() string { return l.src[l.pos:] }

func (l *lexer) emit(kind tokenKind, s string) {
	l.tokens = append(l.tokens, token{kind, s, l.line})
}

// advance moves on by n bytes, counting lines.
func (l *lexer) advance(n int) {
	l.line += strings.Count(l.src[l.pos:l.pos+n], "\n")
	l.pos += n
	l.lineStart = n > 0 && l.src[l.pos-1] == '\n'
}

// root reads template data up to and including the next tag.
func (l *lexer) root() error {
	rest := l.rest()
	at := nextTag(rest)
	if at < 0 {
		l.emit(tokData, rest)
		l.advance(len(rest))
		return nil
	}
	kind, sign := rest[at+1], byte(0)
	open := 2
	if at+2 < len(rest) && (rest[at+2] == '-' || rest[at+2] == '+') {
		sign, open = rest[at+2], 3
	}
	l.data(rest[:at], sign, kind != '{')
	l.advance(at + open)
	switch kind {
	case '#':
		return l.comment()
	case '{':
		return l.tag(tokVarBegin, tokVarEnd, "}}")
	}
	if body, ok := rawBegin(l.rest()); ok {
		l.advance(body)
		return l.raw()
	}
	return l.tag(tokBlockBegin, tokBlockEnd, "%}")
}

// nextTag finds the first "{{", "{%" or "{#".
func nextTag(s string) int {
	for i := 0; i+1 < len(s); i++ {
		j := strings.IndexByte(s[i:], '{')
		if j < 0 || i+j+1 >= len(s) {
			return -1
		}
		i += j
		if c := s[i+1]; c == '{' || c == '%' || c == '#' {
			return i
		}
	}
	return -1
}

// data emits text before a tag, stripped as the tag's sign asks.
func (l *lexer) data(s string, sign byte, isBlock bool) {
	switch {
	case sign == '-':
		s = strings.TrimRightFunc(s, isSpace)
	case sign != '+' && isBlock:
		start := strings.LastIndexByte(s, '\n') + 1
		if (start > 0 || l.lineStart) && strings.TrimLeftFunc(s[start:], isSpace) == "" {
			s = s[:start]
		}
	}
	if s != "" {
		l.emit(tokData, s)
	}
}

func (l *lexer) comment() error {
	at := strings.Index(l.rest(), "#}")
	if at < 0 {
		return l.errorf("a comment is never closed: '#}' missing")
	}
	sign := byte(0)
	if at > 0 {
		sign = l.rest()[at-1]
	}
	l.advance(at + 2)
	l.closeBlock(sign)
	return nil
}

// closeBlock drops what follows a block or comment: all white space after '-',
// one newline when unsigned.
func (l *lexer) closeBlock(sign byte) {
	switch {
	case sign == '-':
		l.advance(spaceLen(l.rest()))
	case sign != '+' && strings.HasPrefix(l.rest(), "\n"):
		l.advance(1)
	}
}

// rawBegin matches the inside of "{% raw %}" and returns its length.
func rawBegin(s string) (int, bool) {
	n := spaceLen(s)
	if !strings.HasPrefix(s[n:], "raw") {
		return 0, false
	}
	n += 3
	n += spaceLen(s[n:])
	if strings.HasPrefix(s[n:], "-%}") {
		return n + 3 + spaceLen(s[n+3:]), true
	}
	return n + 2, strings.HasPrefix(s[n:], "%}")
}

func (l *lexer) raw() error {
	rest := l.rest()
	for from := 0; ; {
		at := strings.Index(rest[from:], "{%")
		if at < 0 {
			return l.errorf("a raw block is never closed: '{%% endraw %%}' missing")
		}
		at += from
		n, sign := at+2, byte(0)
		if n < len(rest) && (rest[n] == '-' || rest[n] == '+') {
			sign = rest[n]
			n++
		}
		n += spaceLen(rest[n:])
		if !strings.HasPrefix(rest[n:], "endraw") {
			from = at + 2
			continue
		}
		n += len("endraw")
		n += spaceLen(rest[n:])
		end := byte(0)
		if n < len(rest) && (rest[n] == '-' || rest[n] == '+') {
			end = rest[n]
			n++
		}
		if !strings.HasPrefix(rest[n:], "%}") {
			from = at + 2
			continue
		}
		l.data(rest[:at], sign, true)
		l.advance(n + 2)
		l.closeBlock(end)
		return nil
	}
}

// tag reads the tokens of one {{ … }} or {% … %}. Inside brackets the end mark
// is read as operators, so {{ {'a': {}} }} works.
func (l *lexer) tag(begin, end tokenKind, mark string) error {
	l.emit(begin, "")
	var open []byte
	for {
		l.advance(spaceLen(l.rest()))
		if l.pos >= len(l.src) {
			return l.errorf("a tag is never closed: '%s' missing", mark)
		}
		if len(open) == 0 && l.endTag(end, mark) {
			return nil
		}
		op, err := l.lexeme()
		if err != nil {
			return err
		}
		switch op {
		case "(", "[", "{":
			open = append(open, closing[op])
		case ")", "]", "}":
			if len(open) == 0 || open[len(open)-1] != op[0] {
				return l.errorf("unexpected '%s'", op)
			}
			open = open[:len(open)-1]
		}
	}
}

var closing = map[string]byte{"(": ')', "[": ']', "{": '}'}

// endTag consumes the end mark if it is next.
func (l *lexer) endTag(kind tokenKind, mark string) bool {
	rest, sign := l.rest(), byte(0)
	if rest[0] == '-' || rest[0] == '+' && kind == tokBlockEnd {
		sign, rest = rest[0], rest[1:]
	}
	if !strings.HasPrefix(rest, mark) {
		return false
	}
	l.emit(kind, "")
	if sign != 0 {
		l.advance(1)
	}
	l.advance(2)
	if kind == tokBlockEnd || sign == '-' {
		l.closeBlock(sign)
	}
	return true
}

var operators = []string{"//", "**", "==", "!=", ">=", "<=",
	"+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ","}

// lexeme reads one token of an expression; op is set for operators.
func (l *lexer) lexeme() (op string, err error) {
	rest := l.rest()
	switch c, _ := utf8.DecodeRuneInString(rest); {
	case c >= '0' && c <= '9':
		l.number()
		return "", nil
	case c == '_' || unicode.IsLetter(c):
		end := strings.IndexFunc(rest, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
		if end < 0 {
			end = len(rest)
		}
		l.emit(tokName, rest[:end])
		l.advance(end)
		return "", nil
	case c == '\'' || c == '"':
		return "", l.quoted(rest, byte(c))
	}
	for _, op := range operators {
		if strings.HasPrefix(rest, op) {
			l.emit(tokOp, op)
			l.advance(len(op))
			return op, nil
		}
	}
	c, _ := utf8.DecodeRuneInString(rest)
	return "", l.errorf("unexpected character %q", c)
}

// number reads an integer or float. After a dot (x.0.1) only an integer.
func (l *lexer) number() {
	rest := l.rest()
	n := digits(rest)
	kind := tokInt
	if len(rest) > 1 && rest[0] == '0' && strings.ContainsRune("xXoObB", rune(rest[1])) {
		n = 2
		for n < len(rest) && (isAlnum(rest[n]) || rest[n] == '_') {
			n++
		}
	} else if l.pos == 0 || l.src[l.pos-1] != '.' {
		if n+1 < len(rest) && rest[n] == '.' && digits(rest[n+1:]) > 0 {
			kind = tokFloat
			n += 1 + digits(rest[n+1:])
		}
		if n < len(rest) && (rest[n] == 'e' || rest[n] == 'E') {
			exp := n + 1
			if exp < len(rest) && (rest[exp] == '+' || rest[exp] == '-') {
				exp++
			}
			if d := digits(rest[exp:]); d > 0 {
				kind, n = tokFloat, exp+d
			}
		}
	}
	l.emit(kind, strings.ReplaceAll(rest[:n], "_", ""))
	l.advance(n)
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// digits counts leading digits; single underscores may separate them.
func digits(s string) int {
	n := 0
	for n < len(s) && (s[n] >= '0' && s[n] <= '9' ||
		n > 0 && s[n] == '_' && n+1 < len(s) && s[n+1] >= '0' && s[n+1] <= '9') {
		n++
	}
	return n
}

func isSpace(r rune) bool {
	return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f // as Python's str.isspace
}

func spaceLen(s string) int { return len(s) - len(strings.TrimLeftFunc(s, isSpace)) }
