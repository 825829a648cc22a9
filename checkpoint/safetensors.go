package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"sestina/internal/checked"
	"sestina/tensor"
)

// safetensors: a u64 length, a JSON object of that length, then the data.
//
//	{"__metadata__": {…}, "name": {"dtype": "BF16", "shape": [out, in], "data_offsets": [begin, end]}, …}
//
// Offsets count from the end of the header. The format's own rules, enforced here: the header has at most 100 MB; each
// span is the size of dtype and shape; sorted by offset, the spans cover the data without hole or overlap.

const (
	maxSafetensorsHeader  = 100_000_000
	maxSafetensorsTensors = 1 << 20
	maxSafetensorsDims    = 8 // convolutions of vision towers have 5
)

// readSafetensors parses the header of a file of that size and returns its tensors in file order.
func readSafetensors(file io.ReaderAt, size uint64) ([]Info, error) {
	var prefix [8]byte
	if n, err := file.ReadAt(prefix[:], 0); n < 8 {
		return nil, fmt.Errorf("not a safetensors file: %d bytes: %w", size, err)
	}
	length := le.Uint64(prefix[:])
	if length > maxSafetensorsHeader || size < 8 || length > size-8 {
		return nil, fmt.Errorf("not a safetensors file: its header would take %d bytes of %d", length, size)
	}
	header := make([]byte, length)
	if _, err := file.ReadAt(header, 8); err != nil && err != io.EOF {
		return nil, err
	}
	tensors, err := parseSafetensors(header)
	if err != nil {
		return nil, err
	}
	return tensors, placeSafetensors(tensors, 8+length, size)
}

// parseSafetensors reads the members of the header one by one; Info.offset is still relative to the data.
func parseSafetensors(header []byte) ([]Info, error) {
	in := newJSONReader(bytes.NewReader(header), 8)
	var tensors []Info
	seen := map[string]bool{}
	err := in.members(func(name string) error {
		if seen[name] {
			return fmt.Errorf("tensor %q occurs twice", name)
		}
		seen[name] = true
		value, err := in.value(1)
		if err != nil || name == "__metadata__" {
			return err
		}
		if len(tensors) == maxSafetensorsTensors {
			return fmt.Errorf("more than %d tensors", maxSafetensorsTensors)
		}
		t, err := safetensorsInfo(name, value)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		tensors = append(tensors, t)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("safetensors header: %w", err)
	}
	if err := in.end(); err != nil {
		return nil, fmt.Errorf("safetensors header: %w", err)
	}
	return tensors, nil
}

func safetensorsInfo(name string, value any) (Info, error) {
	if name == "" {
		return Info{}, errors.New("the name is empty")
	}
	members, _ := value.(map[string]any)
	config := Config{origin: "entry", values: members}
	r := config.Reader()
	dtype, shape, span := r.String("dtype"), r.Ints("shape"), r.Ints("data_offsets")
	if err := r.Err(); err != nil {
		return Info{}, err
	}
	d, err := tensor.ParseDType(dtype)
	if err != nil {
		return Info{}, err
	}
	if d.Quantized() {
		return Info{}, fmt.Errorf("%v is no type of safetensors", d)
	}
	if len(shape) > maxSafetensorsDims || slices.ContainsFunc(shape, func(n int) bool { return n <= 0 }) {
		return Info{}, fmt.Errorf("shape %v", shape)
	}
	if len(span) != 2 || span[0] < 0 || span[1] < span[0] {
		return Info{}, fmt.Errorf("data_offsets %v", span)
	}
	t := Info{Name: name, DType: d, Shape: shape, offset: int64(span[0])}
	if t.Bytes, err = d.Bytes(t.Shape); err != nil {
		return Info{}, err
	}
	if uint64(span[1]-span[0]) != t.Bytes {
		return Info{}, fmt.Errorf("%v%v takes %d bytes but its data_offsets span %d", d, shape, t.Bytes, span[1]-span[0])
	}
	return t, nil
}

// placeSafetensors sorts the tensors by offset, checks that they cover the data exactly, and turns their offsets into
// offsets from the start of the file.
func placeSafetensors(tensors []Info, start, size uint64) error {
	slices.SortStableFunc(tensors, func(a, b Info) int { return cmp.Compare(a.offset, b.offset) })
	next := uint64(0)
	for i := range tensors {
		t := &tensors[i]
		if uint64(t.offset) != next {
			return fmt.Errorf("tensor %q begins at %d of the data, expected %d: spans overlap or leave a hole",
				t.Name, t.offset, next)
		}
		end, err := checked.Add(next, t.Bytes)
		if err != nil || end > size-start {
			return fmt.Errorf("tensor %q ends at %d of %d bytes of data: the file is truncated; fetch it again",
				t.Name, end, size-start)
		}
		t.offset, next = int64(start+next), end
	}
	if next != size-start {
		return fmt.Errorf("the data has %d bytes, the tensors take %d", size-start, next)
	}
	return nil
}

// jsonReader reads JSON value by value with a bound on the depth; a member that occurs twice is an error.
type jsonReader struct {
	in       *json.Decoder
	maxDepth int
}

func newJSONReader(r io.Reader, maxDepth int) *jsonReader {
	in := json.NewDecoder(r)
	in.UseNumber()
	return &jsonReader{in, maxDepth}
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
			return fmt.Errorf("%q occurs twice", name)
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
