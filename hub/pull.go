package hub

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// revision is the part of the hub's description of a repository that we read.
type revision struct {
	SHA      string    `json:"sha"`
	Siblings []sibling `json:"siblings"`
}

type sibling struct {
	Name   string `json:"rfilename"`
	Size   *int64 `json:"size"`
	BlobID string `json:"blobId"`
	LFS    *struct {
		SHA256 string `json:"sha256"`
		Size   int64  `json:"size"`
	} `json:"lfs"`
}

// Pull brings a model into the store, or brings it up to date with the hub: org/repo[:QUANT], or an alias of the default
// model. It resumes what an earlier pull left. Errors name the cause and the remedy in one line; ErrNoSpace for a full disk.
func (s *Store) Pull(ctx context.Context, spec string, o Options) (Model, error) {
	n, err := parseName(spec)
	if err != nil {
		return Model{}, err
	}
	done, err := s.lock(ctx, "pulls", true, true) // shared: only Prune waits
	if err != nil {
		return Model{}, err
	}
	defer done()
	if n.repo == "" {
		return s.pullDefault(ctx, o.progress())
	}
	return s.pullRepo(ctx, n, o)
}

func (s *Store) pullRepo(ctx context.Context, n name, o Options) (Model, error) {
	want := o.Revision
	if want == "" {
		want = "main"
	}
	if !revisionRE.MatchString(want) || strings.Contains(want, "..") {
		return Model{}, fmt.Errorf("hub: %q is not a revision (a branch, tag or commit)", clip(want))
	}
	parts := append([]string{"api", "models"}, strings.Split(n.repo, "/")...)
	var rev revision
	if err := s.hub.getJSON(ctx, s.hub.urlOf(append(parts, "revision", want)...)+"?blobs=true", n.repo, &rev); err != nil {
		return Model{}, fmt.Errorf("hub: %w", err)
	}
	if sha1RE.MatchString(rev.SHA) {
		want = rev.SHA // all files of one commit
	}
	kind, chosen, err := choose(rev.Siblings, n)
	if err != nil {
		return Model{}, fmt.Errorf("hub: %s: %w", n, err)
	}
	files := make([]remoteFile, len(chosen))
	seen := map[string]bool{}
	for i, sib := range chosen {
		lower := strings.ToLower(sib.Name) // some disks ignore case
		if seen[lower] {
			return Model{}, fmt.Errorf("hub: %s: %w: two files named %q", n, errRefused, clip(sib.Name))
		}
		seen[lower] = true
		if files[i], err = sib.remote(); err != nil {
			return Model{}, fmt.Errorf("hub: %s: %w", n, err)
		}
		files[i].url = s.hub.fileURL(n.repo, want, sib.Name)
	}
	m := Model{Kind: kind, Source: s.hub.base.Host + "/" + n.repo, Revision: want}
	return s.fetchAll(ctx, n, m, files, o.progress())
}

// fetchAll brings files into the store and records them as the model n.
func (s *Store) fetchAll(ctx context.Context, n name, m Model, files []remoteFile, p Progress) (Model, error) {
	if err := s.needSpace(s.lacking(files)); err != nil {
		return Model{}, err
	}
	for round := 1; ; round++ {
		m.Files = nil
		for _, r := range files {
			f, err := s.fetch(ctx, r, p)
			if err != nil {
				return Model{}, err
			}
			m.Files = append(m.Files, f)
		}
		got, err := s.record(ctx, n, m)
		if !errors.Is(err, errBlobGone) || round == 3 {
			return got, err
		}
	}
}

// lacking is how many bytes of files are still to be fetched. The sum stops at a size no disk has.
func (s *Store) lacking(files []remoteFile) (n int64) {
	root, err := s.open(false)
	for _, f := range files {
		if f.digest != "" && s.hasBlob(f.digest, f.size) {
			continue
		}
		n += f.size
		if err == nil {
			if st, err := root.Lstat("blobs/" + f.key() + ".part"); err == nil {
				n -= min(st.Size(), f.size)
			}
		}
	}
	return n
}

const maxFileSize = 1 << 46 // bytes; maxFiles of them fit an int64

// remote checks what the hub says of one file. A file without a digest to hold it to is refused.
func (sib sibling) remote() (remoteFile, error) {
	if err := checkPath(sib.Name); err != nil {
		return remoteFile{}, err
	}
	r := remoteFile{path: sib.Name}
	switch {
	case sib.LFS != nil:
		d, err := ParseDigest("sha256:" + sib.LFS.SHA256)
		if err != nil {
			return remoteFile{}, fmt.Errorf("%s: %w", sib.Name, err)
		}
		r.digest, r.size = d, sib.LFS.Size
	case sib.Size != nil && sha1RE.MatchString(sib.BlobID):
		r.gitSHA1, r.size = sib.BlobID, *sib.Size
	default:
		return remoteFile{}, fmt.Errorf("%s: the hub announces no usable size and digest", sib.Name)
	}
	if r.size < 0 || r.size > maxFileSize {
		return remoteFile{}, fmt.Errorf("%s: impossible size %d", sib.Name, r.size)
	}
	return r, nil
}

