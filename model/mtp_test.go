package model_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sestina/backend"
	"sestina/backend/cpu/matmul"
	"sestina/batch"
	"sestina/checkpoint"
	"sestina/internal/datatest"
	"sestina/model"
	"sestina/runner"
	"sestina/tensor"
)

// The goldens of testdata/mtp are what gen/mtp.py computes in float64.

// loadMTP loads a model with an MTP layer: its own, or that of a file beside it.
func loadMTP(target, beside string, b backend.Backend) (model.Model, error) {
	c, err := checkpoint.Open(target)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	from := c
	if beside != "" {
		if from, err = checkpoint.Open(beside); err != nil {
			return nil, err
		}
		defer from.Close()
	}
	return model.Load(c, b, model.Options{MaxRows: 64, MaxLogitRows: 64, MTP: from})
}

// compareMTP forces the prompts' tokens on target and layer and compares every
// row of the layer, then drafts behind the prompt.
func compareMTP(t *testing.T, m model.Model, b backend.Backend, golden datatest.Arrays, drafts string) {
	t.Helper()
	r, err := runner.New(m, b, runner.Config{Blocks: 40, BlockSize: 4, KVDType: tensor.F32, DraftSeqs: 1, DraftLen: 6})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	compare(t, r, golden)
	worst, rows := 0.0, 0
	near := func(what string, got, want []float32) {
		for i, v := range got {
			worst = max(worst, math.Abs(float64(v-want[i])))
		}
		if !(worst <= tolerance) {
			t.Fatalf("%s: off by %.2g, want at most %.2g", what, worst, tolerance)
		}
	}
	guess := func(row runner.DraftRow) (g model.Guess, id int32) {
		g, err := r.Draft([]runner.DraftRow{row})
		if err != nil {
			t.Fatal(err)
		}
		if id = argmax(g.Logits.Row(0)); g.IDs != nil {
			id = g.IDs[id]
		}
		return g, id
	}
	for k := 0; ; k++ {
		field := func(name string) datatest.Array { return golden[fmt.Sprintf("seq%d.%s", k, name)] }
		ids := field("input_ids").I32
		if ids == nil {
			break
		}
		seq := &batch.Sequence{ID: int64(k), Status: batch.Running, BlockTables: [][]int32{{9, 3, 7, 1, 8, 2, 30, 31, 32, 33}}}
		all := append(slices.Clone(ids), field("greedy_ids").I32[0])
		for i := range ids {
			seq.Tokens = all[:i+1]
			r.Run(&batch.Step{Seqs: []batch.Scheduled{{Seq: seq, NumTokens: 1}}})
			seq.NumComputed, seq.Tokens = i+1, all[:i+2]
			g, _ := guess(runner.DraftRow{Seq: seq, Token: all[i+1], Pos: i + 1, From: -1})
			if i+1 < len(ids) {
				near(fmt.Sprintf("seq%d: state of row %d", k, i), g.States.Row(0), field("mtp_hidden").Row(i))
				if g.IDs == nil {
					near(fmt.Sprintf("seq%d: logits of row %d", k, i), g.Logits.Row(0), field("mtp_logits").Row(i))
				}
				rows++
			}
		}
		row := runner.DraftRow{Seq: seq, Token: all[len(ids)], Pos: len(ids), From: -1}
		for i, want := range field(drafts).I32 {
			g, id := guess(row)
			if id != want {
				t.Fatalf("seq%d: draft %d is %d, want %d", k, i, id, want)
			}
			if g.IDs == nil {
				near(fmt.Sprintf("seq%d: logits of draft %d", k, i), g.Logits.Row(0), field("mtp_draft_logits").Row(i))
			}
			row = runner.DraftRow{Seq: seq, Token: id, Pos: row.Pos + 1, From: 0}
		}
		seq.Status = batch.Finished
	}
	if rows == 0 {
		t.Fatal("the golden file holds no sequences")
	}
	t.Logf("%d rows of the layer: worst difference %.2g", rows, worst)
}

