package decoder

import (
	"fmt"
	"strings"

	"sestina/backend"
	"sestina/checkpoint"
	"sestina/tensor"
)

// names spells the tensors of one dialect. Layer names are formats with the layer's index.
type names struct {
	embed, norm, head       string
	attnNorm, q, k, v, out  string
	qNorm, kNorm            string
	ffnNorm, gate, up, down string
	ropeFreqs               string
	layer                   string // prefix of a layer's tensors
	mtp                     mtpNames
	ignored                 []string // suffixes of tensors that carry nothing a forward pass needs
}

var hfNames = names{
	embed: "model.embed_tokens", norm: "model.norm", head: "lm_head",
	attnNorm: "model.layers.%d.input_layernorm",
	q:        "model.layers.%d.self_attn.q_proj", k: "model.layers.%d.self_attn.k_proj",
	v: "model.layers.%d.self_attn.v_proj", out: "model.layers.%d.self_attn.o_proj",
	qNorm: "model.layers.%d.self_attn.q_norm", kNorm: "model.layers.%d.self_attn.k_norm",
	ffnNorm: "model.layers.%d.post_attention_layernorm",
	gate:    "model.layers.%d.mlp.gate_proj", up: "model.layers.%d.mlp.up_proj", down: "model.layers.%d.mlp.down_proj",
	layer: "model.layers.%d.",
	mtp: mtpNames{enorm: "model.layers.%d.enorm", hnorm: "model.layers.%d.hnorm", proj: "model.layers.%d.eh_proj",
		norm: "model.layers.%d.shared_head.norm", head: "model.layers.%d.shared_head.head", ids: "model.layers.%d.shared_head.ids",
		embed: "model.layers.%d.embed_tokens"},
	ignored: []string{".rotary_emb.inv_freq"},
}

var ggufNames = names{
	embed: "token_embd", norm: "output_norm", head: "output",
	attnNorm: "blk.%d.attn_norm",
	q:        "blk.%d.attn_q", k: "blk.%d.attn_k", v: "blk.%d.attn_v", out: "blk.%d.attn_output",
	qNorm: "blk.%d.attn_q_norm", kNorm: "blk.%d.attn_k_norm",
	ffnNorm: "blk.%d.ffn_norm",
	gate:    "blk.%d.ffn_gate", up: "blk.%d.ffn_up", down: "blk.%d.ffn_down",
	layer: "blk.%d.",
	mtp: mtpNames{enorm: "blk.%d.nextn.enorm", hnorm: "blk.%d.nextn.hnorm", proj: "blk.%d.nextn.eh_proj",
		norm: "blk.%d.nextn.shared_head_norm", head: "blk.%d.nextn.shared_head_head", ids: "blk.%d.nextn.shared_head_ids",
		embed: "blk.%d.nextn.embed_tokens"},
	ropeFreqs: "rope_freqs.weight",
	ignored:   []string{".rope_freqs.weight", ".attn_rot_embd"},
}

// weights reads tensors by name, checks their shapes, remembers which were
// used and keeps the first error.
type weights struct {
	c        *checkpoint.Checkpoint
	b        backend.Backend
	progress func(uint64)
	finite   bool // refuse values that are NaN or infinite
	eight    bool // keep float matrices in 8 bits
	used     map[string]bool
	read     uint64 // tensor bytes so far
	resident uint64 // bytes the backend keeps
	err      error
}

func (w *weights) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

// lookup finds a tensor and marks it used; a missing one is an error when required.
func (w *weights) lookup(name string, required bool, shape ...int) (checkpoint.Info, bool) {
	info, ok := w.c.Lookup(name)
	if !ok {
		if required {
			w.fail("tensor %q %v is missing", name, shape)
		}
		return info, false
	}
	w.used[name] = true
	if !info.Shape.Equal(shape) {
		w.fail("tensor %q is %v, the config says %v", name, info.Shape, shape)
		return info, false
	}
	return info, w.err == nil
}

func (w *weights) done(info checkpoint.Info) {
	w.read += info.Bytes
	if w.progress != nil {
		w.progress(w.read)
	}
}

// matrix loads NAME.weight [rows, cols]; nil when it is optional and absent.
func (w *weights) matrix(name string, required bool, rows, cols int) backend.Matrix {
	info, ok := w.lookup(name+".weight", required, rows, cols)
	if !ok {
		return nil
	}
	m := w.place(info, backend.Source{
		Name: info.Name, DType: info.DType, Rows: rows, Cols: cols,
		Read: func(dst []byte, row0, n int) error { return w.rows(info, row0, n, dst) },
	})
	w.done(info)
	return m
}

