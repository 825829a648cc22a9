package cpu

import (
	"testing"

	"sestina/backend"
)

// TestPiecesShareOutEvenly: a step is split over partitions only where a piece is more than a quarter of a thread's work.
func TestPiecesShareOutEvenly(t *testing.T) {
	const heads, threads = 3, 2
	stream := func(pos int) piece { return piece{len: 1, pos: pos} }
	many := func(n, pos int) (all []piece) {
		for range n {
			all = append(all, stream(pos))
		}
		return all
	}
	prompt := func(n int) (all []piece) {
		for pos := 0; pos < n; pos += pieceRows {
			all = append(all, piece{len: pieceRows, pos: pos})
		}
		return all
	}
	for _, c := range []struct {
		name   string
		pieces []piece
		window int
		want   bool
	}{
		{"one stream", many(1, 1000), 0, false},
		{"two streams, six units for two threads", many(2, 1000), 0, false},
		{"three: a unit is 1/9 of all", many(3, 1000), 0, true},
		{"eight streams", many(8, 400), 0, true},
		{"a prompt's two rows, each context seven times as long, beside eight streams", append(many(8, 400), piece{len: 2, pos: 3000}), 0, false},
		{"the same where no row sees more than 400", append(many(8, 400), piece{len: 2, pos: 3000}), 400, true},
		{"a prompt of 128", prompt(128), 0, true},
	} {
		j := &attendJob{pieces: c.pieces, heads: heads, op: &backend.Attention{Window: c.window}}
		if got := j.even(threads); got != c.want {
			t.Errorf("%s: even is %v, want %v", c.name, got, c.want)
		}
	}
}
