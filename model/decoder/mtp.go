package decoder

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strings"

	"sestina/backend"
	"sestina/batch"
	"sestina/checkpoint"
	"sestina/model"
	"sestina/tensor"
)

// The MTP layer of DeepSeek-V3 and GLM-4.5, index L = the number of layers:
//
//	x = eh_proj [ enorm(embedding of a token) ; hnorm(state before it) ]
//	y = decoder layer(x), causal over its own rows
//	g = shared_head.norm(y), logits = head(g)
//
// A state is what the target's final norm puts out. The row of token j sits at
// slot j and is rotated as position j; position 0 has no state before it, so
// there is no row 0 and slot 0 is not visible. Embedding and head are the target's.
//
// Two things differ from a textbook layer and change nothing. eh_proj is kept as
// its two halves, which are added. And where only K and V are wanted
// ([Decoder.KeepLevel]), nothing but K and V is computed: they depend on x alone,
// so it takes three projections and an attention that sees its own row only.
//
// Proof: TestMTPEqualsReference in package model.
type mtp struct {
	token, state backend.Linear // the halves of eh_proj, each behind its norm
	layer        layer
	norm         *backend.Norm
	head         backend.Linear // of normed rows
	ids          []int32        // token ids of a reduced head

	store     backend.Linear    // k, k, v: a query is wanted by nobody, so the key serves
	storeOnly backend.Attention // sees its own row

	rotary   backend.Rotary
	states   backend.Rows // [rows, hidden] of the last Forward
	embedded backend.Rows // [rows, hidden]
}

// mtpNames spells the tensors of an MTP layer beside those of its decoder layer.
type mtpNames struct {
	enorm, hnorm, proj, norm string
	head                     string // a copy of the target's head; with ids, a reduced one
	ids                      string // token id of each row of a reduced head
	embed                    string // a copy of the target's embedding, not read
}

// loadMTP takes the MTP layer from where the options say: from the model's own
// checkpoint, which w reads and which need not hold one, or from a file beside
// it. What it does not take of the own checkpoint's is ignored.
func (d *Decoder) loadMTP(w *weights, n names, from *checkpoint.Checkpoint) {
	inside := false
	for i := range d.spec.MTP {
		any := w.ignore(fmt.Sprintf(n.layer, d.spec.Layers+i))
		inside = inside || i == 0 && any
	}
	switch {
	case from == nil || w.err != nil:
	case from != w.c:
		if err := d.readFile(w, n, from); err != nil {
			w.fail("MTP file: %w", err)
		}
	case inside:
		w.finite = true
		if d.readMTP(w, n, d.spec.Rope.Interleaved); w.err != nil {
			w.err = fmt.Errorf("MTP layer: %w; with speculation off the model is loaded without it", w.err)
		}
	}
}

// readFile takes the layer from an MTP file, whose tensors are in the HF layout.
// Beside a quantised target its matrices are kept in 8 bits, for every step reads
// some of them: 1 % of the bytes that SmolLM2-135M in Q4_1 reads, instead of 2 %.
func (d *Decoder) readFile(w *weights, n names, from *checkpoint.Checkpoint) error {
	if err := d.spec.checkFile(from, w.floats(n.norm+".weight", true, d.spec.Hidden)); err != nil {
		return err
	}
	f := &weights{c: from, b: w.b, used: map[string]bool{}, finite: true, eight: d.embed.DType().Quantized()}
	d.readMTP(f, hfNames, false)
	for _, copied := range []string{hfNames.mtp.embed, hfNames.mtp.head} {
		f.used[fmt.Sprintf(copied, d.spec.Layers)+".weight"] = true
	}
	w.resident += f.resident
	return f.finish(hfNames.ignored)
}

// ignore marks all tensors with a prefix as used and reports whether there are any.
func (w *weights) ignore(prefix string) (any bool) {
	for info := range w.c.Tensors() {
		if strings.HasPrefix(info.Name, prefix) {
			w.used[info.Name], any = true, true
		}
	}
	return any
}

