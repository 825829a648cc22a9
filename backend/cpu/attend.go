package cpu

import (
	"sestina/backend"
	"sestina/backend/ref"
	"sestina/batch"
)

type attendJob struct{ b *Backend }

var oracle = ref.New(backend.Options{})

func (b *Backend) NewCache(spec backend.CacheSpec) (backend.Cache, error) { return oracle.NewCache(spec) }

func (b *Backend) Attend(dst, qkv backend.Rows, in *batch.Input, kv backend.Cache, op *backend.Attention) {
	oracle.Attend(dst, qkv, in, kv, op)
}

func (b *Backend) CopyBlocks(kv backend.Cache, copies []batch.BlockCopy) { oracle.CopyBlocks(kv, copies) }