func TestMTPEqualsReference(t *testing.T) {
	for _, name := range []string{"llama", "mistral"} {
		dir := filepath.Join("testdata/mtp", name)
		golden := datatest.Safetensors(t, filepath.Join(dir, "golden.safetensors"))
		bare, beside := split(t, dir, nil)
		reducedTarget, reduced := split(t, dir, func(f *mtpFile) { f.reduce(golden["head_ids"].I32) })
		type form struct{ name, target, beside, drafts string }
		forms := []form{{"inside", dir, "", "mtp_draft_ids"}, {"beside", bare, beside, "mtp_draft_ids"}, {"reduced head", reducedTarget, reduced, "mtp_reduced_ids"}}
		if name == "llama" {
			forms = append(forms, form{"inside GGUF", ggufTwin(t, dir, true), "", "mtp_draft_ids"}, form{"beside GGUF", ggufTwin(t, dir, false), beside, "mtp_draft_ids"})
		}
		backends := map[string]backend.Backend{"ref": refF32()}
		for _, isa := range matmul.Supported() {
			backends[isa.String()] = nil
		}
		for _, isa := range slices.Sorted(maps.Keys(backends)) {
			for _, f := range forms {
				t.Run(name+"/"+isa+"/"+f.name, func(t *testing.T) {
					b := backends[isa]
					if b == nil {
						b = cpuWith(t, backend.Options{ISA: isa, Threads: 2, Activations: backend.ActivationsF32})
					}
					m, err := loadMTP(f.target, f.beside, b)
					if err != nil {
						t.Fatal(err)
					}
					compareMTP(t, m, b, golden, f.drafts)
				})
			}
		}
	}
}

// TestMTPIsLoadedOnDemand: a checkpoint that holds a layer runs without it, and
// one that holds none is told to have none.
func TestMTPIsLoadedOnDemand(t *testing.T) {
	dir := "testdata/mtp/llama"
	golden := datatest.Safetensors(t, filepath.Join(dir, "golden.safetensors"))
	r := open(t, dir, refF32(), 16)
	if i := r.Info(); i.MTP || len(i.CacheLayers) != i.Layers {
		t.Fatalf("an MTP layer that nobody asked for: %+v", i)
	}
	compare(t, r, golden)
	bare, _ := split(t, dir, nil)
	for target, want := range map[string]bool{dir: true, bare: false} {
		m, err := loadMTP(target, "", refF32())
		if err != nil {
			t.Fatal(err)
		}
		i := m.Info()
		if i.MTP != want || (len(i.CacheLayers) == i.Layers+1) != want {
			t.Errorf("%s: MTP layer %v, want %v; %d cache layers of %d", target, i.MTP, want, len(i.CacheLayers), i.Layers)
		}
	}
}

const mtpPrefix = "model.layers.2."

func TestMTPFilesAreRefusedByName(t *testing.T) {
	cases := map[string]struct {
		edit func(f *mtpFile)
		want string
	}{
		"no format":     {func(f *mtpFile) { delete(f.config, "format") }, `"format"`},
		"version":       {func(f *mtpFile) { f.config["version"] = 2 }, "version 2"},
		"hidden size":   {func(f *mtpFile) { f.target()["hidden_size"] = 128 }, "another target: hidden_size is 128 there and 64 here"},
		"vocabulary":    {func(f *mtpFile) { f.target()["vocab_size"] = 161 }, "another target: vocab_size"},
		"layers":        {func(f *mtpFile) { f.target()["num_hidden_layers"] = 3 }, "another target: num_hidden_layers"},
		"training":      {func(f *mtpFile) { f.target()["final_norm_sha256"] = strings.Repeat("0", 64) }, "final_norm_sha256"},
		"missing key":   {func(f *mtpFile) { delete(f.target(), "vocab_size") }, "vocab_size is missing"},
		"missing":       {func(f *mtpFile) { delete(f.tensors, mtpPrefix+"hnorm.weight") }, `"model.layers.2.hnorm.weight" [64] is missing`},
		"shape":         {func(f *mtpFile) { f.put(mtpPrefix+"eh_proj.weight", make([]float32, 64*64), 64, 64) }, "eh_proj.weight"},
		"NaN matrix":    {func(f *mtpFile) { f.spoil(mtpPrefix + "mlp.up_proj.weight") }, `"model.layers.2.mlp.up_proj.weight" holds NaN`},
		"NaN eh_proj":   {func(f *mtpFile) { f.spoil(mtpPrefix + "eh_proj.weight") }, `"model.layers.2.eh_proj.weight" holds NaN`},
		"NaN norm":      {func(f *mtpFile) { f.spoil(mtpPrefix + "enorm.weight") }, `"model.layers.2.enorm.weight" holds NaN`},
		"another thing": {func(f *mtpFile) { f.put("surprise.weight", make([]float32, 4), 4) }, `"surprise.weight"`},
		"head id":       {func(f *mtpFile) { f.reduce([]int32{1, 160}) }, "id 160"},
		"head id twice": {func(f *mtpFile) { f.reduce([]int32{7, 7}) }, "id 7, twice"},
		"head rows": {func(f *mtpFile) {
			f.reduce([]int32{1, 2, 3})
			f.put(mtpPrefix+"shared_head.head.weight", make([]float32, 2*64), 2, 64)
		}, "shared_head.head.weight"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			target, beside := split(t, "testdata/mtp/llama", c.edit)
			_, err := loadMTP(target, beside, refF32())
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "MTP") {
				t.Fatalf("error %v, want one that names %q", err, c.want)
			}
		})
	}
	t.Run("inside", func(t *testing.T) {
		f := readFolder(t, "testdata/mtp/llama")
		delete(f.tensors, mtpPrefix+"enorm.weight")
		_, err := loadMTP(f.write(t), "", refF32())
		if err == nil || !strings.Contains(err.Error(), "enorm") {
			t.Fatalf("error %v, want one that names enorm", err)
		}
	})
}