// readMTP loads the layer.
func (d *Decoder) readMTP(w *weights, n names, interleaved bool) {
	s, at := &d.spec, func(format string) string { return fmt.Sprintf(format, d.spec.Layers) }
	m := &mtp{layer: w.layer(s, n, s.Layers), norm: w.norm(at(n.mtp.norm), s.Hidden, s.NormEps)}
	token, state := w.halves(at(n.mtp.proj), s.Hidden, s.Hidden)
	m.token = backend.Linear{Norm: w.norm(at(n.mtp.enorm), s.Hidden, s.NormEps), W: []backend.Matrix{token}}
	m.state = backend.Linear{Norm: w.norm(at(n.mtp.hnorm), s.Hidden, s.NormEps), W: []backend.Matrix{state}, Epilogue: backend.Add}
	m.head = backend.Linear{W: d.head.W}
	if m.ids = w.ids(at(n.mtp.ids), s.Vocab); m.ids != nil {
		m.head.W = []backend.Matrix{w.matrix(at(n.mtp.head), true, len(m.ids), s.Hidden)}
	}
	if w.err != nil {
		return
	}
	qkv, a := &m.layer.qkv, &m.layer.attention
	a.First, a.Rotary = 1, &m.rotary
	m.rotary.Interleaved = interleaved
	m.store = backend.Linear{Norm: qkv.Norm, W: []backend.Matrix{qkv.W[1], qkv.W[1], qkv.W[2]}}
	if qkv.Bias != nil {
		m.store.Bias = []backend.Vector{qkv.Bias[1], qkv.Bias[1], qkv.Bias[2]}
	}
	m.storeOnly = *a
	m.storeOnly.Heads, m.storeOnly.QNorm, m.storeOnly.Window = a.KVHeads, a.KNorm, 1
	d.mtp = m
	d.info.MTP = true
	d.info.CacheLayers = append(d.info.CacheLayers, backend.CacheLayer{KVHeads: s.KVHeads, HeadDim: s.HeadDim})
	d.info.Windows = append(d.info.Windows, s.window(s.Layers))
	for _, b := range []backend.Matrix{token, state, qkv.W[1], qkv.W[2]} {
		d.info.StepBytes += b.Bytes()
	}
}

// halves loads NAME.weight [rows, 2·cols] as two matrices side by side.
func (w *weights) halves(name string, rows, cols int) (left, right backend.Matrix) {
	info, ok := w.lookup(name+".weight", true, rows, 2*cols)
	if !ok {
		return nil, nil
	}
	size, err := info.DType.Bytes(tensor.Shape{cols})
	if err != nil {
		w.fail("tensor %q: its halves of %d columns are not whole blocks: %w", info.Name, cols, err)
		return nil, nil
	}
	half := int(size)
	side := func(first int) backend.Matrix {
		return w.place(info, backend.Source{
			Name: info.Name, DType: info.DType, Rows: rows, Cols: cols,
			Read: func(dst []byte, row0, n int) error {
				both := make([]byte, 2*half*n)
				if err := w.rows(info, row0, n, both); err != nil {
					return err
				}
				for i := range n {
					copy(dst[i*half:(i+1)*half], both[(2*i+first)*half:])
				}
				return nil
			},
		})
	}
	left, right = side(0), side(1)
	w.done(info)
	return left, right
}

// ids reads the token ids of a reduced head, [n] int32 or int64, each once; nil
// when there are none.
func (w *weights) ids(name string, vocab int) []int32 {
	info, ok := w.c.Lookup(name)
	if !ok {
		return nil
	}
	w.used[name] = true
	if info.DType != tensor.I32 && info.DType != tensor.I64 || len(info.Shape) != 1 || info.Shape[0] < 1 || info.Shape[0] > vocab {
		w.fail("tensor %q is %v %v, want 1…%d token ids as I32 or I64", name, info.DType, info.Shape, vocab)
		return nil
	}
	raw := make([]byte, info.Bytes)
	if err := w.c.Read(name, raw); err != nil {
		w.fail("tensor %q: %w", name, err)
		return nil
	}
	ids, seen := make([]int32, info.Shape[0]), make(map[int64]bool, info.Shape[0])
	for i := range ids {
		var id int64
		if info.DType == tensor.I32 {
			id = int64(int32(binary.LittleEndian.Uint32(raw[4*i:])))
		} else {
			id = int64(binary.LittleEndian.Uint64(raw[8*i:]))
		}
		if id < 0 || id >= int64(vocab) || seen[id] {
			w.fail("tensor %q holds id %d, twice or outside the vocabulary of %d", name, id, vocab)
			return nil
		}
		ids[i], seen[id] = int32(id), true
	}
	return ids
}

