package sestina

import (
	"fmt"
	"slices"
	"strings"

	"sestina/engine"
	"sestina/internal/sysmem"
	"sestina/model"
	"sestina/runner"
)

// sizePool decides how many KV blocks to allocate: what was asked for, else a
// quarter of the free memory, never more than the limits could use.
func sizePool(info model.Info, opt *Options) (Pool, error) {
	p := Pool{BlockSize: opt.BlockSize}
	if p.BlockSize == 0 {
		p.BlockSize = engine.DefaultBlockSize
	}
	if p.BlockSize < 1 {
		return p, fmt.Errorf("--block-size is %d; it must be at least 1", p.BlockSize)
	}
	var err error
	if p.Format, err = ParseKVFormat(opt.KVCacheDType); err != nil {
		return p, err
	}
	if p.layers, err = p.Format.Layers(len(info.CacheLayers)); err != nil {
		return p, err
	}
	p.oneGroup = opt.Techniques.KVCache == "off" || opt.Techniques.KVLayout == "contiguous" // which let nothing go
	p.context, p.chunk = opt.MaxModelLen, opt.KVChunk()
	p.Windows = runner.Windows(info, p.config())
	p.hybrid = !p.oneGroup && len(info.Windows) > 0 && slices.Min(info.Windows) < slices.Max(info.Windows)
	spec := runner.CacheSpec(info, p.config())
	p.TokenBytes = spec.TokenBytes()
	blockBytes := spec.BlockBytes()

	length := opt.MaxModelLen
	if length == 0 {
		length = info.MaxContext
	}
	each := opt.KVNeed(p.Windows, length)
	if opt.Techniques.PrefixCaching != "off" { // what a window lets go stays cached
		each = (length + p.BlockSize - 1) / p.BlockSize * len(p.Windows)
	}
	most := uint64(opt.seqs()) * uint64(each)
	budget := opt.KVCacheMemoryBytes
	if budget == 0 {
		free, err := sysmem.Available()
		if err != nil {
			return p, fmt.Errorf("free memory is unknown (%w): set --kv-cache-memory-bytes", err)
		}
		budget = free / 4
	}
	blocks := min(budget/blockBytes, most)
	if blocks < 1 {
		return p, fmt.Errorf("a KV pool of %d bytes holds no block of %d tokens (%d bytes): raise --kv-cache-memory-bytes", budget, p.BlockSize, blockBytes)
	}
	p.Blocks = int(min(blocks, 1<<30))
	p.tokens = opt.KVTokens(p.Windows, p.Blocks)
	return p, nil
}

// seqs is how many sequences run at once.
func (o *Options) seqs() int {
	if o.MaxNumSeqs == 0 {
		return engine.DefaultMaxNumSeqs
	}
	return o.MaxNumSeqs
}

// KVDType names the formats of K and V as --kv-cache-dtype does.
func (p Pool) KVDType() string { return p.Format.String() }

// Groups says in words how the layers' blocks are grouped; "" if all are together as
// a matter of course.
func (p Pool) Groups() string {
	switch {
	case len(p.Windows) > 1:
	case p.hybrid:
		return "1 block group, as windows and formats of the layers leave nothing to gain by more"
	default:
		return ""
	}
	var full int
	var windows []string
	for i, n := 0, 0; i < len(p.Windows); i += n {
		for n = 1; i+n < len(p.Windows) && p.Windows[i+n] == p.Windows[i]; n++ {
		}
		if p.Windows[i] == 0 {
			full = n
		} else {
			windows = append(windows, fmt.Sprintf("%d of a window of %d", n, p.Windows[i]))
		}
	}
	if full > 0 {
		windows = append([]string{fmt.Sprintf("%d full", full)}, windows...)
	}
	return fmt.Sprintf("%d block groups: %s", len(p.Windows), strings.Join(windows, ", "))
}

// config is the pool as the runner makes it.
func (p Pool) config() runner.Config {
	return runner.Config{Blocks: p.Blocks, BlockSize: p.BlockSize, KVDType: p.Format.DType, KVDTypes: p.layers, OneGroup: p.oneGroup, Context: p.context, Chunk: p.chunk}
}
