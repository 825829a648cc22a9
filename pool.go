package sestina

import (
	"fmt"

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
	p.TokenBytes = runner.CacheSpec(info, p.config()).TokenBytes()
	blockBytes := p.TokenBytes * uint64(p.BlockSize)

	length := opt.MaxModelLen
	if length == 0 {
		length = info.MaxContext
	}
	most := uint64(opt.seqs()) * uint64((length+p.BlockSize-1)/p.BlockSize)
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

// config is the pool as the runner makes it.
func (p Pool) config() runner.Config {
	return runner.Config{Blocks: p.Blocks, BlockSize: p.BlockSize, KVDType: p.Format.DType, KVDTypes: p.layers}
}
