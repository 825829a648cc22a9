package runner

import (
	"errors"
	"fmt"

	"sestina/backend"
	"sestina/batch"
	"sestina/model"
)

// mtp drives a model's MTP layer: it keeps the layer's K and V level with the
// target's, and runs the layer ahead of it. See package spec/mtp for the whole.
//
// The row of position j needs the state at j-1. Within a step that is the row
// before; for the first row of a sequence's share it is the state that the
// sequence's last step ended with, kept in the sequence's seat. Which row of a step
// that is shows only when the step has been verified and updated, so the states of
// the last step stay where they are until the next call settles them.
type mtp struct {
	model  model.MTP
	broken error // the layer panicked: it is not asked again

	last   []shared     // what the last step computed
	states backend.Rows // its states
	seats  []seat
	at     map[*batch.Sequence]int // seat of a sequence
	kept   backend.Rows            // [seats+1, hidden]; the last row is zeros, the state that nobody knows

	before backend.Rows // [rows, hidden] the state before each row
	index  []int32
	in     input
	tables [][][]int32 // of each seat and block group
	guess  model.Guess

	spare, perSeat int // first spare block, and how many a seat has
}

// shared is a sequence's share of the last step: positions [start, start+n).
type shared struct {
	seq           *batch.Sequence
	row, start, n int
}

// seat is where a sequence's state is kept: that at position pos.
type seat struct {
	seq *batch.Sequence
	pos int
}

// DraftRow is one row of the MTP layer: a token that may stand at Seq's position
// Pos, with the state before it: the target's own (From = -1) or that of row
// From of the last Draft.
type DraftRow struct {
	Seq   *batch.Sequence
	Token int32
	Pos   int
	From  int
}

// spares is how many blocks drafts need beyond those that sequences have.
func (cfg *Config) spares() int {
	return cfg.DraftSeqs * ((cfg.DraftLen + cfg.BlockSize - 1) / cfg.BlockSize)
}

// newMTP makes what drafting needs; nil for a model without an MTP layer, or when nobody drafts.
func newMTP(m model.Model, b backend.Backend, cfg Config, groups int) (*mtp, error) {
	layer, ok := m.(model.MTP)
	if !ok || !m.Info().MTP || cfg.DraftSeqs < 1 {
		return nil, nil
	}
	d := &mtp{model: layer, seats: make([]seat, cfg.DraftSeqs), at: map[*batch.Sequence]int{}, in: newInput(cfg.BlockSize, groups),
		tables: make([][][]int32, cfg.DraftSeqs), spare: cfg.Blocks, perSeat: cfg.spares() / cfg.DraftSeqs}
	for i := range d.tables {
		d.tables[i] = make([][]int32, groups)
	}
	var err error
	if d.kept, err = b.NewRows(cfg.DraftSeqs+1, m.Info().Hidden); err != nil {
		return nil, err
	}
	d.before, err = b.NewRows(m.Info().MaxRows, m.Info().Hidden)
	return d, err
}

// settle keeps, of every sequence in the last step, the state at the last
// position that counts.
func (r *ModelRunner) settle() {
	d := r.mtp
	if d == nil || d.broken != nil {
		return
	}
	for _, s := range d.last {
		pos := s.seq.NumComputed - 1
		if pos < s.start || pos >= s.start+s.n {
			continue // given up, or to be computed again
		}
		if i, ok := d.seat(s.seq); ok {
			d.seats[i].pos = pos
			r.copyRow(d.kept, i, d.states, s.row+pos-s.start)
		}
	}
	d.last = d.last[:0]
}

// copyRow copies row j of src to row i of dst.
func (r *ModelRunner) copyRow(dst backend.Rows, i int, src backend.Rows, j int) {
	r.mtp.index = append(r.mtp.index[:0], int32(j))
	r.backend.Gather(dst.Slice(i, 1), src, r.mtp.index)
}

