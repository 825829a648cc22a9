package chat

import (
	"slices"
	"sort"
	"strconv"
	"strings"
)

func firstFilter(in *interp, x value, _ []value) (value, error) {
	if t, ok := x.(text); ok {
		return in.char(t, 0)
	}
	items, err := in.items(x)
	if err != nil || len(items) == 0 {
		return undefined{"no first item, sequence was empty"}, err
	}
	return items[0], nil
}

func lastFilter(in *interp, x value, _ []value) (value, error) {
	if t, ok := x.(text); ok {
		return in.char(t, -1)
	}
	items, err := in.items(x)
	if err != nil || len(items) == 0 {
		return undefined{"no last item, sequence was empty"}, err
	}
	return items[len(items)-1], nil
}

func listFilter(in *interp, x value, _ []value) (value, error) {
	items, err := in.items(x)
	if err != nil {
		return nil, err
	}
	return in.newList(items)
}

func reverseFilter(in *interp, x value, _ []value) (value, error) {
	items, err := in.items(x)
	if err != nil {
		return nil, err
	}
	items = slices.Clone(items)
	slices.Reverse(items)
	if _, ok := x.(text); ok {
		return in.join(texts(items)...)
	}
	return in.newList(items)
}

func texts(items []value) []text {
	out := make([]text, len(items))
	for i, v := range items {
		out[i] = v.(text)
	}
	return out
}

func itemsFilter(in *interp, x value, _ []value) (value, error) {
	switch d := x.(type) {
	case undefined:
		return &list{}, nil
	case *dict:
		if err := in.elements(2 * len(d.keys)); err != nil {
			return nil, err
		}
		return &list{items: d.pairs()}, nil
	}
	return nil, errorf("can only get item pairs from a mapping, not %s", typeName(x))
}

func joinFilter(in *interp, x value, p []value) (value, error) {
	items, err := in.items(x)
	if err != nil {
		return nil, err
	}
	var sep text
	if p[0] != nil {
		if sep, err = in.toText(p[0]); err != nil {
			return nil, err
		}
	}
	if err := in.elements(len(items)); err != nil {
		return nil, err
	}
	parts := make([]text, 0, 2*len(items))
	for i, item := range items {
		if i > 0 {
			parts = append(parts, sep)
		}
		if item, err = in.path(item, p[1], nil); err != nil {
			return nil, err
		}
		t, err := in.toText(item)
		if err != nil {
			return nil, err
		}
		parts = append(parts, t)
	}
	return in.join(parts...)
}

// path follows an attribute such as "function.name"; nil is x itself. A missing
// part is replaced by def unless that is nil.
func (in *interp) path(x, attribute, def value) (value, error) {
	switch a := attribute.(type) {
	case nil, none:
		return x, nil
	case int64:
		return in.item(x, a)
	case text:
		for _, part := range strings.Split(a.s, ".") {
			var key value = text{s: part}
			if n, err := strconv.ParseInt(part, 10, 64); err == nil {
				key = n
			}
			var err error
			if x, err = in.item(x, key); err != nil {
				return nil, err
			}
			if def != nil && is[undefined](x) {
				x = def
			}
			if err := in.step(1); err != nil {
				return nil, err
			}
		}
		return x, nil
	}
	return nil, errorf("attribute must be a string or an integer, not %s", typeName(attribute))
}

func (in *interp) mapFilter(x value, a args) (value, error) {
	items, err := in.items(x)
	if err != nil {
		return nil, err
	}
	var each func(v value) (value, error)
	if len(a.pos) == 0 {
		p, err := a.bind("map", []string{"attribute", "default"})
		if err != nil {
			return nil, err
		}
		if p[0] == nil {
			return nil, errorf("map needs a filter or attribute=")
		}
		each = func(v value) (value, error) { return in.path(v, p[0], p[1]) }
	} else {
		name, ok := a.pos[0].(text)
		if !ok {
			return nil, errorf("map: the filter's name must be a string")
		}
		rest := args{a.pos[1:], a.keys, a.vals}
		each = func(v value) (value, error) {
			return in.nested(func() (value, error) { return in.filter(name.s, v, rest) })
		}
	}
	out := make([]value, len(items))
	for i, item := range items {
		if out[i], err = each(item); err != nil {
			return nil, err
		}
	}
	return in.newList(out)
}

// nested runs a filter called by a filter: map('map', 'map', …) recurses.
func (in *interp) nested(f func() (value, error)) (value, error) {
	if err := in.frame(); err != nil {
		return nil, err
	}
	v, err := f()
	in.frames--
	return v, err
}

