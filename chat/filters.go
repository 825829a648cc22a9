package chat

import (
	"math"
	"strconv"
	"strings"
	"unicode"
)

// native is a filter or method: x is what it is applied to, p the arguments in
// the order of params, nil where not given.
type native struct {
	params string
	run    func(in *interp, x value, p []value) (value, error)
}

func (n native) call(in *interp, name string, x value, a args) (value, error) {
	p, err := a.bind(name, strings.Fields(n.params))
	if err != nil {
		return nil, err
	}
	return n.run(in, x, p)
}

var filters = map[string]native{
	"abs":        {"", absFilter},
	"attr":       {"name", attrFilter},
	"capitalize": {"", textual(capitalize)},
	"count":      {"", lengthFilter},
	"d":          {"default_value boolean", defaultFilter},
	"default":    {"default_value boolean", defaultFilter},
	"dictsort":   {"case_sensitive by reverse", dictsortFilter},
	"e":          {"", textual(htmlEscaper.Replace)},
	"escape":     {"", textual(htmlEscaper.Replace)},
	"first":      {"", firstFilter},
	"float":      {"default", floatFilter},
	"indent":     {"width first blank", indentFilter},
	"int":        {"default base", intFilter},
	"items":      {"", itemsFilter},
	"join":       {"d attribute", joinFilter},
	"last":       {"", lastFilter},
	"length":     {"", lengthFilter},
	"list":       {"", listFilter},
	"lower":      {"", textual(strings.ToLower)},
	"max":        {"case_sensitive attribute", extreme(1)},
	"min":        {"case_sensitive attribute", extreme(-1)},
	"replace":    {"old new count", replaceFilter},
	"reverse":    {"", reverseFilter},
	"round":      {"precision method", roundFilter},
	"safe":       {"", stringFilter},
	"sort":       {"reverse case_sensitive attribute", sortFilter},
	"string":     {"", stringFilter},
	"sum":        {"attribute start", sumFilter},
	"title":      {"", textual(titleWords)},
	"tojson":     {"ensure_ascii indent separators sort_keys", toJSON},
	"trim":       {"chars", trimFilter},
	"unique":     {"case_sensitive attribute", uniqueFilter},
	"upper":      {"", textual(upper)},
	"wordcount":  {"", wordcountFilter},
}

// filter applies a filter by name. Those that take other filters or tests
// as arguments stand outside the table.
func (in *interp) filter(name string, x value, a args) (value, error) {
	switch name {
	case "map":
		return in.mapFilter(x, a)
	case "select", "reject":
		return in.selectFilter(x, a, name == "select", false)
	case "selectattr", "rejectattr":
		return in.selectFilter(x, a, name == "selectattr", true)
	case "format":
		t, err := in.toText(x)
		if err != nil {
			return nil, err
		}
		return in.format(t, &list{a.pos, true})
	}
	f, ok := filters[name]
	if !ok {
		return nil, errorf("no filter named '%s'", name)
	}
	return f.call(in, name, x, a)
}

// textual makes a filter of a string function; the result is trusted only if
// the whole argument was.
func textual(f func(string) string) func(*interp, value, []value) (value, error) {
	return func(in *interp, x value, _ []value) (value, error) {
		t, err := in.toText(x)
		if err != nil {
			return nil, err
		}
		s := f(t.s)
		return t.with(s), in.grow(len(s))
	}
}

var htmlEscaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;")

// upper is str.upper: Go's, but ß has a capital of two letters.
func upper(s string) string { return strings.ReplaceAll(strings.ToUpper(s), "ß", "SS") }

func capitalize(s string) string {
	n := runeLen(s)
	return strings.ToUpper(s[:n]) + strings.ToLower(s[n:])
}

// titleWords is the title filter: a capital after white space or one of -({[<.
func titleWords(s string) string {
	return titleAfter(s, func(r rune) bool { return isSpace(r) || strings.ContainsRune("-({[<", r) })
}

// titleCase is str.title: a capital after anything that is no letter.
func titleCase(s string) string {
	return titleAfter(s, func(r rune) bool { return !unicode.IsLetter(r) })
}

func titleAfter(s string, border func(rune) bool) string {
	var b strings.Builder
	start := true
	for _, r := range s {
		if start {
			b.WriteRune(unicode.ToUpper(r))
		} else {
			b.WriteRune(unicode.ToLower(r))
		}
		start = border(r)
	}
	return b.String()
}

func stringFilter(in *interp, x value, _ []value) (value, error) { return in.toText(x) }

func lengthFilter(in *interp, x value, _ []value) (value, error) {
	switch v := x.(type) {
	case text:
		return int64(v.runes()), in.touch(len(v.s))
	case *list:
		return int64(len(v.items)), nil
	case *dict:
		return int64(len(v.keys)), nil
	case undefined:
		return int64(0), nil
	}
	return nil, errorf("object of type '%s' has no length", typeName(x))
}

func defaultFilter(_ *interp, x value, p []value) (value, error) {
	_, missing := x.(undefined)
	if missing || p[1] != nil && truthy(p[1]) && !truthy(x) {
		if p[0] == nil {
			return text{}, nil
		}
		return p[0], nil
	}
	return x, nil
}

