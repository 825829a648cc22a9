package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	manifestMagic   = "sestina-manifest"
	manifestVersion = 1
	maxFiles        = 4096 // files of one model
)

// manifest is manifests/<name>.json.
type manifest struct {
	Magic    string    `json:"magic"`
	Version  int       `json:"version"`
	Name     string    `json:"name"`
	Kind     Kind      `json:"kind"`
	Source   string    `json:"source"`
	Revision string    `json:"revision,omitempty"`
	Pulled   time.Time `json:"pulled"`
	Files    []File    `json:"files"`
}

func manifestPath(n name) string { return "manifests/" + n.key() + ".json" }

// parseManifest checks everything before anything of it is used: the file may come from another version or be damaged.
func parseManifest(data []byte) (Model, error) {
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return Model{}, fmt.Errorf("damaged: %w", err)
	}
	if m.Magic != manifestMagic {
		return Model{}, fmt.Errorf("magic is %q, want %q", clip(m.Magic), manifestMagic)
	}
	if m.Version != manifestVersion {
		return Model{}, fmt.Errorf("%s version %d is unknown to this build (it knows %d); use a newer sestina or pull again",
			manifestMagic, m.Version, manifestVersion)
	}
	if m.Kind != GGUF && m.Kind != Folder {
		return Model{}, fmt.Errorf("unknown kind %q", clip(string(m.Kind)))
	}
	if len(m.Files) == 0 || len(m.Files) > maxFiles || (m.Kind == GGUF && len(m.Files) != 1) {
		return Model{}, fmt.Errorf("a %s model of %d files", m.Kind, len(m.Files))
	}
	if _, err := parseName(m.Name); err != nil {
		return Model{}, err
	}
	for _, f := range m.Files {
		if err := checkPath(f.Path); err != nil {
			return Model{}, err
		}
		if _, err := ParseDigest(string(f.Digest)); err != nil {
			return Model{}, err
		}
		if f.Size < 0 {
			return Model{}, fmt.Errorf("%s has size %d", f.Path, f.Size)
		}
	}
	return Model{Name: m.Name, Kind: m.Kind, Source: m.Source, Revision: m.Revision, Pulled: m.Pulled, Files: m.Files}, nil
}

// readManifest reads one manifest file; fs.ErrNotExist when there is none.
func (s *Store) readManifest(path string) (Model, error) {
	root, err := s.open(false)
	if err != nil {
		return Model{}, err
	}
	f, err := root.Open(path)
	if err != nil {
		return Model{}, fmt.Errorf("hub: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxJSON))
	if err != nil {
		return Model{}, fmt.Errorf("hub: %w", err)
	}
	m, err := parseManifest(data)
	if err != nil {
		return Model{}, fmt.Errorf("hub: %s: %w", path, err)
	}
	return m, nil
}

// manifests reads all of them, in order of file name, except skip. Those that cannot be read are in the error.
func (s *Store) manifests(skip string) (models []Model, err error) {
	root, err := s.open(false)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	dir, err := root.Open("manifests")
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	slices.Sort(names)
	var bad []error
	for _, n := range names {
		path := "manifests/" + n
		if !strings.HasSuffix(n, ".json") || path == skip {
			continue
		}
		m, err := s.readManifest(path)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		models = append(models, m)
	}
	return models, errors.Join(bad...)
}

func (s *Store) writeManifest(n name, m Model) error {
	root, err := s.open(true)
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(manifest{manifestMagic, manifestVersion, m.Name, m.Kind, m.Source, m.Revision, m.Pulled, m.Files}, "", "  ")
	if err != nil {
		return err
	}
	path := manifestPath(n)
	if err := s.at("manifest"); err != nil {
		return diskError(err)
	}
	f, err := root.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return diskError(err)
	}
	if _, err := io.Copy(f, bytes.NewReader(append(data, '\n'))); err != nil {
		f.Close()
		return diskError(err)
	}
	return s.publish(f, path+".tmp", path)
}

var errBlobGone = errors.New("hub: a file of the model was removed while it was being pulled; pull again")

// record makes a finished pull visible. Under the store's lock it sees that every blob is still there (a Remove may have
// run meanwhile: errBlobGone), lays out the folder, writes the manifest, and drops what only the manifest it replaces used.
func (s *Store) record(ctx context.Context, n name, m Model) (Model, error) {
	unlock, err := s.lock(ctx, "store", false, true)
	if err != nil {
		return Model{}, err
	}
	defer unlock()
	if !s.complete(m) {
		return Model{}, errBlobGone
	}
	m.Name, m.Pulled = n.String(), s.now().UTC().Truncate(time.Second)
	old, oldErr := s.readManifest(manifestPath(n))
	if err := s.layOut(n, &m); err != nil {
		return Model{}, fmt.Errorf("hub: %s: %w", m.Name, err)
	}
	if err := s.writeManifest(n, m); err != nil {
		return Model{}, fmt.Errorf("hub: %s: %w", m.Name, err)
	}
	if oldErr == nil {
		s.forgetVariants(n, m)
		s.dropUnused(old.Files, "")
	}
	return m, nil
}

// complete says whether every file of m is in the store.
func (s *Store) complete(m Model) bool {
	for _, f := range m.Files {
		if !s.hasBlob(f.Digest, f.Size) {
			return false
		}
	}
	return true
}

// dropUnused removes the blobs of files that no manifest but skip refers to. Where a manifest cannot be read, nothing is
// known to be unused and everything stays. A blob in use by a running process may stay on Windows; Prune gets it later.
func (s *Store) dropUnused(files []File, skip string) {
	models, err := s.manifests(skip)
	root, openErr := s.open(false)
	if err != nil || openErr != nil {
		return
	}
	used := references(models)
	for _, f := range files {
		if !used[f.Digest] {
			root.Remove(f.Digest.blob())
		}
	}
}

func references(models []Model) map[Digest]bool {
	used := map[Digest]bool{}
	for _, m := range models {
		for _, f := range m.Files {
			used[f.Digest] = true
		}
	}
	return used
}
