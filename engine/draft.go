package engine

import (
	"cmp"
	"slices"

	"sestina/batch"
)

// draft asks the speculator how the running sequences may go on, those that
// miss just their last token. What it sets, Schedule gives rows as far as there
// is room, and sample verifies.
func (e *Engine) draft() {
	s := e.opt.Speculator
	if s == nil {
		return
	}
	e.drafted = e.drafted[:0]
	rows := 0
	for _, st := range e.live {
		if missing := len(st.seq.Tokens) - st.seq.NumComputed; st.seq.Status == batch.Running && missing == 1 && st.again == nil {
			e.drafted = append(e.drafted, st.seq)
		} else {
			rows += missing
		}
	}
	slices.SortFunc(e.drafted, func(a, b *batch.Sequence) int { return cmp.Compare(a.ID, b.ID) })
	s.Draft(e.drafted, min(rows+len(e.drafted), e.opt.MaxNumBatchedTokens))
	e.trace.draft(e.drafted)
}

// forget drops a sequence that has ended.
func (e *Engine) forget(st *stream) {
	delete(e.live, st.seq.ID)
	if s := e.opt.Speculator; s != nil {
		s.Release(st.seq)
	}
}
