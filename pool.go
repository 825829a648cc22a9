package sestina

import (
	"fmt"
	"strings"

	"sestina/engine"
	"sestina/internal/sysmem"
	"sestina/model"
	"sestina/runner"
	"sestina/tensor"
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
	if p.DType, err = opt.kvDType(); err != nil {
		return p, err
	}
	p.TokenBytes = runner.CacheSpec(info, runner.Config{BlockSize: p.BlockSize, KVDType: p.DType}).TokenBytes()
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

// kvDType is the KV cache's element type; auto is f16.
func (o *Options) kvDType() (tensor.DType, error) {
	switch o.KVCacheDType {
	case "", "auto", "f16":
		return tensor.F16, nil
	case "f32":
		return tensor.F32, nil
	case "bf16":
		return tensor.BF16, nil
	case "q8_0":
		return tensor.Q8_0, nil
	case "q4_0":
		return tensor.Q4_0, nil
	case "fp8":
		return 0, fmt.Errorf("--kv-cache-dtype %s is not built yet; choose auto, f32, f16, bf16, q8_0 or q4_0", o.KVCacheDType)
	}
	return 0, fmt.Errorf("--kv-cache-dtype %q is unknown; choose auto, f32, f16, bf16, q8_0 or q4_0", o.KVCacheDType)
}

// KVDType names the formats of K and V as --kv-cache-dtype does.
func (p Pool) KVDType() string { return strings.ToLower(p.DType.String()) }
