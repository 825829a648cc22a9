package kvcache

import "sestina/batch"

// The contiguous layout is how it was done before paging, kept to be compared
// with: a sequence gets one run of neighbouring blocks at admission, sized for
// the longest it may get, prompt + max_tokens (a request that names no
// max_tokens reserves the whole context), and keeps it to the end. Nothing is
// shared and nothing grows, so nobody is ever preempted. What it costs:
//
//   - inside: slots reserved and never used, 1,998 of 2,048 for 50 tokens;
//   - outside: enough blocks are free but no run of them is long enough
//     (Stats.Fragmented). First fit, as in Kwon et al. 2023, section 3.
//
// Runs are made of the pool's blocks, so the rest of the engine sees ordinary
// block tables and the bits of an answer cannot depend on the layout. As nothing is
// let go before the end, there is one block group whatever the layers' windows are.

// admitRun reserves the run of seq, or changes nothing.
func (m *BlockManager) admitRun(seq *batch.Sequence, reserve int) bool {
	need := m.BlocksFor(max(len(seq.Tokens), seq.PromptLen+seq.MaxTokens))
	if need+reserve > m.Available() {
		return false
	}
	at, ok := m.firstFit(need)
	if !ok {
		m.stats.Fragmented++
		return false
	}
	table := &m.tables(seq)[0]
	for i := range need {
		m.takeAt(at+int32(i), 0)
		*table = append(*table, at+int32(i))
	}
	seq.Match = batch.PrefixMatch{Stop: batch.StopDisabled}
	return true
}

// firstFit finds the first run of n free blocks. It walks the pool.
func (m *BlockManager) firstFit(n int) (at int32, ok bool) {
	run := 0
	for id := range m.blocks {
		if m.blocks[id].state != Free {
			run = 0
			continue
		}
		if run++; run == n {
			return int32(id - n + 1), true
		}
	}
	return 0, false
}
