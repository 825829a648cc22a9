// Package qwen2 is Llama with biases on q, k and v; where use_sliding_window is
// set, the layers from max_window_layers on are windowed.
package qwen2

import (
	"sestina/backend"
	"sestina/checkpoint"
	"sestina/model"
	"sestina/model/decoder"
)

func init() { model.Register(load, "Qwen2ForCausalLM", "qwen2") }

func load(c *checkpoint.Checkpoint, b backend.Backend, opt model.Options) (model.Model, error) {
	s, err := decoder.ReadSpec(c)
	if err != nil {
		return nil, err
	}
	s.Arch = "qwen2"
	s.QKVBias = true
	if err := s.WindowFromLayer(c); err != nil {
		return nil, err
	}
	return decoder.Load(c, b, s, opt)
}
