package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// List returns the models of the store by name. Manifests that cannot be read are named in the error; the others are
// returned all the same.
func (s *Store) List() ([]Model, error) {
	models, err := s.manifests("")
	for i := range models {
		n, parseErr := parseName(models[i].Name)
		if parseErr == nil {
			err = errors.Join(err, s.layOut(n, &models[i]))
		}
	}
	return models, err
}

// Show returns one model of the store by the name List shows, or by an alias. ErrNotFound when it is not there.
func (s *Store) Show(spec string) (Model, error) {
	n, err := parseName(spec)
	if err != nil {
		return Model{}, err
	}
	m, err := s.readManifest(manifestPath(n))
	if missing(err) {
		return Model{}, fmt.Errorf("hub: %s: %w; see `sestina list`", n, ErrNotFound)
	}
	if err != nil {
		return Model{}, err
	}
	if !s.complete(m) {
		return m, fmt.Errorf("hub: %s: a file of it is missing from %s; pull it again", n, s.dir)
	}
	if err := s.layOut(n, &m); err != nil {
		return m, fmt.Errorf("hub: %s: %w", n, err)
	}
	return m, nil
}

// Remove deletes a model and every blob that no other model uses. ErrNotFound when it is not there. A manifest that
// cannot be read is removed alone; a second one in that state is an error, since its blobs are unknown.
func (s *Store) Remove(ctx context.Context, spec string) error {
	n, err := parseName(spec)
	if err != nil {
		return err
	}
	path := manifestPath(n)
	if _, err := s.readManifest(path); missing(err) {
		return fmt.Errorf("hub: %s: %w; see `sestina list`", n, ErrNotFound)
	}
	unlock, err := s.lock(ctx, "store", false, true)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.manifests(path); err != nil {
		return fmt.Errorf("hub: %s is kept, for another manifest cannot be read and may share its files: %w", n, err)
	}
	root, err := s.open(false)
	if err != nil {
		return err
	}
	m, _ := s.readManifest(path)
	if err := s.at("remove"); err != nil {
		return err
	}
	if err := root.Remove(path); err != nil && !missing(err) {
		return fmt.Errorf("hub: %w", err)
	}
	if err := s.at("removed"); err != nil {
		return err
	}
	root.RemoveAll("models/" + n.key())
	s.dropUnused(m.Files, "")
	return syncDir(root, "manifests")
}

// Prune removes what no model refers to: unfinished downloads, blobs of interrupted pulls, folders, old lock files. It
// returns the bytes freed, and an error while a pull is running.
func (s *Store) Prune(ctx context.Context) (freed int64, err error) {
	pulls, err := s.lock(ctx, "pulls", false, false)
	if err == errBusy {
		return 0, errors.New("hub: a pull is running; prune when it has ended")
	}
	if err != nil {
		return 0, err
	}
	defer pulls()
	unlock, err := s.lock(ctx, "store", false, true)
	if err != nil {
		return 0, err
	}
	defer unlock()
	models, err := s.manifests("")
	if err != nil {
		return 0, fmt.Errorf("hub: nothing is pruned, for a manifest cannot be read: %w", err)
	}
	keep := map[string]bool{"locks/pulls.lock": true, "locks/store.lock": true}
	for d := range references(models) {
		keep[d.blob()] = true
	}
	for _, m := range models {
		n, _ := parseName(m.Name)
		keep["models/"+n.key()] = true
	}
	for _, dir := range []string{"blobs", "models", "tmp", "locks"} {
		n, err := s.sweep(dir, keep)
		freed += n
		if err != nil {
			return freed, fmt.Errorf("hub: %w", err)
		}
	}
	return freed, nil
}

// sweep removes the entries of one folder that are not in keep and sums the plain files among them.
func (s *Store) sweep(dir string, keep map[string]bool) (freed int64, err error) {
	root, err := s.open(true)
	if err != nil {
		return 0, err
	}
	f, err := root.Open(dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	for _, n := range names {
		path := dir + "/" + n
		if keep[path] {
			continue
		}
		if st, err := root.Lstat(path); err == nil && st.Mode().IsRegular() {
			freed += st.Size()
		}
		err = errors.Join(err, root.RemoveAll(path))
	}
	return freed, err
}

// Verify hashes every file of a model again, also those that its folder holds as copies. A file that differs is removed
// from the store, so that the next pull fetches it, and is named in the error (ErrCorrupt).
func (s *Store) Verify(ctx context.Context, spec string, p Progress) error {
	n, err := parseName(spec)
	if err != nil {
		return err
	}
	m, err := s.Show(spec)
	if err != nil {
		return err
	}
	root, err := s.open(false)
	if err != nil {
		return err
	}
	var bad []string
	for _, f := range m.Files {
		paths := []string{f.Digest.blob()}
		if m.Kind == Folder {
			paths = append(paths, folderOf(n, m)+"/"+f.Path)
		}
		if err := verifyFile(ctx, root, f, paths, Options{Progress: p}.progress()); errors.Is(err, ErrCorrupt) {
			bad = append(bad, f.Path)
		} else if err != nil {
			return fmt.Errorf("hub: %s: %s: %w", m.Name, f.Path, err)
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("hub: %s: %w: %s; removed from the store, run `sestina pull %s`", m.Name, ErrCorrupt, strings.Join(bad, ", "), m.Name)
	}
	return nil
}

// verifyFile hashes a file under each path where it is another file than under the first.
func verifyFile(ctx context.Context, root *os.Root, f File, paths []string, p Progress) (err error) {
	p.Start(f.Path, f.Size, 0)
	defer func() { p.Done(err) }()
	first, err := root.Stat(paths[0])
	if err != nil {
		return err
	}
	for i, path := range paths {
		if st, err := root.Stat(path); err != nil || i > 0 && os.SameFile(first, st) {
			continue
		}
		if err = hashFile(ctx, root, f, path, p); err != nil {
			break
		}
	}
	if errors.Is(err, ErrCorrupt) {
		for _, path := range paths {
			root.Remove(path)
		}
	}
	return err
}

func hashFile(ctx context.Context, root *os.Root, f File, path string, p Progress) error {
	in, err := root.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	h := sha256.New()
	_, err = io.Copy(writerFunc(func(b []byte) (int, error) { p.Add(int64(len(b))); return h.Write(b) }), readerWith(ctx, in))
	if err != nil {
		return err
	}
	if got := Digest("sha256:" + hex.EncodeToString(h.Sum(nil))); got != f.Digest {
		return fmt.Errorf("%w: %s is %s", ErrCorrupt, path, got)
	}
	return nil
}
