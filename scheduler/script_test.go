package scheduler

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"sestina/batch"
	"sestina/kvcache"

	"github.com/cockroachdb/datadriven"
)

// The scripts in testdata read as behaviour. Commands:
//
//	new blocks= size= seqs= tokens= len= …    a pool and a scheduler over it
//	add id= prompt=(text,n[,text,n…]) max= …  a request; prompts of one text begin alike
//	draft id= n=                              propose n tokens for a running sequence
//	step                                      Schedule
//	done [accept=n] [stop=id] [fail=id]       Update the oldest step; accept says how many drafts were right
//	run steps= [quiet]                        step and done, so many times
//	flood n= prompt= max=                     so many different requests
//	abort id= | expire | drain | rebuild | clear
//	show                                      queues and pool
//	match id=                                 what the prefix cache had when it was admitted
//	stats                                     computed tokens, slots
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s script
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.out.Reset()
			s.command(t, d)
			if s.sched != nil {
				if err := s.sched.Check(); err != nil {
					t.Fatalf("%s: %v", d.Pos, err)
				}
			}
			if s.out.Len() == 0 || d.HasArg("quiet") {
				return "ok"
			}
			return s.out.String()
		})
	})
}

type script struct {
	out   strings.Builder
	pool  *kvcache.BlockManager
	sched *Scheduler
	seqs  map[int64]*batch.Sequence
	order []int64
	steps []*batch.Step // in flight
	now   time.Duration
}

