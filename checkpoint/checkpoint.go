// Package checkpoint opens model files: GGUF, and safetensors beside a config.json. It checks every length, offset and
// name in them before it hands anything out, and it does no arithmetic on the weights.
//
// A model file is input from a stranger. The rules that hold for both formats:
//   - Sizes are computed with internal/checked; a size that wraps is an error.
//   - A declared length is compared with a fixed limit and with the bytes left in the file before memory is taken for it.
//   - Every tensor lies inside its file, tensors neither overlap nor leave holes, and a name occurs once.
//   - Weights are read with pread into the caller's memory, never mapped: a file that shrinks gives an error, no signal.
//   - Metadata is reached through typed accessors; a value of another type is an error, never a silent zero.
//   - No pickle, no archive, no code.
//
// Hand-made hostile files and fuzz targets for each parser prove it (hostile_test.go, fuzz_test.go).
package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sestina/internal/checked"
	"sestina/tensor"
)

// Format is the kind of file that a checkpoint came from.
type Format uint8

// The formats.
const (
	GGUF Format = iota + 1
	HF          // config.json with one or several safetensors files
)

func (f Format) String() string {
	switch f {
	case GGUF:
		return "gguf"
	case HF:
		return "hf"
	}
	return fmt.Sprintf("Format(%d)", uint8(f))
}

// Info describes one stored tensor.
type Info struct {
	Name  string
	DType tensor.DType
	Shape tensor.Shape // outermost first in both formats
	Bytes uint64

	source int   // index into Checkpoint.sources
	offset int64 // from the start of that file
}

// Checkpoint is an open model: its configuration and its tensors. Its methods may be called concurrently, except Close.
type Checkpoint struct {
	format  Format
	config  Config
	folder  string // of the side files; empty for GGUF
	sources []source
	tensors []Info
	byName  map[string]int
	bytes   uint64
	params  uint64
}

// Format returns the kind of the files.
func (c *Checkpoint) Format() Format { return c.format }

// Config returns the GGUF metadata or the contents of config.json.
func (c *Checkpoint) Config() Config { return c.config }

// Bytes returns the sum of all tensors' bytes.
func (c *Checkpoint) Bytes() uint64 { return c.bytes }

// NumParams returns the sum of all tensors' elements.
func (c *Checkpoint) NumParams() uint64 { return c.params }

// Tensors yields the tensors in file order, so that reading them in turn is a sequential read.
func (c *Checkpoint) Tensors() iter.Seq[Info] {
	return func(yield func(Info) bool) {
		for _, t := range c.tensors {
			if !yield(t) {
				return
			}
		}
	}
}

// Names returns the tensors' names in file order.
func (c *Checkpoint) Names() []string {
	names := make([]string, len(c.tensors))
	for i, t := range c.tensors {
		names[i] = t.Name
	}
	return names
}

// Lookup returns the tensor of that name.
func (c *Checkpoint) Lookup(name string) (Info, bool) {
	i, ok := c.byName[name]
	if !ok {
		return Info{}, false
	}
	return c.tensors[i], true
}

// Read fills dst with the raw bytes of the tensor. len(dst) must be its size.
func (c *Checkpoint) Read(name string, dst []byte) error {
	t, ok := c.Lookup(name)
	if !ok {
		return fmt.Errorf("the checkpoint has no tensor %q", name)
	}
	if uint64(len(dst)) != t.Bytes {
		return fmt.Errorf("tensor %q takes %d bytes, the buffer has %d", name, t.Bytes, len(dst))
	}
	return c.sources[t.source].read(dst, t.offset)
}

// ReadRows fills dst with rows [first, first+n) of the tensor seen as a matrix [elements/row, row], where row is its last
// dimension. len(dst) must be the size of n rows.
func (c *Checkpoint) ReadRows(name string, first, n int, dst []byte) error {
	t, ok := c.Lookup(name)
	if !ok {
		return fmt.Errorf("the checkpoint has no tensor %q", name)
	}
	rowBytes, err := t.DType.Bytes(tensor.Shape{t.Shape.Row()})
	if err != nil {
		return err
	}
	rows := t.Bytes / rowBytes
	if first < 0 || n < 0 || uint64(first) > rows || uint64(n) > rows-uint64(first) {
		return fmt.Errorf("tensor %q has %d rows, not [%d, %d)", name, rows, first, first+n)
	}
	if uint64(len(dst)) != uint64(n)*rowBytes {
		return fmt.Errorf("%d rows of tensor %q take %d bytes, the buffer has %d", n, name, uint64(n)*rowBytes, len(dst))
	}
	return c.sources[t.source].read(dst, t.offset+int64(uint64(first)*rowBytes))
}

