package decoder

import (
	"fmt"
	"math"

	"sestina/backend"
	"sestina/batch"
	"sestina/checkpoint"
	"sestina/model"
)

// Decoder is a loaded model. Its layers are operations made once, at load;
// Forward only runs them.
type Decoder struct {
	spec  Spec
	info  model.Info
	b     backend.Backend
	embed backend.Matrix
	layer []layer
	head  backend.Linear // final norm and output projection
	mtp   *mtp           // nil: no MTP layer

	inv        []float32 // angle per position of each rotated pair
	ropeScale  float32
	rotary     backend.Rotary
	hidden     backend.Rows // [rows, hidden] the residual stream
	qkv        backend.Rows // [rows, (heads + 2·kvHeads)·headDim]
	attended   backend.Rows // [rows, heads·headDim]
	ffn        backend.Rows // [rows, ffn]
	lastHidden backend.Rows // [logit rows, hidden]
	logits     backend.Rows // [logit rows, vocab]
}

// layer is one block: h += out(attention(qkv(norm h))); h += down(gateUp(norm h)).
type layer struct {
	qkv, out, gateUp, down backend.Linear
	attention              backend.Attention
}

// Load reads the checkpoint's weights into a decoder of the given spec.
func Load(c *checkpoint.Checkpoint, b backend.Backend, spec Spec, opt model.Options) (*Decoder, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	w := &weights{c: c, b: b, progress: opt.Progress, used: map[string]bool{}}
	n := hfNames
	if c.Format() == checkpoint.GGUF {
		n = ggufNames
	}
	d := &Decoder{spec: spec, b: b}
	if n.ropeFreqs != "" {
		d.spec.Rope.Divisors = w.divisors(n.ropeFreqs, spec.Rope.Dim/2)
	}
	d.embed = w.matrix(n.embed, true, spec.Vocab, spec.Hidden)
	for i := range spec.Layers {
		d.layer = append(d.layer, w.layer(&d.spec, n, i))
	}
	d.head = backend.Linear{Norm: w.norm(n.norm, spec.Hidden, spec.NormEps)}
	step := w.resident
	if m := w.headMatrix(n.head, spec); m != nil {
		d.head.W = []backend.Matrix{m}
		step = w.resident - d.embedBytes()
	} else {
		d.head.W = []backend.Matrix{d.embed}
	}
	d.inv, d.ropeScale = d.spec.Rope.frequencies()
	d.info = spec.info(c, step)
	d.info.MaxRows = opt.MaxRows
	d.loadMTP(w, n, opt.MTP)
	d.info.ResidentBytes = w.resident
	if err := w.finish(n.ignored); err != nil {
		return nil, err
	}
	return d, d.allocate(opt)
}

func (d *Decoder) embedBytes() uint64 {
	if d.embed == nil {
		return 0
	}
	return d.embed.Bytes()
}

// headMatrix is the output projection, nil where the embedding serves as such.
// A tied config ignores a head that the file may still hold.
func (w *weights) headMatrix(name string, s Spec) backend.Matrix {
	if _, ok := w.c.Lookup(name + ".weight"); ok && s.Tied && w.c.Format() != checkpoint.GGUF {
		w.used[name+".weight"] = true
		return nil
	}
	return w.matrix(name, !s.Tied, s.Vocab, s.Hidden)
}

// divisors reads the per-frequency divisors some GGUF files carry.
func (w *weights) divisors(name string, n int) []float32 {
	v := w.floats(name, false, n)
	for _, f := range v {
		if !(f > 0) || math.IsInf(float64(f), 0) {
			w.fail("tensor %q holds %v; divisors must be positive", name, f)
		}
	}
	return v
}

// layer loads block i.
func (w *weights) layer(s *Spec, n names, i int) layer {
	at := func(format string) string { return fmt.Sprintf(format, i) }
	q, k, v := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim, s.KVHeads*s.HeadDim
	one := func(m backend.Matrix) []backend.Matrix { return []backend.Matrix{m} }
	l := layer{
		qkv: backend.Linear{
			Norm: w.norm(at(n.attnNorm), s.Hidden, s.NormEps),
			W: []backend.Matrix{w.matrix(at(n.q), true, q, s.Hidden), w.matrix(at(n.k), true, k, s.Hidden),
				w.matrix(at(n.v), true, v, s.Hidden)},
			Bias: w.biases(s.QKVBias, []string{at(n.q), at(n.k), at(n.v)}, []int{q, k, v}),
		},
		attention: backend.Attention{
			Layer: i, Heads: s.Heads, KVHeads: s.KVHeads, HeadDim: s.HeadDim,
			Scale: float32(1 / math.Sqrt(float64(s.HeadDim))), Window: s.window(i),
		},
		out: backend.Linear{
			W:    one(w.matrix(at(n.out), true, s.Hidden, q)),
			Bias: w.biases(s.OutBias, []string{at(n.out)}, []int{s.Hidden}), Epilogue: backend.Add,
		},
		gateUp: backend.Linear{
			Norm: w.norm(at(n.ffnNorm), s.Hidden, s.NormEps),
			W:    []backend.Matrix{w.matrix(at(n.gate), true, s.FFN, s.Hidden), w.matrix(at(n.up), true, s.FFN, s.Hidden)},
			Bias: w.biases(s.MLPBias, []string{at(n.gate), at(n.up)}, []int{s.FFN, s.FFN}), Epilogue: backend.SwiGLU,
		},
		down: backend.Linear{
			W:    one(w.matrix(at(n.down), true, s.Hidden, s.FFN)),
			Bias: w.biases(s.MLPBias, []string{at(n.down)}, []int{s.Hidden}), Epilogue: backend.Add,
		},
	}
	if s.QKNorm {
		l.attention.QNorm = w.norm(at(n.qNorm), s.HeadDim, s.NormEps)
		l.attention.KNorm = w.norm(at(n.kNorm), s.HeadDim, s.NormEps)
	}
	return l
}

