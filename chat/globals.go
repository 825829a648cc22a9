package chat

import (
	"fmt"
	"strings"
	"time"
)

// globals are the functions a template may call, besides methods.
var globals = map[string]value{
	"range":           &function{"range", rangeGlobal},
	"namespace":       &function{"namespace", namespaceGlobal},
	"dict":            &function{"dict", dictGlobal},
	"raise_exception": &function{"raise_exception", raiseGlobal},
	"strftime_now":    &function{"strftime_now", strftimeGlobal},
}

// rangeGlobal is range(stop) or range(start, stop[, step]), capped.
func rangeGlobal(in *interp, a args) (value, error) {
	if len(a.pos) < 1 || len(a.pos) > 3 || len(a.keys) > 0 {
		return nil, errorf("range() takes 1 to 3 integers")
	}
	v := [3]int64{0, 0, 1}
	for i, p := range a.pos {
		n, ok := asInt(p)
		if !ok {
			return nil, errorf("range() takes integers, not %s", typeName(p))
		}
		if n > 1<<53 || n < -1<<53 {
			return nil, errOverflow
		}
		v[i] = n
	}
	start, stop, step := v[0], v[1], v[2]
	if len(a.pos) == 1 {
		start, stop = 0, v[0]
	}
	n := int64(0)
	switch {
	case step == 0:
		return nil, errorf("range() step must not be zero")
	case step > 0 && start < stop:
		n = (stop-start-1)/step + 1
	case step < 0 && stop < start:
		n = (start-stop-1)/-step + 1
	}
	if n > maxRange {
		return nil, fmt.Errorf("%w: range() of %d elements, at most %d", ErrBudget, n, maxRange)
	}
	if err := in.elements(int(n)); err != nil {
		return nil, err
	}
	items := make([]value, n)
	for i := range items {
		items[i] = start + int64(i)*step
	}
	return &list{items: items}, nil
}

func namespaceGlobal(in *interp, a args) (value, error) {
	ns := &namespace{map[string]value{}}
	d, err := dictGlobal(in, a)
	if err != nil {
		return nil, err
	}
	for i, k := range d.(*dict).keys {
		name, ok := k.(text)
		if !ok {
			return nil, errorf("namespace() needs string keys")
		}
		ns.vars[name.s] = d.(*dict).vals[i]
	}
	return ns, nil
}

// dictGlobal is dict(mapping, key=value, …).
func dictGlobal(in *interp, a args) (value, error) {
	out := newDict()
	for _, p := range a.pos {
		d, ok := p.(*dict)
		if !ok || len(a.pos) > 1 {
			return nil, errorf("dict() and namespace() take one mapping and keyword arguments")
		}
		for i, k := range d.keys {
			out.set(k, d.vals[i])
		}
	}
	for i, k := range a.keys {
		out.put(k, a.vals[i])
	}
	return out, in.elements(len(out.keys))
}

func raiseGlobal(in *interp, a args) (value, error) {
	p, err := a.bind("raise_exception", []string{"message"})
	if err != nil {
		return nil, err
	}
	if p[0] == nil {
		return nil, errorf("raise_exception() needs a message")
	}
	t, err := in.toText(p[0])
	if err != nil {
		return nil, err
	}
	return nil, raised{t.s}
}

func strftimeGlobal(in *interp, a args) (value, error) {
	p, err := a.bind("strftime_now", []string{"format"})
	if err != nil {
		return nil, err
	}
	f, ok := p[0].(text)
	if !ok {
		return nil, errorf("strftime_now() needs a format string")
	}
	s, err := strftime(in.now(), f.s)
	if err != nil {
		return nil, err
	}
	return f.with(s), in.grow(len(s))
}

var timeLayouts = map[byte]string{'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'e': "_2", 'B': "January", 'b': "Jan", 'h': "Jan",
	'A': "Monday", 'a': "Mon", 'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'j': "002", 'Z': "MST", 'z': "-0700",
	'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06", 'R': "15:04", 'n': "\n", 't': "\t", '%': "%"}

// timeUnpadded are the directives after "%-".
var timeUnpadded = map[byte]string{'d': "2", 'm': "1", 'I': "3", 'M': "4", 'S': "5"}

// strftime formats a time as C does in the C locale.
func strftime(t time.Time, format string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		table := timeLayouts
		if format[i] == '-' && i+1 < len(format) {
			i++
			table = timeUnpadded
		}
		layout, ok := table[format[i]]
		if !ok {
			return "", errorf("strftime_now: '%%%c' is not supported", format[i])
		}
		b.WriteString(t.Format(layout))
	}
	return b.String(), nil
}
