package engine

import "sestina/kvcache"

// KVNeed is the most KV blocks that a sequence of n tokens holds at once in a pool
// whose block groups have such windows.
func (o Options) KVNeed(windows []int, n int) int {
	c, chunk := o.kv(windows)
	return c.Need(n, chunk)
}

// KVChunk is the most tokens of a sequence that a step computes, 0 = any number.
func (o Options) KVChunk() int {
	_, chunk := o.kv(nil)
	return chunk
}

// KVTokens is the length of a sequence for which so many KV blocks are enough. Where
// every layer has a window that can be any length; it is then the tokens in the blocks.
func (o Options) KVTokens(windows []int, blocks int) int {
	c, chunk := o.kv(windows)
	return min(c.Longest(blocks, chunk), blocks*c.BlockSize)
}

// kv is what decides how many blocks a sequence needs; what is not set has its default.
func (o Options) kv(windows []int) (c kvcache.Config, chunk int) {
	for _, n := range o.numbers(0) {
		if *n.v == 0 {
			*n.v = n.otherwise
		}
	}
	for _, c := range o.Techniques.choices() {
		if *c.value == "" {
			*c.value = c.built[0]
		}
	}
	return kvcache.Config{BlockSize: o.BlockSize, Windows: windows, Contiguous: o.Techniques.KVLayout == "contiguous"}, o.scheduler().Chunk()
}
