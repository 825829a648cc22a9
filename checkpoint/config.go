package checkpoint

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Config is a model's configuration: GGUF metadata, or config.json and its kin. A key is a path with dots
// ("rope_scaling.factor", "llama.block_count"); a JSON null counts as absent.
type Config struct {
	origin string         // file, for errors
	values map[string]any // GGUF: flat; JSON: nested maps
}

// Bounds of JSON configurations. A shard index has one value a tensor.
const (
	maxConfigDepth  = 32
	maxConfigValues = maxTensors + 1000
)

// ParseConfig reads a JSON object. The name stands in errors.
func ParseConfig(name string, data []byte) (Config, error) {
	in := newJSONReader(bytes.NewReader(data), maxConfigDepth, maxConfigValues)
	value, err := in.value(0)
	if err == nil {
		err = in.end()
	}
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}
	object, ok := value.(map[string]any)
	if !ok {
		return Config{}, fmt.Errorf("%s: the top level is not an object", name)
	}
	return Config{name, object}, nil
}

// find returns the value at a path of keys, each of which may itself contain dots.
func find(values map[string]any, key string) (any, bool) {
	if v, ok := values[key]; ok {
		return v, true
	}
	for i, r := range key {
		if r != '.' {
			continue
		}
		if sub, ok := values[key[:i]].(map[string]any); ok {
			if v, ok := find(sub, key[i+1:]); ok {
				return v, true
			}
		}
	}
	return nil, false
}

// Value returns what is stored at key: a scalar, a typed slice, or map[string]any. It is not to be modified.
func (c Config) Value(key string) (any, bool) { return find(c.values, key) }

// Has reports whether key is present.
func (c Config) Has(key string) bool {
	_, ok := find(c.values, key)
	return ok
}

// Keys returns the top-level keys, sorted: all keys of GGUF metadata, the outermost ones of JSON.
func (c Config) Keys() []string { return slices.Sorted(maps.Keys(c.values)) }

// Sub returns the configuration below key: the nested object, or all keys that begin with key and a dot, without that
// prefix. It is empty where there is none.
func (c Config) Sub(key string) Config {
	v, _ := find(c.values, key)
	values, ok := v.(map[string]any)
	if !ok {
		values = map[string]any{}
		for k, v := range c.values {
			if rest, ok := strings.CutPrefix(k, key+"."); ok {
				values[rest] = v
			}
		}
	}
	return Config{c.origin + ": " + key, values}
}

// get returns the value at key converted by convert. A value that does not convert is an error naming file and key.
func get[T any](c Config, key string, convert func(any) (T, error)) (T, bool, error) {
	var zero T
	v, ok := find(c.values, key)
	if !ok {
		return zero, false, nil
	}
	t, err := convert(v)
	if err != nil {
		return zero, true, fmt.Errorf("%s: %s: %w", c.origin, key, err)
	}
	return t, true, nil
}

// Int returns an integer, or a float without fraction (1e6).
func (c Config) Int(key string) (int, bool, error) { return get(c, key, toInt) }

// Float returns a number of any kind.
func (c Config) Float(key string) (float64, bool, error) { return get(c, key, toFloat) }

// Bool returns a truth value.
func (c Config) Bool(key string) (bool, bool, error) { return get(c, key, to[bool]) }

// String returns a string.
func (c Config) String(key string) (string, bool, error) { return get(c, key, to[string]) }

// Ints returns an array of integers; a single integer counts as an array of one.
func (c Config) Ints(key string) ([]int, bool, error) { return get(c, key, toInts) }

// Floats returns an array of numbers; a single number counts as an array of one.
func (c Config) Floats(key string) ([]float64, bool, error) { return get(c, key, toFloats) }

// Bools returns an array of truth values; a single one counts as an array of one.
func (c Config) Bools(key string) ([]bool, bool, error) { return get(c, key, toList[bool]) }

// Strings returns an array of strings; a single string counts as an array of one. It shares memory with the Config.
func (c Config) Strings(key string) ([]string, bool, error) { return get(c, key, toList[string]) }

// mismatch says what was found where something else was wanted.
func mismatch(v any, want string) error {
	switch v := v.(type) {
	case string, bool:
		return fmt.Errorf("%.40q is no %s", fmt.Sprint(v), want)
	case map[string]any:
		return fmt.Errorf("an object is no %s", want)
	case int, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float32, float64:
		return fmt.Errorf("%v is no %s", v, want)
	}
	return fmt.Errorf("an array (%T) is no %s", v, want)
}

func to[T any](v any) (T, error) {
	t, ok := v.(T)
	if !ok {
		return t, mismatch(v, fmt.Sprintf("%T", t))
	}
	return t, nil
}

func toInt(v any) (int, error) {
	switch v := v.(type) {
	case int:
		return v, nil
	case int8:
		return int(v), nil
	case int16:
		return int(v), nil
	case int32:
		return int(v), nil
	case int64:
		return int(v), nil
	case uint8:
		return int(v), nil
	case uint16:
		return int(v), nil
	case uint32:
		return int(v), nil
	case uint64:
		if v <= math.MaxInt {
			return int(v), nil
		}
	case float32:
		return toInt(float64(v))
	case float64:
		if v == math.Trunc(v) && math.Abs(v) <= 1<<53 {
			return int(v), nil
		}
	}
	return 0, mismatch(v, "integer")
}

func toFloat(v any) (float64, error) {
	switch v := v.(type) {
	case float32:
		return float64(v), nil
	case float64:
		return v, nil
	case uint64:
		return float64(v), nil
	}
	i, err := toInt(v)
	if err != nil {
		return 0, mismatch(v, "number")
	}
	return float64(i), nil
}

func toInts(v any) ([]int, error) {
	if list, ok := v.([]int); ok {
		return slices.Clone(list), nil
	}
	return convertAll(v, toInt)
}

func toFloats(v any) ([]float64, error) { return convertAll(v, toFloat) }

func toList[T any](v any) ([]T, error) {
	if list, ok := v.([]T); ok {
		return list, nil
	}
	return convertAll(v, to[T])
}

// convertAll converts each element of a slice, or a scalar as a slice of one.
func convertAll[T any](v any, convert func(any) (T, error)) ([]T, error) {
	switch v := v.(type) {
	case []int:
		return convertEach(v, convert)
	case []int8:
		return convertEach(v, convert)
	case []int16:
		return convertEach(v, convert)
	case []int32:
		return convertEach(v, convert)
	case []int64:
		return convertEach(v, convert)
	case []uint8:
		return convertEach(v, convert)
	case []uint16:
		return convertEach(v, convert)
	case []uint32:
		return convertEach(v, convert)
	case []uint64:
		return convertEach(v, convert)
	case []float32:
		return convertEach(v, convert)
	case []float64:
		return convertEach(v, convert)
	case []bool:
		return convertEach(v, convert)
	case []string:
		return convertEach(v, convert)
	case []any:
		return convertEach(v, convert)
	}
	return convertEach([]any{v}, convert)
}

func convertEach[T, E any](list []E, convert func(any) (T, error)) ([]T, error) {
	out := make([]T, len(list))
	for i, e := range list {
		t, err := convert(e)
		if err != nil {
			if len(list) > 1 {
				err = fmt.Errorf("element %d: %w", i, err)
			}
			return nil, err
		}
		out[i] = t
	}
	return out, nil
}