func attrFilter(in *interp, x value, p []value) (value, error) {
	name, ok := p[0].(text)
	if !ok {
		return nil, errorf("attr: the name must be a string")
	}
	if v, ok, err := builtinAttr(x, name.s); ok || err != nil {
		return v, err
	}
	return missing(x, name.s), nil
}

func trimFilter(in *interp, x value, p []value) (value, error) {
	t, err := in.toText(x)
	if err != nil {
		return nil, err
	}
	return in.strip(t, p[0], true, true)
}

func replaceFilter(in *interp, x value, p []value) (value, error) {
	t, err := in.toText(x)
	if err != nil {
		return nil, err
	}
	if p[0] == nil || p[1] == nil {
		return nil, errorf("replace needs what to replace and by what")
	}
	from, err := in.toText(p[0])
	if err != nil {
		return nil, err
	}
	to, err := in.toText(p[1])
	if err != nil {
		return nil, err
	}
	return in.replace(t, from, to, p[2])
}

func wordcountFilter(in *interp, x value, _ []value) (value, error) {
	t, err := in.toText(x)
	if err != nil {
		return nil, err
	}
	return int64(len(strings.Fields(t.s))), in.touch(len(t.s))
}

// indentFilter indents all lines but the first (and, unless asked, blank ones).
func indentFilter(in *interp, x value, p []value) (value, error) {
	t, err := in.toText(x)
	if err != nil {
		return nil, err
	}
	pad, ok := p[0].(text)
	if !ok {
		n, ok := asIntOr(p[0], 4)
		if !ok || n > 1000 {
			return nil, errorf("indent: width must be a string or an integer up to 1000")
		}
		pad = literal(strings.Repeat(" ", int(max(n, 0))))
	}
	first, blank := p[1] != nil && truthy(p[1]), p[2] != nil && truthy(p[2])
	lines := splitLines(text{t.s + "\n", t.trusted}, false)
	if err := in.elements(len(lines)); err != nil {
		return nil, err
	}
	var parts []text
	for i, line := range lines {
		if i > 0 {
			parts = append(parts, literal("\n"))
		}
		if i == 0 && first || i > 0 && (blank || line.s != "") {
			parts = append(parts, pad)
		}
		parts = append(parts, line)
	}
	return in.join(parts...)
}

func absFilter(_ *interp, x value, _ []value) (value, error) {
	if f, ok := x.(float64); ok {
		return math.Abs(f), nil
	}
	if n, ok := asInt(x); ok {
		if n < 0 {
			return intArith("-", 0, n)
		}
		return n, nil
	}
	return nil, operandError("abs()", x)
}

func intFilter(_ *interp, x value, p []value) (value, error) {
	def := p[0]
	if def == nil {
		def = int64(0)
	}
	base, ok := asIntOr(p[1], 10)
	if !ok || base < 0 || base == 1 || base > 36 {
		return nil, errorf("int: base must be between 2 and 36")
	}
	if n, ok := asInt(x); ok {
		return n, nil
	}
	f, isFloat := x.(float64)
	if t, ok := x.(text); ok {
		s := strings.TrimFunc(t.s, isSpace)
		if len(s) > 400 {
			return def, nil
		}
		digits := s
		if prefix := basePrefixes[base]; prefix != "" {
			digits = strings.TrimPrefix(strings.ToLower(s), prefix)
		}
		if n, err := strconv.ParseInt(digits, int(base), 64); err == nil {
			return n, nil
		}
		var err error
		if f, err = strconv.ParseFloat(s, 64); err != nil {
			return def, nil
		}
		isFloat = true
	}
	if !isFloat || !(math.Abs(f) < 1<<63) {
		return def, nil
	}
	return int64(f), nil
}

var basePrefixes = map[int64]string{2: "0b", 8: "0o", 16: "0x"}

func floatFilter(_ *interp, x value, p []value) (value, error) {
	if f, ok := asFloat(x); ok {
		return f, nil
	}
	if t, ok := x.(text); ok && len(t.s) <= 400 {
		if f, err := strconv.ParseFloat(strings.TrimFunc(t.s, isSpace), 64); err == nil {
			return f, nil
		}
	}
	if p[0] != nil {
		return p[0], nil
	}
	return 0.0, nil
}

func roundFilter(_ *interp, x value, p []value) (value, error) {
	precision, ok := asIntOr(p[0], 0)
	if !ok || precision < -300 || precision > 300 {
		return nil, errorf("round: precision must be an integer between -300 and 300")
	}
	f, ok := asFloat(x)
	if !ok {
		return nil, operandError("round()", x)
	}
	method, _ := p[1].(text)
	scale := math.Pow(10, float64(precision))
	switch method.s {
	case "ceil":
		return math.Ceil(f*scale) / scale, nil
	case "floor":
		return math.Floor(f*scale) / scale, nil
	case "", "common":
	default:
		return nil, errorf("round: method must be common, ceil or floor")
	}
	if n, isInt := asInt(x); isInt && precision >= 0 {
		return n, nil
	}
	if precision < 0 {
		return math.RoundToEven(f*scale) / scale, nil
	}
	r, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', int(precision), 64), 64)
	return r, err
}
