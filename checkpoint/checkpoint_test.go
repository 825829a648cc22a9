package checkpoint

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"sestina/tensor"
)

func open(t *testing.T, path string) *Checkpoint {
	t.Helper()
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestOpenGGUF(t *testing.T) {
	c := open(t, "testdata/llama_plain_q4_0.gguf")
	if c.Format() != GGUF || len(c.Names()) != 30 || c.NumParams() != 121280 || c.Bytes() != 69760 {
		t.Errorf("%v with %d tensors, %d parameters, %d bytes", c.Format(), len(c.Names()), c.NumParams(), c.Bytes())
	}
	r := c.Config().Reader()
	if arch, layers, theta := r.String("general.architecture"), r.Int("llama.block_count"), r.Float("llama.rope.freq_base"); r.Err() != nil ||
		arch != "llama" || layers != 3 || theta != 10000 {
		t.Errorf("metadata: %q, %d layers, theta %v, %v", arch, layers, theta, r.Err())
	}
	embed, ok := c.Lookup("token_embd.weight")
	if !ok || embed.DType != tensor.Q4_0 || !embed.Shape.Equal(tensor.Shape{224, 64}) || embed.Bytes != 224*2*18 {
		t.Errorf("token_embd.weight is %+v, %v", embed, ok)
	}
	if _, err := c.File("tokenizer.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a side file of a GGUF: %v", err)
	}
	if err := c.CheckUnchanged(); err != nil {
		t.Error(err)
	}
	readsAgree(t, c)
}

func TestOpenSharded(t *testing.T) {
	c := open(t, "testdata/llama_bf16_sharded")
	if c.Format() != HF || len(c.Names()) != 29 || c.NumParams() != 106944 || c.Bytes() != 213888 {
		t.Errorf("%v with %d tensors, %d parameters, %d bytes", c.Format(), len(c.Names()), c.NumParams(), c.Bytes())
	}
	if n, ok, err := c.Config().Int("hidden_size"); n != 64 || !ok || err != nil {
		t.Errorf("hidden_size is %d, %v, %v", n, ok, err)
	}
	up, ok := c.Lookup("model.layers.1.mlp.up_proj.weight")
	if !ok || up.DType != tensor.BF16 || !up.Shape.Equal(tensor.Shape{96, 64}) {
		t.Errorf("up_proj is %+v, %v", up, ok)
	}
	if data, err := c.File("config_v5.json"); err != nil || !bytes.Contains(data, []byte("rope_parameters")) {
		t.Errorf("side file: %d bytes, %v", len(data), err)
	}
	if _, err := c.File("tokenizer.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent side file: %v", err)
	}
	for _, name := range []string{"../config.json", "/etc/passwd", "..", "", "a/b", `a\b`, "C:x", "x\x00", ".hidden"} {
		if _, err := c.File(name); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("File(%q): %v, want a refusal", name, err)
		}
	}
	readsAgree(t, c)
}