func (s *script) printf(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func arg[T any](t *testing.T, d *datadriven.TestData, key string, otherwise T) T {
	if d.HasArg(key) {
		d.ScanArgs(t, key, &otherwise)
	}
	return otherwise
}

func (s *script) command(t *testing.T, d *datadriven.TestData) {
	switch d.Cmd {
	case "new":
		s.build(t, d)
	case "add":
		s.add(t, d)
	case "draft":
		seq := s.seqs[arg(t, d, "id", int64(0))]
		seq.Drafts = prompt(9, arg(t, d, "n", 1))
	case "step":
		s.step()
	case "done":
		s.done(arg(t, d, "accept", 0), arg(t, d, "stop", int64(0)), arg(t, d, "fail", int64(0)))
	case "run":
		for range arg(t, d, "steps", 1) {
			s.step()
			s.done(0, 0, 0)
		}
	case "flood":
		for id := range int64(arg(t, d, "n", 1)) {
			seq := newSeq(id+1, int(id+1), arg(t, d, "prompt", 1), arg(t, d, "max", 1))
			if err := s.sched.Add(s.now, seq); err != nil {
				t.Fatalf("%s: %v", d.Pos, err)
			}
		}
	case "abort":
		s.sched.Abort(arg(t, d, "id", int64(0)))
	case "wait":
		s.now += time.Duration(arg(t, d, "seconds", 1)) * time.Second
	case "expire":
		for _, seq := range s.sched.Expire(s.now) {
			s.printf("%d expired: %v", seq.ID, seq.Err)
		}
	case "drain":
		s.sched.Drain()
	case "rebuild":
		s.sched.Rebuild()
		s.steps = nil
	case "clear":
		s.pool.ClearCache()
	case "explain":
		m := s.pool.Explain(s.seqs[arg(t, d, "id", int64(0))])
		s.printf("%d tokens cached, then %v at token %d", m.Tokens, m.Stop, m.At)
	case "match":
		m := s.seqs[arg(t, d, "id", int64(0))].Match
		s.printf("%d tokens cached, then %v at token %d; for the client: %v", m.Tokens, m.Stop, m.At, m.Stop.Public())
	case "stats":
		st := s.sched.Stats()
		s.printf("%d tokens computed, %d of them again", st.ComputedTokens, st.RecomputedTokens)
		s.printf("%d slots reserved, %d wasted; %d running, %d delayed by fragmentation", st.ReservedSlots, st.WastedSlots, st.Running, st.Fragmented)
	case "show":
		s.show()
	default:
		t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	}
}

func (s *script) build(t *testing.T, d *datadriven.TestData) {
	pool := kvcache.Config{
		NumBlocks: arg(t, d, "blocks", 16), BlockSize: arg(t, d, "size", 4), PrefixCaching: arg(t, d, "prefix", "on") == "on",
		Contiguous: arg(t, d, "layout", "paged") == "contiguous",
		Windows:    windows(d),
	}
	cfg := Config{
		MaxNumSeqs: arg(t, d, "seqs", 8), MaxNumBatchedTokens: arg(t, d, "tokens", 64), MaxModelLen: arg(t, d, "len", 0),
		ChunkedPrefill: arg(t, d, "chunked", "on") == "on", LongPrefillThreshold: arg(t, d, "long", 0), NoKVCache: arg(t, d, "cache", "on") == "off",
		MaxQueuedSeqs: arg(t, d, "queue", 0), MaxQueuedTokens: arg(t, d, "queue-tokens", 0),
		QueueTimeout: time.Duration(arg(t, d, "timeout", 0)) * time.Second, Watermark: arg(t, d, "watermark", 0),
		Policy: map[string]Policy{"continuous": Continuous, "static": Static, "none": None}[arg(t, d, "policy", "continuous")],
		Order:  map[string]Order{"fcfs": FCFS, "priority": PriorityOrder}[arg(t, d, "order", "fcfs")],
	}
	if ms := arg(t, d, "budget", 0); ms != 0 { // a step costs 1 ms a row
		cfg.StepBudget = time.Duration(ms) * time.Millisecond
		cfg.StepCost = func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	}
	*s = script{pool: newPool(t, pool), seqs: map[int64]*batch.Sequence{}, now: s.now}
	s.sched = New(cfg, s.pool)
}

// windows reads window=6, or window=(0,6) of two block groups.
func windows(d *datadriven.TestData) (all []int) {
	for _, a := range d.CmdArgs {
		if a.Key != "window" {
			continue
		}
		for _, v := range a.Vals {
			w, err := strconv.Atoi(v)
			if err != nil {
				panic(err)
			}
			all = append(all, w)
		}
	}
	return all
}

func (s *script) add(t *testing.T, d *datadriven.TestData) {
	id := arg(t, d, "id", int64(0))
	var tokens []int32
	for _, a := range d.CmdArgs {
		if a.Key != "prompt" {
			continue
		}
		for i := 0; i+1 < len(a.Vals); i += 2 { // (text, n, text, n …)
			var n int
			if _, err := fmt.Sscan(a.Vals[i+1], &n); err != nil {
				t.Fatalf("%s: %v", d.Pos, err)
			}
			part := prompt(int(a.Vals[i][0]), len(tokens)+n)
			tokens = append(tokens, part[len(tokens):]...)
		}
	}
	var choices []*batch.Sequence
	for i := range arg(t, d, "n", 1) {
		seq := &batch.Sequence{
			ID: id + int64(i), Choice: i, Tokens: append([]int32(nil), tokens...), PromptLen: len(tokens),
			MaxTokens: arg(t, d, "max", 4), Salt: arg(t, d, "salt", ""), Priority: arg(t, d, "priority", 0),
		}
		choices = append(choices, seq)
	}
	err := s.sched.Add(s.now, choices...)
	var never *NeverFitsError
	switch {
	case errors.As(err, &never):
		s.printf("never fits: %v", err)
	case err != nil:
		s.printf("%v", err)
	default:
		for _, seq := range choices {
			s.seqs[seq.ID] = seq
			s.order = append(s.order, seq.ID)
		}
	}
}

func (s *script) step() {
	preemptions := s.sched.Stats().Preemptions
	step := s.sched.Schedule(s.now)
	if n := s.sched.Stats().Preemptions - preemptions; n > 0 {
		s.printf("preempted: %d", n)
	}
	if step == nil {
		s.printf("no step")
		return
	}
	s.steps = append(s.steps, step)
	var parts []string
	for _, sch := range step.Seqs {
		part := fmt.Sprintf("%d computes [%d,%d)", sch.Seq.ID, sch.Seq.NumComputed, sch.Seq.NumComputed+sch.NumTokens)
		if sch.NumDrafts > 0 {
			part += fmt.Sprintf(" with %d drafts", sch.NumDrafts)
		}
		parts = append(parts, part)
	}
	for _, c := range step.Copies {
		parts = append(parts, fmt.Sprintf("copy %d to %d", c.Src, c.Dst))
	}
	s.printf("step %d: %s", step.ID, strings.Join(parts, "; "))
}

func (s *script) done(accept int, stop, fail int64) {
	if len(s.steps) == 0 {
		return
	}
	step := s.steps[0]
	s.steps = s.steps[1:]
	var rs []batch.Result
	for _, sch := range step.Seqs {
		var r batch.Result
		switch {
		case sch.Seq.ID == fail:
			r.Err = errors.New("its own fault")
		case sch.Seq.Status == batch.Running && sch.NeedsLogits():
			r.Tokens = append(r.Tokens, sch.Seq.Drafts[:min(accept, sch.NumDrafts)]...)
			r.Tokens = append(r.Tokens, int32(len(sch.Seq.Tokens)))
			if sch.Seq.ID == stop {
				r.Finish = batch.FinishStop
			}
		}
		rs = append(rs, r)
	}
	running := append([]*entry(nil), s.sched.running...)
	s.sched.Update(step, rs)
	for _, e := range running {
		if e.seq.Status == batch.Finished {
			s.printf("%d ends after %d tokens: %v", e.seq.ID, e.seq.NumOutput(), e.seq.Finish)
		}
	}
}

func (s *script) show() {
	for _, id := range s.order {
		seq := s.seqs[id]
		switch seq.Status {
		case batch.Running:
			tables := strings.ReplaceAll(strings.Trim(fmt.Sprint(seq.BlockTables), "[]"), "] [", "] and [")
			s.printf("%d runs: %d tokens, %d computed, %d cached, blocks [%s]", id, len(seq.Tokens), seq.NumComputed, seq.NumCached, tables)
		case batch.Waiting:
			wait, behind := s.sched.WaitsFor(id)
			line := fmt.Sprintf("%d waits for %v", id, wait)
			if behind != 0 {
				line += fmt.Sprintf(" (%d)", behind)
			}
			s.printf("%s: %d tokens", line, len(seq.Tokens))
		default:
			s.printf("%d ended: %v", id, seq.Finish)
		}
	}
	st := s.pool.Stats()
	s.printf("blocks: %d free, %d idle, %d referenced, %d fenced", st.Free, st.Idle, st.Referenced, st.Fenced)
}