// mtpFile is a checkpoint in memory, to be changed.
type mtpFile struct {
	config  map[string]any
	tensors map[string]checkpoint.Tensor
	raw     map[string][]byte
}

func readFolder(t *testing.T, dir string) *mtpFile {
	t.Helper()
	f := &mtpFile{tensors: map[string]checkpoint.Tensor{}, raw: map[string][]byte{}}
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err == nil {
		err = json.Unmarshal(data, &f.config)
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for info := range c.Tensors() {
		raw := make([]byte, info.Bytes)
		if err := c.Read(info.Name, raw); err != nil {
			t.Fatal(err)
		}
		f.add(info.Name, info.DType, info.Shape, raw)
	}
	return f
}

func (f *mtpFile) add(name string, d tensor.DType, shape tensor.Shape, raw []byte) {
	f.raw[name] = raw
	f.tensors[name] = checkpoint.Tensor{Name: name, DType: d, Shape: shape}
}

// put adds or replaces an F32 tensor.
func (f *mtpFile) put(name string, values []float32, shape ...int) {
	raw := make([]byte, 4*len(values))
	if err := tensor.Encode(tensor.F32, raw, values); err != nil {
		panic(err)
	}
	f.add(name, tensor.F32, shape, raw)
}

func (f *mtpFile) floats(name string) []float32 {
	x := f.tensors[name]
	n, err := x.Shape.Elements()
	if err != nil {
		panic(err)
	}
	values := make([]float32, n)
	if err := tensor.Decode(x.DType, values, f.raw[name]); err != nil {
		panic(err)
	}
	return values
}

// spoil makes one value of a tensor NaN.
func (f *mtpFile) spoil(name string) {
	values := f.floats(name)
	values[len(values)*2/3] = float32(math.NaN())
	f.put(name, values, f.tensors[name].Shape...)
}

func (f *mtpFile) target() map[string]any { return f.config["target"].(map[string]any) }

// reduce gives the layer a head of some rows of the target's.
func (f *mtpFile) reduce(ids []int32) {
	head := f.floats("lm_head.weight")
	var rows []float32
	var raw []byte
	for _, id := range ids {
		at := int(id) % 160 * 64
		rows = append(rows, head[at:at+64]...)
		raw = append(raw, byte(id), byte(id>>8), 0, 0)
	}
	f.put(mtpPrefix+"shared_head.head.weight", rows, len(ids), 64)
	f.add(mtpPrefix+"shared_head.ids", tensor.I32, []int{len(ids)}, raw)
}

// write makes a folder of it.
func (f *mtpFile) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	config, err := json.Marshal(f.config)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600)
	}
	var out bytes.Buffer
	if err == nil {
		err = checkpoint.WriteSafetensors(&out, nil, f.list())
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "model.safetensors"), out.Bytes(), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func (f *mtpFile) list() (all []checkpoint.Tensor) {
	for _, name := range slices.Sorted(maps.Keys(f.tensors)) {
		x := f.tensors[name]
		x.Data = bytes.NewReader(f.raw[name])
		all = append(all, x)
	}
	return all
}

