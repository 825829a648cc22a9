package chat

import (
	"fmt"
	"sort"
	"strings"
	"unicode/utf16"
)

// toJSON is transformers' tojson: json.dumps(x, ensure_ascii=False, …), no
// HTML escaping, key order kept. The result is untrusted as a whole.
func toJSON(in *interp, x value, p []value) (value, error) {
	w := &writer{in: in, indent: -1, comma: ", ", colon: ": "}
	if p[0] != nil {
		w.asciiOnly = truthy(p[0])
	}
	switch n, ok := asIntOr(p[1], -1); {
	case ok && n > 64:
		return nil, errorf("tojson: indent of %d is too large", n)
	case ok && n >= 0:
		w.indent, w.comma = int(n), ","
	case !ok:
		if _, isNone := p[1].(none); !isNone {
			return nil, errorf("tojson: indent must be an integer")
		}
	}
	if l, ok := p[2].(*list); ok && len(l.items) == 2 {
		comma, ok1 := l.items[0].(text)
		colon, ok2 := l.items[1].(text)
		if !ok1 || !ok2 {
			return nil, errorf("tojson: separators must be two strings")
		}
		w.comma, w.colon = comma.s, colon.s
	}
	w.sortKeys = p[3] != nil && truthy(p[3])
	if err := w.json(x, 0); err != nil {
		return nil, err
	}
	return foreign(w.b.String()), nil
}

func asIntOr(v value, def int64) (int64, bool) {
	if v == nil {
		return def, true
	}
	return asInt(v)
}

func (w *writer) json(v value, depth int) error {
	if err := w.enter(depth); err != nil {
		return err
	}
	switch v := v.(type) {
	case none:
		return w.put("null")
	case bool:
		return w.put(strings.ToLower(scalar(v)))
	case int64, bigInt:
		return w.put(scalar(v))
	case float64:
		return w.put(jsonFloat(v))
	case text:
		return w.put(w.quote(v.s))
	case *list:
		return w.block("[", "]", len(v.items), depth, func(i int) error {
			return w.json(v.items[i], depth+1)
		})
	case *dict:
		return w.jsonDict(v, depth)
	}
	return errorf("object of type %s is not JSON serializable", typeName(v))
}

func (w *writer) jsonDict(d *dict, depth int) error {
	order := make([]int, len(d.keys))
	keys := make([]string, len(d.keys))
	for i, k := range d.keys {
		order[i] = i
		switch k := k.(type) {
		case text:
			keys[i] = k.s
		case none:
			keys[i] = "null"
		case bool:
			keys[i] = strings.ToLower(scalar(k))
		case float64:
			keys[i] = jsonFloat(k)
		default:
			keys[i] = scalar(k)
		}
	}
	if w.sortKeys {
		sort.SliceStable(order, func(a, b int) bool { return keys[order[a]] < keys[order[b]] })
	}
	return w.block("{", "}", len(order), depth, func(i int) error {
		if err := w.put(w.quote(keys[order[i]]), w.colon); err != nil {
			return err
		}
		return w.json(d.vals[order[i]], depth+1)
	})
}

// block writes n items between brackets, one a line if indented.
func (w *writer) block(open, end string, n, depth int, item func(i int) error) error {
	if n == 0 {
		return w.put(open, end)
	}
	for i := range n {
		lead := open
		if i > 0 {
			lead = w.comma
		}
		if err := w.put(lead, w.newline(depth+1)); err != nil {
			return err
		}
		if err := item(i); err != nil {
			return err
		}
	}
	return w.put(w.newline(depth), end)
}

func (w *writer) newline(depth int) string {
	if w.indent < 0 {
		return ""
	}
	return "\n" + strings.Repeat(" ", w.indent*depth)
}

func jsonFloat(f float64) string {
	switch s := floatRepr(f); s {
	case "nan":
		return "NaN"
	case "inf":
		return "Infinity"
	case "-inf":
		return "-Infinity"
	default:
		return s
	}
}

var jsonEscapes = map[rune]string{'"': `\"`, '\\': `\\`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\b': `\b`, '\f': `\f`}

func (w *writer) quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		if e, ok := jsonEscapes[r]; ok {
			b.WriteString(e)
			continue
		}
		switch {
		case r < 0x20 || w.asciiOnly && r > 0x7e && r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		case w.asciiOnly && r >= 0x10000:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
