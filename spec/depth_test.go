package spec

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// trace is a scripted life of an engine. Time is in plain steps of one sequence,
// the unit of cost; horizon is its length.
type trace struct {
	name       string
	stationary bool
	horizon    float64
	cost       func(rows int) float64                      // the machine
	prior      func(rows int) time.Duration                // what it is believed to be; nil = nothing
	load       func(now float64) (seqs, prompt int)        // sequences that decode, prompt rows beside them
	accept     func(seq int64, j int, now float64) float64 // of draft j given those before
	drafts     func(r *rand.Rand) int                      // longest draft there is; nil = 8
	pass       float64                                     // of a serial proposer
	noise      float64                                     // of the measured times
	length     int                                         // tokens of a sequence; 0 = endless
}

var guess = [Classes]float64{0.6, 0.6, 0.6, 0.6}

const unit = 10 * time.Millisecond

func always(seqs, prompt int) func(float64) (int, int) {
	return func(float64) (int, int) { return seqs, prompt }
}

func flat(a float64) func(int64, int, float64) float64 {
	return func(int64, int, float64) float64 { return a }
}

// line costs 1 for the first row and slope for each further one.
func line(slope float64) func(int) float64 {
	return func(rows int) float64 { return 1 + slope*float64(rows-1) }
}

func roof(knee float64) func(int) float64 {
	return func(rows int) float64 { return math.Max(1, float64(rows)/knee) }
}

func believed(f func(int) float64) func(int) time.Duration {
	return func(rows int) time.Duration { return time.Duration(f(rows) * float64(unit)) }
}

// every alternates two values with a period, the first for part of it.
func every(period, part float64, a, b float64) func(int64, int, float64) float64 {
	return func(_ int64, _ int, now float64) float64 {
		if math.Mod(now, period) < part {
			return a
		}
		return b
	}
}

