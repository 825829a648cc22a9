package backendtest

import (
	"slices"
	"strings"
	"testing"

	"sestina/backend"
	"sestina/backend/ref"
	"sestina/batch"
)

func newRef(opt backend.Options) backend.Backend { return ref.New(opt) }

func TestOracleIsInvariantItself(t *testing.T) {
	runChecks(t, newRef, 1, everyNth(checks(), 5))
	t.Run("refusals", func(t *testing.T) { refusals(t, newRef(backend.Options{})) })
}

// wrong overrides some operations of the oracle.
type wrong struct {
	backend.Backend
	embed  func(b backend.Backend, dst backend.Rows, table backend.Matrix, ids []int32, scale float32)
	linear func(b backend.Backend, dst, x backend.Rows, op *backend.Linear)
	attend func(b backend.Backend, dst, qkv backend.Rows, in *batch.Input, kv backend.Cache, op *backend.Attention)
	copies func(b backend.Backend, kv backend.Cache, copies []batch.BlockCopy)
	norm   func(b backend.Backend, dst, x backend.Rows, n *backend.Norm)
}

func (w *wrong) Embed(dst backend.Rows, table backend.Matrix, ids []int32, scale float32) {
	if w.embed == nil {
		w.Backend.Embed(dst, table, ids, scale)
		return
	}
	w.embed(w.Backend, dst, table, ids, scale)
}

func (w *wrong) Linear(dst, x backend.Rows, op *backend.Linear) {
	if w.linear == nil {
		w.Backend.Linear(dst, x, op)
		return
	}
	w.linear(w.Backend, dst, x, op)
}

func (w *wrong) Attend(dst, qkv backend.Rows, in *batch.Input, kv backend.Cache, op *backend.Attention) {
	if w.attend == nil {
		w.Backend.Attend(dst, qkv, in, kv, op)
		return
	}
	w.attend(w.Backend, dst, qkv, in, kv, op)
}

func (w *wrong) Norm(dst, x backend.Rows, n *backend.Norm) {
	if w.norm == nil {
		w.Backend.Norm(dst, x, n)
		return
	}
	w.norm(w.Backend, dst, x, n)
}

func (w *wrong) CopyBlocks(kv backend.Cache, copies []batch.BlockCopy) {
	if w.copies == nil {
		w.Backend.CopyBlocks(kv, copies)
		return
	}
	w.copies(w.Backend, kv, copies)
}

// attendWith changes what the oracle's attention is asked for.
func attendWith(change func(in *batch.Input, op *backend.Attention)) *wrong {
	return &wrong{attend: func(b backend.Backend, dst, qkv backend.Rows, in *batch.Input, kv backend.Cache, op *backend.Attention) {
		i, o := *in, *op
		i.Spans = append([]batch.Span(nil), in.Spans...)
		change(&i, &o)
		b.Attend(dst, qkv, &i, kv, &o)
	}}
}

// TestWrongBackendsAreNoticed is the suite's own test: each mistake must fail it.
func TestWrongBackendsAreNoticed(t *testing.T) {
	mistakes := map[string]*wrong{
		"embed ignores the scale": {embed: func(b backend.Backend, dst backend.Rows, table backend.Matrix, ids []int32, _ float32) {
			b.Embed(dst, table, ids, 1)
		}},
		"linear writes one value too many": {linear: func(b backend.Backend, dst, x backend.Rows, op *backend.Linear) {
			b.Linear(dst, x, op)
			dst.Host[:len(dst.Host)+1][len(dst.Host)] = 0
		}},
		"linear normalises its input in place": {linear: func(b backend.Backend, dst, x backend.Rows, op *backend.Linear) {
			b.Linear(dst, x, op)
			if op.Norm != nil {
				copy(x.Row(0), ref.RMSNorm(x.Row(0), op.Norm.Weight.Host, op.Norm.Eps))
			}
		}},
		"linear drops a bias": {linear: func(b backend.Backend, dst, x backend.Rows, op *backend.Linear) {
			o := *op
			o.Bias = nil
			b.Linear(dst, x, &o)
		}},
		"linear lets a neighbour in": {linear: func(b backend.Backend, dst, x backend.Rows, op *backend.Linear) {
			b.Linear(dst, x, op)
			if x.N > 3 {
				dst.Row(2)[0] += 0 * x.Row(3)[0]
			}
		}},
		"attention sees one key too many": attendWith(func(in *batch.Input, op *backend.Attention) {
			if op.Window > 0 {
				op.Window++
			}
		}),
		"attention reads another group's blocks": attendWith(func(in *batch.Input, op *backend.Attention) {
			for i := range in.Spans {
				slices.Reverse(in.Spans[i].BlockTables)
			}
		}),
		"attention sees a key before the first": attendWith(func(in *batch.Input, op *backend.Attention) {
			op.First = max(0, op.First-1)
		}),
		"attention sees a key from the future": attendWith(func(in *batch.Input, op *backend.Attention) {
			for i := range in.Spans {
				if s := &in.Spans[i]; s.Start+s.Len < len(s.BlockTables[0])*in.BlockSize {
					s.Start++
				}
			}
		}),
		"attention confuses the rotations": attendWith(func(in *batch.Input, op *backend.Attention) {
			if op.Rotary != nil {
				r := *op.Rotary
				r.Interleaved = !r.Interleaved
				op.Rotary = &r
			}
		}),
		"attention norms only when alone": attendWith(func(in *batch.Input, op *backend.Attention) {
			if len(in.Spans) > 1 {
				op.QNorm = nil
			}
		}),
		"norm forgets epsilon": {norm: func(b backend.Backend, dst, x backend.Rows, n *backend.Norm) {
			b.Norm(dst, x, &backend.Norm{Weight: n.Weight})
		}},
		"copy leaves a block out": {copies: func(b backend.Backend, kv backend.Cache, copies []batch.BlockCopy) {
			b.CopyBlocks(kv, copies[:len(copies)-1])
		}},
	}
	makers := map[string]func(backend.Backend) backend.Backend{
		"linear splits k for many rows": func(b backend.Backend) backend.Backend { return SplitK(b, 4) },
		"attention counts tiles from elsewhere": func(b backend.Backend) backend.Backend {
			return ShiftTiles(b)
		},
	}
	makers["linear adds BF16 by blocks and does not say so"] = func(backend.Backend) backend.Backend {
		return struct{ backend.Backend }{ref.New(backend.Options{BF16: backend.BF16ByBlocks})}
	}
	for name, w := range mistakes {
		makers[name] = func(b backend.Backend) backend.Backend {
			broken := *w
			broken.Backend = b
			return &broken
		}
	}
	tables := map[string][]check{"embed": embedChecks(), "linear": linearChecks(), "attention": attendChecks(), "norm": normChecks(), "copy": copyChecks()}
	for name, wrap := range makers {
		operation, _, _ := strings.Cut(name, " ")
		t.Run(name, func(t *testing.T) {
			noticed := firstFailure(func(opt backend.Options) backend.Backend { return wrap(ref.New(opt)) }, tables[operation])
			if noticed == "" {
				t.Fatal("nothing noticed it")
			}
			t.Log(noticed)
		})
	}
}
