package server

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf8"
)

// Reading JSON from strangers. A body is checked once, as a whole: UTF-8, syntax,
// depth. From then on a value is a slice of the body, and readers walk it without
// building a tree: a request costs its bytes and what is kept of them. Numbers
// are read strictly: no fraction where an integer is asked for, nothing
// out of range, and (as in all JSON) no NaN or infinity. An object that is read
// may have each key once.

// value is one JSON value inside a checked body, without blanks around it.
type value []byte

const maxDepth = 64 // arrays and objects inside each other

// parseBody checks a body and returns its value, which must be an object.
func parseBody(body []byte) (value, *apiError) {
	switch {
	case !utf8.Valid(body):
		return nil, badRequest("", "the body is not valid UTF-8")
	case tooDeep(body):
		return nil, badRequest("", "the body nests arrays and objects deeper than %d", maxDepth)
	case !json.Valid(body):
		return nil, badRequest("", "the body is not valid JSON")
	}
	v := value(bytes.TrimSpace(body))
	if v[0] != '{' {
		return nil, badRequest("", "the body must be a JSON object")
	}
	return v, nil
}

// tooDeep counts brackets outside strings.
func tooDeep(body []byte) bool {
	depth := 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '"':
			i = stringEnd(body, i) - 1
		case '{', '[':
			if depth++; depth > maxDepth {
				return true
			}
		case '}', ']':
			depth--
		}
	}
	return false
}

// stringEnd returns the index behind the string that starts at body[i].
func stringEnd(body []byte, i int) int {
	for i++; i < len(body); i++ {
		switch body[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(body)
}

// valueEnd returns the index behind the value that starts at v[i].
func valueEnd(v value, i int) int {
	if v[i] == '"' {
		return stringEnd(v, i)
	}
	for depth := 0; i < len(v); i++ {
		switch v[i] {
		case '"':
			i = stringEnd(v, i) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
			if depth < 0 {
				return i
			}
		case ',', ':', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}

// skip returns the index of the next byte that is no blank and none of ",:".
func skip(v value, i int) int {
	for i < len(v) && bytes.IndexByte([]byte(" \t\r\n,:"), v[i]) >= 0 {
		i++
	}
	return i
}

func (v value) null() bool { return len(v) == 4 && v[0] == 'n' }

// kind names the value in error messages.
func (v value) kind() string {
	switch v[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// object calls f for each member in order, null ones included.
func (v value) object(name string, f func(key string, v value) *apiError) *apiError {
	if v[0] != '{' {
		return badRequest(name, "%s is %s, must be an object", name, v.kind())
	}
	seen := map[string]bool{}
	for i := skip(v, 1); v[i] != '}'; i = skip(v, i) {
		end := valueEnd(v, i)
		key := v[i:end].text()
		i = skip(v, end)
		end = valueEnd(v, i)
		if seen[key] {
			return badRequest(key, "%s is there twice", quoteName(key))
		}
		seen[key] = true
		if err := f(key, v[i:end]); err != nil {
			return err
		}
		i = end
	}
	return nil
}

// array calls f for each element, at most most of them.
func (v value) array(name string, most int, f func(i int, v value) *apiError) *apiError {
	if v[0] != '[' {
		return badRequest(name, "%s is %s, must be an array", name, v.kind())
	}
	n := 0
	for i := skip(v, 1); v[i] != ']'; i = skip(v, i) {
		end := valueEnd(v, i)
		if n == most {
			return badRequest(name, "%s has more than %d entries", name, most)
		}
		if err := f(n, v[i:end]); err != nil {
			return err
		}
		n, i = n+1, end
	}
	return nil
}

// text is the decoded string; v is one.
func (v value) text() string {
	var s string
	if err := json.Unmarshal(v, &s); err != nil {
		panic(err) // the body was checked
	}
	return s
}

func (v value) str(name string) (string, *apiError) {
	if v[0] != '"' {
		return "", badRequest(name, "%s is %s, must be a string", name, v.kind())
	}
	return v.text(), nil
}

func (v value) boolean(name string) (bool, *apiError) {
	if v[0] != 't' && v[0] != 'f' {
		return false, badRequest(name, "%s is %s, must be true or false", name, v.kind())
	}
	return v[0] == 't', nil
}

// integer reads an integer in [lo, hi]. 3.0 and 3e0 are integers, 3.5 is none.
func (v value) integer(name string, lo, hi int64) (int64, *apiError) {
	if v.kind() != "a number" {
		return 0, badRequest(name, "%s is %s, must be an integer between %d and %d", name, v.kind(), lo, hi)
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil && bytes.ContainsAny(v, ".eE") {
		f, ferr := strconv.ParseFloat(string(v), 64)
		if ferr == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			n, err = int64(f), nil
		}
	}
	if err != nil || n < lo || n > hi {
		return 0, badRequest(name, "%s is %s, must be an integer between %d and %d", name, clip(string(v)), lo, hi)
	}
	return n, nil
}

// float reads a number in [lo, hi].
func (v value) float(name string, lo, hi float64) (float64, *apiError) {
	if v.kind() != "a number" {
		return 0, badRequest(name, "%s is %s, must be a number between %v and %v", name, v.kind(), lo, hi)
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || !(f >= lo && f <= hi) {
		return 0, badRequest(name, "%s is %s, must be a number between %v and %v", name, clip(string(v)), lo, hi)
	}
	return f, nil
}

// clip shortens what is quoted back to the client.
func clip(s string) string {
	const most = 40
	if len(s) <= most {
		return s
	}
	for n := most; ; n-- {
		if utf8.RuneStart(s[n]) {
			return s[:n] + "…"
		}
	}
}

func quoteName(s string) string { return strconv.Quote(clip(s)) }

// encode is JSON without HTML escapes and with a final newline.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}
