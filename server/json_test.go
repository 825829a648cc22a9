package server

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"sestina/batch"
)

// tree reads a checked value as encoding/json does, by our own walkers.
func tree(v value) any {
	switch v.kind() {
	case "an object":
		m := map[string]any{}
		if err := v.object("o", func(key string, v value) *apiError { m[key] = tree(v); return nil }); err != nil {
			return err
		}
		return m
	case "an array":
		l := []any{}
		v.array("a", math.MaxInt, func(_ int, v value) *apiError { l = append(l, tree(v)); return nil })
		return l
	case "a string":
		return v.text()
	case "a boolean":
		return v[0] == 't'
	case "null":
		return nil
	}
	var f float64
	if json.Unmarshal(v, &f) != nil {
		return nil // out of float64's range; the standard library refuses it too
	}
	return f
}

// hasError finds a duplicate key, which only we refuse.
func hasError(x any) bool {
	switch x := x.(type) {
	case *apiError:
		return true
	case map[string]any:
		for _, v := range x {
			if hasError(v) {
				return true
			}
		}
	case []any:
		for _, v := range x {
			if hasError(v) {
				return true
			}
		}
	}
	return false
}

// FuzzBody: no body makes the reader fail otherwise than by a 400, and what the
// walkers see is what encoding/json sees.
func FuzzBody(f *testing.F) {
	for _, s := range append(hostile(), `{"a":[1,2,{"b":"\"}]"}],"c":{}}`, ` { "a" : [ ] , "b" : "\\" } `, `{"messages":[{"role":"user","content":[{"type":"text","text":"x"}]}],"stop":["a"]}`,
		`{"prompt":[[1,2],[3]],"logit_bias":{"1":-1.5e1},"n":3e0}`) {
		f.Add(s)
		f.Add(`{"prompt":` + s + `}`)
	}
	f.Fuzz(func(t *testing.T, body string) {
		v, err := parseBody([]byte(body))
		if err != nil {
			return
		}
		got := tree(v)
		var want any
		if json.Unmarshal([]byte(body), &want) == nil && !hasError(got) && !reflect.DeepEqual(got, want) {
			t.Fatalf("%q reads as %v, want %v", body, got, want)
		}
		for _, e := range []endpoint{chatEndpoint, textEndpoint} {
			r := newRequest(e, batch.DefaultSampling())
			if readFields(r, v, func(string) {}) == nil {
				r.finish()
			}
		}
	})
}

func TestNumbersAreStrict(t *testing.T) {
	for text, want := range map[string]bool{"0": true, "-0": true, "7": true, "7.0": true, "70e-1": true, "8": true, "8.5": false, "9": false, "-1": false,
		"1e400": false, "9223372036854775808": false, `"7"`: false, "true": false, "null": false, "[]": false, "1e1": false} {
		_, err := value(text).integer("x", 0, 8)
		if (err == nil) != want {
			t.Errorf("integer %s: %v", text, err)
		}
	}
	for text, want := range map[string]bool{"0": true, "1": true, "1e-400": true, "1.0000001": false, "-1e-9": false, "1e400": false, `"1"`: false} {
		_, err := value(text).float("x", 0, 1)
		if (err == nil) != want {
			t.Errorf("float %s: %v", text, err)
		}
	}
}

// TestReadingIsLinear is T22 for the reader: time against size, as an exponent.
func TestReadingIsLinear(t *testing.T) {
	largest, ratio := 2<<20, 32
	if testing.Short() { // the race detector's run
		largest, ratio = 128<<10, 16
	}
	for what, unit := range map[string]string{
		"ids":          `1,`,
		"strings":      `"\u00e9\"x",`,
		"empty arrays": `[],`,
		"blanks":       "1,     \n\t  ",
	} {
		cost := func(size int) float64 {
			body := `{"prompt":[` + strings.Repeat(unit, size/len(unit)) + unit[:strings.LastIndex(unit, ",")] + `],"unknown":` + strings.Repeat("[", 60) + strings.Repeat("]", 60) + `}`
			began := time.Now()
			for range largest / size { // as much work for every size, so that a busy machine disturbs all alike
				v, err := parseBody([]byte(body))
				if err != nil {
					t.Fatal(err)
				}
				readFields(newRequest(textEndpoint, batch.DefaultSampling()), v, func(string) {})
			}
			return time.Since(began).Seconds()
		}
		const limit = 1.4 // the promise is 1.1; quadratic is 2
		small, large, exponent := math.Inf(1), math.Inf(1), 0.0
		for try := 0; try < 2 || try < 8 && exponent > limit; try++ {
			small, large = min(small, cost(largest/ratio)), min(large, cost(largest))
			exponent = 1 + math.Log(large/small)/math.Log(float64(ratio))
		}
		if exponent > limit {
			t.Errorf("%s: %d KiB in %.2g s, as much in %d parts in %.2g s", what, largest>>10, large, ratio, small)
		}
		t.Logf("T22 reading %s: exponent %.2f, %.1f ms/MB", what, exponent, large*1000/(float64(largest)/(1<<20)))
	}
}
