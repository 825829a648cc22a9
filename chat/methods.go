package chat

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// method finds a method of a string, list or dict. Python's methods that
// change their object are refused when called, as in the immutable sandbox.
func method(x value, name string) (value, bool, error) {
	var table map[string]native
	switch x := x.(type) {
	case text:
		table = textMethods
	case *dict:
		table = dictMethods
	case *list:
		table = listMethods
		if x.tuple && mutators[name] {
			return nil, false, nil
		}
	default:
		return nil, false, nil
	}
	if m, ok := table[name]; ok {
		return &function{name, func(in *interp, a args) (value, error) { return m.call(in, name, x, a) }}, true, nil
	}
	_, isText := x.(text)
	if !isText && mutators[name] || strings.HasPrefix(name, "__") {
		return undefined{"access to attribute '" + name + "' of '" + typeName(x) + "' object is unsafe"}, true, nil
	}
	return nil, false, nil
}

var mutators = map[string]bool{"append": true, "extend": true, "insert": true, "remove": true, "sort": true, "reverse": true,
	"clear": true, "pop": true, "popitem": true, "setdefault": true, "update": true}

var dictMethods = map[string]native{
	"get": {"key default", func(_ *interp, x value, p []value) (value, error) {
		if p[0] == nil {
			return nil, errorf("get() needs a key")
		}
		if v, ok := x.(*dict).get(p[0]); ok {
			return v, nil
		}
		if p[1] != nil {
			return p[1], nil
		}
		return none{}, nil
	}},
	"items":  {"", itemsFilter},
	"keys":   {"", listFilter},
	"values": {"", func(in *interp, x value, _ []value) (value, error) { return in.newList(x.(*dict).vals) }},
	"copy":   {"", identity},
}

func identity(_ *interp, x value, _ []value) (value, error) { return x, nil }

var listMethods = map[string]native{
	"copy": {"", identity},
	"index": {"value", func(in *interp, x value, p []value) (value, error) {
		for i, v := range x.(*list).items {
			if eq, err := in.equal(v, p[0], 0); err != nil || eq {
				return int64(i), err
			}
		}
		return nil, errorf("value is not in list")
	}},
	"count": {"value", func(in *interp, x value, p []value) (value, error) {
		n := int64(0)
		for _, v := range x.(*list).items {
			eq, err := in.equal(v, p[0], 0)
			if err != nil {
				return nil, err
			}
			if eq {
				n++
			}
		}
		return n, nil
	}},
}

var textMethods = map[string]native{
	"capitalize": {"", textual(capitalize)},
	"lower":      {"", textual(strings.ToLower)},
	"upper":      {"", textual(upper)},
	"title":      {"", textual(titleCase)},
	"strip":      {"chars", stripMethod(true, true)},
	"lstrip":     {"chars", stripMethod(true, false)},
	"rstrip":     {"chars", stripMethod(false, true)},
	"split":      {"sep maxsplit", splitMethod},
	"rsplit":     {"sep maxsplit", rsplitMethod},
	"splitlines": {"keepends", splitlinesMethod},
	"partition":  {"sep", partitionMethod},
	"join":       {"iterable", joinMethod},
	"replace":    {"old new count", replaceMethod},
	"startswith": {"prefix", affixMethod(strings.HasPrefix)},
	"endswith":   {"suffix", affixMethod(strings.HasSuffix)},
	"find":       {"sub", findMethod(strings.Index, false)},
	"rfind":      {"sub", findMethod(strings.LastIndex, false)},
	"index":      {"sub", findMethod(strings.Index, true)},
	"rindex":     {"sub", findMethod(strings.LastIndex, true)},
	"count":      {"sub", countMethod},
	"removeprefix": {"prefix", func(in *interp, x value, p []value) (value, error) {
		t, sub, err := in.textAnd(x, p[0], "removeprefix")
		if err == nil && strings.HasPrefix(t.s, sub.s) {
			t = t.slice(len(sub.s), len(t.s))
		}
		return t, err
	}},
	"removesuffix": {"suffix", func(in *interp, x value, p []value) (value, error) {
		t, sub, err := in.textAnd(x, p[0], "removesuffix")
		if err == nil && strings.HasSuffix(t.s, sub.s) {
			t = t.slice(0, len(t.s)-len(sub.s))
		}
		return t, err
	}},
	"isdigit": {"", classMethod(unicode.IsDigit)},
	"isalpha": {"", classMethod(unicode.IsLetter)},
	"isalnum": {"", classMethod(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) })},
	"isspace": {"", classMethod(isSpace)},
	"isupper": {"", func(in *interp, x value, _ []value) (value, error) {
		return isUpper(x.(text).s), in.touch(len(x.(text).s))
	}},
	"islower": {"", func(in *interp, x value, _ []value) (value, error) {
		return isLower(x.(text).s), in.touch(len(x.(text).s))
	}},
}