func (s *Spec) info(c *checkpoint.Checkpoint, step uint64) model.Info {
	info := model.Info{
		Arch: s.Arch, Vocab: s.Vocab, Hidden: s.Hidden, Layers: s.Layers, Heads: s.Heads, KVHeads: s.KVHeads,
		HeadDim: s.HeadDim, MaxContext: s.Context, Params: c.NumParams(), FileBytes: c.Bytes(), StepBytes: step,
	}
	for i := range s.Layers {
		info.CacheLayers = append(info.CacheLayers, backend.CacheLayer{KVHeads: s.KVHeads, HeadDim: s.HeadDim})
		info.Windows = append(info.Windows, s.window(i))
	}
	return info
}

// allocate makes the work space, once, for the largest step.
func (d *Decoder) allocate(opt model.Options) error {
	if opt.MaxRows < 1 || opt.MaxLogitRows < 1 {
		return fmt.Errorf("model options: %d rows and %d logit rows; both must be at least 1", opt.MaxRows, opt.MaxLogitRows)
	}
	s := &d.spec
	var err error
	rows := func(n, width int) (r backend.Rows) {
		if err == nil {
			r, err = d.b.NewRows(n, width)
		}
		return r
	}
	d.hidden = rows(opt.MaxRows, s.Hidden)
	d.qkv = rows(opt.MaxRows, (s.Heads+2*s.KVHeads)*s.HeadDim)
	d.attended = rows(opt.MaxRows, s.Heads*s.HeadDim)
	d.ffn = rows(opt.MaxRows, s.FFN)
	d.rotary = backend.Rotary{Dim: s.Rope.Dim, Interleaved: s.Rope.Interleaved,
		Cos: rows(opt.MaxRows, s.Rope.Dim/2), Sin: rows(opt.MaxRows, s.Rope.Dim/2)}
	d.lastHidden = rows(opt.MaxLogitRows, s.Hidden)
	d.logits = rows(opt.MaxLogitRows, s.Vocab)
	for i := range d.layer {
		if s.Unrotated == nil || !s.Unrotated(i) {
			d.layer[i].attention.Rotary = &d.rotary
		}
	}
	if d.mtp != nil {
		d.mtp.states, d.mtp.embedded = rows(opt.MaxRows, s.Hidden), rows(opt.MaxRows, s.Hidden)
		d.mtp.rotary.Dim, d.mtp.rotary.Cos, d.mtp.rotary.Sin = d.rotary.Dim, d.rotary.Cos, d.rotary.Sin
	}
	return err
}

// Info describes the model.
func (d *Decoder) Info() model.Info { return d.info }

// Forward runs the step's rows through every layer.
func (d *Decoder) Forward(in *batch.Input, kv backend.Cache) model.Output {
	h := d.hidden.First(in.Rows())
	d.rotate(in.Positions)
	d.b.Embed(h, d.embed, in.TokenIDs, 1)
	for i := range d.layer {
		d.run(&d.layer[i], h, in, kv)
	}
	out := model.Output{Hidden: d.lastHidden.First(len(in.LogitRows)), Logits: d.logits.First(len(in.LogitRows))}
	if len(in.LogitRows) > 0 {
		d.b.Gather(out.Hidden, h, in.LogitRows)
		d.b.Linear(out.Logits, out.Hidden, &d.head)
	}
	if d.mtp != nil {
		out.States = d.mtp.states.First(h.N)
		d.b.Norm(out.States, h, d.head.Norm)
	}
	return out
}

// run takes h through one block.
func (d *Decoder) run(l *layer, h backend.Rows, in *batch.Input, kv backend.Cache) {
	qkv, attended, ffn := d.qkv.First(h.N), d.attended.First(h.N), d.ffn.First(h.N)
	d.b.Linear(qkv, h, &l.qkv)
	d.b.Attend(attended, qkv, in, kv, &l.attention)
	d.b.Linear(h, attended, &l.out)
	d.b.Linear(ffn, h, &l.gateUp)
	d.b.Linear(h, ffn, &l.down)
}

// rotate fills the step's cos and sin: angle = position · frequency in float32,
// as every reference implementation rounds it.
func (d *Decoder) rotate(positions []int32) {
	for i, pos := range positions {
		cos, sin := d.rotary.Cos.Row(i), d.rotary.Sin.Row(i)
		for k, f := range d.inv {
			s, c := math.Sincos(float64(float32(float32(pos) * f)))
			cos[k], sin[k] = float32(c)*d.ropeScale, float32(s)*d.ropeScale
		}
	}
}

var _ model.Model = (*Decoder)(nil)
