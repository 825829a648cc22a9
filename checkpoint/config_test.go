package checkpoint

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// hyper is what a small model would declare.
type hyper struct {
	hidden, layers, heads, headDim int
	eps, theta, localTheta         float64
	kinds                          []string
	tied                           bool
}

// readHyper reads the nested dialect, whose text model lies below text_config.
func readHyper(config Config) (hyper, error) {
	r := config.Reader()
	tied := r.BoolOr("tie_word_embeddings", false)
	if r.Has("text_config") {
		r = r.Sub("text_config")
	}
	h := hyper{
		hidden:     r.Int("hidden_size"),
		layers:     r.Int("num_hidden_layers"),
		heads:      r.Int("num_attention_heads"),
		headDim:    r.IntOr("head_dim", 0),
		eps:        r.FloatOr("rms_norm_eps", 1e-6),
		theta:      r.Float(r.First("rope_theta", "rope_parameters.full_attention.rope_theta")),
		localTheta: r.FloatOr("rope_parameters.sliding_attention.rope_theta", 10000),
		kinds:      r.Strings("layer_types"),
		tied:       tied,
	}
	return h, r.Err()
}

func TestBothDialectsOfANestedConfig(t *testing.T) {
	for _, name := range []string{"gemma4_nested.json", "gemma4_nested_v5.json"} {
		data, err := os.ReadFile("testdata/configs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		config, err := ParseConfig(name, data)
		if err != nil {
			t.Fatal(err)
		}
		h, err := readHyper(config)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if h.hidden != 64 || h.layers != 3 || h.heads != 4 || h.headDim != 16 || h.eps != 1e-6 || h.theta != 1e6 ||
			h.localTheta != 1e4 || !slices.Equal(h.kinds, []string{"sliding_attention", "full_attention", "full_attention"}) || !h.tied {
			t.Errorf("%s: %+v", name, h)
		}
	}
}

const sample = `{
 "int": 7, "whole": 1e6, "point": 10000.0, "fraction": 0.5, "big": 1e300, "text": "7", "yes": true, "null": null,
 "ints": [1, 2, 3.0], "floats": [1, 0.5], "strings": ["a", "b"], "bools": [true, false], "mixed": [1, "a"], "empty": [],
 "holes": [1, null], "sub": {"deep": {"int": 9}, "dotted.key": 4}, "dotted.key": 5, "zero": {}
}`

func sampleConfig(t *testing.T) Config {
	t.Helper()
	c, err := ParseConfig("config.json", []byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAccessors(t *testing.T) {
	r := sampleConfig(t).Reader()
	ints := map[string]int{"int": 7, "whole": 1000000, "point": 10000, "sub.deep.int": 9, "sub.dotted.key": 4, "dotted.key": 5}
	for key, want := range ints {
		if got := r.Int(key); got != want {
			t.Errorf("Int(%q) = %d, want %d", key, got, want)
		}
	}
	if f := r.Float("fraction"); f != 0.5 {
		t.Errorf("fraction is %v", f)
	}
	if f := r.Float("int"); f != 7 {
		t.Errorf("int as float is %v", f)
	}
	if !r.Bool("yes") || r.String("text") != "7" || r.IntOr("null", 3) != 3 || r.Has("null") || r.StringOr("absent", "x") != "x" {
		t.Error("scalars or defaults are wrong")
	}
	if !slices.Equal(r.Ints("ints"), []int{1, 2, 3}) || !slices.Equal(r.Ints("int"), []int{7}) || len(r.Ints("empty")) != 0 {
		t.Error("Ints are wrong")
	}
	if !slices.Equal(r.FloatsOr("floats", nil), []float64{1, 0.5}) || !slices.Equal(r.FloatsOr("ints", nil), []float64{1, 2, 3}) {
		t.Error("Floats are wrong")
	}
	if !slices.Equal(r.Strings("strings"), []string{"a", "b"}) || !slices.Equal(r.Strings("text"), []string{"7"}) ||
		!slices.Equal(r.BoolsOr("bools", nil), []bool{true, false}) {
		t.Error("Strings or Bools are wrong")
	}
	if !slices.Equal(r.PerLayer("int", 3), []int{7, 7, 7}) || !slices.Equal(r.PerLayer("ints", 3), []int{1, 2, 3}) {
		t.Error("PerLayer is wrong")
	}
	if got := r.Sub("sub").Sub("deep").Int("int"); got != 9 {
		t.Errorf("Sub gave %d", got)
	}
	if r.First("absent", "whole", "int") != "whole" || r.First("absent", "gone") != "absent" {
		t.Error("First is wrong")
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

// A value of another type is an error that names the key, with and without a default.
func TestMismatches(t *testing.T) {
	cases := []struct {
		want string
		read func(*Reader)
	}{
		{"absent is missing", func(r *Reader) { r.Int("absent") }},
		{"null is missing", func(r *Reader) { r.Float("null") }},
		{`text: "7" is no integer`, func(r *Reader) { r.IntOr("text", 1) }},
		{"fraction: 0.5 is no integer", func(r *Reader) { r.IntOr("fraction", 1) }},
		{"big: 1e+300 is no integer", func(r *Reader) { r.Int("big") }},
		{`yes: "true" is no number`, func(r *Reader) { r.Float("yes") }},
		{"int: 7 is no bool", func(r *Reader) { r.BoolOr("int", true) }},
		{"int: 7 is no string", func(r *Reader) { r.String("int") }},
		{"ints: an array", func(r *Reader) { r.Int("ints") }},
		{"sub: an object is no integer", func(r *Reader) { r.Int("sub") }},
		{"floats: element 1: 0.5 is no integer", func(r *Reader) { r.Ints("floats") }},
		{`mixed: element 1: "a" is no number`, func(r *Reader) { r.FloatsOr("mixed", nil) }},
		{"holes: element 1", func(r *Reader) { r.IntsOr("holes", nil) }},
		{"strings: element 0", func(r *Reader) { r.BoolsOr("strings", nil) }},
		{"ints: element 0: 1 is no string", func(r *Reader) { r.StringsOr("ints", nil) }},
		{"ints: 3 values for 4 layers", func(r *Reader) { r.PerLayer("ints", 4) }},
		{"int: 1 values for 1000000000 layers", func(r *Reader) { r.PerLayer("int", 1e9) }},
		{"int: 1 values for -1 layers", func(r *Reader) { r.PerLayer("int", -1) }},
		{"config.json: sub: gone is missing", func(r *Reader) { r.Sub("sub").Int("gone") }},
		{"config.json: int: 7 is odd", func(r *Reader) { r.Fail("int", "%d is odd", 7) }},
	}
	for _, c := range cases {
		r := sampleConfig(t).Reader()
		c.read(r)
		r.Int("int") // a later success does not hide the error
		checkRefusal(t, c.want, r.Err(), c.want)
	}
}

func TestGGUFConfigIsFlat(t *testing.T) {
	c := Config{"m.gguf", map[string]any{"general.architecture": "llama", "llama.block_count": uint32(3),
		"llama.attention.head_count_kv": []int32{2, 1}, "llama.eps": float32(0.5), "llama.huge": uint64(1 << 63)}}
	r := c.Reader().Sub(c.Reader().String("general.architecture"))
	if r.Int("block_count") != 3 || !slices.Equal(r.PerLayer("attention.head_count_kv", 2), []int{2, 1}) || r.Float("eps") != 0.5 {
		t.Errorf("wrong values, %v", r.Err())
	}
	r.Int("huge")
	checkRefusal(t, "huge", r.Err(), "m.gguf: llama: huge: 9223372036854775808 is no integer")
	if keys := c.Keys(); len(keys) != 5 || keys[0] != "general.architecture" {
		t.Errorf("keys are %v", keys)
	}
}

func TestBadJSON(t *testing.T) {
	cases := map[string]string{
		"":                                 "EOF",
		"[]":                               "not an object",
		"{":                                "EOF",
		`{"a":1}x`:                         "",
		`{"a":1,}`:                         "",
		`{"a" 1}`:                          "",
		`{"a":1e999}`:                      "",
		`{"a":1,"a":2}`:                    "occurs twice",
		`{"a":null,"a":2}`:                 "occurs twice",
		`{"a":{"b":1,"b":1}}`:              "occurs twice",
		strings.Repeat(`{"a":`, 100):       "nested deeper",
		`{"a":` + strings.Repeat("[", 1e6): "nested deeper",
	}
	for text, want := range cases {
		_, err := ParseConfig("config.json", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "config.json: ") {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
	if _, err := Open(folder(t, map[string]string{"config.json": strings.Repeat(" ", maxConfig) + "{}", "model.safetensors": ""})); err == nil ||
		!strings.Contains(err.Error(), "more than the") {
		t.Errorf("a config.json of more than %d bytes: %v", maxConfig, err)
	}
}
