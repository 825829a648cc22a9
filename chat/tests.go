package chat

import "strings"

// test evaluates "x is name(args)".
func (in *interp) test(name string, x value, p []value) (value, error) {
	if op, ok := comparisonTests[name]; ok {
		if len(p) != 1 {
			return nil, errorf("test '%s' needs one argument", name)
		}
		return in.compare(op, x, p[0])
	}
	if f, ok := typeTests[name]; ok {
		if len(p) != 0 {
			return nil, errorf("test '%s' takes no argument", name)
		}
		return f(x), nil
	}
	switch name {
	case "odd", "even", "divisibleby":
		return in.divisible(name, x, p)
	case "filter", "test":
		t, ok := x.(text)
		if !ok {
			return false, nil
		}
		_, isFilter := filters[t.s]
		return isFilter == (name == "filter"), nil
	}
	return nil, errorf("no test named '%s'", name)
}

func (in *interp) divisible(name string, x value, p []value) (value, error) {
	by, want := value(int64(2)), int64(0)
	switch {
	case name == "odd":
		want = 1
	case name == "divisibleby" && len(p) == 1:
		by = p[0]
	case name == "divisibleby":
		return nil, errorf("test 'divisibleby' needs one argument")
	}
	if _, ok := x.(text); ok {
		return nil, operandError("%", x, by)
	}
	r, err := in.arith("%", x, by)
	if err != nil {
		return nil, err
	}
	return in.equal(r, want, 0)
}

var comparisonTests = map[string]string{
	"==": "==", "eq": "==", "equalto": "==", "sameas": "==",
	"!=": "!=", "ne": "!=",
	"<": "<", "lt": "<", "lessthan": "<", "<=": "<=", "le": "<=",
	">": ">", "gt": ">", "greaterthan": ">", ">=": ">=", "ge": ">=",
	"in": "in",
}

var typeTests = map[string]func(value) bool{
	"defined":   func(v value) bool { _, missing := v.(undefined); return !missing },
	"undefined": is[undefined],
	"none":      is[none],
	"boolean":   is[bool],
	"true":      func(v value) bool { return v == true },
	"false":     func(v value) bool { return v == false },
	"string":    is[text],
	"mapping":   is[*dict],
	"float":     is[float64],
	"integer":   func(v value) bool { _, big := v.(bigInt); return big || is[int64](v) },
	"number":    func(v value) bool { _, ok := asFloat(v); return ok || is[bigInt](v) },
	"sequence": func(v value) bool {
		return is[text](v) || is[*list](v) || is[*dict](v)
	},
	"iterable": func(v value) bool {
		return is[text](v) || is[*list](v) || is[*dict](v) || is[undefined](v) || is[*loop](v)
	},
	"callable": func(v value) bool { return is[*function](v) || is[*macro](v) || is[undefined](v) },
	"escaped":  func(value) bool { return false },
	"lower":    func(v value) bool { t, ok := v.(text); return ok && isLower(t.s) },
	"upper":    func(v value) bool { t, ok := v.(text); return ok && isUpper(t.s) },
}

func is[T value](v value) bool { _, ok := v.(T); return ok }

// isLower and isUpper: at least one letter with case, none of the other case.
func isLower(s string) bool { return s == strings.ToLower(s) && s != strings.ToUpper(s) }
func isUpper(s string) bool { return s == strings.ToUpper(s) && s != strings.ToLower(s) }