// readsAgree reads each tensor whole and row by row, and by the bytes of the file itself.
func readsAgree(t *testing.T, c *Checkpoint) {
	t.Helper()
	for info := range c.Tensors() {
		whole := make([]byte, info.Bytes)
		if err := c.Read(info.Name, whole); err != nil {
			t.Fatal(err)
		}
		file, err := os.ReadFile(c.sources[info.source].path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(whole, file[info.offset:][:info.Bytes]) {
			t.Errorf("%s: Read differs from the file", info.Name)
		}
		elements, _ := info.Shape.Elements()
		rows := int(elements) / info.Shape.Row()
		rowBytes := len(whole) / rows
		parts := make([]byte, len(whole))
		for first := 0; first < rows; first += 7 {
			n := min(7, rows-first)
			if err := c.ReadRows(info.Name, first, n, parts[first*rowBytes:][:n*rowBytes]); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(whole, parts) {
			t.Errorf("%s: rows differ from the whole", info.Name)
		}
		if c.ReadRows(info.Name, rows, 1, parts[:rowBytes]) == nil || c.ReadRows(info.Name, -1, 1, parts[:rowBytes]) == nil ||
			c.ReadRows(info.Name, 1, math.MaxInt, parts) == nil || c.ReadRows(info.Name, 0, rows, parts[1:]) == nil {
			t.Errorf("%s: rows outside the tensor were read", info.Name)
		}
		if c.Read(info.Name, whole[1:]) == nil || c.Read(info.Name+"?", whole) == nil {
			t.Errorf("%s: read into a short buffer or under a wrong name", info.Name)
		}
	}
}

// tinyTensors are tensors whose bytes count up from first.
func tinyTensors(first byte, names ...string) []Tensor {
	var list []Tensor
	for i, name := range names {
		data := make([]byte, 4*3*(i+1))
		for j := range data {
			data[j] = first + byte(j)
		}
		list = append(list, Tensor{name, tensor.F32, tensor.Shape{i + 1, 3}, bytes.NewReader(data)})
	}
	return list
}

func gguf(t testing.TB, pairs []KV, tensors []Tensor) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteGGUF(&b, pairs, tensors); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func safetensors(t testing.TB, tensors []Tensor) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteSafetensors(&b, map[string]string{"format": "pt"}, tensors); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// folder writes files into a new folder.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOpenFindsTheModel(t *testing.T) {
	gg := string(gguf(t, nil, tinyTensors(0, "a")))
	st := string(safetensors(t, tinyTensors(0, "a")))
	cases := []struct {
		name  string
		files map[string]string
		file  string // within the folder
		want  string // the format, or part of the error
	}{
		{"gguf file", map[string]string{"m.gguf": gg}, "m.gguf", "gguf"},
		{"folder with one gguf", map[string]string{"m.gguf": gg, "README.md": ""}, "", "gguf"},
		{"folder with one gguf and config", map[string]string{"m.GGUF": gg, "config.json": "{}"}, "", "gguf"},
		{"folder with two ggufs", map[string]string{"m.gguf": gg, "n.gguf": gg}, "", "name one"},
		{"folder with weights", map[string]string{"model.safetensors": st, "config.json": "{}"}, "", "hf"},
		{"folder with oddly named weights", map[string]string{"w.safetensors": st, "config.json": "{}"}, "", "hf"},
		{"weights file", map[string]string{"x.safetensors": st, "config.json": "{}"}, "x.safetensors", "hf"},
		{"weights without config", map[string]string{"x.safetensors": st}, "x.safetensors", "no config.json"},
		{"config without weights", map[string]string{"config.json": "{}"}, "", "neither model.safetensors"},
		{"pickle", map[string]string{"config.json": "{}", "pytorch_model.bin": "x"}, "", "pickle"},
		{"empty folder", nil, "", "neither config.json"},
		{"other file", map[string]string{"m.bin": "bytes"}, "m.bin", "neither a GGUF"},
		{"GGUF by its magic", map[string]string{"sha256-00": gg}, "sha256-00", "gguf"},
		{"no file", nil, "m.gguf", "no such file"},
		{"gguf that is none", map[string]string{"m.gguf": st}, "m.gguf", "not a GGUF file"},
	}
	for _, c := range cases {
		path := filepath.Join(folder(t, c.files), c.file)
		got, err := Open(path)
		if err != nil {
			if !strings.Contains(err.Error(), c.want) && !(c.want == "no such file" && errors.Is(err, fs.ErrNotExist)) {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			continue
		}
		if got.Format().String() != c.want {
			t.Errorf("%s: opened as %v, want %q", c.name, got.Format(), c.want)
		}
		got.Close()
	}
}

func TestSplitGGUF(t *testing.T) {
	part := func(no, count uint16, tensors ...string) string {
		return string(gguf(t, []KV{{"general.architecture", "llama"}, {"split.no", no}, {"split.count", count},
			{"split.tensors.count", int32(3)}}, tinyTensors(byte(no), tensors...)))
	}
	good := map[string]string{"m-00001-of-00002.gguf": part(0, 2, "a"), "m-00002-of-00002.gguf": part(1, 2, "b", "c")}
	dir := folder(t, good)
	for _, path := range []string{dir, filepath.Join(dir, "m-00001-of-00002.gguf")} {
		c := open(t, path)
		if !slices.Equal(c.Names(), []string{"a", "b", "c"}) {
			t.Errorf("tensors are %v", c.Names())
		}
		readsAgree(t, c)
	}
	bad := map[string]map[string]string{
		"open the first part":     {"m-00002-of-00002.gguf": good["m-00002-of-00002.gguf"]},
		"restore the name":        {"m.gguf": good["m-00001-of-00002.gguf"]},
		"m-00002-of-00002.gguf":   {"m-00001-of-00002.gguf": good["m-00001-of-00002.gguf"]},
		"says it is part 1 of 2":  {"m-00001-of-00002.gguf": part(0, 2, "a"), "m-00002-of-00002.gguf": part(0, 2, "b", "c")},
		"occurs twice":            {"m-00001-of-00002.gguf": part(0, 2, "a"), "m-00002-of-00002.gguf": part(1, 2, "b", "a")},
		"hold 2 tensors":          {"m-00001-of-00002.gguf": part(0, 2, "a"), "m-00002-of-00002.gguf": part(1, 2, "b")},
		"the first says 3":        {"m-00001-of-00002.gguf": part(0, 2, "a"), "m-00002-of-00002.gguf": part(1, 2)},
		"-00001-of-00003.gguf":    {"m-00001-of-00002.gguf": part(0, 3, "a")},
		"split.no is missing":     {"m-00001-of-00002.gguf": part(0, 2, "a"), "m-00002-of-00002.gguf": string(gguf(t, nil, nil))},
		"not a GGUF file: 3 byte": {"m-00001-of-00002.gguf": part(0, 2, "a"), "m-00002-of-00002.gguf": "GGU"},
	}
	for want, files := range bad {
		path := folder(t, files)
		for name := range files {
			if len(files) == 1 || strings.Contains(name, "00001") {
				path = filepath.Join(path, name)
				break
			}
		}
		if c, err := Open(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v, %v", want, c, err)
		}
	}
}

func TestShardIndex(t *testing.T) {
	one, two := string(safetensors(t, tinyTensors(0, "a"))), string(safetensors(t, tinyTensors(9, "b", "c")))
	cases := []struct{ name, weightMap, two, want string }{
		{"good", `{"a":"1.safetensors","b":"2.safetensors","c":"2.safetensors"}`, two, ""},
		{"wrong shard", `{"a":"2.safetensors","b":"1.safetensors"}`, two, "is not in"},
		{"unknown tensor", `{"a":"1.safetensors","x":"1.safetensors"}`, two, `"x" is not in`},
		{"absent shard", `{"a":"3.safetensors"}`, two, "3.safetensors"},
		{"twice", `{"a":"1.safetensors","b":"2.safetensors"}`, one, "occurs twice"},
		{"parent folder", `{"a":"../1.safetensors"}`, two, "no name of"},
		{"absolute", `{"a":"/1.safetensors"}`, two, "no name of"},
		{"other file", `{"a":"config.json"}`, two, "no name of"},
		{"number", `{"a":1}`, two, "no name of"},
		{"empty", `{}`, two, "no weight_map"},
		{"no object", `[]`, two, "no weight_map"},
		{"same key twice", `{"a":"1.safetensors","a":"2.safetensors"}`, two, "occurs twice"},
	}
	for _, c := range cases {
		dir := folder(t, map[string]string{"config.json": "{}", "1.safetensors": one, "2.safetensors": c.two,
			indexName: `{"metadata":{"total_size":1},"weight_map":` + c.weightMap + `}`})
		got, err := Open(dir)
		if c.want == "" {
			if err != nil || !slices.Equal(got.Names(), []string{"a", "b", "c"}) {
				t.Errorf("%s: %v", c.name, err)
			} else {
				readsAgree(t, got)
				got.Close()
			}
		} else if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// A file that shrinks, is written or replaced while it is read must be noticed.
func TestFileChangesUnderLoad(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open file cannot be replaced on this system")
	}
	data := gguf(t, nil, tinyTensors(0, "a", "b"))
	cases := map[string]func(path string) error{
		"truncated": func(path string) error { return os.Truncate(path, int64(len(data)-48)) },
		"touched":   func(path string) error { return os.Chtimes(path, time.Now(), time.Now().Add(3*time.Second)) },
		"replaced": func(path string) error {
			if err := os.WriteFile(path+".new", data, 0o600); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		},
		"removed": os.Remove,
	}
	for name, change := range cases {
		path := filepath.Join(folder(t, map[string]string{"m.gguf": string(data)}), "m.gguf")
		c := open(t, path)
		if err := c.CheckUnchanged(); err != nil {
			t.Errorf("%s: before the change: %v", name, err)
		}
		if err := change(path); err != nil {
			t.Fatal(err)
		}
		if err := c.CheckUnchanged(); err == nil {
			t.Errorf("%s: not noticed", name)
		}
		if err := c.Read("b", make([]byte, 24)); (err != nil) != (name == "truncated") {
			t.Errorf("%s: reading gave %v", name, err)
		}
	}
}