// place hands a matrix to the backend.
func (w *weights) place(info checkpoint.Info, src backend.Source) backend.Matrix {
	if !info.DType.CanDecode() {
		w.fail("tensor %q is %v, a format that cannot be read; use a file in another one", info.Name, info.DType)
	}
	if w.err != nil {
		return nil
	}
	if w.eight && !src.DType.Quantized() && src.Cols%tensor.Q8_0.BlockSize() == 0 {
		src = inEightBits(src)
	}
	m, err := w.b.NewMatrix(src)
	if err != nil {
		w.fail("%w", err)
		return nil
	}
	w.resident += m.Bytes()
	return m
}

// inEightBits is a float matrix as Q8_0.
func inEightBits(src backend.Source) backend.Source {
	out := src
	out.DType = tensor.Q8_0
	out.Read = func(dst []byte, row0, n int) error {
		size, err := src.RowBytes()
		if err != nil {
			return err
		}
		raw, values := make([]byte, n*size), make([]float32, n*src.Cols)
		if err := src.Read(raw, row0, n); err != nil {
			return err
		}
		if err := tensor.Decode(src.DType, values, raw); err != nil {
			return fmt.Errorf("tensor %q: %w", src.Name, err)
		}
		return tensor.Encode(tensor.Q8_0, dst, values)
	}
	return out
}

// rows reads raw rows of a matrix.
func (w *weights) rows(info checkpoint.Info, row0, n int, dst []byte) error {
	if err := w.c.ReadRows(info.Name, row0, n, dst); err != nil || !w.finite {
		return err
	}
	values := make([]float32, n*info.Shape.Row())
	if err := tensor.Decode(info.DType, values, dst); err != nil {
		return fmt.Errorf("tensor %q: %w", info.Name, err)
	}
	return finite(info.Name, values)
}

// finite refuses values that no weight can have.
func finite(name string, values []float32) error {
	for _, v := range values {
		if v-v != 0 {
			return fmt.Errorf("tensor %q holds %v: the file is corrupt", name, v)
		}
	}
	return nil
}

// vector loads a small parameter as float32; empty when it is optional and absent.
func (w *weights) vector(name string, required bool, n int) (v backend.Vector) {
	values := w.floats(name, required, n)
	if values == nil {
		return v
	}
	v, err := w.b.NewVector(values)
	if err != nil {
		w.fail("tensor %q: %w", name, err)
	}
	w.resident += uint64(n) * 4
	return v
}

// floats reads a small tensor; nil when it is optional and absent.
func (w *weights) floats(name string, required bool, n int) []float32 {
	info, ok := w.lookup(name, required, n)
	if !ok {
		return nil
	}
	raw, values := make([]byte, info.Bytes), make([]float32, n)
	err := w.c.Read(name, raw)
	if err == nil {
		err = tensor.Decode(info.DType, values, raw)
	}
	if err == nil && w.finite {
		err = finite(name, values)
	}
	if err != nil {
		w.fail("tensor %q: %w", name, err)
		return nil
	}
	w.done(info)
	return values
}

// norm loads NAME.weight as an RMSNorm.
func (w *weights) norm(name string, n int, eps float32) *backend.Norm {
	return &backend.Norm{Weight: w.vector(name+".weight", true, n), Eps: eps}
}

// biases loads NAME.bias beside each matrix; nil when there are none.
func (w *weights) biases(required bool, names []string, widths []int) []backend.Vector {
	out, any := make([]backend.Vector, len(names)), false
	for i, n := range names {
		_, present := w.c.Lookup(n + ".bias")
		any = any || present
		out[i] = w.vector(n+".bias", required, widths[i])
	}
	if !any {
		return nil
	}
	return out
}

// finish reports the first error, or a tensor that the architecture does not
// know: running without it would be another model.
func (w *weights) finish(ignored []string) error {
	if w.err != nil {
		return w.err
	}
next:
	for info := range w.c.Tensors() {
		if w.used[info.Name] {
			continue
		}
		for _, suffix := range ignored {
			if strings.HasSuffix(info.Name, suffix) {
				continue next
			}
		}
		return fmt.Errorf("tensor %q is not part of this architecture: the file holds another model than its config says", info.Name)
	}
	return nil
}