// split makes two of a checkpoint with an MTP layer: the target without it, and
// the layer as an MTP file, changed by edit.
func split(t *testing.T, dir string, edit func(f *mtpFile)) (target, beside string) {
	t.Helper()
	bare, layer := readFolder(t, dir), readFolder(t, dir)
	delete(bare.config, "num_nextn_predict_layers")
	norm := make([]byte, 4*64)
	if err := tensor.Encode(tensor.F32, norm, bare.floats("model.norm.weight")); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(norm)
	layer.config = map[string]any{"format": "sestina.mtp", "version": 1, "target": map[string]any{
		"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 160, "final_norm_sha256": hex.EncodeToString(digest[:])}}
	if edit != nil {
		edit(layer)
	}
	for name := range bare.tensors {
		if strings.HasPrefix(name, mtpPrefix) {
			delete(bare.tensors, name)
		} else {
			delete(layer.tensors, name)
		}
	}
	return bare.write(t), layer.write(t)
}

// ggufTwin writes a llama checkpoint as converters do, with or without its MTP layer.
func ggufTwin(t *testing.T, dir string, layer bool) string {
	t.Helper()
	f, layers := readFolder(t, dir), 2
	pairs := []checkpoint.KV{
		{Key: "general.architecture", Value: "llama"}, {Key: "llama.context_length", Value: uint32(256)}, {Key: "llama.embedding_length", Value: uint32(64)},
		{Key: "llama.feed_forward_length", Value: uint32(96)}, {Key: "llama.attention.head_count", Value: uint32(4)}, {Key: "llama.attention.head_count_kv", Value: uint32(2)},
		{Key: "llama.attention.layer_norm_rms_epsilon", Value: float32(1e-5)}, {Key: "llama.rope.freq_base", Value: float32(10000)}, {Key: "tokenizer.ggml.model", Value: "none"}, {Key: "llama.vocab_size", Value: uint32(160)},
	}
	if layer {
		layers++
		pairs = append(pairs, checkpoint.KV{Key: "llama.nextn_predict_layers", Value: uint32(1)})
	}
	pairs = append(pairs, checkpoint.KV{Key: "llama.block_count", Value: uint32(layers)})
	names := strings.NewReplacer("model.layers.", "blk.", "model.embed_tokens", "token_embd", "model.norm", "output_norm", "lm_head", "output",
		"input_layernorm", "attn_norm", "self_attn.q_proj", "attn_q", "self_attn.k_proj", "attn_k", "self_attn.v_proj", "attn_v", "self_attn.o_proj", "attn_output",
		"post_attention_layernorm", "ffn_norm", "mlp.gate_proj", "ffn_gate", "mlp.up_proj", "ffn_up", "mlp.down_proj", "ffn_down",
		"enorm", "nextn.enorm", "hnorm", "nextn.hnorm", "eh_proj", "nextn.eh_proj", "shared_head.norm", "nextn.shared_head_norm")
	out := &mtpFile{tensors: map[string]checkpoint.Tensor{}, raw: map[string][]byte{}}
	for name, x := range f.tensors {
		raw := f.raw[name]
		if strings.HasPrefix(name, mtpPrefix) && !layer {
			continue
		}
		if strings.Contains(name, "q_proj") || strings.Contains(name, "k_proj") {
			raw = interleave(raw, x.Shape[0], 16)
		}
		out.add(names.Replace(name), x.DType, x.Shape, raw)
	}
	var file bytes.Buffer
	if err := checkpoint.WriteGGUF(&file, pairs, out.list()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "twin.gguf")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// interleave reorders the rows of q or k from halves to pairs, head by head.
func interleave(raw []byte, rows, dim int) []byte {
	size := len(raw) / rows
	var out []byte
	for row := range rows {
		head, i := row/dim*dim, row%dim
		from := head + i/2 + i%2*dim/2
		out = append(out, raw[from*size:(from+1)*size]...)
	}
	return out
}
