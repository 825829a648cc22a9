package spec

import (
	"fmt"
	"slices"
	"testing"

	"sestina/bench/prompts"
)

// never is what no part of speculation may fall below, of plain decoding.
const (
	never     = 0.98
	neverCold = 0.97 // of the first repetition on a fresh engine by a noisy clock
)

// scope is the numbers of streams, and of clocks, the exact one among them.
func scope() (streams []int, clocks uint64) {
	if testing.Short() {
		return []int{1, 4}, 2
	}
	return []int{1, 2, 4, 8, 16, 32}, 4
}

// replayed is one prompt set, greedy or drawn.
type replayed struct {
	set   string
	drawn bool
	least map[string]float64 // by machine, at one stream; others: never
}

var replays = []replayed{
	{set: "poetry", drawn: true},
	{set: "chat", drawn: true},
	{set: prompts.Mixed, drawn: true},
	{set: prompts.Mixed, least: map[string]float64{"AVX2": 1.5, "AMX": 1.4, "cheap rows": 1.7, "free rows": 1.9}},
	{set: "edit", least: map[string]float64{"AVX2": 3, "AMX": 2.7, "cheap rows": 5.5, "free rows": 8, "dear rows": 1.3}},
}

func (r replayed) String() string {
	return r.set + map[bool]string{true: ", drawn", false: ", greedy"}[r.drawn]
}

// TestReplay plays what the default model said through proposer, controller and
// verification, on machines whose steps take a given time: on/off as bench spec
// would find it, without a clock's chance. No machine, number of streams or text
// may lose, on an exact clock nor on three noisy ones, in all repetitions nor in the
// first on a fresh engine, and texts that repeat themselves must gain.
func TestReplay(t *testing.T) {
	lib := newLibrary(t)
	for _, r := range replays {
		t.Run(r.String(), func(t *testing.T) {
			t.Parallel()
			reps := lib.reps(r.set, r.drawn)
			t.Logf("%7s %-10s  %6s %-13s %6s %6s  %6s %8s  %s", "streams", "machine", "on/off", "noisy clocks", "cold", "noisy", "drafts", "accepted", "by place in the answer")
			all, clocks := scope()
			for _, streams := range all {
				for i := range machines {
					r.play(t, lib.vocab, &machines[i], reps, streams, clocks)
				}
			}
		})
	}
}

func (r *replayed) play(t *testing.T, vocab int, m *machine, reps [][]request, streams int, clocks uint64) {
	off := newLife(t, m, vocab, 0)
	offCold := off.waves(reps, streams)
	var all, cold []float64
	var exact count
	for noise := range clocks {
		on := newLife(t, m, vocab, noise, "ngram")
		onCold := on.waves(reps, streams)
		all, cold = append(all, off.count.cost/on.count.cost), append(cold, offCold.cost/onCold.cost)
		if noise == 0 {
			exact = on.count
		}
	}
	parts := ""
	for _, p := range exact.parts {
		parts += fmt.Sprintf(" %.2f", p.plain/max(p.cost, 1e-9))
	}
	t.Logf("%7d %-10s  %6.3f %.3f–%.3f   %6.3f %6.3f  %6.2f %6.0f %%  %s", streams, m.name, all[0], slices.Min(all[1:]), slices.Max(all[1:]),
		cold[0], slices.Min(cold[1:]), float64(exact.drafted)/exact.passes(), 100*float64(exact.right)/float64(max(1, exact.drafted)), parts)
	if least := min(slices.Min(all), cold[0]); least < never || slices.Min(cold) < neverCold {
		t.Errorf("%s, %d streams, %s: %.3f of plain decoding, at first %.3f", r, streams, m.name, least, slices.Min(cold))
	}
	if want := r.least[m.name]; streams == 1 && slices.Min(all) < want {
		t.Errorf("%s, %s: %.3f of plain decoding, want %v", r, m.name, slices.Min(all), want)
	}
}

// Places that are taken as soon as they are free make every token count in full:
// tokens per second of so many streams, whoever says them.
func TestReplayOfTakenPlaces(t *testing.T) {
	lib := newLibrary(t)
	for _, r := range []replayed{{set: prompts.Mixed, drawn: true}, {set: prompts.Mixed}} {
		t.Run(r.String(), func(t *testing.T) {
			t.Parallel()
			reps := lib.reps(r.set, r.drawn)
			t.Logf("%7s %-10s  %6s %6s", "streams", "machine", "on/off", "noisy clocks")
			all, clocks := scope()
			for _, streams := range all {
				for i := range machines {
					playClosed(t, lib.vocab, &machines[i], reps, streams, clocks)
				}
			}
		})
	}
}

func playClosed(t *testing.T, vocab int, m *machine, reps [][]request, streams int, clocks uint64) {
	off := newLife(t, m, vocab, 0)
	off.closed(reps, streams)
	var gains []float64
	for noise := range clocks {
		on := newLife(t, m, vocab, noise, "ngram")
		on.closed(reps, streams)
		gains = append(gains, float64(on.tokens)/on.count.cost/(float64(off.tokens)/off.count.cost))
	}
	t.Logf("%7d %-10s  %6.3f %.3f–%.3f", streams, m.name, gains[0], slices.Min(gains[1:]), slices.Max(gains[1:]))
	if slices.Min(gains) < never {
		t.Errorf("%d streams, %s: %.3f of plain decoding", streams, m.name, slices.Min(gains))
	}
}

// A purse that edits have filled is not spent on poems: what was learnt of them
// is by kind of match, and drafts that fail are soon known.
func TestReplayOfPoemsAfterEdits(t *testing.T) {
	lib := newLibrary(t)
	edits, poems := lib.reps("edit", false), lib.reps("poetry", true)
	for i := range machines {
		m := &machines[i]
		off := newLife(t, m, lib.vocab, 0)
		off.waves(poems, 1)
		for noise := range uint64(4) {
			on := newLife(t, m, lib.vocab, noise, "ngram")
			on.waves(edits, 1)
			before := on.count
			first := on.waves(poems, 1).since(before)
			after := on.count.since(before)
			t.Logf("%-10s clock %d: poems %.3f of plain decoding; %.3f of them drafted, the first repetition %.3f", m.name, noise, off.count.cost/after.cost,
				float64(after.drafted)/after.passes(), float64(first.drafted)/first.passes())
			if off.count.cost/after.cost < never {
				t.Errorf("%s: poems %.3f of plain decoding", m.name, off.count.cost/after.cost)
			}
		}
	}
}
