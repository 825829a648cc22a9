// Package serve loads any OpenAI-compatible server and measures what its users
// would feel. It speaks only HTTP and imports nothing of the engine, so the same
// workload compares servers.
//
// # Two kinds of load
//
// Open loop: requests leave at planned instants, whatever the server does, as
// users who do not know each other arrive. A server past its capacity shows a
// growing queue. Closed loop: at most MaxConcurrency requests are in flight and
// the next leaves when one ends; a slow server then slows its own load. Both
// together cap an open loop; how late its requests left is the send lag.
//
// # Definitions
//
// All times start when a request is sent and are read when a whole server-sent
// event has arrived. A token chunk is one that carries output, or an empty delta
// before the finish that does not merely announce the role.
//
//	TTFT  first token chunk
//	E2EL  last chunk of the answer; usage and [DONE] are not waited for
//	TPOT  (E2EL − TTFT) / (output tokens − 1), for answers of two tokens or more
//	ITL   gap between neighbouring token chunks; a chunk may hold several tokens
//
// Token counts come from the server's usage. An answer counts only when it ended
// with [DONE]; anything else is a failure with its reason. Goodput is the number of
// answers that meet every objective, per second. Throughputs divide by the time
// from the start of the load to the end of its last request, failed ones included.
//
// arrivals.go plans when, workload.go what, client.go sends and classifies,
// summary.go turns results into figures. The tests serve planted delays and faults.
package serve

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Run offers the load c.Reps times, each with fresh prompts, and reports it. It fails when
// the configuration is wrong, a warm-up request fails or ctx ends; failed
// requests of the load are part of the report. progress, if not nil, is called after each.
func Run(ctx context.Context, c Config, progress func(rep, done, total int)) (*Report, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	cl, err := newClient(ctx, c)
	if err != nil {
		return nil, err
	}
	defer cl.close()
	return run(ctx, c, cl, progress)
}

func run(ctx context.Context, c Config, cl *client, progress func(rep, done, total int)) (*Report, error) {
	c.Model, c.NumPrompts = cl.model, c.total()
	if err := warmUp(ctx, c, cl); err != nil {
		return nil, err
	}
	var loads []load
	for rep := range c.Reps {
		l := load{requests: c.requests(rep)}
		cl.opened.Store(0)
		tell := teller(progress, rep, len(l.requests))
		l.flight = drive(ctx, c.arrivals(rep, len(l.requests)), c.MaxConcurrency, func(i int) Result {
			defer tell()
			return cl.send(ctx, l.requests[i])
		})
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		l.connections = int(cl.opened.Load())
		loads = append(loads, l)
	}
	report := newReport(c, loads)
	if c.VerifyAlone {
		var err error
		if report.Verify, err = verifyAlone(ctx, cl, loads); err != nil {
			return nil, err
		}
	}
	return report, nil
}

// load is one repetition: what was asked and what came back, index for index.
type load struct {
	requests    []Request
	connections int // opened during the load
	flight
}

// teller counts the finished requests of one repetition for progress, one call at a time.
func teller(progress func(rep, done, total int), rep, total int) func() {
	var mu sync.Mutex
	done := 0
	return func() {
		mu.Lock()
		defer mu.Unlock()
		if done++; progress != nil {
			progress(rep, done, total)
		}
	}
}

func warmUp(ctx context.Context, c Config, cl *client) error {
	reqs := c.warmups()
	f := drive(ctx, make([]time.Duration, len(reqs)), c.MaxConcurrency, func(i int) Result { return cl.send(ctx, reqs[i]) })
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, r := range f.results {
		if r.Failure != nil {
			return fmt.Errorf("a warm-up request failed (%s): %s", r.Failure.Reason, r.Failure.Message)
		}
	}
	return nil
}

// flight is what drive saw.
type flight struct {
	results []Result
	elapsed time.Duration // from the start to the end of the last request
	peak    int           // most requests in flight at once
}

// drive calls send(i) at arrivals[i] after the start, in order, with at most limit
// in flight (0 = no limit), and waits for them all. When ctx ends, the rest are not sent.
func drive(ctx context.Context, arrivals []time.Duration, limit int, send func(i int) Result) flight {
	if limit <= 0 || limit > len(arrivals) {
		limit = len(arrivals)
	}
	f := flight{results: make([]Result, len(arrivals))}
	slots := make(chan struct{}, limit)
	var wg sync.WaitGroup
	var inFlight, peak atomic.Int64
	start := time.Now()
	for i, at := range arrivals {
		if !waitUntil(ctx, start.Add(at)) || !acquire(ctx, slots) {
			for j := i; j < len(arrivals); j++ {
				f.results[j].Failure = &Failure{Reason: reasonInterrupted, Message: context.Cause(ctx).Error()}
			}
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			storeMax(&peak, inFlight.Add(1))
			defer inFlight.Add(-1)
			sent := time.Since(start)
			r := send(i)
			r.Sent, r.Lag = millis(sent), millis(sent-at)
			f.results[i] = r
		})
	}
	wg.Wait()
	f.elapsed, f.peak = time.Since(start), int(peak.Load())
	return f
}

func storeMax(m *atomic.Int64, v int64) {
	for {
		old := m.Load()
		if v <= old || m.CompareAndSwap(old, v) {
			return
		}
	}
}

func acquire(ctx context.Context, slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func waitUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
