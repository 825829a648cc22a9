package explain

import (
	"time"

	"sestina/batch"
	"sestina/kvcache"
	"sestina/scheduler"
)

// simulation drives the real scheduler and block manager on a virtual clock:
// every step takes the same time and every sequence runs to its length.
type simulation struct {
	sched    *scheduler.Scheduler
	stepTime time.Duration
	now      time.Duration
	accepted int // drafts of each verification that turn out right
	drafts   int // proposed before each step
	rounds   int // steps that verified drafts
	nextID   int64
	live     []*batch.Sequence
	err      error
}

func newSimulation(cfg scheduler.Config, kv kvcache.Config) *simulation {
	blocks, err := kvcache.New(kv)
	if err != nil {
		return &simulation{err: err}
	}
	return &simulation{sched: scheduler.New(cfg, blocks), stepTime: 50 * time.Millisecond}
}

// add queues a request.
func (m *simulation) add(priority, prompt, output int) {
	if m.err != nil {
		return
	}
	m.nextID++
	seq := &batch.Sequence{ID: m.nextID, Tokens: tokens(m.nextID, prompt, 0), PromptLen: prompt, MaxTokens: output, Priority: priority}
	m.err = m.sched.Add(m.now, seq)
	m.live = append(m.live, seq)
}

// drain steps until nothing is left.
func (m *simulation) drain() {
	for m.err == nil {
		m.propose()
		step := m.sched.Schedule(m.now)
		if step == nil {
			return
		}
		m.now += m.stepTime
		verified := false
		results := make([]batch.Result, len(step.Seqs))
		for i, sch := range step.Seqs {
			verified = verified || sch.NumDrafts > 0
			if sch.NeedsLogits() {
				results[i].Tokens = append(results[i].Tokens, sch.Seq.Drafts[:min(m.accepted, sch.NumDrafts)]...)
				results[i].Tokens = append(results[i].Tokens, 1)
			}
		}
		if verified {
			m.rounds++
		}
		m.sched.Update(step, results)
		m.err = m.sched.Check()
	}
}

// propose gives every running sequence its drafts.
func (m *simulation) propose() {
	for _, seq := range m.live {
		if m.drafts > 0 && seq.Status == batch.Running {
			seq.Drafts = append(seq.Drafts[:0], tokens(0, m.drafts, 0)...)
		}
	}
}
