package tokenizer

import (
	"regexp"
	"strings"
)

// translate rewrites a pattern from the reference's regular expression dialect (Oniguruma with Ruby's syntax) into the
// one of our engine (.NET's), where the two spell the same thing differently:
//
//	x?+ x++ x*+      possessive: takes what it can, gives nothing back → (?>x?)
//	x{1,3}+          not possessive, but repeated → (?:x{1,3})+
//	[a[b-c]]         a set in a set: their union → [ab-c]
//	\w               without the joiners U+200C and U+200D that .NET's has
//
// Everything else passes as it is.
func translate(pattern string) string {
	t := translator{in: pattern}
	for t.at < len(t.in) {
		t.step()
	}
	return t.out.String()
}

type translator struct {
	in    string
	at    int
	out   strings.Builder
	atom  int   // where in out the last atom starts
	opens []int // where in out each open group starts
}

const (
	wordChars    = `\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}`
	nonWordChars = `[^` + wordChars + `]`
)

func (t *translator) step() {
	c := t.in[t.at]
	switch {
	case c == '\\':
		t.atom = t.out.Len()
		switch e := t.escape(); e {
		case `\w`:
			t.out.WriteString("[" + wordChars + "]")
		case `\W`:
			t.out.WriteString(nonWordChars)
		default:
			t.out.WriteString(e)
		}
	case c == '[':
		t.atom = t.out.Len()
		t.set(0)
	case c == '(':
		t.opens = append(t.opens, t.out.Len())
		t.copy(1)
	case c == ')':
		if n := len(t.opens); n > 0 {
			t.atom, t.opens = t.opens[n-1], t.opens[:n-1]
		}
		t.copy(1)
	case (c == '?' || c == '*' || c == '+') && strings.HasPrefix(t.in[t.at+1:], "+"):
		t.wrap("(?>", string(c)+")")
		t.at += 2
	case c == '{' && interval.MatchString(t.in[t.at:]):
		times := interval.FindString(t.in[t.at:])
		t.at += len(times)
		if strings.HasPrefix(t.in[t.at:], "+") {
			t.wrap("(?:", times+")")
		} else {
			t.out.WriteString(times)
		}
	case c == '?' || c == '*' || c == '+' || c == '|':
		t.copy(1)
	default:
		t.atom = t.out.Len()
		t.copy(1)
	}
}

// interval is a repetition like {3}, {1,} or {1,3}.
var interval = regexp.MustCompile(`^\{[0-9]+(,[0-9]*)?\}`)

// wrap puts text around the last atom.
func (t *translator) wrap(before, after string) {
	done := t.out.String()
	t.out.Reset()
	t.out.WriteString(done[:t.atom] + before + done[t.atom:] + after)
}

func (t *translator) copy(n int) {
	n = min(n, len(t.in)-t.at)
	t.out.WriteString(t.in[t.at : t.at+n])
	t.at += n
}

// escape takes a backslash and what belongs to it, \p{…} and \x{…} whole.
func (t *translator) escape() string {
	start := t.at
	t.at = min(t.at+2, len(t.in))
	if t.at < len(t.in) && t.in[t.at] == '{' && strings.IndexByte("pPx", t.in[t.at-1]) >= 0 {
		if end := strings.IndexByte(t.in[t.at:], '}'); end >= 0 {
			t.at += end + 1
		}
	}
	return t.in[start:t.at]
}

// set takes a [set]; the sets inside it lose their brackets.
func (t *translator) set(depth int) {
	if depth == 0 {
		t.copy(1)
	} else {
		t.at++
	}
	if depth == 0 && strings.HasPrefix(t.in[t.at:], "^") {
		t.copy(1)
	}
	for first := true; t.at < len(t.in); first = false {
		switch c := t.in[t.at]; {
		case c == '\\':
			if e := t.escape(); e == `\w` {
				t.out.WriteString(wordChars)
			} else {
				t.out.WriteString(e)
			}
		case c == ']' && !first:
			if depth == 0 {
				t.copy(1)
			} else {
				t.at++
			}
			return
		case c == '[' && !strings.HasPrefix(t.in[t.at:], "[^") && !strings.HasPrefix(t.in[t.at:], "[:") && strings.IndexByte(t.in[t.at:], ']') > 0 && depth < maxStages:
			t.set(depth + 1)
		default:
			t.copy(1)
		}
	}
}
