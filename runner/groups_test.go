package runner

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"sestina/backend"
	"sestina/model"
	"sestina/tensor"
)

// hybrid has n layers, every k-th of which sees everything and the others a window.
func hybrid(n, k, window int) model.Info {
	info := model.Info{MaxContext: 32768}
	for i := range n {
		info.CacheLayers = append(info.CacheLayers, backend.CacheLayer{KVHeads: 2, HeadDim: 64})
		w := window
		if (i+1)%k == 0 {
			w = 0
		}
		info.Windows = append(info.Windows, w)
	}
	return info
}

func TestDealtLayers(t *testing.T) {
	f16 := Config{KVDType: tensor.F16, BlockSize: 16, Chunk: 512}
	edge := Config{KVDType: tensor.Q4_0, BlockSize: 16, Chunk: 512, KVDTypes: slices.Repeat([]tensor.DType{tensor.Q4_0}, 12)}
	edge.KVDTypes[0], edge.KVDTypes[1] = tensor.F16, tensor.F16
	odd := f16
	odd.KVDTypes = slices.Repeat([]tensor.DType{tensor.F16}, 4)
	odd.KVDTypes[1] = tensor.F32
	one, short, whole := f16, f16, f16
	one.OneGroup = true
	short.Context, whole.Chunk = 1100, 0
	first := hybrid(28, 99, 4096) // as Qwen2: a window from layer 21 on
	for i := range 21 {
		first.Windows[i] = 0
	}
	for _, c := range []struct {
		name    string
		info    model.Info
		cfg     Config
		windows []int
		slots   int
	}{
		{"no windows", model.Info{MaxContext: 8192, CacheLayers: make([]backend.CacheLayer, 30)}, f16, []int{0}, 30},
		{"all windows", hybrid(32, 99, 4096), f16, []int{4096}, 32},
		{"1 of 6", hybrid(24, 6, 512), f16, []int{0, 512, 512, 512, 512, 512}, 4},
		{"1 of 2", hybrid(24, 2, 128), f16, []int{0, 128}, 12},
		{"1 of 4", hybrid(36, 4, 2048), f16, []int{0, 2048, 2048, 2048}, 9},
		{"a few slots stay empty", hybrid(62, 6, 1024), f16, []int{0, 1024, 1024, 1024, 1024, 1024, 1024}, 10},
		{"a window from a layer on", first, f16, []int{0, 0, 0, 4096}, 7},
		{"a window as long as the context", hybrid(24, 6, 32768), f16, []int{0}, 24},
		{"a short context, and slots would stay empty", hybrid(62, 6, 1024), short, []int{0}, 62},
		{"a short context, and none would", hybrid(24, 6, 1024), short, []int{0, 1024, 1024, 1024, 1024, 1024}, 4},
		{"whole prompts", hybrid(24, 6, 512), whole, []int{0, 512, 512, 512, 512, 512}, 4},
		{"whole prompts, and slots would stay empty", hybrid(62, 6, 512), whole, []int{0}, 62},
		{"nothing may go", hybrid(24, 6, 512), one, []int{0}, 24},
		{"formats by layer", hybrid(12, 3, 512), edge, []int{0, 512, 512}, 5},
		{"formats that leave no pair", hybrid(4, 2, 16384), odd, []int{0}, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			layers, windows := groups(c.info, c.cfg)
			spec := CacheSpec(c.info, c.cfg)
			if !slices.Equal(windows, c.windows) || len(spec.Slots()) != c.slots {
				t.Errorf("groups of windows %v with %d slots, want %v with %d: %v", windows, len(spec.Slots()), c.windows, c.slots, layers)
			}
		})
	}
}

// TestDealIsSound: whatever the layers are, each is in one place, with layers of its
// own window in its group and of its own shape and format in its slot, and one
// sequence of the whole context needs no more bytes than in one group.
func TestDealIsSound(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 9))
	several := 0
	for range 3000 {
		n := 1 + rng.IntN(24)
		info := model.Info{MaxContext: 1 + rng.IntN(10000)}
		cfg := Config{BlockSize: 16, KVDType: tensor.F16, Chunk: []int{0, 16, 512}[rng.IntN(3)]}
		for range n {
			info.CacheLayers = append(info.CacheLayers, backend.CacheLayer{KVHeads: 1, HeadDim: 32 << (rng.IntN(8) / 7)})
			info.Windows = append(info.Windows, []int{0, 0, 512, 512, 2048}[rng.IntN(5)])
			cfg.KVDTypes = append(cfg.KVDTypes, []tensor.DType{tensor.F16, tensor.F16, tensor.F16, tensor.Q8_0}[rng.IntN(4)])
		}
		_, windows := groups(info, cfg)
		spec := CacheSpec(info, cfg)
		if len(windows) > maxGroups || len(windows) != spec.NumGroups() {
			t.Fatalf("%d windows of %d groups", len(windows), spec.NumGroups())
		}
		places := map[string]bool{}
		spec.Slots() // panics when layers of a slot differ
		for i := range n {
			g, slot := spec.Place(i)
			if place := fmt.Sprint(g, slot); places[place] {
				t.Fatalf("two layers in group %d, slot %d: %v", g, slot, spec.Groups)
			} else {
				places[place] = true
			}
			if len(windows) > 1 && windows[g] != info.Windows[i] {
				t.Fatalf("layer %d of window %d is in a group of window %d", i, info.Windows[i], windows[g])
			}
			if windows[g] != 0 && (info.Windows[i] == 0 || info.Windows[i] > windows[g]) {
				t.Fatalf("layer %d sees %d, its group keeps %d", i, info.Windows[i], windows[g])
			}
		}
		if len(windows) > 1 {
			several++
			if got, most := wholeContext(info, cfg, spec, windows), wholeContext(info, cfg, backend.CacheSpec{
				Layers: spec.Layers, BlockSize: 16, DTypes: cfg.KVDTypes}, []int{newDeal(info, cfg).widest()}); got > most {
				t.Fatalf("%d bytes in %d groups, %d in one", got, len(windows), most)
			}
		}
	}
	if several < 500 {
		t.Errorf("only %d models had several groups", several)
	}
}

// wholeContext is the most bytes of a sequence's blocks.
func wholeContext(info model.Info, cfg Config, spec backend.CacheSpec, windows []int) (n uint64) {
	for _, w := range windows {
		held := info.MaxContext
		if w > 0 && cfg.Chunk > 0 {
			held = min(held, w+cfg.Chunk+2*16-3) // kvcache.Config.Need
		}
		n += uint64((held+15)/16) * spec.BlockBytes()
	}
	return n
}
