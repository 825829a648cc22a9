package hub

import (
	"fmt"
	"regexp"
	"strings"
)

// Digest is "sha256:" and 64 lower-case hex digits.
type Digest string

var (
	digestRE    = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	sha1RE      = regexp.MustCompile(`^[0-9a-f]{40}$`)
	componentRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}$`)
	revisionRE  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/-]{0,127}$`)
	reservedRE  = regexp.MustCompile(`(?i)^(con|prn|aux|nul|com[0-9]|lpt[0-9])$`)
)

// ParseDigest accepts exactly the anchored, non-empty form.
func ParseDigest(s string) (Digest, error) {
	if !digestRE.MatchString(s) {
		return "", fmt.Errorf("%q is not a digest (want sha256: and 64 hex digits)", clip(s))
	}
	return Digest(s), nil
}

// blob is the path of a digest's content below the store. A malformed digest would be a way out of the folder, so it
// is a broken invariant: every Digest passes ParseDigest when it enters the program.
func (d Digest) blob() string {
	if !digestRE.MatchString(string(d)) {
		panic("hub: unchecked digest")
	}
	return "blobs/sha256-" + string(d[len("sha256:"):])
}

// checkPath accepts a relative slash-separated path whose every part is safe on every system: no "..", no absolute
// path, NUL, backslash, drive, stream (ADS), leading or trailing dot, Windows device name.
func checkPath(p string) error {
	if len(p) > 512 {
		return fmt.Errorf("file name %q… is too long", clip(p))
	}
	for part := range strings.SplitSeq(p, "/") {
		if err := checkComponent(part); err != nil {
			return fmt.Errorf("file name %q refused: %w", clip(p), err)
		}
	}
	return nil
}

func checkComponent(c string) error {
	stem, _, _ := strings.Cut(c, ".")
	switch {
	case !componentRE.MatchString(c):
		return fmt.Errorf("%q has a character or form outside letters, digits and ._+-", clip(c))
	case strings.HasSuffix(c, "."):
		return fmt.Errorf("%q ends with a dot", clip(c))
	case strings.Contains(c, ".."):
		return fmt.Errorf("%q has two dots in a row", clip(c))
	case reservedRE.MatchString(stem):
		return fmt.Errorf("%q is a device name on Windows", clip(c))
	}
	return nil
}

// clip shortens hostile text before it enters an error message.
func clip(s string) string {
	if len(s) > 120 {
		return s[:120]
	}
	return s
}

// name is a parsed model name: the default model (repo empty) or org/repo[:QUANT].
type name struct{ repo, quant string }

// parseName reads an alias or org/repo[:QUANT]. An empty spec is the default model.
func parseName(spec string) (name, error) {
	if isDefault(spec) {
		return name{}, nil
	}
	repo, quant, hasQuant := strings.Cut(spec, ":")
	org, base, ok := strings.Cut(repo, "/")
	bad := func(err error) (name, error) {
		return name{}, fmt.Errorf("hub: %q is not a model: %w; want %s, a file or folder that exists, or org/repo[:QUANT]",
			clip(spec), err, DefaultName)
	}
	if !ok {
		return bad(fmt.Errorf("no such file, folder or alias"))
	}
	for _, c := range []string{org, base} {
		if err := checkComponent(c); err != nil {
			return bad(err)
		}
		if strings.Contains(c, "--") { // the separator inside key; the hub forbids it too
			return bad(fmt.Errorf("%q contains --", c))
		}
		if len(c) > 96 {
			return bad(fmt.Errorf("the name is longer than 96 characters"))
		}
	}
	if hasQuant {
		if err := checkComponent(quant); err != nil || strings.Contains(quant, "--") || len(quant) > 40 {
			return bad(fmt.Errorf("bad QUANT %q", clip(quant)))
		}
	}
	return name{repo, quant}, nil
}

func (n name) String() string {
	switch {
	case n.repo == "":
		return DefaultName
	case n.quant == "":
		return n.repo
	}
	return n.repo + ":" + n.quant
}

// key is the name as one file name, in lower case so that it means the same on disks that ignore case.
func (n name) key() string {
	return strings.ToLower(strings.NewReplacer("/", "--", ":", "--").Replace(n.String()))
}
