package hub

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hostileNames are file names that must never reach the disk.
var hostileNames = []string{"", ".", "..", "../x", "a/../b", "a/..", "/etc/passwd", "a//b", "a/", "C:/x", "C:x", "x:stream",
	`a\b`, `..\x`, `\\host\share`, "a\x00b", "nul", "NUL.json", "con.safetensors", "COM1", "a/lpt9.txt", "x.", "x ", " x", ".hidden", "~x",
	"-rf", "a\nb", "ünï", "a..b", "%2e%2e", "a*b", "a|b", strings.Repeat("a/", 300) + "a", strings.Repeat("a", 300)}

func TestCheckPath(t *testing.T) {
	for _, p := range hostileNames {
		if checkPath(p) == nil {
			t.Errorf("%q accepted", p)
		}
	}
	for _, p := range []string{"config.json", "model-00001-of-00002.safetensors", "Q4/a_b+c.gguf", "console.json", "_x", "0"} {
		if err := checkPath(p); err != nil {
			t.Error(err)
		}
	}
}

func TestParseDigest(t *testing.T) {
	good := "sha256:" + strings.Repeat("0a", 32)
	for _, d := range []string{"", "sha256:", good + "0", good + "\n", "x" + good, strings.ToUpper(good), "sha256-" + good[7:], "sha256:../" + good[10:]} {
		if _, err := ParseDigest(d); err == nil {
			t.Errorf("%q accepted", d)
		}
	}
	if _, err := ParseDigest(good); err != nil {
		t.Error(err)
	}
}

func TestParseName(t *testing.T) {
	for spec, want := range map[string]string{"": DefaultName, "SmolLM2": DefaultName, "smollm2-135m": DefaultName,
		"org/repo": "org/repo", "org/Repo.x:Q4_K_M": "org/Repo.x:Q4_K_M"} {
		if n, err := parseName(spec); err != nil || n.String() != want {
			t.Errorf("%q: %q %v", spec, n, err)
		}
	}
	for _, spec := range []string{"llama", "a/b/c", "../x", "a/..", "/a/b", "a--b/c", "a/b:", "a/b:../x", "a/b:Q:8", "con/x", "a/b\x00", "a/" + strings.Repeat("b", 97)} {
		if n, err := parseName(spec); err == nil {
			t.Errorf("%q accepted as %+v", spec, n)
		}
	}
}

func siblings(names ...string) (out []sibling) {
	for _, n := range names {
		out = append(out, sibling{Name: n})
	}
	return out
}

func TestChoose(t *testing.T) {
	st := []string{"config.json", "model.safetensors"}
	for _, c := range []struct {
		quant, want string // names joined by a blank, or "error: " and a part of the error
		have        []string
	}{
		{"", "config.json model.safetensors", append(st, "a.Q4_K_M.gguf", "x.bin", "original/consolidated.safetensors")},
		{"", "config.json model-1.safetensors model-2.safetensors", []string{"config.json", "model-1.safetensors", "model-2.safetensors", "consolidated.safetensors"}},
		{"", "config.json consolidated.safetensors", []string{"config.json", "consolidated.safetensors"}},
		{"q8_0", "a.Q8_0.gguf", append(st, "a.Q4_K_M.gguf", "a.Q8_0.gguf")},
		{"", "a.Q4_K_M.gguf", []string{"a.Q4_K_S.gguf", "a.Q4_K_M.gguf", "a.Q8_0.gguf", "config.json"}},
		{"", "only-f16.gguf", []string{"only-f16.gguf", "mmproj-f16.gguf", "README.md"}},
		{"Q4_K", "error: several", []string{"a.Q4_K_S.gguf", "a.Q4_K_M.gguf"}},
		{"Q4_0", "a-Q4_0.gguf", []string{"a-Q4_0_4_4.gguf", "a-Q4_0.gguf"}},
		{"IQ3", "sub/a-IQ3_M.gguf", []string{"sub/a-IQ3_M.gguf", "a-Q4_0.gguf"}},
		{"", "error: \"a.Q2_K.gguf\" \"a.Q8_0.gguf\"", []string{"a.Q2_K.gguf", "a.Q8_0.gguf"}},
		{"Q5_K_M", "error: no GGUF file is named Q5_K_M", []string{"a.Q2_K.gguf", "a.Q8_0.gguf"}},
		{"Q8_0", "error: split", []string{"a-Q8_0-00001-of-00002.gguf", "a-Q8_0-00002-of-00002.gguf"}},
		{"", "error: neither", []string{"config.json", "pytorch_model.bin"}},
		{"(.*", "error: no GGUF", []string{"a.gguf"}},
	} {
		_, files, err := choose(siblings(c.have...), name{"o/r", c.quant})
		var got []string
		for _, f := range files {
			got = append(got, f.Name)
		}
		if part, isErr := strings.CutPrefix(c.want, "error: "); isErr {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%v :%s: %v %v, want an error with %q", c.have, c.quant, got, err, part)
			}
		} else if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%v :%s: %v %v, want %s", c.have, c.quant, got, err, c.want)
		}
	}
}

func TestResolveLocal(t *testing.T) {
	t.Chdir(t.TempDir())
	write := func(path, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("m.gguf", "GGUF....")
	write("fake.gguf", "ELF!")
	write("org/repo/config.json", "{}")
	write("tok/tokenizer.json", "{}")
	write("dir/a.gguf", "GGUF")
	write("smollm2/config.json", "{}")
	hub := newFakeHub(t, nil)
	s := openTest(t, t.TempDir(), hub)
	for spec, want := range map[string]string{
		"m.gguf": "gguf", "./m.gguf": "gguf", "org/repo": "folder", "tok": "folder", "./smollm2": "folder", // an existing path wins
		"fake.gguf": "not a GGUF", "dir": "a.gguf", "none.gguf": "no model file", "./none": "no model file", "/no/such": "no model file",
		"a/b/c": "no model file", "none": "not a model", "org/none": "404", "smollm2": "cannot get the default model",
	} {
		m, err := s.Resolve(context.Background(), spec, Options{})
		switch {
		case err == nil && (string(m.Kind) != want || !m.Local || !filepath.IsAbs(m.Path)):
			t.Errorf("%s: %+v", spec, m)
		case err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}

func FuzzCheckPath(f *testing.F) {
	for _, p := range hostileNames {
		f.Add(p)
	}
	f.Add("config.json")
	f.Fuzz(func(t *testing.T, p string) {
		if checkPath(p) == nil && (!filepath.IsLocal(p) || filepath.ToSlash(filepath.Clean(p)) != p || strings.ContainsAny(p, "\\:\x00")) {
			t.Fatalf("%q accepted", p)
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"magic":"sestina-manifest","version":1,"name":"o/r","kind":"gguf","files":[{"path":"a.gguf","size":3,"digest":"sha256:` + strings.Repeat("0", 64) + `"}]}`))
	f.Add([]byte(`{"magic":"sestina-manifest","version":2}`))
	f.Add([]byte(strings.Repeat("[", 1000)))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseManifest(data)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if checkPath(file.Path) != nil || file.Size < 0 || file.Digest.blob() == "" {
				t.Fatalf("accepted %+v", file)
			}
		}
	})
}
