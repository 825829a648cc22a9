package checkpoint

import (
	"fmt"
	"slices"
)

// Reader takes values out of a Config and keeps the first error, so that a model can list what it needs and ask once:
//
//	r := config.Reader()
//	layers := r.Int("num_hidden_layers")
//	theta := r.FloatOr(r.First("rope_theta", "rope_parameters.rope_theta"), 10000)
//	if err := r.Err(); err != nil { … }
//
// Int, Float, Bool, String and their plurals record an error where the key is absent; the Or forms return the default.
// A value of the wrong type is an error in both.
type Reader struct {
	config Config
	err    *error // shared with Readers made by Sub
}

// Reader returns a Reader of c.
func (c Config) Reader() *Reader { return &Reader{c, new(error)} }

// Err returns the first error met.
func (r *Reader) Err() error { return *r.err }

// Fail records an error of the caller's own, such as a value out of range, unless there is one already.
func (r *Reader) Fail(key, format string, args ...any) {
	if *r.err == nil {
		*r.err = fmt.Errorf("%s: %s: %w", r.config.origin, key, fmt.Errorf(format, args...))
	}
}

// Has reports whether key is present.
func (r *Reader) Has(key string) bool { return r.config.Has(key) }

// First returns the first of several spellings that is present, else the first of them.
func (r *Reader) First(keys ...string) string {
	for _, key := range keys {
		if r.config.Has(key) {
			return key
		}
	}
	return keys[0]
}

// Sub returns a Reader of the configuration below key. Errors of both are one.
func (r *Reader) Sub(key string) *Reader { return &Reader{r.config.Sub(key), r.err} }

func need[T any](r *Reader, key string, get func(string) (T, bool, error)) T {
	v, ok, err := get(key)
	if err == nil && !ok {
		err = fmt.Errorf("%s: %s is missing", r.config.origin, key)
	}
	if err != nil && *r.err == nil {
		*r.err = err
	}
	return v
}

func orElse[T any](r *Reader, key string, otherwise T, get func(string) (T, bool, error)) T {
	if !r.config.Has(key) {
		return otherwise
	}
	return need(r, key, get)
}

// Int returns an integer that must be present.
func (r *Reader) Int(key string) int { return need(r, key, r.config.Int) }

// IntOr returns an integer, or the default.
func (r *Reader) IntOr(key string, otherwise int) int { return orElse(r, key, otherwise, r.config.Int) }

// Float returns a number that must be present.
func (r *Reader) Float(key string) float64 { return need(r, key, r.config.Float) }

// FloatOr returns a number, or the default.
func (r *Reader) FloatOr(key string, otherwise float64) float64 {
	return orElse(r, key, otherwise, r.config.Float)
}

// Bool returns a truth value that must be present.
func (r *Reader) Bool(key string) bool { return need(r, key, r.config.Bool) }

// BoolOr returns a truth value, or the default.
func (r *Reader) BoolOr(key string, otherwise bool) bool {
	return orElse(r, key, otherwise, r.config.Bool)
}

// String returns a string that must be present.
func (r *Reader) String(key string) string { return need(r, key, r.config.String) }

// StringOr returns a string, or the default.
func (r *Reader) StringOr(key string, otherwise string) string {
	return orElse(r, key, otherwise, r.config.String)
}

// Ints returns integers, one or an array, that must be present.
func (r *Reader) Ints(key string) []int { return need(r, key, r.config.Ints) }

// IntsOr returns integers, one or an array, or the default.
func (r *Reader) IntsOr(key string, otherwise []int) []int {
	return orElse(r, key, otherwise, r.config.Ints)
}

// FloatsOr returns numbers, one or an array, or the default.
func (r *Reader) FloatsOr(key string, otherwise []float64) []float64 {
	return orElse(r, key, otherwise, r.config.Floats)
}

// BoolsOr returns truth values, one or an array, or the default.
func (r *Reader) BoolsOr(key string, otherwise []bool) []bool {
	return orElse(r, key, otherwise, r.config.Bools)
}

// Strings returns strings, one or an array, that must be present.
func (r *Reader) Strings(key string) []string { return need(r, key, r.config.Strings) }

// StringsOr returns strings, one or an array, or the default.
func (r *Reader) StringsOr(key string, otherwise []string) []string {
	return orElse(r, key, otherwise, r.config.Strings)
}

// maxLayers bounds PerLayer, so that a count from a hostile file does not become memory.
const maxLayers = 1 << 16

// PerLayer returns n integers: the array at key, which must have n elements, or its single value n times.
func (r *Reader) PerLayer(key string, n int) []int {
	values := r.Ints(key)
	if *r.err != nil {
		return nil
	}
	if _, scalar, err := r.config.Int(key); scalar && err == nil && n >= 0 && n <= maxLayers {
		values = slices.Repeat(values, n)
	}
	if len(values) != n {
		r.Fail(key, "%d values for %d layers", len(values), n)
		return nil
	}
	return values
}
