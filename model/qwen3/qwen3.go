// Package qwen3 is Llama with an RMSNorm on each head of q and k before the
// rotation; heads × head dim may differ from the hidden size.
package qwen3

import (
	"sestina/backend"
	"sestina/checkpoint"
	"sestina/model"
	"sestina/model/decoder"
)

func init() { model.Register(load, "Qwen3ForCausalLM", "qwen3") }

func load(c *checkpoint.Checkpoint, b backend.Backend, opt model.Options) (model.Model, error) {
	s, err := decoder.ReadSpec(c)
	if err != nil {
		return nil, err
	}
	s.Arch = "qwen3"
	s.QKNorm = true
	if err := s.WindowFromLayer(c); err != nil {
		return nil, err
	}
	return decoder.Load(c, b, s, opt)
}
