package runner

import "fmt"

// Logits computes the logits of every position of one token sequence and calls
// emit for each in order; the row is valid during the call. It takes the pool's
// first blocks for every group of layers and chunk rows at a time, so it is for a runner that no engine
// drives (evaluation, `sestina logits`).
func (r *ModelRunner) Logits(ids []int32, chunk int, emit func(pos int, logits []float32) error) error {
	spec, vocab := r.cache.Spec(), r.model.Info().Vocab
	perGroup := spec.Blocks / len(r.windows)
	if have := perGroup * spec.BlockSize; len(ids) > have {
		return fmt.Errorf("%d tokens do not fit the KV pool of %d", len(ids), have)
	}
	tables := make([][]int32, len(r.windows))
	for g := range tables {
		for i := range (len(ids) + spec.BlockSize - 1) / spec.BlockSize {
			tables[g] = append(tables[g], int32(g*perGroup+i))
		}
	}
	for i, id := range ids {
		if id < 0 || int(id) >= vocab {
			return fmt.Errorf("token id %d at position %d is outside the vocabulary [0, %d)", id, i, vocab)
		}
	}
	for start := 0; start < len(ids); start += chunk {
		n := min(chunk, len(ids)-start)
		r.in.reset()
		for pos := start; pos < start+n; pos++ {
			r.in.add(ids[pos], pos, tables)
			r.in.LogitRows = append(r.in.LogitRows, int32(pos-start))
		}
		r.in.span(0, n, start, tables)
		out := r.model.Forward(&r.in.Input, r.cache)
		for i := range n {
			if err := emit(start+i, out.Logits.Row(i)); err != nil {
				return err
			}
		}
	}
	return nil
}
