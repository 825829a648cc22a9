package bench

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"sestina"
	"sestina/backend"
	"sestina/engine"
)

// Phase is where the time of a kind of step went: all parts together are the step goroutine's whole time.
type Phase struct {
	Name   string  `json:"name"` // prefill: until all streams have a token; decode: after that
	Steps  uint64  `json:"steps"`
	StepMs float64 `json:"step_ms"`
	Parts  []Part  `json:"parts"` // most time first
}

// Part is one kind of operation of the model, or one thing that the step loop does. A step's share of each repetition counts.
type Part struct {
	Name      string  `json:"name"`
	Calls     float64 `json:"calls_per_step"`
	Us        float64 `json:"us_per_step"`
	Share     float64 `json:"share"`
	GBs       float64 `json:"gb_per_s,omitempty"`                // weights read, each once a call
	Bandwidth float64 `json:"share_of_read_bandwidth,omitempty"` // of one thread's
}

// profiler looks at the backend's and the engine's books three times a repetition: when it begins, after the step that gave
// the last stream its first token, and when it ends. The look in the middle is the step goroutine's, which is inside no
// operation then: the backend's books are those of that step, and the engine's are published with it, seen a step later.
type profiler struct {
	llm     *sestina.LLM
	streams int
	waiting int // streams without a token
	behind  bool
	looks   [3]look
	totals  [2]look // of the repetitions that count
}

type look struct {
	parts []backend.Part
	spent engine.Spent
	steps uint64
}

// observer is told of first tokens and steps, on the step goroutine.
func (p *profiler) observer() *engine.Observer {
	return &engine.Observer{
		FirstToken: func(time.Duration) {
			if p.waiting--; p.waiting == 0 {
				p.looks[1].parts, p.behind = p.llm.Parts(), true
			}
		},
		Step: func(engine.StepInfo) {
			if p.behind && p.waiting == 0 {
				p.waiting = -1 // the step of the first token itself
			} else if p.behind {
				p.looks[1].see(p.llm.Engine)
				p.behind = false
			}
		},
	}
}

func (l *look) see(e *engine.Engine) {
	s := e.Stats()
	l.spent, l.steps = s.Spent, s.Steps
}

func (p *profiler) begin() {
	if p != nil {
		p.waiting, p.behind = p.streams, false
		p.looks[0].parts = p.llm.Parts()
		p.looks[0].see(p.llm.Engine)
	}
}

func (p *profiler) end() {
	if p != nil {
		p.looks[2].parts = p.llm.Parts()
		p.looks[2].see(p.llm.Engine)
		if p.behind || p.waiting > 0 { // one token each: nothing was decoded
			p.looks[1] = p.looks[2]
		}
	}
}

// count adds the repetition to what is reported.
func (p *profiler) count() {
	if p == nil {
		return
	}
	for i := range p.totals {
		from, to, sum := p.looks[i], p.looks[i+1], &p.totals[i]
		d, all := to.spent.Since(from.spent), &sum.spent
		all.Draft += d.Draft
		all.Schedule += d.Schedule
		all.Model += d.Model
		all.Sample += d.Sample
		all.Deliver += d.Deliver
		sum.steps += to.steps - from.steps
		for _, part := range backend.PartsSince(to.parts, from.parts) {
			at := slices.IndexFunc(sum.parts, func(x backend.Part) bool { return x.Name == part.Name })
			if at < 0 {
				at = len(sum.parts)
				sum.parts = append(sum.parts, backend.Part{Name: part.Name})
			}
			x := &sum.parts[at]
			x.Calls, x.Rows, x.Bytes, x.Time = x.Calls+part.Calls, x.Rows+part.Rows, x.Bytes+part.Bytes, x.Time+part.Time
		}
	}
}

// phases turns the books into the report's.
func (p *profiler) phases(r *Report) (phases []Phase) {
	if p == nil {
		return nil
	}
	read := 0.0
	for _, row := range r.Rows {
		if row.Name == "read_bandwidth" {
			read = row.Median
		}
	}
	for i, name := range []string{"prefill", "decode"} {
		if t := &p.totals[i]; t.steps > 0 {
			phases = append(phases, t.phase(name, read))
		}
	}
	return phases
}

func (t *look) phase(name string, read float64) Phase {
	s, steps := t.spent, float64(t.steps)
	whole := s.Draft + s.Schedule + s.Model + s.Sample + s.Deliver
	ph := Phase{Name: name, Steps: t.steps, StepMs: whole.Seconds() * 1e3 / steps}
	add := func(name string, calls uint64, took time.Duration, bytes uint64) {
		part := Part{Name: name, Calls: float64(calls) / steps, Us: took.Seconds() * 1e6 / steps, Share: took.Seconds() / whole.Seconds()}
		if bytes > 0 && took > 0 {
			part.GBs = float64(bytes) / 1e9 / took.Seconds()
			part.Bandwidth = part.GBs / read
		}
		ph.Parts = append(ph.Parts, part)
	}
	between := s.Model
	for _, x := range t.parts {
		between -= x.Time
		add(x.Name, x.Calls, x.Time, x.Bytes)
	}
	add("(model between operations)", t.steps, max(0, between), 0)
	add("(schedule)", t.steps, s.Draft+s.Schedule, 0) // nothing is drafted here
	add("(sample)", t.steps, s.Sample, 0)
	add("(commit and deliver)", t.steps, s.Deliver, 0)
	slices.SortStableFunc(ph.Parts, func(a, b Part) int { return cmp.Compare(b.Us, a.Us) })
	return ph
}

// PrintProfile writes a table for each phase.
func (r *Report) PrintProfile(out io.Writer) {
	for _, ph := range r.Profile {
		fmt.Fprintf(out, "\n%s: %d steps of %.3f ms\n", ph.Name, ph.Steps, ph.StepMs)
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "PART\tCALLS\tµS A STEP\tSHARE\tGB/S\tOF READ")
		for _, p := range ph.Parts {
			rate := "\t"
			if p.GBs > 0 {
				rate = fmt.Sprintf("%.1f\t%.0f %%", p.GBs, 100*p.Bandwidth)
			}
			fmt.Fprintf(w, "%s\t%.0f\t%.1f\t%.1f %%\t%s\n", p.Name, p.Calls, p.Us, 100*p.Share, rate)
		}
		w.Flush()
	}
}