// maxSideFile bounds File; the largest tokenizer.json in use has 33 MB.
const maxSideFile = 128 << 20

// File returns a file beside config.json, such as tokenizer.json. The error is fs.ErrNotExist where there is none, and
// always for GGUF, which keeps everything in its metadata.
func (c *Checkpoint) File(name string) ([]byte, error) {
	if c.folder == "" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if !plainName(name) {
		return nil, fmt.Errorf("%q is not a plain file name", name)
	}
	return readSmall(filepath.Join(c.folder, name), maxSideFile)
}

// CheckUnchanged returns an error if a weights file was written, truncated or replaced since Open. Call it when the last
// tensor has been read.
func (c *Checkpoint) CheckUnchanged() error {
	for _, s := range c.sources {
		if err := s.checkUnchanged(); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the files.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, s := range c.sources {
		errs = append(errs, s.file.Close())
	}
	c.sources = nil
	return errors.Join(errs...)
}

// maxTensors bounds all files of a checkpoint together; the largest published one has 91,991.
const maxTensors = 1 << 20

// add takes the checked tensors of one source into the checkpoint.
func (c *Checkpoint) add(tensors []Info) error {
	if len(tensors) > maxTensors-len(c.tensors) {
		return fmt.Errorf("more than %d tensors", maxTensors)
	}
	for _, t := range tensors {
		if _, dup := c.byName[t.Name]; dup {
			return fmt.Errorf("tensor %q occurs twice", t.Name)
		}
		elements, err := t.Shape.Elements()
		if err != nil {
			return err
		}
		if c.params, err = checked.Add(c.params, elements); err != nil {
			return err
		}
		if c.bytes, err = checked.Add(c.bytes, t.Bytes); err != nil {
			return err
		}
		c.byName[t.Name] = len(c.tensors)
		c.tensors = append(c.tensors, t)
	}
	return nil
}

// source is one weights file, with the size and time it had when it was opened.
type source struct {
	path string
	file *os.File
	info fs.FileInfo
}

func openSource(path string) (source, error) {
	// Checked before it is opened: opening a pipe would wait for a writer.
	if info, err := os.Stat(path); err != nil {
		return source{}, err
	} else if !info.Mode().IsRegular() {
		return source{}, fmt.Errorf("%s is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return source{}, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return source{}, err
	}
	return source{path, file, info}, nil
}

func (s source) size() uint64 { return uint64(s.info.Size()) }

func (s source) name() string { return filepath.Base(s.path) }

func (s source) read(dst []byte, offset int64) error {
	n, err := s.file.ReadAt(dst, offset)
	switch {
	case n == len(dst):
		return nil
	case err == io.EOF:
		return fmt.Errorf("%s ended at byte %d while byte %d was read: it was truncated after it was opened; fetch it again",
			s.path, offset+int64(n), offset+int64(len(dst)))
	}
	return fmt.Errorf("cannot read the weights: %w", err)
}

func (s source) checkUnchanged() error {
	now, err := s.file.Stat()
	if err != nil {
		return err
	}
	if now.Size() != s.info.Size() || !now.ModTime().Equal(s.info.ModTime()) {
		return fmt.Errorf("%s changed while it was read: %d bytes of %s, now %d of %s; load it again", s.path,
			s.info.Size(), s.info.ModTime().Format(time.RFC3339), now.Size(), now.ModTime().Format(time.RFC3339))
	}
	if there, err := os.Stat(s.path); err != nil || !os.SameFile(there, now) {
		return fmt.Errorf("%s was replaced while it was read; load it again", s.path)
	}
	return nil
}

// plainName reports whether name is a bare file name of safe characters: nothing that can leave its folder, name a
// device or a stream, or hide.
func plainName(name string) bool {
	if name == "" || len(name) > 255 || name[0] == '.' || name[0] == '-' {
		return false
	}
	return strings.IndexFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-+", r))
	}) < 0
}

// readSmall returns the contents of a file that may not have more than limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	s, err := openSource(path)
	if err != nil {
		return nil, err
	}
	defer s.file.Close()
	if s.info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d allowed", path, s.info.Size(), limit)
	}
	data := make([]byte, s.info.Size())
	if err := s.read(data, 0); err != nil {
		return nil, err
	}
	return data, nil
}