// An MTP file is a folder with the layer's tensors under their usual names and a
// config.json that says which target they were trained for:
//
//	{"format": "sestina.mtp", "version": 1,
//	 "target": {"hidden_size": 576, "num_hidden_layers": 30, "vocab_size": 49152, "final_norm_sha256": "…"}}
//
// The digest, of the final norm's weights as float32, is optional: norms are kept
// as floats in every format, so it knows a target by its training and not by its file.
const mtpFormat, mtpVersion = "sestina.mtp", 1

// checkFile refuses an MTP file that is none, or another target's.
func (s *Spec) checkFile(c *checkpoint.Checkpoint, norm []float32) error {
	r := c.Config().Reader()
	if f := r.StringOr("format", ""); c.Format() != checkpoint.HF || f != mtpFormat {
		return fmt.Errorf(`its config.json does not say "format": %q`, mtpFormat)
	}
	if v := r.Int("version"); r.Err() == nil && v != mtpVersion {
		return fmt.Errorf("version %d is unknown; this program reads version %d", v, mtpVersion)
	}
	for _, f := range []struct {
		key  string
		want int
	}{{"hidden_size", s.Hidden}, {"num_hidden_layers", s.Layers}, {"vocab_size", s.Vocab}} {
		if v := r.Int("target." + f.key); r.Err() == nil && v != f.want {
			return fmt.Errorf("it is for another target: %s is %d there and %d here", f.key, v, f.want)
		}
	}
	digest := r.StringOr("target.final_norm_sha256", "")
	if err := r.Err(); err != nil {
		return err
	}
	if own := normDigest(norm); digest != "" && digest != own {
		return fmt.Errorf("it is for another target of this shape: final_norm_sha256 is %.16s… there and %.16s… here", digest, own)
	}
	return nil
}

// normDigest is the identity of a target.
func normDigest(norm []float32) string {
	h := sha256.New()
	for _, v := range norm {
		h.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// input is eh_proj's output for each row.
func (d *Decoder) input(in *batch.Input, states backend.Rows) backend.Rows {
	x, e := d.hidden.First(in.Rows()), d.mtp.embedded.First(in.Rows())
	d.b.Embed(e, d.embed, in.TokenIDs, 1)
	d.b.Linear(x, e, &d.mtp.token)
	d.b.Linear(x, states, &d.mtp.state)
	return x
}

// KeepLevel implements model.MTP. The rotation is still that of Forward.
func (d *Decoder) KeepLevel(in *batch.Input, states backend.Rows, kv backend.Cache) {
	x, width := d.input(in, states), d.spec.KVHeads*d.spec.HeadDim
	kkv := d.qkv.Reshape(x.N, 3*width)
	d.b.Linear(kkv, x, &d.mtp.store)
	d.b.Attend(d.attended.Reshape(x.N, width), kkv, in, kv, &d.mtp.storeOnly)
}

// Draft implements model.MTP.
func (d *Decoder) Draft(in *batch.Input, states backend.Rows, kv backend.Cache) model.Guess {
	x := d.input(in, states)
	d.rotate(in.Positions)
	d.run(&d.mtp.layer, x, in, kv)
	g := model.Guess{States: d.lastHidden.First(x.N), Logits: d.logits.First(x.N), IDs: d.mtp.ids}
	if g.IDs != nil {
		g.Logits = g.Logits.Reshape(x.N, len(g.IDs))
	}
	d.b.Norm(g.States, x, d.mtp.norm)
	d.b.Linear(g.Logits, g.States, &d.mtp.head)
	return g
}

var _ model.MTP = (*Decoder)(nil)
