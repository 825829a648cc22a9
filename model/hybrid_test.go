package model_test

import (
	"slices"
	"testing"

	"sestina/backend"
	"sestina/backend/ref"
	"sestina/runner"
	"sestina/tensor"
)

// hybrids are tiny models whose config gives a window to some layers, as each of
// the architectures spells it, and the windows of their layers.
var hybrids = []struct {
	name    string
	edit    func(config map[string]any)
	windows []int
}{
	{"qwen2", func(c map[string]any) {
		c["use_sliding_window"], c["sliding_window"], c["max_window_layers"] = true, 16, 1
	}, []int{0, 16, 16}},
	{"qwen3", func(c map[string]any) {
		c["use_sliding_window"], c["sliding_window"] = true, 9
		c["layer_types"] = []string{"sliding_attention", "full_attention", "sliding_attention"}
	}, []int{9, 0, 9}},
	{"smollm3", func(c map[string]any) {
		c["use_sliding_window"], c["sliding_window"] = true, 16
		c["layer_types"] = []string{"full_attention", "sliding_attention", "full_attention", "sliding_attention"}
	}, []int{0, 16, 0, 16}},
}

// TestGroupsChangeNoLogit: with layers dealt into block groups the logits are, bit by
// bit, those of one group that keeps everything, however a sequence comes about; and
// the windows matter.
func TestGroupsChangeNoLogit(t *testing.T) {
	for _, h := range hybrids {
		t.Run(h.name, func(t *testing.T) {
			folder := readFolder(t, "testdata/hf/"+h.name)
			order := backend.OrderOf(cpuWith(t, backend.Options{Threads: 1}))
			plain := together(t, folder.write(t), order)
			h.edit(folder.config)
			path := folder.write(t)
			want := together(t, path, order)
			if slices.Equal(want[0][promptLen-1], plain[0][promptLen-1]) {
				t.Fatal("the window changes no logit")
			}
			rows := 0
			for _, blockSize := range []int{16, 1, 4, 7} {
				b := cpuWith(t, backend.Options{Threads: 2})
				m := load(t, path, b)
				if got := m.Info().Windows; !slices.Equal(got, h.windows) {
					t.Fatalf("layers see %v, want %v", got, h.windows)
				}
				g := newRig(t, m, b, blockSize, tensor.F16, want)
				if n := len(g.runner.Windows()); n < 2 {
					t.Fatalf("%d block groups", n)
				}
				for _, size := range []int{1, 5, 16, promptLen} {
					everySchedule(g, size)
				}
				if g.first != nil {
					t.Errorf("blocks of %d: %d of %d rows differ; %v", blockSize, g.differing, g.rows, g.first)
				}
				rows += g.rows
			}
			t.Logf("%d rows of logits equal those of one group", rows)
		})
	}
}

// together is expected, with the blocks of all layers kept together.
func together(t *testing.T, path string, order backend.BF16Order) map[int64][][]float32 {
	t.Helper()
	b := ref.New(backend.Options{BF16: order})
	return alone(t, load(t, path, b), b, runner.Config{Blocks: 8, BlockSize: 16, KVDType: tensor.F16, OneGroup: true})
}
