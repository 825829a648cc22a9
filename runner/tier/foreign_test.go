package tier

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestForeignRecordIsRefused: a record that is whole, of the right key, but was
// made by another model and copied here.
func TestForeignRecordIsRefused(t *testing.T) {
	mine, theirs := t.TempDir(), t.TempDir()
	other := model
	other.Contents = "def"
	for dir, id := range map[string]Identity{mine: model, theirs: other} {
		r := open(t, Config{Dir: dir, Identity: id})
		r.save(1)
		r.close()
	}
	foreign, err := os.ReadFile(records(t, theirs)[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(records(t, mine)[0], foreign, 0o600); err != nil {
		t.Fatal(err)
	}
	r := open(t, Config{Dir: mine})
	r.has("n", 1)
	r.says(1, "other contents")
	r.close()
}

// TestForeignFolderIsLeftAlone: the store does without it, says so in one line,
// and changes nothing in it.
func TestForeignFolderIsLeftAlone(t *testing.T) {
	change := func(f func(*Identity)) Identity { id := model; f(&id); return id }
	for text, id := range map[string]Identity{
		"model tiny abc, this is tiny def":     change(func(id *Identity) { id.Contents = "def" }),
		"KV cache dtype f16, this is q8_0":     change(func(id *Identity) { id.KVDType = "q8_0" }),
		"layout test 1, this is test 2":        change(func(id *Identity) { id.Layout = "test 2" }),
		"block size 4, this is 8":              change(func(id *Identity) { id.BlockSize = 8 }),
		"arithmetic int8, this is f32":         change(func(id *Identity) { id.Numerics = "f32" }),
		"it holds blocks of version 1, this i": {Version: -1},
	} {
		dir := t.TempDir()
		r := open(t, Config{Dir: dir})
		r.save(1)
		r.close()
		if id.Version == -1 { // a later build wrote it
			head := filepath.Join(dir, headFile)
			text, _ := os.ReadFile(head)
			os.WriteFile(head, bytes.Replace(text, []byte(`"sestina_kv_tier": 1`), []byte(`"sestina_kv_tier": 9`), 1), 0o600)
			id = model
		}
		r = open(t, Config{Dir: dir, Identity: id})
		r.save(2)
		r.has("ny", 1, 2) // host memory serves on
		text = strings.Replace(text, "version 1, this i", "version 9, this i", 1)
		r.says(1, text)
		r.close()
		if n := countRecords(t, dir); n != 1 {
			t.Errorf("%d records in a folder of others", n)
		}
	}
	for _, name := range []string{"thesis.tex", headFile} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := open(t, Config{Dir: dir})
		r.says(1, name)
		r.close()
		if text, _ := os.ReadFile(filepath.Join(dir, name)); string(text) != "precious" {
			t.Error("somebody's file is gone")
		}
	}
	renamed := model
	renamed.Model = "the same file by another name"
	dir := t.TempDir()
	open(t, Config{Dir: dir}).close()
	r := open(t, Config{Dir: dir, Identity: renamed})
	r.says(0, "")
	r.close()
}

// TestOthersReadOnly: one process writes, others find what it has written, also
// after they were opened, and change nothing.
func TestOthersReadOnly(t *testing.T) {
	dir := t.TempDir()
	writer := open(t, Config{Dir: dir})
	writer.save(1)
	reader := open(t, Config{Dir: dir})
	reader.save(9)
	writer.save(2)
	writer.Patient()
	waitFor(t, func() bool { return writer.Stats().DiskBlocks == 2 })
	reader.has("yyn", 1, 2, 3)
	if err := os.WriteFile(records(t, dir)[0], []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	reader.close()
	again := open(t, Config{Dir: dir})
	var hits int
	for _, n := range []int{1, 2} {
		if again.load(n) {
			hits++
		}
	}
	if hits != 1 {
		t.Errorf("%d hits, want 1: one record is broken", hits)
	}
	again.close()
	if n := countRecords(t, dir); n != 2 {
		t.Errorf("a reader left %d records of 2", n)
	}
	writer.close()
}
