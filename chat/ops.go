package chat

import (
	"cmp"
	"math"
	"strings"
)

func operandError(op string, vs ...value) error {
	names := make([]string, len(vs))
	for i, v := range vs {
		if u, ok := v.(undefined); ok {
			return errorf("%s", u.what)
		}
		names[i] = "'" + typeName(v) + "'"
	}
	return errorf("unsupported operand types for %s: %s", op, strings.Join(names, " and "))
}

// arith computes one binary operator.
func (in *interp) arith(op string, a, b value) (value, error) {
	if x, ok := asInt(a); ok {
		if y, ok := asInt(b); ok {
			return intArith(op, x, y)
		}
	}
	if x, ok := asFloat(a); ok {
		if y, ok := asFloat(b); ok {
			return floatArith(op, x, y)
		}
	}
	switch op {
	case "+":
		return in.plus(a, b)
	case "*":
		return in.times(a, b)
	case "%":
		if t, ok := a.(text); ok {
			return in.format(t, b)
		}
	}
	return nil, operandError(op, a, b)
}

func (in *interp) plus(a, b value) (value, error) {
	switch x := a.(type) {
	case text:
		if y, ok := b.(text); ok {
			return in.join(x, y)
		}
	case *list:
		if y, ok := b.(*list); ok && x.tuple == y.tuple {
			if err := in.elements(len(x.items) + len(y.items)); err != nil {
				return nil, err
			}
			items := append(append(make([]value, 0, len(x.items)+len(y.items)), x.items...), y.items...)
			return &list{items, x.tuple}, nil
		}
	}
	return nil, operandError("+", a, b)
}

// times repeats a string or list.
func (in *interp) times(a, b value) (value, error) {
	n, ok := asInt(b)
	if !ok {
		a, b = b, a
		if n, ok = asInt(b); !ok {
			return nil, operandError("*", a, b)
		}
	}
	n = max(n, 0)
	switch x := a.(type) {
	case text:
		if x.s == "" || n == 0 {
			return text{}, nil
		}
		if n > int64(in.maxText) || n*int64(x.weight()) > int64(in.maxText) {
			return nil, in.grow(math.MaxInt)
		}
		parts := make([]text, n)
		for i := range parts {
			parts[i] = x
		}
		return in.join(parts...)
	case *list:
		if n > maxSteps || n*int64(len(x.items)) > maxSteps {
			return nil, in.step(maxSteps + 1)
		}
		if err := in.elements(int(n) * len(x.items)); err != nil {
			return nil, err
		}
		var items []value
		for range n {
			if len(x.items) == 0 {
				break
			}
			items = append(items, x.items...)
		}
		return &list{items, x.tuple}, nil
	}
	return nil, operandError("*", a, b)
}

var errOverflow = errorf("integer overflow: chat templates compute with 64 bits")
var errZero = errorf("division by zero")

func intArith(op string, a, b int64) (value, error) {
	switch op {
	case "+":
		if c := a + b; (c > a) == (b > 0) {
			return c, nil
		}
		return nil, errOverflow
	case "-":
		if c := a - b; (c < a) == (b > 0) {
			return c, nil
		}
		return nil, errOverflow
	case "*":
		return mulInt(a, b)
	case "/":
		if b == 0 {
			return nil, errZero
		}
		return float64(a) / float64(b), nil
	case "//", "%":
		if b == 0 {
			return nil, errZero
		}
		if b == -1 { // MinInt64 / -1 does not fit
			if op == "%" {
				return int64(0), nil
			}
			return intArith("-", 0, a)
		}
		q, r := a/b, a%b
		if r != 0 && (r < 0) != (b < 0) {
			q, r = q-1, r+b
		}
		if op == "//" {
			return q, nil
		}
		return r, nil
	}
	return intPower(a, b)
}

func mulInt(a, b int64) (value, error) {
	if a == 0 || b == 0 {
		return int64(0), nil
	}
	c := a * b
	if c/b != a || a == -1 && b == math.MinInt64 || b == -1 && a == math.MinInt64 {
		return nil, errOverflow
	}
	return c, nil
}

// intPower squares and multiplies, so at most 64 rounds.
func intPower(a, b int64) (value, error) {
	if b < 0 {
		return floatArith("**", float64(a), float64(b))
	}
	result := value(int64(1))
	base := value(a)
	for err := error(nil); b > 0; b >>= 1 {
		if b&1 == 1 {
			if result, err = mulInt(result.(int64), base.(int64)); err != nil {
				return nil, err
			}
		}
		if b > 1 {
			if base, err = mulInt(base.(int64), base.(int64)); err != nil {
				return nil, err
			}
		}
	}
	return result, nil
}

