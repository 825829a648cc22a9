// Package mistral is Llama with one sliding window on every layer (Mistral 7B
// v0.1; later releases have none). Its GGUF files call themselves llama.
package mistral

import (
	"sestina/backend"
	"sestina/checkpoint"
	"sestina/model"
	"sestina/model/decoder"
)

func init() { model.Register(load, "MistralForCausalLM") }

func load(c *checkpoint.Checkpoint, b backend.Backend, opt model.Options) (model.Model, error) {
	s, err := decoder.ReadSpec(c)
	if err != nil {
		return nil, err
	}
	s.Arch = "mistral"
	s.LayerTypes = nil
	return decoder.Load(c, b, s, opt)
}
