package checkpoint

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"sestina/internal/checked"
	"sestina/tensor"
)

// safetensors: a u64 length, a JSON object of that length, then the data.
//
//	{"__metadata__": {…}, "name": {"dtype": "BF16", "shape": [out, in], "data_offsets": [begin, end]}, …}
//
// Offsets count from the end of the header. The format's own rules, enforced here: the header has at most 100 MB; each
// span is the size of dtype and shape; sorted by offset, the spans cover the data without hole or overlap.

const (
	maxSafetensorsHeader   = 100_000_000
	maxSafetensorsTensors  = 1 << 20
	maxSafetensorsName     = 1 << 10 // bytes
	maxSafetensorsDims     = 8       // convolutions of vision towers have 5
	maxSafetensorsEntry    = 64      // JSON values that describe one tensor
	maxSafetensorsMetadata = 1 << 16 // JSON values of the free-form metadata, which is skipped
)

// readSafetensors parses the header of a file of that size and returns its tensors in file order.
func readSafetensors(file io.ReaderAt, size uint64) ([]Info, error) {
	var prefix [8]byte
	if n, err := file.ReadAt(prefix[:], 0); n < 8 {
		return nil, fmt.Errorf("not a safetensors file: %d bytes: %w", size, err)
	}
	length := le.Uint64(prefix[:])
	if length > maxSafetensorsHeader || size < 8 || length > size-8 {
		return nil, fmt.Errorf("not a safetensors file: its header would take %d bytes of %d", length, size)
	}
	tensors, err := parseSafetensors(bufio.NewReader(io.NewSectionReader(file, 8, int64(length))))
	if err != nil {
		return nil, err
	}
	return tensors, placeSafetensors(tensors, 8+length, size)
}

// parseSafetensors reads the members of the header one by one; Info.offset is still relative to the data.
func parseSafetensors(header io.Reader) ([]Info, error) {
	in := newJSONReader(header, 8, 0)
	var tensors []Info
	seen := map[string]bool{}
	err := in.members(func(name string) error {
		if len(name) > maxSafetensorsName {
			return fmt.Errorf("a name of %d bytes, at most %d are allowed", len(name), maxSafetensorsName)
		}
		if seen[name] {
			return fmt.Errorf("tensor %q occurs twice", name)
		}
		seen[name] = true
		in.budget = maxSafetensorsEntry
		if name == "__metadata__" {
			in.budget = maxSafetensorsMetadata
		}
		value, err := in.value(1)
		if err != nil || name == "__metadata__" {
			return err
		}
		if len(tensors) == maxSafetensorsTensors {
			return fmt.Errorf("more than %d tensors", maxSafetensorsTensors)
		}
		t, err := safetensorsInfo(name, value)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		tensors = append(tensors, t)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("safetensors header: %w", err)
	}
	if err := in.end(); err != nil {
		return nil, fmt.Errorf("safetensors header: %w", err)
	}
	return tensors, nil
}

func safetensorsInfo(name string, value any) (Info, error) {
	if name == "" {
		return Info{}, errors.New("the name is empty")
	}
	members, _ := value.(map[string]any)
	config := Config{origin: "entry", values: members}
	r := config.Reader()
	dtype, shape, span := r.String("dtype"), r.Ints("shape"), r.Ints("data_offsets")
	if err := r.Err(); err != nil {
		return Info{}, err
	}
	d, err := tensor.ParseDType(dtype)
	if err != nil {
		return Info{}, err
	}
	if d.Quantized() {
		return Info{}, fmt.Errorf("%v is no type of safetensors", d)
	}
	if len(shape) > maxSafetensorsDims || slices.ContainsFunc(shape, func(n int) bool { return n <= 0 }) {
		return Info{}, fmt.Errorf("shape %v", shape)
	}
	if len(span) != 2 || span[0] < 0 || span[1] < span[0] {
		return Info{}, fmt.Errorf("data_offsets %v", span)
	}
	t := Info{Name: name, DType: d, Shape: shape, offset: int64(span[0])}
	if t.Bytes, err = d.Bytes(t.Shape); err != nil {
		return Info{}, err
	}
	if uint64(span[1]-span[0]) != t.Bytes {
		return Info{}, fmt.Errorf("%v%v takes %d bytes but its data_offsets span %d", d, shape, t.Bytes, span[1]-span[0])
	}
	return t, nil
}

// placeSafetensors sorts the tensors by offset, checks that they cover the data exactly, and turns their offsets into
// offsets from the start of the file.
func placeSafetensors(tensors []Info, start, size uint64) error {
	slices.SortStableFunc(tensors, func(a, b Info) int { return cmp.Compare(a.offset, b.offset) })
	next := uint64(0)
	for i := range tensors {
		t := &tensors[i]
		if uint64(t.offset) != next {
			return fmt.Errorf("tensor %q begins at %d of the data, expected %d: spans overlap or leave a hole",
				t.Name, t.offset, next)
		}
		end, err := checked.Add(next, t.Bytes)
		if err != nil || end > size-start {
			return fmt.Errorf("tensor %q ends at %d of %d bytes of data: the file is truncated; fetch it again",
				t.Name, end, size-start)
		}
		t.offset, next = int64(start+next), end
	}
	if next != size-start {
		return fmt.Errorf("the data has %d bytes, the tensors take %d", size-start, next)
	}
	return nil
}