func floatArith(op string, a, b float64) (value, error) {
	switch op {
	case "+":
		return a + b, nil
	case "-":
		return a - b, nil
	case "*":
		return a * b, nil
	case "**":
		if a == 0 && b < 0 {
			return nil, errZero
		}
		if a < 0 && b != math.Trunc(b) {
			return nil, errorf("complex numbers are not supported")
		}
		return math.Pow(a, b), nil
	}
	if b == 0 {
		return nil, errZero
	}
	switch op {
	case "/":
		return a / b, nil
	case "//":
		return math.Floor(a / b), nil
	}
	r := math.Mod(a, b)
	if r != 0 && (r < 0) != (b < 0) {
		r += b
	}
	return r, nil
}

// compare evaluates one comparison operator.
func (in *interp) compare(op string, a, b value) (bool, error) {
	switch op {
	case "==":
		return in.equal(a, b, 0)
	case "!=":
		eq, err := in.equal(a, b, 0)
		return !eq, err
	case "in":
		return in.contains(b, a)
	case "not in":
		found, err := in.contains(b, a)
		return !found, err
	}
	c, err := in.order(op, a, b, 0)
	switch op {
	case "<":
		return c < 0, err
	case "<=":
		return c == -1 || c == 0, err
	case ">":
		return c == 1, err
	}
	return c == 1 || c == 0, err
}

// equal is Python's ==.
func (in *interp) equal(a, b value, depth int) (bool, error) {
	if depth > maxNesting {
		return false, nestingError(maxNesting)
	}
	if err := in.step(1); err != nil {
		return false, err
	}
	if x, ok := asFloat(a); ok {
		y, ok := asFloat(b)
		if i, isInt := asInt(a); isInt {
			if j, isInt := asInt(b); isInt {
				return i == j, nil
			}
		}
		return ok && x == y, nil
	}
	switch x := a.(type) {
	case text:
		y, ok := b.(text)
		if !ok || len(x.s) != len(y.s) {
			return false, nil
		}
		return x.s == y.s, in.touch(len(x.s))
	case none, bigInt:
		return a == b, nil
	case undefined:
		_, ok := b.(undefined)
		return ok, nil
	case *list:
		y, ok := b.(*list)
		if !ok || len(x.items) != len(y.items) || x.tuple != y.tuple {
			return false, nil
		}
		for i := range x.items {
			if eq, err := in.equal(x.items[i], y.items[i], depth+1); !eq || err != nil {
				return false, err
			}
		}
		return true, nil
	case *dict:
		y, ok := b.(*dict)
		if !ok || len(x.keys) != len(y.keys) {
			return false, nil
		}
		for i, k := range x.keys {
			v, ok := y.get(k)
			if !ok {
				return false, nil
			}
			if eq, err := in.equal(x.vals[i], v, depth+1); !eq || err != nil {
				return false, err
			}
		}
		return true, nil
	}
	return a == b, nil // pointers: namespaces, loops, functions
}

const unordered = 2 // order's answer about NaN: neither less, equal nor greater

// order compares two values of like type: -1, 0, 1 or unordered.
func (in *interp) order(op string, a, b value, depth int) (int, error) {
	if depth > maxNesting {
		return 0, nestingError(maxNesting)
	}
	if err := in.step(1); err != nil {
		return 0, err
	}
	if x, ok := asInt(a); ok {
		if y, ok := asInt(b); ok {
			return cmp.Compare(x, y), nil
		}
	}
	if x, ok := asFloat(a); ok {
		if y, ok := asFloat(b); ok {
			if x != x || y != y {
				return unordered, nil
			}
			return cmp.Compare(x, y), nil
		}
	}
	if x, ok := a.(text); ok {
		if y, ok := b.(text); ok {
			return strings.Compare(x.s, y.s), in.touch(min(len(x.s), len(y.s)))
		}
	}
	if x, ok := a.(*list); ok {
		if y, ok := b.(*list); ok && x.tuple == y.tuple {
			for i := range min(len(x.items), len(y.items)) {
				if eq, err := in.equal(x.items[i], y.items[i], depth+1); err != nil {
					return 0, err
				} else if !eq {
					return in.order(op, x.items[i], y.items[i], depth+1)
				}
			}
			return cmp.Compare(len(x.items), len(y.items)), nil
		}
	}
	return 0, operandError("'"+op+"'", a, b)
}

// contains is "item in box".
func (in *interp) contains(box, item value) (bool, error) {
	switch x := box.(type) {
	case text:
		t, ok := item.(text)
		if !ok {
			return false, errorf("'in <string>' requires a string as left operand, not %s", typeName(item))
		}
		return strings.Contains(x.s, t.s), in.touch(len(x.s))
	case *dict:
		if _, ok := hashKey(item); !ok {
			return false, errorf("unhashable type: '%s'", typeName(item))
		}
		_, ok := x.get(item)
		return ok, nil
	case *list:
		for _, v := range x.items {
			if eq, err := in.equal(item, v, 0); eq || err != nil {
				return eq, err
			}
		}
		return false, nil
	case undefined:
		return false, nil
	}
	return false, errorf("argument of type '%s' is not iterable", typeName(box))
}