// textAnd reads a string and a string argument, and charges for scanning.
func (in *interp) textAnd(x, arg value, method string) (t, sub text, err error) {
	t = x.(text)
	sub, ok := arg.(text)
	if !ok {
		if arg == nil {
			return t, sub, errorf("%s() needs an argument", method)
		}
		return t, sub, errorf("%s() needs a string, not %s", method, typeName(arg))
	}
	return t, sub, in.touch(t.weight())
}

func stripMethod(left, right bool) func(*interp, value, []value) (value, error) {
	return func(in *interp, x value, p []value) (value, error) { return in.strip(x.(text), p[0], left, right) }
}

// strip removes white space, or the given characters, from the ends of t.
func (in *interp) strip(t text, chars value, left, right bool) (value, error) {
	drop := isSpace
	switch c := chars.(type) {
	case nil, none:
	case text:
		if err := in.touch(len(t.s) * min(len(c.s), 64)); err != nil {
			return nil, err
		}
		drop = func(r rune) bool { return strings.ContainsRune(c.s, r) }
		if len(c.s) > 64 {
			set := map[rune]bool{}
			for _, r := range c.s {
				set[r] = true
			}
			drop = func(r rune) bool { return set[r] }
		}
	default:
		return nil, errorf("strip needs a string, not %s", typeName(chars))
	}
	i, j := 0, len(t.s)
	if left {
		i = j - len(strings.TrimLeftFunc(t.s, drop))
	}
	if right {
		j = i + len(strings.TrimRightFunc(t.s[i:], drop))
	}
	return t.slice(i, j), in.touch(t.weight())
}

// split cuts t at sep, at most limit times if limit >= 0.
func (in *interp) split(t text, sep string, limit int64) ([]value, error) {
	var out []value
	at := 0
	for limit != 0 {
		i := strings.Index(t.s[at:], sep)
		if i < 0 {
			break
		}
		out = append(out, t.slice(at, at+i))
		at += i + len(sep)
		limit--
		if err := in.elements(1); err != nil {
			return nil, err
		}
	}
	return append(out, t.slice(at, len(t.s))), nil
}

