package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// jsonReader reads JSON from a stranger value by value. The depth is bounded, and so is the number of values: "[[],[]…"
// takes three bytes a value in the file and forty in memory. A member that occurs twice is an error.
type jsonReader struct {
	in       *json.Decoder
	maxDepth int
	budget   int // values that may still be read
}

func newJSONReader(r io.Reader, maxDepth, budget int) *jsonReader {
	in := json.NewDecoder(r)
	in.UseNumber()
	return &jsonReader{in, maxDepth, budget}
}

// members reads an object and calls member at each name; member reads the value.
func (r *jsonReader) members(member func(name string) error) error {
	open, err := r.in.Token()
	if err != nil {
		return noEOF(err)
	}
	if open != json.Delim('{') {
		return fmt.Errorf("begins with %v, not with an object", open)
	}
	return r.rest(member)
}

// rest reads the members of an object whose brace has been read.
func (r *jsonReader) rest(member func(name string) error) error {
	for r.in.More() {
		name, err := r.in.Token()
		if err != nil {
			return noEOF(err)
		}
		if err := member(name.(string)); err != nil {
			return err
		}
	}
	_, err := r.in.Token()
	return noEOF(err)
}

// value reads one value: nil, bool, string, int, float64, map[string]any without its nulls, or a slice (see list).
func (r *jsonReader) value(depth int) (any, error) {
	token, err := r.in.Token()
	if err != nil {
		return nil, noEOF(err)
	}
	if r.budget--; r.budget < 0 {
		return nil, errors.New("more values than allowed")
	}
	if _, nested := token.(json.Delim); nested && depth >= r.maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", r.maxDepth)
	}
	switch t := token.(type) {
	case json.Number:
		return number(t)
	case json.Delim:
		if t == '[' {
			return r.list(depth)
		}
		return r.object(depth)
	}
	return token, nil
}

func (r *jsonReader) object(depth int) (map[string]any, error) {
	object, seen := map[string]any{}, map[string]bool{}
	err := r.rest(func(name string) error {
		if seen[name] {
			return fmt.Errorf("%.80q occurs twice", name)
		}
		seen[name] = true
		value, err := r.value(depth + 1)
		if err == nil && value != nil {
			object[name] = value
		}
		return err
	})
	return object, err
}

// list reads an array whose bracket has been read. One of a single kind of element becomes []int, []float64 (also for
// integers and floats mixed), []string or []bool; any other, the empty one included, stays []any.
func (r *jsonReader) list(depth int) (any, error) {
	list := []any{}
	for r.in.More() {
		value, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	if _, err := r.in.Token(); err != nil {
		return nil, noEOF(err)
	}
	if ints, ok := all[int](list); ok {
		return ints, nil
	}
	if strings, ok := all[string](list); ok {
		return strings, nil
	}
	if bools, ok := all[bool](list); ok {
		return bools, nil
	}
	floats := make([]float64, len(list))
	for i, v := range list {
		f, err := toFloat(v)
		if err != nil || len(list) == 0 {
			return list, nil
		}
		floats[i] = f
	}
	return floats, nil
}

// all returns the elements as []T if there are some and each is a T.
func all[T any](list []any) ([]T, bool) {
	typed := make([]T, 0, len(list))
	for _, v := range list {
		t, ok := v.(T)
		if !ok {
			return nil, false
		}
		typed = append(typed, t)
	}
	return typed, len(list) > 0
}

// number returns an int where the text is one, else a float64.
func number(n json.Number) (any, error) {
	if len(n) > 64 {
		return nil, fmt.Errorf("a number of %d characters", len(n))
	}
	if i, err := n.Int64(); err == nil {
		return int(i), nil
	}
	return n.Float64()
}

// end checks that nothing but space follows.
func (r *jsonReader) end() error {
	if token, err := r.in.Token(); err != io.EOF {
		return fmt.Errorf("followed by %v", token)
	}
	return nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
