package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Resolve turns MODEL into a path the engine can open, pulling it when it is not in the store:
//
//	""                 the default model
//	an alias           the default model ("smollm2"); an alias wins over a path, write ./smollm2 for the path
//	an existing path   a GGUF file, or a folder with config.json (or with only tokenizer.json)
//	org/repo[:QUANT]   from the store, else from the hub
//
// A path needs neither store nor network. Errors name the cause and the remedy in one line.
func (s *Store) Resolve(ctx context.Context, spec string, o Options) (Model, error) {
	if !isDefault(spec) {
		if _, err := os.Stat(spec); err == nil {
			return localModel(spec)
		} else if looksLocal(spec) {
			return Model{}, fmt.Errorf("hub: no model file or folder %s: %w", clip(spec), errors.Unwrap(err))
		}
	}
	n, err := parseName(spec)
	if err != nil {
		return Model{}, err
	}
	m, err := s.readManifest(manifestPath(n))
	if err == nil && s.complete(m) && (o.Revision == "" || o.Revision == m.Revision) {
		if err := s.layOut(n, &m); err != nil {
			return Model{}, fmt.Errorf("hub: %s: %w", n, err)
		}
		return m, nil
	}
	if o.Offline {
		return Model{}, fmt.Errorf("hub: %s: %w (offline); pull it first", n, ErrNotFound)
	}
	return s.Pull(ctx, spec, o)
}

// looksLocal says whether a spec that does not exist can only have been meant as a path.
func looksLocal(spec string) bool {
	return filepath.IsAbs(spec) || strings.HasPrefix(spec, ".") || strings.HasPrefix(spec, "~") || strings.Contains(spec, `\`) ||
		strings.HasSuffix(strings.ToLower(spec), ".gguf") || strings.Count(spec, "/") > 1
}

// localModel describes a path that exists.
func localModel(spec string) (Model, error) {
	abs, err := filepath.Abs(spec)
	if err != nil {
		return Model{}, fmt.Errorf("hub: %w", err)
	}
	m := Model{Name: spec, Path: abs, Source: "local path", Local: true}
	st, err := os.Stat(abs)
	if err != nil {
		return Model{}, fmt.Errorf("hub: %w", err)
	}
	switch {
	case st.IsDir():
		m.Kind = Folder
		return m, checkFolder(abs, spec)
	case !st.Mode().IsRegular():
		return Model{}, fmt.Errorf("hub: %s is neither a file nor a folder", clip(spec))
	}
	m.Kind = GGUF
	return m, checkGGUF(abs, spec)
}

func checkFolder(dir, spec string) error {
	for _, f := range []string{"config.json", "tokenizer.json"} {
		if _, err := os.Stat(filepath.Join(dir, f)); err == nil {
			return nil
		}
	}
	hint := "give a folder with config.json, or a GGUF file"
	if found, _ := filepath.Glob(filepath.Join(dir, "*.gguf")); len(found) > 0 {
		hint = "name one file in it, for example " + filepath.Join(spec, filepath.Base(found[0]))
	}
	return fmt.Errorf("hub: the folder %s has no config.json; %s", clip(spec), hint)
}

func checkGGUF(path, spec string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil || string(magic) != "GGUF" {
		return fmt.Errorf("hub: %s is not a GGUF file (it begins with %q); for safetensors give the folder with config.json", clip(spec), magic)
	}
	return nil
}