var traces = []trace{
	{name: "memory bound, good drafts", stationary: true, cost: roof(32), accept: flat(0.85)},
	{name: "memory bound, useless drafts", stationary: true, cost: roof(32), accept: flat(0)},
	{name: "gentle slope, fair drafts", stationary: true, cost: line(0.12), accept: flat(0.6)},
	{name: "gentle slope, useless drafts", stationary: true, cost: line(0.12), accept: flat(0.02)},
	{name: "steep slope, good drafts", stationary: true, cost: line(0.5), accept: flat(0.9)},
	{name: "steep slope, poor drafts", stationary: true, cost: line(0.5), accept: flat(0.35)},
	{name: "at break-even", stationary: true, cost: line(0.3), accept: flat(0.3)},
	{name: "arithmetic bound, excellent drafts", stationary: true, cost: line(1), accept: flat(0.97)},
	{name: "batch of 32 at the knee", stationary: true, cost: roof(40), accept: flat(0.7), load: always(32, 0)},
	{name: "batch of 32 beyond the knee", stationary: true, cost: roof(16), accept: flat(0.8), load: always(32, 0)},
	{name: "batch of 4 beside prompts", stationary: true, cost: roof(16), prior: believed(roof(20)), accept: flat(0.7), load: always(4, 120)},
	// What the 4 would take alone is never seen here: the prior decides, and only the first gate holds.
	{name: "batch of 4 beside prompts, wrong prior", cost: roof(16), accept: flat(0.7), load: always(4, 120)},
	{name: "tiles of 8 rows", stationary: true, cost: func(rows int) float64 { return math.Ceil(float64(rows) / 8) }, accept: flat(0.8), load: always(3, 0)},
	{name: "first draft doubtful, the rest sure", stationary: true, cost: line(0.1), accept: func(_ int64, j int, _ float64) float64 {
		if j == 0 {
			return 0.35
		}
		return 0.95
	}},
	{name: "half the sequences repeat themselves", stationary: true, cost: line(0.08), load: always(8, 0), length: 300, accept: func(seq int64, _ int, _ float64) float64 {
		return []float64{0.05, 0.95}[seq%2]
	}},
	{name: "short sequences of two kinds", stationary: true, cost: line(0.15), load: always(4, 0), length: 60, accept: func(seq int64, _ int, _ float64) float64 {
		return []float64{0.05, 0.9}[seq%2]
	}},
	{name: "drafts of any length", stationary: true, cost: line(0.12), accept: flat(0.8), drafts: func(r *rand.Rand) int { return r.IntN(9) }},
	{name: "prior far too steep", stationary: true, cost: roof(64), prior: believed(line(1)), accept: flat(0.8)},
	{name: "prior far too flat", stationary: true, cost: line(1), prior: believed(roof(500)), accept: flat(0.8)},
	{name: "noisy clock, good drafts", stationary: true, cost: line(0.12), accept: flat(0.8), noise: 0.2},
	{name: "noisy clock, poor drafts", stationary: true, cost: line(0.3), accept: flat(0.2), noise: 0.2},
	{name: "draft model, good", stationary: true, cost: line(0.05), accept: flat(0.8), pass: 0.1},
	{name: "draft model, poor", stationary: true, cost: line(0.1), accept: flat(0.25), pass: 0.2},
	{name: "draft model, batch of 16", stationary: true, cost: roof(64), accept: flat(0.75), pass: 0.1, load: always(16, 0)},

	{name: "acceptance turns every 200", cost: line(0.12), accept: every(400, 200, 0.85, 0)},
	{name: "acceptance turns every 30", cost: line(0.2), accept: every(60, 30, 0.85, 0)},
	{name: "rare bursts", cost: line(0.25), accept: every(300, 20, 0.9, 0)},
	{name: "good once, useless ever after", cost: line(0.3), accept: every(1e9, 500, 0.9, 0)},
	{name: "useless first, good later", cost: line(0.2), accept: every(1e9, 2000, 0, 0.85)},
	{name: "load from 1 to 64 and back", cost: roof(24), accept: flat(0.75), load: func(now float64) (int, int) {
		return 1 + int(63*math.Abs(math.Sin(now/700))), 0
	}},
	{name: "load jumps between 1 and 64", cost: line(0.1), accept: flat(0.7), load: func(now float64) (int, int) {
		if math.Mod(now, 300) < 150 {
			return 1, 0
		}
		return 64, 0
	}},
	{name: "prompts come and go", cost: roof(16), accept: flat(0.7), load: func(now float64) (int, int) {
		if math.Mod(now, 100) < 50 {
			return 4, 0
		}
		return 4, 100
	}},
	{name: "machine slows down four times", cost: line(0.12), accept: flat(0.6)},
	{name: "draft model, acceptance turns", cost: line(0.1), accept: every(400, 200, 0.85, 0), pass: 0.1},
	{name: "acceptance turns as the estimate does", cost: line(0.55), accept: every(24, 12, 1, 0)},
	{name: "acceptance turns faster", cost: line(0.45), accept: every(10, 5, 0.9, 0)},
	{name: "acceptance turns slower", cost: line(0.6), accept: every(40, 18, 1, 0)},
	{name: "adversary", cost: line(0.5), accept: nil},
}

// life is a trace being played with one policy: a fixed depth, or the controller.
// Its rate is tokens per time, not counting the time that the prompts' rows take
// by themselves: a drafter must not hide its cost behind them.
type life struct {
	*trace
	fixed   int // < 0: the controller
	r       *rand.Rand
	depth   *Depth
	own     map[int64]*History
	made    map[int64]int // tokens by sequence
	ids     []int64
	now     float64
	tokens  float64
	charged float64 // time, without what the prompts take
	k       []int
	lastK   int
}

func play(tr *trace, fixed int) (rate float64) {
	l := &life{trace: tr, fixed: fixed, r: rand.New(rand.NewPCG(7, 7)), depth: NewDepth(NewCurve(tr.prior), guess),
		own: map[int64]*History{}, made: map[int64]int{}}
	for l.now < tr.horizon {
		l.step()
	}
	return l.tokens / l.charged
}

func (l *life) step() {
	n, prompt := l.load(l.now)
	for len(l.ids) < n {
		l.ids = append(l.ids, int64(len(l.own)))
		l.own[int64(len(l.own))] = &History{}
	}
	l.ids, l.k = l.ids[:n], append(l.k[:0], make([]int, n)...)
	cands := make([]Candidate, n)
	for i, id := range l.ids {
		cands[i] = Candidate{Own: l.own[id], Max: l.drafts(l.r)}
	}
	l.choose(n+prompt, cands)
	drafts, deepest := 0, 0
	for _, k := range l.k {
		drafts, deepest = drafts+k, max(deepest, k)
	}
	proposing := l.pass * float64(deepest)
	took := l.cost(n + prompt + drafts)
	if l.name == "machine slows down four times" && l.now > l.horizon/2 {
		took *= 4
		l.charged += took - took/4
	}
	accepted := 0
	for i := range l.ids {
		accepted += l.verify(i, &cands[i])
	}
	l.now += took + proposing
	l.charged += took - l.cost(n+prompt) + l.cost(n) + proposing
	l.tokens += float64(n + accepted)
	l.lastK = deepest
	if l.fixed < 0 {
		measured := took * (1 + l.noise*(2*l.r.Float64()-1))
		if l.noise > 0 && l.r.IntN(50) == 0 {
			measured *= 5
		}
		l.depth.Done(n+prompt, drafts, n, accepted, time.Duration(proposing*float64(unit)), time.Duration(measured*float64(unit)))
	}
}

