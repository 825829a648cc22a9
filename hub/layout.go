package hub

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A GGUF model is opened at its blob. A Hugging Face model is opened at a folder whose files have their own names:
// models/<name>/<hash of the file list>/…, made of hard links, or of copies where the disk has no hard links. The hash
// makes a folder immutable: a newer revision gets another folder, so nothing changes under a process that reads the old.

// folderOf is the folder of a model's files below the store.
func folderOf(n name, m Model) string {
	h := sha256.New()
	for _, f := range m.Files {
		fmt.Fprintf(h, "%d %s %s\n", f.Size, f.Digest, f.Path)
	}
	return "models/" + n.key() + "/" + hex.EncodeToString(h.Sum(nil)[:6])
}

// layOut sets m.Path and makes the folder when one is needed. It is idempotent and needs no lock: a link appears whole.
func (s *Store) layOut(n name, m *Model) error {
	if m.Kind == GGUF {
		m.Path = filepath.Join(s.dir, filepath.FromSlash(m.Files[0].Digest.blob()))
		return nil
	}
	root, err := s.open(false)
	if err != nil {
		return err
	}
	folder := folderOf(n, *m)
	m.Path = filepath.Join(s.dir, filepath.FromSlash(folder))
	for _, f := range m.Files {
		path := folder + "/" + f.Path
		if st, err := root.Lstat(path); err == nil && st.Mode().IsRegular() && st.Size() == f.Size {
			continue
		}
		if err := s.at("link"); err != nil {
			return diskError(err)
		}
		if err := placeFile(root, f, path); err != nil {
			return diskError(err)
		}
	}
	return nil
}

func placeFile(root *os.Root, f File, path string) error {
	if err := root.MkdirAll(parent(path), 0o755); err != nil {
		return err
	}
	if err := root.Remove(path); err != nil && !missing(err) { // wrong size: somebody's edit
		return err
	}
	err := root.Link(f.Digest.blob(), path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	return copyFile(root, f.Digest.blob(), path)
}

// copyFile copies under another name and renames, so that a copy appears whole too.
func copyFile(root *os.Root, from, to string) error {
	in, err := root.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := to + "." + rand.Text()[:8] + ".tmp"
	out, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err == nil {
		err = root.Rename(tmp, to)
	}
	if err != nil {
		root.Remove(tmp)
	}
	return err
}

// forgetVariants removes the folders of a model's other revisions.
func (s *Store) forgetVariants(n name, m Model) {
	root, err := s.open(false)
	if err != nil {
		return
	}
	base := "models/" + n.key()
	dir, err := root.Open(base)
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, v := range names {
		if path := base + "/" + v; m.Kind != Folder || path != folderOf(n, m) {
			root.RemoveAll(path)
		}
	}
}
