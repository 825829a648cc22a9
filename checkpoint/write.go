package checkpoint

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"sestina/internal/checked"
	"sestina/tensor"
)

// KV is one pair of GGUF metadata. Value is a fixed-size integer or float, a bool, a string, or a slice of one of them;
// its Go type decides the type in the file.
type KV struct {
	Key   string
	Value any
}

// Tensor is one tensor to be written. Data writes exactly the bytes that DType and Shape take; bytes.Reader serves for
// those in memory.
type Tensor struct {
	Name  string
	DType tensor.DType
	Shape tensor.Shape // outermost first
	Data  io.WriterTo
}

// WriteGGUF writes a GGUF file, version 3. The alignment is that of a general.alignment pair, else 32.
func WriteGGUF(w io.Writer, pairs []KV, tensors []Tensor) error {
	values := map[string]any{}
	for _, kv := range pairs {
		values[kv.Key] = kv.Value
	}
	alignment, err := ggufAlignment(values)
	if err != nil {
		return err
	}
	header, err := ggufHeader(pairs, tensors, alignment)
	if err != nil {
		return err
	}
	out := &counter{w: bufio.NewWriterSize(w, 1<<20)}
	if _, err := out.Write(header); err != nil {
		return err
	}
	for _, t := range tensors {
		if err := out.pad(alignment); err != nil {
			return err
		}
		if err := out.tensor(t); err != nil {
			return err
		}
	}
	if err := out.pad(alignment); err != nil {
		return err
	}
	return out.w.Flush()
}

