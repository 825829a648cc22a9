// Package llama is the Llama family: pre-norm, grouped-query attention, SwiGLU;
// tied or untied head, optional biases, llama-3 and YaRN rope scaling.
package llama

import (
	"sestina/backend"
	"sestina/checkpoint"
	"sestina/model"
	"sestina/model/decoder"
)

func init() { model.Register(load, "LlamaForCausalLM", "llama") }

func load(c *checkpoint.Checkpoint, b backend.Backend, opt model.Options) (model.Model, error) {
	s, err := decoder.ReadSpec(c)
	if err != nil {
		return nil, err
	}
	s.Arch = "llama"
	s.Window, s.LayerTypes = 0, nil
	s.Rope.Interleaved = c.Format() == checkpoint.GGUF // converters permute the rows of q and k
	return decoder.Load(c, b, s, opt)
}