func (l *life) choose(base int, cands []Candidate) {
	if l.fixed >= 0 {
		for i := range l.k {
			l.k[i] = min(l.fixed, cands[i].Max)
		}
		return
	}
	l.depth.Plan(base, cands, time.Duration(l.pass*float64(unit)), l.k)
	if l.pass > 0 { // drafted now: the second plan of the step
		for i := range cands {
			cands[i].Max, cands[i].Min = l.k[i], l.k[i]
		}
		planned := slices.Clone(l.k)
		if l.depth.Plan(base, cands, 0, l.k); !slices.Equal(planned, l.k) {
			panic("what was drafted has no rows")
		}
	}
}

// verify draws how many of a sequence's drafts are accepted.
func (l *life) verify(i int, c *Candidate) (accepted int) {
	id, k := l.ids[i], l.k[i]
	for accepted < k {
		a := 0.
		if l.accept != nil {
			a = l.accept(id, accepted, l.now)
		} else if l.lastK == 0 { // the adversary rewards those who did not draft
			a = 1
		}
		if l.r.Float64() >= a {
			break
		}
		accepted++
	}
	if k > 0 && l.fixed < 0 {
		l.depth.Verified(c, accepted, accepted < k)
	}
	if l.made[id] += accepted + 1; l.length > 0 && l.made[id] >= l.length {
		l.depth.worth.leaves(len(l.ids) - 1)
		l.depth.worth.joins()
		l.ids[i] = int64(len(l.own))
		l.own[l.ids[i]] = &History{}
	}
	return accepted
}

// The controller against every fixed depth in hindsight, plain decoding among
// them: at least 0.98 of plain decoding whatever happens, and 0.95 of the best
// where what happens has no plan to it.
func TestDepthNeverLoses(t *testing.T) {
	t.Logf("%-40s %9s %5s %9s %9s", "tokens per plain step", "auto", "best", "of best", "of plain")
	for _, tr := range traces {
		tr.fill()
		best, at := 0., 0
		for k := range 9 {
			if rate := play(&tr, k); rate > best {
				best, at = rate, k
			}
		}
		plain, auto := play(&tr, 0), play(&tr, -1)
		t.Logf("%-40s %9.3f %5d %9.3f %9.3f", tr.name, auto, at, auto/best, auto/plain)
		if auto < 0.98*plain {
			t.Errorf("%s: %.3f of plain decoding", tr.name, auto/plain)
		}
		if tr.stationary && auto < 0.95*best {
			t.Errorf("%s: %.3f of depth %d", tr.name, auto/best, at)
		}
	}
}

func (tr *trace) fill() {
	if tr.horizon == 0 {
		tr.horizon = 4000
	}
	if tr.load == nil {
		tr.load = always(1, 0)
	}
	if tr.drafts == nil {
		tr.drafts = func(*rand.Rand) int { return 8 }
	}
}

// The purse alone: histories that claim every draft was accepted, and steps that
// gain nothing. What is lost stays within the bound of the essay.
func TestPurseBoundsTheLoss(t *testing.T) {
	const steps = 5000
	d, own, k, lost := NewDepth(NewCurve(nil), guess), &History{}, []int{0}, 0.
	for range steps {
		c := []Candidate{{Own: own, Max: 8}}
		d.Plan(1, c, 0, k)
		cost := line(0.3)(1 + k[0])
		lost += cost - 1
		d.Verified(&c[0], k[0], false)
		d.Done(1, k[0], 1, 0, 0, time.Duration(cost*float64(unit)))
	}
	t.Logf("%.1f plain steps of %d were lost", lost, steps)
	if most := start + (tithe+probeTithe)*steps + 5; lost > most || lost < start/2 {
		t.Errorf("%.1f plain steps lost, the bound is %.1f", lost, most)
	}
}