// folderFiles are the files of a safetensors repository that an engine reads. Pickles (.bin, .pt) are programs and are
// never fetched.
var folderFiles = []string{"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
	"special_tokens_map.json", "chat_template.jinja"}

// choose picks a repository's files: one GGUF when QUANT is given or nothing else is there, else the safetensors folder.
func choose(all []sibling, n name) (Kind, []sibling, error) {
	if len(all) > 1<<16 {
		return "", nil, fmt.Errorf("%w: a repository of %d files", errRefused, len(all))
	}
	if n.quant == "" {
		if files := chooseFolder(all); files != nil {
			if len(files) > maxFiles {
				return "", nil, fmt.Errorf("%w: a model of %d files", errRefused, len(files))
			}
			return Folder, files, nil
		}
	}
	f, err := chooseGGUF(all, n)
	return GGUF, []sibling{f}, err
}

func chooseFolder(all []sibling) []sibling {
	var files, weights, hfWeights []sibling
	for _, f := range all {
		switch {
		case strings.Contains(f.Name, "/") && checkPath(f.Name) == nil:
			// other layouts of the same weights (original/, onnx/)
		case slices.Contains(folderFiles, f.Name) || strings.HasSuffix(f.Name, ".safetensors.index.json"):
			files = append(files, f)
		case path.Ext(f.Name) != ".safetensors":
			// other formats
		case strings.HasPrefix(f.Name, "model"):
			hfWeights = append(hfWeights, f)
			weights = append(weights, f)
		default:
			weights = append(weights, f)
		}
	}
	if len(hfWeights) > 0 { // beside model*.safetensors, consolidated*.safetensors is the same weights again
		weights = slices.DeleteFunc(weights, func(f sibling) bool { return strings.HasPrefix(f.Name, "consolidated") })
	}
	hasConfig := slices.ContainsFunc(files, func(f sibling) bool { return f.Name == "config.json" })
	if !hasConfig || len(weights) == 0 {
		return nil
	}
	return append(files, weights...)
}

var splitRE = regexp.MustCompile(`-\d{5}-of-\d{5}\.gguf$`)

// chooseGGUF picks the file that QUANT names: as a whole part of the name (Q4_K is not Q4_K_M), else as any part. Without
// QUANT it is Q4_K_M, or the only file. Everything else is an error that lists what is there.
func chooseGGUF(all []sibling, n name) (sibling, error) {
	var ggufs []sibling
	for _, f := range all {
		base := strings.ToLower(path.Base(f.Name))
		if strings.HasSuffix(base, ".gguf") && !strings.HasPrefix(base, "mmproj") && !strings.Contains(base, "imatrix") {
			ggufs = append(ggufs, f)
		}
	}
	if len(ggufs) == 0 {
		return sibling{}, errors.New("the repository has neither config.json with *.safetensors nor a *.gguf file")
	}
	quant := n.quant
	if quant == "" && len(ggufs) > 1 {
		quant = "Q4_K_M"
	}
	found := matching(ggufs, `(?i)(^|[^a-z0-9_])`+regexp.QuoteMeta(quant)+`([^a-z0-9_]|$)`)
	if len(found) == 0 {
		found = matching(ggufs, `(?i)`+regexp.QuoteMeta(quant))
	}
	if quant == "" {
		found = ggufs
	}
	switch {
	case len(found) == 1 && splitRE.MatchString(found[0].Name), len(found) > 1 && splitRE.MatchString(found[0].Name):
		return sibling{}, fmt.Errorf("%s is split into several files, which cannot be opened; choose another QUANT: %s",
			clip(found[0].Name), listing(ggufs))
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return sibling{}, fmt.Errorf("%q names several files: %s; write %s:QUANT in full", quant, listing(found), n.repo)
	}
	return sibling{}, fmt.Errorf("no GGUF file is named %s; write %s:QUANT for one of: %s", quant, n.repo, listing(ggufs))
}

// matching returns the files whose name without .gguf matches expr.
func matching(files []sibling, expr string) (found []sibling) {
	re := regexp.MustCompile(expr)
	for _, f := range files {
		base := path.Base(f.Name)
		if re.MatchString(base[:len(base)-len(".gguf")]) {
			found = append(found, f)
		}
	}
	return found
}

func listing(files []sibling) string {
	var names []string
	for _, f := range files[:min(len(files), 40)] {
		names = append(names, fmt.Sprintf("%q", clip(f.Name)))
	}
	if len(files) > 40 {
		names = append(names, "…")
	}
	return strings.Join(names, " ")
}
