package main

import (
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// progress shows transfers and loading on stderr: bars on a terminal, one
// plain line per file elsewhere. Loading shows nothing unless it takes a second, then a bar or one line.
type progress struct {
	mu      sync.Mutex
	bars    *mpb.Progress // nil: plain
	bar     *mpb.Bar
	name    string
	begin   time.Time
	loading *mpb.Bar
	said    bool // that it is loading, where there are no bars
}

func newProgress() *progress {
	p := &progress{begin: time.Now()}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		p.bars = mpb.New(mpb.WithOutput(os.Stderr), mpb.WithWidth(40))
	}
	return p
}

func (p *progress) add(name string, total int64) *mpb.Bar {
	return p.bars.AddBar(total, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(name+" ")),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.Name(" "), decor.AverageSpeed(decor.SizeB1024(0), "% .1f"), decor.Name(" "), decor.AverageETA(decor.ET_STYLE_GO)))
}

// Start implements hub.Progress.
func (p *progress) Start(name string, total, done int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.name, p.begin = name, time.Now()
	if p.bars == nil {
		switch {
		case total < 0:
			note("%s: fetching", name)
		case done > 0:
			note("%s: %.1f MiB, %.1f MiB of them there already", name, mib(total), mib(done))
		default:
			note("%s: %.1f MiB", name, mib(total))
		}
		return
	}
	p.bar = p.add(name, total)
	p.bar.SetCurrent(done)
}

// Add implements hub.Progress.
func (p *progress) Add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		p.bar.IncrInt64(n)
	}
}

// Done implements hub.Progress.
func (p *progress) Done(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		p.bar.Abort(true)
		p.bar = nil
	} else if err == nil && p.bars == nil {
		note("%s: done in %.1f s", p.name, time.Since(p.begin).Seconds())
	}
	p.begin = time.Now()
}

// load is sestina.Options.ModelProgress.
func (p *progress) load(done, total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.loading == nil && time.Since(p.begin) < time.Second {
		return
	}
	if p.bars == nil {
		if !p.said {
			note("loading: %.1f of %.1f MiB after %.1f s", mib(int64(done)), mib(int64(total)), time.Since(p.begin).Seconds())
		}
		p.said = true
		return
	}
	if p.loading == nil {
		p.loading = p.add("loading", int64(total))
	}
	p.loading.SetCurrent(int64(done))
}

// stop takes the bars away.
func (p *progress) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.loading != nil {
		p.loading.Abort(true)
	}
	if p.bars != nil {
		p.bars.Wait()
	}
}