func ggufHeader(pairs []KV, tensors []Tensor, alignment uint64) ([]byte, error) {
	b := append([]byte("GGUF"), 3, 0, 0, 0)
	b = le.AppendUint64(b, uint64(len(tensors)))
	b = le.AppendUint64(b, uint64(len(pairs)))
	for _, kv := range pairs {
		b = appendString(b, kv.Key)
		var err error
		if b, err = appendValue(b, kv.Value); err != nil {
			return nil, fmt.Errorf("metadata %q: %w", kv.Key, err)
		}
	}
	numbers := map[tensor.DType]uint32{}
	for n, d := range ggmlTypes {
		numbers[d] = n
	}
	offset := uint64(0)
	for _, t := range tensors {
		number, ok := numbers[t.DType]
		if !ok || len(t.Shape) > maxGGUFDims {
			return nil, fmt.Errorf("tensor %q: GGUF cannot store %v%v", t.Name, t.DType, t.Shape)
		}
		size, err := t.DType.Bytes(t.Shape)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		b = appendString(b, t.Name)
		b = le.AppendUint32(b, uint32(len(t.Shape)))
		for i := range t.Shape {
			b = le.AppendUint64(b, uint64(t.Shape[len(t.Shape)-1-i]))
		}
		b = le.AppendUint32(b, number)
		b = le.AppendUint64(b, offset)
		end, err := checked.Add(offset, size)
		if err == nil {
			offset, err = checked.Align(end, alignment)
		}
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

func appendString(b []byte, s string) []byte {
	return append(le.AppendUint64(b, uint64(len(s))), s...)
}

// appendValue writes the type of a metadata value and the value.
func appendValue(b []byte, v any) ([]byte, error) {
	if s, ok := v.(string); ok {
		return appendString(le.AppendUint32(b, ggufString), s), nil
	}
	if list, ok := v.([]string); ok {
		b = le.AppendUint32(le.AppendUint32(b, ggufArray), ggufString)
		b = le.AppendUint64(b, uint64(len(list)))
		for _, s := range list {
			b = appendString(b, s)
		}
		return b, nil
	}
	kind, length := ggufKind(v)
	switch {
	case kind < 0:
		return nil, fmt.Errorf("values of type %T cannot be stored", v)
	case length >= 0:
		b = le.AppendUint32(le.AppendUint32(b, ggufArray), uint32(kind))
		b = le.AppendUint64(b, uint64(length))
	default:
		b = le.AppendUint32(b, uint32(kind))
	}
	return binary.Append(b, le, v)
}

// ggufKind returns the type number of a value or of a slice's elements, and the slice's length, -1 for a scalar.
func ggufKind(v any) (kind, length int) {
	switch v := v.(type) {
	case uint8:
		return ggufUint8, -1
	case int8:
		return ggufInt8, -1
	case uint16:
		return ggufUint16, -1
	case int16:
		return ggufInt16, -1
	case uint32:
		return ggufUint32, -1
	case int32:
		return ggufInt32, -1
	case float32:
		return ggufFloat32, -1
	case bool:
		return ggufBool, -1
	case uint64:
		return ggufUint64, -1
	case int64:
		return ggufInt64, -1
	case float64:
		return ggufFloat64, -1
	case []uint8:
		return ggufUint8, len(v)
	case []int8:
		return ggufInt8, len(v)
	case []uint16:
		return ggufUint16, len(v)
	case []int16:
		return ggufInt16, len(v)
	case []uint32:
		return ggufUint32, len(v)
	case []int32:
		return ggufInt32, len(v)
	case []float32:
		return ggufFloat32, len(v)
	case []bool:
		return ggufBool, len(v)
	case []uint64:
		return ggufUint64, len(v)
	case []int64:
		return ggufInt64, len(v)
	case []float64:
		return ggufFloat64, len(v)
	}
	return -1, -1
}

// WriteSafetensors writes a safetensors file. metadata may be nil.
func WriteSafetensors(w io.Writer, metadata map[string]string, tensors []Tensor) error {
	var header bytes.Buffer
	member := func(name string, value any) error {
		key, err := json.Marshal(name)
		if err != nil {
			return err
		}
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		header.WriteByte("{,"[min(header.Len(), 1)])
		header.Write(key)
		header.WriteByte(':')
		header.Write(text)
		return nil
	}
	if metadata != nil {
		if err := member("__metadata__", metadata); err != nil {
			return err
		}
	}
	offset := uint64(0)
	for _, t := range tensors {
		if t.DType.Quantized() {
			return fmt.Errorf("tensor %q: safetensors cannot store %v", t.Name, t.DType)
		}
		size, err := t.DType.Bytes(t.Shape)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		end, err := checked.Add(offset, size)
		if err != nil {
			return err
		}
		shape := append([]int{}, t.Shape...) // not null for a scalar
		if err := member(t.Name, map[string]any{"dtype": t.DType.String(), "shape": shape, "data_offsets": []uint64{offset, end}}); err != nil {
			return err
		}
		offset = end
	}
	if header.Len() == 0 {
		header.WriteByte('{')
	}
	header.WriteByte('}')
	header.WriteString(strings.Repeat(" ", -header.Len()&7))

	out := &counter{w: bufio.NewWriterSize(w, 1<<20)}
	if _, err := out.Write(le.AppendUint64(nil, uint64(header.Len()))); err != nil {
		return err
	}
	if _, err := out.Write(header.Bytes()); err != nil {
		return err
	}
	for _, t := range tensors {
		if err := out.tensor(t); err != nil {
			return err
		}
	}
	return out.w.Flush()
}

// counter counts the bytes written.
type counter struct {
	w *bufio.Writer
	n uint64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += uint64(n)
	return n, err
}

func (c *counter) pad(alignment uint64) error {
	_, err := c.Write(make([]byte, -c.n&(alignment-1)))
	return err
}

// tensor writes the data of t and checks its size.
func (c *counter) tensor(t Tensor) error {
	want, err := t.DType.Bytes(t.Shape)
	if err != nil {
		return err
	}
	if t.Data == nil {
		return errors.New("tensor " + t.Name + " has no data")
	}
	before := c.n
	if _, err := t.Data.WriteTo(c); err != nil {
		return fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	if got := c.n - before; got != want {
		return fmt.Errorf("tensor %q: %v%v takes %d bytes, %d were written", t.Name, t.DType, t.Shape, want, got)
	}
	return nil
}