// seat is a sequence's seat; a new one's is that of a sequence that runs no more.
// false: all are taken.
func (d *mtp) seat(seq *batch.Sequence) (int, bool) {
	if i, ok := d.at[seq]; ok {
		return i, true
	}
	for i := range d.seats {
		if s := &d.seats[i]; s.seq == nil || s.seq.Status != batch.Running {
			delete(d.at, s.seq)
			d.at[seq], *s = i, seat{seq: seq, pos: -1}
			return i, true
		}
	}
	return 0, false
}

// known is the row of kept that holds the state at pos of seq: its seat's, or
// the zeros.
func (d *mtp) known(seq *batch.Sequence, pos int) (row int, ok bool) {
	if i, ok := d.at[seq]; ok && pos >= 0 && d.seats[i].pos == pos {
		return i, true
	}
	return len(d.seats), false
}

// keepLevel gives the MTP layer K and V of the rows that the target has just
// computed. What goes wrong in it is the drafts' loss: the answer never sees it.
func (r *ModelRunner) keepLevel(step *batch.Step, states backend.Rows) {
	d := r.mtp
	if d == nil || d.broken != nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			d.broken = fmt.Errorf("the MTP layer panicked: %v", p)
		}
	}()
	d.states = states
	for i := range step.Seqs {
		seq, span := step.Seqs[i].Seq, &r.in.Spans[i]
		d.last = append(d.last, shared{seq, span.Row, span.Start, span.Len})
	}
	before := d.before.First(states.N)
	d.index = d.index[:0]
	for row := range states.N {
		d.index = append(d.index, int32(max(0, row-1)))
	}
	r.backend.Gather(before, states, d.index)
	for _, s := range d.last {
		known, _ := d.known(s.seq, s.start-1)
		r.copyRow(before, s.row, d.kept, known)
	}
	d.model.KeepLevel(&r.in.Input, before, r.cache)
}

// CanDraft reports whether seq misses just its last token and the state before
// that is known; an error, whether nobody can.
func (r *ModelRunner) CanDraft(seq *batch.Sequence) (bool, error) {
	if err := r.drafting(); err != nil {
		return false, err
	}
	r.settle()
	_, ok := r.mtp.known(seq, seq.NumComputed-1)
	return ok && seq.NumComputed == len(seq.Tokens)-1, nil
}

// drafting is why there is no drafting; nil if there is.
func (r *ModelRunner) drafting() error {
	if r.mtp == nil {
		return errors.New("the model has no MTP layer, or its runner was made without drafts")
	}
	return r.mtp.broken
}

// Draft runs the MTP layer over rows, one for each of some sequences that
// [ModelRunner.CanDraft] allows, and returns what it expects after each. Its K and
// V go where the next step writes the target's own, or to spare blocks. The
// result is valid until the next call of Draft or Run.
func (r *ModelRunner) Draft(rows []DraftRow) (model.Guess, error) {
	if err := r.drafting(); err != nil {
		return model.Guess{}, err
	}
	r.settle()
	d := r.mtp
	before := d.before.First(len(rows))
	d.in.reset()
	for i, row := range rows {
		seat, ok := d.seat(row.Seq)
		if !ok {
			return model.Guess{}, fmt.Errorf("%d sequences draft, and there is room for %d", len(rows), len(d.seats))
		}
		if row.From >= 0 {
			r.copyRow(before, i, d.guess.States, row.From)
		} else {
			known, _ := d.known(row.Seq, row.Pos-1)
			r.copyRow(before, i, d.kept, known)
		}
		tables := d.behind(seat, row.Seq.BlockTables)
		d.in.add(row.Token, row.Pos, tables)
		d.in.span(i, 1, row.Pos, tables)
	}
	d.guess = d.model.Draft(&d.in.Input, before, r.cache)
	return d.guess, nil
}

// behind is a sequence's block tables with the seat's spare blocks behind them. The
// layer is in one group, so they serve all.
func (d *mtp) behind(seat int, tables [][]int32) [][]int32 {
	for g, blocks := range tables {
		t := append(d.tables[seat][g][:0], blocks...)
		for i := range d.perSeat {
			t = append(t, int32(d.spare+seat*d.perSeat+i))
		}
		d.tables[seat][g] = t
	}
	return d.tables[seat]
}
