package checkpoint

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"sestina/tensor"
)

// What a parser accepts must be sound: the rules of the package are checked again here by other means.

func FuzzGGUF(f *testing.F) {
	for _, c := range hostileGGUF {
		f.Add([]byte(c.file))
	}
	golden, err := os.ReadFile("testdata/llama_plain_q4_0.gguf")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden[:4096])
	f.Add(gguf(f, []KV{{"l.n", []int32{1, 2}}, {"l.s", []string{"a", ""}}, {"l.f", 1.5}}, tinyTensors(0, "a", "b")))
	f.Fuzz(func(t *testing.T, data []byte) {
		values, tensors, err := readGGUF(bytes.NewReader(data), uint64(len(data)))
		if err != nil {
			return
		}
		checkPlaces(t, tensors, len(data))
		config := Config{"fuzz", values}
		for _, key := range first(config.Keys(), 20) {
			readEveryWay(config, key)
		}
	})
}

func FuzzSafetensors(f *testing.F) {
	for _, c := range hostileSafetensors {
		if len(c.file) < 1<<12 {
			f.Add(c.file)
		}
	}
	f.Add(safetensors(f, tinyTensors(0, "a", "b")))
	f.Fuzz(func(t *testing.T, data []byte) {
		tensors, err := readSafetensors(bytes.NewReader(data), uint64(len(data)))
		if err != nil {
			return
		}
		checkPlaces(t, tensors, len(data))
		n := le.Uint64(data)
		if !json.Valid(data[8:][:n]) {
			t.Errorf("accepted a header that is no JSON: %q", data[8:][:n])
		}
		sum := 8 + n
		for _, info := range tensors {
			sum += info.Bytes
		}
		if sum != uint64(len(data)) {
			t.Errorf("header and tensors take %d of %d bytes", sum, len(data))
		}
	})
}

// checkPlaces checks that tensors lie in the file, in order, without overlap, and are as large as they say.
func checkPlaces(t *testing.T, tensors []Info, size int) {
	t.Helper()
	last := int64(0)
	for _, info := range tensors {
		want, err := info.DType.Bytes(info.Shape)
		if err != nil || want != info.Bytes || info.offset < last || info.Bytes > uint64(size) ||
			info.offset > int64(size)-int64(info.Bytes) || info.Shape.Row() < 1 {
			t.Fatalf("unsound tensor %+v in a file of %d bytes after offset %d: %v", info, size, last, err)
		}
		last = info.offset + int64(info.Bytes)
		if info.DType.CanDecode() && info.Bytes < 1<<16 {
			n, _ := info.Shape.Elements()
			if err := tensor.Decode(info.DType, make([]float32, n), make([]byte, info.Bytes)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(sample))
	golden, err := os.ReadFile("testdata/configs/gemma4_nested.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	for _, text := range []string{`{"a":1,}`, `{"a":[1,[2]]}`, `{"a":{"a.b":{"c":1}}}`, `{"a":1e5,"b":-0,"c":"\ud800"}`, "{}x"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := ParseConfig("fuzz", data)
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Errorf("accepted what is no JSON: %q", data)
		}
		for _, key := range first(config.Keys(), 20) {
			readEveryWay(config, key)
			for _, inner := range first(config.Sub(key).Keys(), 20) {
				readEveryWay(config, key+"."+inner)
			}
		}
	})
}

// readEveryWay calls each accessor: errors are fine, panics are not.
func readEveryWay(c Config, key string) {
	_, _, _ = c.Int(key)
	_, _, _ = c.Float(key)
	_, _, _ = c.Bool(key)
	_, _, _ = c.String(key)
	_, _, _ = c.Ints(key)
	_, _, _ = c.Floats(key)
	_, _, _ = c.Bools(key)
	_, _, _ = c.Strings(key)
	c.Reader().PerLayer(key, 2)
}

func first(list []string, n int) []string { return list[:min(n, len(list))] }
