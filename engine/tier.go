package engine

import (
	"sestina/kvcache"
	"sestina/runner/tier"
)

// tap is the tier as the block manager sees it; the flight recorder notes how
// loads ended, since steps depend on it.
type tap struct {
	*tier.Store
	loads string // since the last step: y or n
}

func (t *tap) Load(block int32, key [32]byte, ids []int32) bool {
	ok := t.Store.Load(block, key, ids)
	t.loads += map[bool]string{true: "y", false: "n"}[ok]
	return ok
}

// identity is the model in the root of all prefix hashes. One that outlives the
// process is told by its contents.
func (e *Engine) identity() string {
	name := e.runner.Info().Arch
	if e.opt.Tier != nil {
		name += " " + e.opt.Tier.Contents()
	}
	return name
}

// below is the tier for the block manager; nil if there is none.
func (e *Engine) below() kvcache.Tier {
	if e.opt.Tier == nil {
		return nil
	}
	e.tap.Store = e.opt.Tier
	return &e.tap
}

// lookAhead brings what the disk has of a prompt into host memory. It runs on the
// goroutine of the request, before it is queued: no step waits for a disk.
func (e *Engine) lookAhead(req *Request) {
	if e.opt.Tier == nil {
		return
	}
	chain, groups := kvcache.Chain(e.blocks.Config(), req.Salt, req.Prompt), len(e.blocks.Config().Windows)
	keys := make([]tier.Key, 0, len(chain)*groups)
	for _, h := range chain {
		for g := range groups {
			keys = append(keys, h.In(g))
		}
	}
	e.opt.Tier.Prefetch(keys, groups, req.Prompt[:len(chain)*e.opt.BlockSize])
}

// putAway saves what the pool has cached, so that the next process finds it, and
// closes the tier. The loop has ended; if it died, the pool is not trusted.
func (e *Engine) putAway() error {
	t := e.opt.Tier
	if t == nil {
		return nil
	}
	<-e.gone
	if e.cause == ErrClosed && e.opt.Techniques.PrefixCaching == "on" {
		t.Patient()
		if err := guard(e.blocks.Spill); err != nil {
			e.log.Error("the KV pool could not be put away", "err", err)
		}
	}
	return t.Close()
}

// shelf is a tier that answers as a trace says it did.
type shelf struct{ answers string }

func (s *shelf) Save(int32, [32]byte, []int32) {}

func (s *shelf) Load(int32, [32]byte, []int32) bool {
	if s.answers == "" {
		return false
	}
	ok := s.answers[0] == 'y'
	s.answers = s.answers[1:]
	return ok
}
