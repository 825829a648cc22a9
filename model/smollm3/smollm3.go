// Package smollm3 is Llama with some layers that do not rotate (NoPE): those
// listed as 0 in no_rope_layers, else every no_rope_layer_interval-th.
package smollm3

import (
	"fmt"

	"sestina/backend"
	"sestina/checkpoint"
	"sestina/model"
	"sestina/model/decoder"
)

func init() { model.Register(load, "SmolLM3ForCausalLM", "smollm3") }

func load(c *checkpoint.Checkpoint, b backend.Backend, opt model.Options) (model.Model, error) {
	s, err := decoder.ReadSpec(c)
	if err != nil {
		return nil, err
	}
	s.Arch = "smollm3"
	r := c.Config().Reader()
	if c.Format() == checkpoint.HF && r.First("rope_theta", "rope_parameters.rope_theta") == "rope_theta" {
		s.Rope.Theta = r.FloatOr("rope_theta", 2e6) // the architecture's own default
	}
	list := r.IntsOr("no_rope_layers", nil)
	every := r.IntOr("no_rope_layer_interval", 4)
	windowed := r.BoolOr("use_sliding_window", false)
	if err := r.Err(); err != nil {
		return nil, err
	}
	switch {
	case list != nil && len(list) != s.Layers:
		return nil, fmt.Errorf("config: no_rope_layers has %d entries for %d layers", len(list), s.Layers)
	case every < 1:
		return nil, fmt.Errorf("config: no_rope_layer_interval is %d, want at least 1", every)
	}
	s.Unrotated = func(layer int) bool {
		if list != nil {
			return list[layer] == 0
		}
		return (layer+1)%every == 0
	}
	if c.Format() == checkpoint.GGUF {
		s.Rope.Interleaved = true // permuted by the converter, as llama
	}
	if !windowed {
		s.Window, s.LayerTypes = 0, nil
	}
	s.Windowed = s.Unrotated // the rule where layer_types is absent
	return decoder.Load(c, b, s, opt)
}