// selectFilter is select, reject, selectattr and rejectattr.
func (in *interp) selectFilter(x value, a args, keep, byAttr bool) (value, error) {
	items, err := in.items(x)
	if err != nil {
		return nil, err
	}
	pos := a.pos
	var attribute value
	if byAttr {
		if len(pos) == 0 {
			return nil, errorf("selectattr and rejectattr need an attribute")
		}
		attribute, pos = pos[0], pos[1:]
	}
	passes := func(v value) (value, error) { return truthy(v), nil }
	if len(pos) > 0 {
		name, ok := pos[0].(text)
		if !ok {
			return nil, errorf("the test's name must be a string")
		}
		passes = func(v value) (value, error) { return in.test(name.s, v, pos[1:]) }
	}
	var out []value
	for _, item := range items {
		v, err := in.path(item, attribute, nil)
		if err != nil {
			return nil, err
		}
		ok, err := passes(v)
		if err != nil {
			return nil, err
		}
		if truthy(ok) == keep {
			out = append(out, item)
		}
		if err := in.step(1); err != nil {
			return nil, err
		}
	}
	return in.newList(out)
}

// sortKey is what jinja2 compares: the attribute, in lower case unless asked.
func (in *interp) sortKey(x, attribute, caseSensitive value) (value, error) {
	v, err := in.path(x, attribute, nil)
	if err != nil {
		return nil, err
	}
	if t, ok := v.(text); ok && (caseSensitive == nil || !truthy(caseSensitive)) {
		return foreign(strings.ToLower(t.s)), in.touch(len(t.s))
	}
	return v, nil
}

// sortBy sorts items stably by keys, reversed on request.
func (in *interp) sortBy(items, keys []value, reverse bool) (value, error) {
	var failed error
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(i, j int) bool {
		if failed != nil {
			return false
		}
		a, b := keys[order[i]], keys[order[j]]
		if reverse {
			a, b = b, a
		}
		c, err := in.order("<", a, b, 0)
		failed = err
		return c < 0
	})
	if failed != nil {
		return nil, failed
	}
	out := make([]value, len(items))
	for i, at := range order {
		out[i] = items[at]
	}
	return in.newList(out)
}

func sortFilter(in *interp, x value, p []value) (value, error) {
	items, err := in.items(x)
	if err != nil {
		return nil, err
	}
	keys := make([]value, len(items))
	for i, item := range items {
		if keys[i], err = in.sortKey(item, p[2], p[1]); err != nil {
			return nil, err
		}
	}
	return in.sortBy(items, keys, p[0] != nil && truthy(p[0]))
}

func dictsortFilter(in *interp, x value, p []value) (value, error) {
	d, ok := x.(*dict)
	if !ok {
		return nil, errorf("dictsort needs a mapping, not %s", typeName(x))
	}
	column := int64(0)
	if by, ok := p[1].(text); ok && by.s == "value" {
		column = 1
	}
	pairs := d.pairs()
	keys := make([]value, len(pairs))
	for i, pair := range pairs {
		var err error
		if keys[i], err = in.sortKey(pair, column, p[0]); err != nil {
			return nil, err
		}
	}
	return in.sortBy(pairs, keys, p[2] != nil && truthy(p[2]))
}

// extreme is min (sign -1) or max (sign 1).
func extreme(sign int) func(*interp, value, []value) (value, error) {
	return func(in *interp, x value, p []value) (value, error) {
		items, err := in.items(x)
		if err != nil || len(items) == 0 {
			return undefined{"no aggregated item, sequence was empty"}, err
		}
		var best, bestKey value
		for _, item := range items {
			key, err := in.sortKey(item, p[1], p[0])
			if err != nil {
				return nil, err
			}
			if bestKey != nil {
				c, err := in.order("<", key, bestKey, 0)
				if err != nil {
					return nil, err
				}
				if c != sign {
					continue
				}
			}
			best, bestKey = item, key
		}
		return best, nil
	}
}

func uniqueFilter(in *interp, x value, p []value) (value, error) {
	items, err := in.items(x)
	if err != nil {
		return nil, err
	}
	seen := newDict()
	var out []value
	for _, item := range items {
		key, err := in.sortKey(item, p[1], p[0])
		if err != nil {
			return nil, err
		}
		if _, ok := seen.get(key); ok {
			continue
		}
		if !seen.set(key, none{}) {
			return nil, errorf("unhashable type: '%s'", typeName(key))
		}
		out = append(out, item)
	}
	return in.newList(out)
}

func sumFilter(in *interp, x value, p []value) (value, error) {
	items, err := in.items(x)
	if err != nil {
		return nil, err
	}
	var total value = int64(0)
	if p[1] != nil {
		total = p[1]
	}
	for _, item := range items {
		if item, err = in.path(item, p[0], nil); err != nil {
			return nil, err
		}
		if total, err = in.arith("+", total, item); err != nil {
			return nil, err
		}
	}
	return total, nil
}
