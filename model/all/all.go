// Package all registers every architecture. Import it for its side effect.
package all

import (
	_ "sestina/model/llama"
	_ "sestina/model/mistral"
	_ "sestina/model/qwen2"
	_ "sestina/model/qwen3"
	_ "sestina/model/smollm3"
)
