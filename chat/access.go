package chat

import "unicode/utf8"

func runeLen(s string) int {
	_, n := utf8.DecodeRuneInString(s)
	return n
}

// attr is x.name: methods and attributes win over items, as in jinja2.
func (in *interp) attr(x value, name string) (value, error) {
	if u, ok := x.(undefined); ok {
		return nil, errorf("%s", u.what)
	}
	if v, ok, err := builtinAttr(x, name); ok || err != nil {
		return v, err
	}
	if d, ok := x.(*dict); ok {
		if v, ok := d.get(text{s: name}); ok {
			return v, nil
		}
	}
	return missing(x, name), nil
}

func missing(x value, name string) undefined {
	return undefined{"'" + typeName(x) + " object' has no attribute '" + name + "'"}
}

// builtinAttr finds what Python would find by getattr.
func builtinAttr(x value, name string) (value, bool, error) {
	switch x := x.(type) {
	case *namespace:
		v, ok := x.vars[name]
		return v, ok, nil
	case *loop:
		v, ok := x.attr(name)
		return v, ok, nil
	case *macro:
		return literal(x.def.name), name == "name", nil
	}
	return method(x, name)
}

// item is x[index]: items win over attributes.
func (in *interp) item(x, index value) (value, error) {
	switch c := x.(type) {
	case undefined:
		return nil, errorf("%s", c.what)
	case *dict:
		if v, ok := c.get(index); ok {
			return v, nil
		}
	case *list:
		if i, ok := asInt(index); ok {
			if i < 0 {
				i += int64(len(c.items))
			}
			if i >= 0 && i < int64(len(c.items)) {
				return c.items[i], nil
			}
			return undefined{"list index is out of range"}, nil
		}
	case text:
		if i, ok := asInt(index); ok {
			return in.char(c, i)
		}
	}
	if name, ok := index.(text); ok {
		if v, ok, err := builtinAttr(x, name.s); ok || err != nil {
			return v, err
		}
		return missing(x, name.s), nil
	}
	return undefined{"'" + typeName(x) + " object' has no such item"}, nil
}

// char is the i-th rune of t, from the end if i is negative.
func (in *interp) char(t text, i int64) (value, error) {
	if err := in.touch(len(t.s)); err != nil {
		return nil, err
	}
	if i < 0 {
		i += int64(t.runes())
	}
	if i >= 0 {
		for at := 0; at < len(t.s); i-- {
			n := runeLen(t.s[at:])
			if i == 0 {
				return t.slice(at, at+n), nil
			}
			at += n
		}
	}
	return undefined{"string index is out of range"}, nil
}

// slice is x[start:stop:step].
func (in *interp) slice(x value, bounds [3]value) (value, error) {
	switch c := x.(type) {
	case undefined:
		return nil, errorf("%s", c.what)
	case *list:
		first, n, step, err := sliceRange(bounds, len(c.items))
		if err != nil {
			return nil, err
		}
		items := make([]value, 0, n)
		for i := range n {
			items = append(items, c.items[first+i*step])
		}
		return &list{items, c.tuple}, in.elements(n)
	case text:
		if err := in.touch(2 * c.weight()); err != nil {
			return nil, err
		}
		first, n, step, err := sliceRange(bounds, c.runes())
		if err != nil || n == 0 {
			return text{}, err
		}
		if step == 1 {
			from := byteOffset(c.s, first)
			return c.slice(from, from+byteOffset(c.s[from:], n)), nil
		}
		chars, err := in.items(c)
		if err != nil {
			return nil, err
		}
		parts := make([]text, n)
		for i := range n {
			parts[i] = chars[first+i*step].(text)
		}
		return in.join(parts...)
	}
	return nil, errorf("'%s' object cannot be sliced", typeName(x))
}

// byteOffset is where the n-th rune of s begins.
func byteOffset(s string, n int) int {
	at := 0
	for ; n > 0; n-- {
		at += runeLen(s[at:])
	}
	return at
}

// sliceRange resolves Python slice bounds over a sequence of the given length
// to the first index, the number of elements and the step.
func sliceRange(bounds [3]value, length int) (first, n, step int, err error) {
	step = 1
	var given [3]int
	for i, b := range bounds {
		if _, ok := b.(none); ok {
			continue
		}
		v, ok := asInt(b)
		if !ok {
			return 0, 0, 0, errorf("slice indices must be integers or None")
		}
		given[i] = int(min(max(v, -1<<31), 1<<31-1))
	}
	_, noStart := bounds[0].(none)
	_, noStop := bounds[1].(none)
	if _, ok := bounds[2].(none); !ok {
		step = given[2]
	}
	if step == 0 {
		return 0, 0, 0, errorf("slice step cannot be zero")
	}
	low, high := 0, length // where clamped bounds lie
	if step < 0 {
		low, high = -1, length-1
	}
	clamp := func(v int) int {
		if v < 0 {
			v += length
		}
		return min(max(v, low), high)
	}
	start, stop := clamp(given[0]), clamp(given[1])
	if noStart {
		start = low
		if step < 0 {
			start = high
		}
	}
	if noStop {
		stop = high
		if step < 0 {
			stop = low
		}
	}
	if step > 0 && start < stop {
		n = (stop-start-1)/step + 1
	} else if step < 0 && stop < start {
		n = (start-stop-1)/-step + 1
	}
	return start, n, step, nil
}
