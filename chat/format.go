package chat

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// toText is Python's str(): what printing shows. Only text itself keeps its
// marks; everything else is untrusted.
func (in *interp) toText(v value) (text, error) {
	switch v := v.(type) {
	case text:
		return v, nil
	case undefined:
		return text{}, nil
	case *list, *dict:
		w := &writer{in: in}
		if err := w.repr(v, 0); err != nil {
			return text{}, err
		}
		return foreign(w.b.String()), nil
	}
	return foreign(scalar(v)), nil
}

// scalar prints what is neither text nor a container.
func scalar(v value) string {
	switch v := v.(type) {
	case none:
		return "None"
	case bool:
		if v {
			return "True"
		}
		return "False"
	case int64:
		return strconv.FormatInt(v, 10)
	case bigInt:
		return string(v)
	case float64:
		return floatRepr(v)
	case undefined:
		return "Undefined"
	}
	return "<" + typeName(v) + ">"
}

// floatRepr is Python's repr of a float: the shortest digits that read back,
// with an exponent below 1e-4 and from 1e16.
func floatRepr(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 0):
		return strings.TrimSuffix(strings.TrimPrefix(fmt.Sprint(f), "+"), "Inf") + "inf"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// writer prints nested values as repr or JSON, charged as it grows.
type writer struct {
	in      *interp
	b       strings.Builder
	charged int

	indent       int // spaces a level; -1 for one line (JSON only)
	comma, colon string
	sortKeys     bool
	asciiOnly    bool
}

func (w *writer) put(parts ...string) error {
	for _, p := range parts {
		w.b.WriteString(p)
	}
	if w.b.Len() > w.in.maxText {
		return w.in.grow(w.b.Len())
	}
	err := w.in.touch(w.b.Len() - w.charged)
	w.charged = w.b.Len()
	return err
}

// enter charges one value.
func (w *writer) enter(depth int) error {
	if depth > maxNesting {
		return nestingError(maxNesting)
	}
	return w.in.step(1)
}

func (w *writer) repr(v value, depth int) error {
	if err := w.enter(depth); err != nil {
		return err
	}
	switch v := v.(type) {
	case text:
		return w.put(quoteRepr(v.s))
	case *list:
		open, end := "[", "]"
		if v.tuple {
			open, end = "(", ")"
			if len(v.items) == 1 {
				end = ",)"
			}
		}
		if err := w.put(open); err != nil {
			return err
		}
		for i, item := range v.items {
			if i > 0 {
				if err := w.put(", "); err != nil {
					return err
				}
			}
			if err := w.repr(item, depth+1); err != nil {
				return err
			}
		}
		return w.put(end)
	case *dict:
		if err := w.put("{"); err != nil {
			return err
		}
		for i := range v.keys {
			if i > 0 {
				if err := w.put(", "); err != nil {
					return err
				}
			}
			if err := w.repr(v.keys[i], depth+1); err != nil {
				return err
			}
			if err := w.put(": "); err != nil {
				return err
			}
			if err := w.repr(v.vals[i], depth+1); err != nil {
				return err
			}
		}
		return w.put("}")
	}
	return w.put(scalar(v))
}

// quoteRepr is Python's repr of a string.
func quoteRepr(s string) string {
	quote := '\''
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	var b strings.Builder
	b.WriteRune(quote)
	for i, r := range s {
		switch {
		case r == quote || r == '\\':
			b.WriteRune('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == utf8.RuneError && runeLen(s[i:]) == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == ' ' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteRune(quote)
	return b.String()
}

// format is printf-style formatting: %s, %d, %i, %r and %%. Text keeps its marks.
func (in *interp) format(t text, arg value) (value, error) {
	vals := []value{arg}
	if l, ok := arg.(*list); ok && l.tuple {
		vals = l.items
	}
	var parts []text
	at := 0
	for {
		i := strings.IndexByte(t.s[at:], '%')
		if i < 0 {
			break
		}
		i += at
		if i+1 == len(t.s) {
			return nil, errorf("incomplete format")
		}
		parts = append(parts, t.slice(at, i))
		at = i + 2
		verb := t.s[i+1]
		if verb == '%' {
			parts = append(parts, t.slice(i, i+1))
			continue
		}
		if len(vals) == 0 {
			return nil, errorf("not enough arguments for format string")
		}
		p, err := in.formatOne(verb, vals[0])
		if err != nil {
			return nil, err
		}
		parts, vals = append(parts, p), vals[1:]
	}
	if len(vals) > 0 {
		return nil, errorf("not all arguments converted during string formatting")
	}
	if err := in.elements(len(parts)); err != nil {
		return nil, err
	}
	return in.join(append(parts, t.slice(at, len(t.s)))...)
}

func (in *interp) formatOne(verb byte, v value) (text, error) {
	switch verb {
	case 's':
		return in.toText(v)
	case 'r':
		w := &writer{in: in}
		err := w.repr(v, 0)
		return foreign(w.b.String()), err
	case 'd', 'i':
		n, ok := asInt(v)
		if f, isFloat := v.(float64); isFloat {
			n, ok = int64(f), true
		}
		if !ok {
			return text{}, errorf("%%d format: a number is required, not %s", typeName(v))
		}
		return foreign(strconv.FormatInt(n, 10)), nil
	}
	return text{}, errorf("format %%%c is not supported; use %%s or %%d", verb)
}
