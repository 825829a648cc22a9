package chat

// value is one of: undefined, none, bool, int64, bigInt, float64, text, *list,
// *dict, *namespace, *function, *macro, *loop. The set is closed: a template
// can reach nothing else of the program.
type value any

type (
	undefined struct{ what string } // what names it in error messages
	none      struct{}
	bigInt    string // an integer of the conversation beyond 64 bits; printed, never computed with
)

// list is a Python list or tuple; immutable.
type list struct {
	items []value
	tuple bool
}

// dict keeps insertion order; immutable once built.
type dict struct {
	keys  []value
	vals  []value
	index map[any]int // by hashKey
}

func newDict() *dict { return &dict{index: map[any]int{}} }

// hashKey maps equal keys to one Go value: 1, 1.0 and True are one key.
func hashKey(v value) (any, bool) {
	switch v := v.(type) {
	case text:
		return v.s, true
	case bool:
		if v {
			return int64(1), true
		}
		return int64(0), true
	case float64:
		if float64(int64(v)) == v {
			return int64(v), true
		}
		return v, true
	case int64, none, bigInt:
		return v, true
	}
	return nil, false
}

func (d *dict) get(key value) (value, bool) {
	if h, ok := hashKey(key); ok {
		if i, ok := d.index[h]; ok {
			return d.vals[i], true
		}
	}
	return nil, false
}

// set adds or replaces an entry; it reports whether the key is hashable.
func (d *dict) set(key, val value) bool {
	h, ok := hashKey(key)
	if !ok {
		return false
	}
	if i, ok := d.index[h]; ok {
		d.vals[i] = val
		return true
	}
	d.index[h] = len(d.keys)
	d.keys, d.vals = append(d.keys, key), append(d.vals, val)
	return true
}

func (d *dict) put(key string, val value) { d.set(literal(key), val) }

func (d *dict) pairs() []value {
	out := make([]value, len(d.keys))
	for i := range d.keys {
		out[i] = &list{[]value{d.keys[i], d.vals[i]}, true}
	}
	return out
}

// namespace is the one mutable value.
type namespace struct{ vars map[string]value }

// function is a global or a bound method.
type function struct {
	name string
	call func(in *interp, a args) (value, error)
}

// macro remembers the scope it was defined in.
type macro struct {
	def   *macroStmt
	scope *scope
}

// loop is the variable of a for block.
type loop struct {
	items []value
	i     int
}

func (l *loop) attr(name string) (value, bool) {
	n := len(l.items)
	switch name {
	case "index":
		return int64(l.i + 1), true
	case "index0":
		return int64(l.i), true
	case "revindex":
		return int64(n - l.i), true
	case "revindex0":
		return int64(n - l.i - 1), true
	case "first":
		return l.i == 0, true
	case "last":
		return l.i == n-1, true
	case "length":
		return int64(n), true
	case "depth": // counts recursive loops, which we refuse
		return int64(1), true
	case "depth0":
		return int64(0), true
	case "previtem":
		if l.i > 0 {
			return l.items[l.i-1], true
		}
		return undefined{"there is no previous item"}, true
	case "nextitem":
		if l.i+1 < n {
			return l.items[l.i+1], true
		}
		return undefined{"there is no next item"}, true
	case "cycle":
		return &function{"cycle", l.cycle}, true
	}
	return nil, false
}

func (l *loop) cycle(in *interp, a args) (value, error) {
	if len(a.pos) == 0 {
		return nil, errorf("loop.cycle() needs items")
	}
	return a.pos[l.i%len(a.pos)], nil
}

// typeName is Python's name of a type, for error messages.
func typeName(v value) string {
	switch v := v.(type) {
	case undefined:
		return "Undefined"
	case none:
		return "NoneType"
	case bool:
		return "bool"
	case int64, bigInt:
		return "int"
	case float64:
		return "float"
	case text:
		return "str"
	case *list:
		if v.tuple {
			return "tuple"
		}
		return "list"
	case *dict:
		return "dict"
	case *namespace:
		return "Namespace"
	case *loop:
		return "LoopContext"
	case *macro:
		return "Macro"
	}
	return "function"
}

func truthy(v value) bool {
	switch v := v.(type) {
	case undefined, none:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case text:
		return v.s != ""
	case *list:
		return len(v.items) > 0
	case *dict:
		return len(v.keys) > 0
	}
	return true
}

// asInt reads an integer as Python does: booleans count as 0 and 1.
func asInt(v value) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

func asFloat(v value) (float64, bool) {
	if f, ok := v.(float64); ok {
		return f, true
	}
	n, ok := asInt(v)
	return float64(n), ok
}

// items lists what iterating over v yields.
func (in *interp) items(v value) ([]value, error) {
	switch v := v.(type) {
	case undefined:
		return nil, nil
	case *list:
		return v.items, in.step(len(v.items))
	case *dict:
		return v.keys, in.step(len(v.keys))
	case text:
		n := v.runes()
		if err := in.elements(n); err != nil {
			return nil, err
		}
		out := make([]value, 0, n)
		for i, j := 0, 0; i < len(v.s); i = j {
			j = i + runeLen(v.s[i:])
			out = append(out, v.slice(i, j))
		}
		return out, nil
	}
	return nil, errorf("'%s' object is not iterable", typeName(v))
}

// newList charges for and wraps items.
func (in *interp) newList(items []value) (value, error) {
	return &list{items: items}, in.elements(len(items))
}
