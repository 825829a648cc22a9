package backendtest

import (
	"fmt"
	"math/rand/v2"

	"sestina/backend"
	"sestina/batch"
)

// copyChecks: a sequence whose blocks were copied in every layer, or left the
// pool and came back to other places of it, continues as its original does.
func copyChecks() []check {
	var out []check
	for _, kv := range kvFormats {
		for _, block := range blockSizes {
			c := attendCase{seed: 9, block: block, kv: kv, heads: 2, kvHeads: 1, dim: fit(kv, 16), lens: []int{41}}
			out = append(out, check{"copy", c.String(), backend.ActivationsAuto, c.runCopied},
				check{"spill", c.String(), backend.ActivationsAuto, c.runSpilled})
		}
	}
	return out
}

// copied is the length computed before the copy; it ends inside a block.
const copied = 34

func (c *attendCase) runCopied(b backend.Backend) (int, error) {
	l, err := c.layer(b)
	if err != nil {
		return 0, err
	}
	p, layers, err := c.twoLayers(l)
	if err != nil {
		return 0, err
	}
	defer p.cache.Close()
	want := c.want()
	for i := range layers {
		if err := l.compute(p, i, 0, copied, want); err != nil {
			return 0, fmt.Errorf("before the copy: %w", err)
		}
	}
	used := (copied + c.block - 1) / c.block
	var copies []batch.BlockCopy
	fresh := make([]int32, len(p.tables[0]))
	for i, old := range p.tables[0] {
		fresh[i] = old + int32(len(fresh)) // the pool's other half
		if i < used {
			copies = append(copies, batch.BlockCopy{Src: old, Dst: fresh[i]})
		}
	}
	b.CopyBlocks(p.cache, copies)
	for _, table := range [][]int32{fresh, p.tables[0]} {
		p.tables[0] = table
		for i := range layers {
			if err := l.compute(p, i, copied, c.lens[0], want); err != nil {
				return 0, fmt.Errorf("layer %d after the copy: %w", i, err)
			}
		}
	}
	return 2 * layers * c.lens[0] * l.out, nil
}

// runSpilled takes the blocks out of the pool, spoils it, and brings them back.
func (c *attendCase) runSpilled(b backend.Backend) (int, error) {
	l, err := c.layer(b)
	if err != nil {
		return 0, err
	}
	p, layers, err := c.twoLayers(l)
	if err != nil {
		return 0, err
	}
	defer p.cache.Close()
	want := c.want()
	for i := range layers {
		if err := l.compute(p, i, 0, copied, want); err != nil {
			return 0, fmt.Errorf("before the spill: %w", err)
		}
	}
	size, n := p.cache.BlockBytes(), len(p.tables[0])
	spilled := make([]byte, n*size)
	for i, id := range p.tables[0] {
		p.cache.ReadBlock(spilled[i*size:][:size], id)
	}
	for l.op.Layer = range layers {
		l.poison(p, 2*n)
	}
	for i := range p.tables[0] {
		p.tables[0][i] += int32(n)
		p.cache.WriteBlock(p.tables[0][i], spilled[i*size:][:size])
	}
	for i := range layers {
		if err := l.compute(p, i, copied, c.lens[0], want); err != nil {
			return 0, fmt.Errorf("layer %d after the spill: %w", i, err)
		}
	}
	return layers * c.lens[0] * l.out, nil
}

// twoLayers is a pool of two equal layers and twice the blocks.
func (c *attendCase) twoLayers(l *layer) (p *paged, layers int, err error) {
	n := (c.lens[0] + c.block - 1) / c.block
	one := backend.CacheLayer{KVHeads: c.kvHeads, HeadDim: c.dim}
	p = &paged{}
	p.cache, err = l.b.NewCache(backend.CacheSpec{Layers: []backend.CacheLayer{one, one}, Blocks: 2 * n, BlockSize: c.block, DType: c.kv})
	if err != nil {
		return nil, 0, err
	}
	var table []int32
	for _, i := range rand.New(rand.NewPCG(c.seed, 10)).Perm(n) {
		table = append(table, int32(i))
	}
	p.tables = [][]int32{table}
	for l.op.Layer = range 2 {
		l.poison(p, 2*n)
	}
	return p, 2, nil
}

// compute runs positions [from, to) of sequence 0 in one layer and compares them.
func (l *layer) compute(p *paged, layer, from, to int, want []float32) error {
	l.op.Layer = layer
	dst, err := l.step(p, step{{0, to - from}}, []int{from})
	if err != nil {
		return err
	}
	return equalBits(dst.Host, want[from*l.out:to*l.out])
}