// fields cuts t at runs of white space, at most limit times if limit >= 0.
func (in *interp) fields(t text, limit int64) ([]value, error) {
	var out []value
	at := spaceLen(t.s)
	for at < len(t.s) {
		n := strings.IndexFunc(t.s[at:], isSpace)
		if n < 0 || limit == 0 {
			n = len(t.s) - at
		}
		out = append(out, t.slice(at, at+n))
		at += n
		at += spaceLen(t.s[at:])
		limit--
		if err := in.elements(1); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func splitMethod(in *interp, x value, p []value) (value, error) {
	limit, ok := asIntOr(p[1], -1)
	if !ok {
		return nil, errorf("split() needs an integer maxsplit")
	}
	if p[0] == nil || is[none](p[0]) {
		if err := in.touch(x.(text).weight()); err != nil {
			return nil, err
		}
		items, err := in.fields(x.(text), limit)
		return &list{items: items}, err
	}
	t, sep, err := in.textAnd(x, p[0], "split")
	if err != nil {
		return nil, err
	}
	if sep.s == "" {
		return nil, errorf("empty separator")
	}
	items, err := in.split(t, sep.s, limit)
	return &list{items: items}, err
}

func rsplitMethod(in *interp, x value, p []value) (value, error) {
	limit, ok := asIntOr(p[1], -1)
	if !ok || p[0] == nil {
		return nil, errorf("rsplit() needs a separator and an integer maxsplit")
	}
	t, sep, err := in.textAnd(x, p[0], "rsplit")
	if err != nil {
		return nil, err
	}
	if sep.s == "" {
		return nil, errorf("empty separator")
	}
	if limit < 0 {
		items, err := in.split(t, sep.s, -1)
		return &list{items: items}, err
	}
	var out []value
	end := len(t.s)
	for ; limit > 0; limit-- {
		i := strings.LastIndex(t.s[:end], sep.s)
		if i < 0 {
			break
		}
		out = append(out, t.slice(i+len(sep.s), end))
		end = i
		if err := in.elements(1); err != nil {
			return nil, err
		}
	}
	return reverseFilter(in, &list{items: append(out, t.slice(0, end))}, nil)
}

func splitlinesMethod(in *interp, x value, p []value) (value, error) {
	t := x.(text)
	if err := in.touch(t.weight()); err != nil {
		return nil, err
	}
	lines := splitLines(t, p[0] != nil && truthy(p[0]))
	items := make([]value, len(lines))
	for i, l := range lines {
		items[i] = l
	}
	return in.newList(items)
}

// splitLines is Python's str.splitlines.
func splitLines(t text, keepEnds bool) []text {
	var out []text
	start := 0
	for i := 0; i < len(t.s); {
		r, n := utf8.DecodeRuneInString(t.s[i:])
		if !strings.ContainsRune("\n\r\v\f\x1c\x1d\x1e\u0085\u2028\u2029", r) {
			i += n
			continue
		}
		if r == '\r' && strings.HasPrefix(t.s[i+1:], "\n") {
			n++
		}
		end := i
		if keepEnds {
			end += n
		}
		out = append(out, t.slice(start, end))
		i += n
		start = i
	}
	if start < len(t.s) {
		out = append(out, t.slice(start, len(t.s)))
	}
	return out
}

func partitionMethod(in *interp, x value, p []value) (value, error) {
	t, sep, err := in.textAnd(x, p[0], "partition")
	if err != nil {
		return nil, err
	}
	if sep.s == "" {
		return nil, errorf("empty separator")
	}
	i := strings.Index(t.s, sep.s)
	if i < 0 {
		return &list{[]value{t, text{}, text{}}, true}, nil
	}
	j := i + len(sep.s)
	return &list{[]value{t.slice(0, i), t.slice(i, j), t.slice(j, len(t.s))}, true}, nil
}

func joinMethod(in *interp, x value, p []value) (value, error) {
	if p[0] == nil {
		return nil, errorf("join() needs a sequence")
	}
	items, err := in.items(p[0])
	if err != nil {
		return nil, err
	}
	if err := in.elements(len(items)); err != nil {
		return nil, err
	}
	var parts []text
	for i, item := range items {
		t, ok := item.(text)
		if !ok {
			return nil, errorf("join() needs strings, not %s", typeName(item))
		}
		if i > 0 {
			parts = append(parts, x.(text))
		}
		parts = append(parts, t)
	}
	return in.join(parts...)
}

func replaceMethod(in *interp, x value, p []value) (value, error) {
	_, from, err := in.textAnd(x, p[0], "replace")
	if err != nil {
		return nil, err
	}
	t, to, err := in.textAnd(x, p[1], "replace")
	if err != nil {
		return nil, err
	}
	return in.replace(t, from, to, p[2])
}

// replace keeps marks: what stays keeps its own, what is put in is trusted
// only where every byte it replaces was. User text thus never turns trusted.
func (in *interp) replace(t, from, to text, count value) (value, error) {
	limit := int64(-1)
	switch c := count.(type) {
	case nil, none:
	default:
		n, ok := asInt(c)
		if !ok {
			return nil, errorf("replace() needs an integer count")
		}
		limit = n
	}
	var b textBuilder
	at := 0
	for from.s != "" || at < len(t.s) || b.len() == 0 {
		i := strings.Index(t.s[at:], from.s)
		if i < 0 || limit == 0 {
			break
		}
		limit--
		b.add(t.slice(at, at+i))
		put := to
		if end := at + i + len(from.s); !t.trustedRange(at+i, max(end, at+i+1)) {
			put = foreign(to.s)
		}
		b.add(put)
		at += i + len(from.s)
		if from.s == "" { // Python puts the new text between all characters
			if at >= len(t.s) {
				break
			}
			n := runeLen(t.s[at:])
			b.add(t.slice(at, at+n))
			if at += n; at == len(t.s) && limit != 0 {
				b.add(foreign(to.s))
			}
		}
		if err := in.step(1); err != nil {
			return nil, err
		}
		if b.len() > in.maxText {
			return nil, in.grow(b.len())
		}
	}
	b.add(t.slice(at, len(t.s)))
	out := b.text()
	if err := in.touch(t.weight()); err != nil {
		return nil, err
	}
	return out, in.grow(out.weight())
}

// affixMethod is startswith or endswith; a tuple asks for any of its strings.
func affixMethod(has func(s, affix string) bool) func(*interp, value, []value) (value, error) {
	return func(in *interp, x value, p []value) (value, error) {
		options := []value{p[0]}
		if l, ok := p[0].(*list); ok && l.tuple {
			options = l.items
		}
		for _, o := range options {
			affix, ok := o.(text)
			if !ok {
				return nil, errorf("startswith() and endswith() need a string or a tuple of strings")
			}
			if err := in.touch(len(affix.s)); err != nil {
				return nil, err
			}
			if err := in.step(1); err != nil {
				return nil, err
			}
			if has(x.(text).s, affix.s) {
				return true, nil
			}
		}
		return false, nil
	}
}

// findMethod is find, rfind, index and rindex, counting runes as Python does.
func findMethod(find func(s, sub string) int, must bool) func(*interp, value, []value) (value, error) {
	return func(in *interp, x value, p []value) (value, error) {
		t, sub, err := in.textAnd(x, p[0], "find")
		if err != nil {
			return nil, err
		}
		i := find(t.s, sub.s)
		if i < 0 {
			if must {
				return nil, errorf("substring not found")
			}
			return int64(-1), nil
		}
		return int64(utf8.RuneCountInString(t.s[:i])), nil
	}
}

func countMethod(in *interp, x value, p []value) (value, error) {
	t, sub, err := in.textAnd(x, p[0], "count")
	return int64(strings.Count(t.s, sub.s)), err
}

// classMethod is true for a non-empty string whose runes are all of a class.
func classMethod(class func(rune) bool) func(*interp, value, []value) (value, error) {
	return func(in *interp, x value, _ []value) (value, error) {
		s := x.(text).s
		ok := s != "" && strings.IndexFunc(s, func(r rune) bool { return !class(r) }) < 0
		return ok, in.touch(len(s))
	}
}
