package explain

import (
	"fmt"
	"slices"

	"sestina/batch"
	"sestina/explain/chart"
	"sestina/explain/plan"
	"sestina/kvcache"
	"sestina/scheduler"
	"sestina/tensor"
)

// The techniques that save memory, or what is read of it: the bottleneck, KV
// cache, paged attention and grouped-query attention.

func bottleneck(s *Section) {
	const params, bytesEach, tokens = 70e9, 2, 200
	s.seed("weights read per token", 140, "GB", "70 billion parameters in 16 bits")
	s.seed("weights read for 200 tokens", 28, "TB", "")
	s.formula("weights read per token", params*bytesEach/1e9, "GB", "70e9 × 2 bytes: each weight meets the token once")
	s.formula("weights read for 200 tokens", params*bytesEach*tokens/1e12, "TB", "200 × 140 GB")
	s.formula("operations per byte read", 2*params/(params*bytesEach), "", "one multiplication and one addition per weight of 2 bytes; chips do 100 and more in that time")
	s.formula("tokens per second, at most", 3350/140.0, "tok/s", "at 3,350 GB/s, the memory of one large GPU, with nobody else on it")
}

// kvRun steps one sequence through the real scheduler and counts what it computes.
func (s *Section) kvRun(cfg scheduler.Config, prompt, passes int) scheduler.Stats {
	run := newSimulation(cfg, kvcache.Config{NumBlocks: 64, BlockSize: 4})
	run.add(0, prompt, passes)
	run.drain()
	s.fail(run.err)
	return run.sched.Stats()
}

func kvCache(s *Section) {
	const prompt, passes = 2, 99
	const without = (prompt + prompt + passes - 1) * passes / 2
	const with = prompt + passes - 1
	s.seed("K/V computations without a cache", 5049, "", "a prompt of 2 tokens, 99 passes")
	s.seed("K/V computations with a cache", 101, "", "counts the last token's own K and V too")
	s.seed("fewer", 50, "x", "about")
	s.formula("K/V computations without a cache", without, "", "2 + 3 + … + 100: each pass computes all tokens so far")
	s.formula("K/V computations with a cache", with, "", "2 + 98: the prompt, then one token a pass")
	s.formula("fewer", float64(without)/with, "x", "")
	st := s.kvRun(scheduler.Config{ChunkedPrefill: true}, prompt, passes)
	off := s.kvRun(scheduler.Config{ChunkedPrefill: true, NoKVCache: true}, prompt, passes)
	s.counted("K/V computations without a cache", float64(off.StepTokens), "", "rows of the real scheduler's steps, --kv-cache off")
	s.counted("passes with a cache", float64(st.Steps), "", "steps of the same scheduler, --kv-cache on")
	s.counted("K/V computations with a cache", float64(st.StepTokens), "", "rows of those steps. 100, not 101: the last token is drawn and returned, never fed back, so its K and V are not computed")
	s.draw("", kvCacheChart())
}

func kvCacheChart() chart.Chart {
	with, without := chart.Series{Name: "with a KV cache"}, chart.Series{Name: "without"}
	for n := 2; n <= 8192; n *= 2 { // tokens after a prompt of 2
		x := float64(n)
		with.X, with.Y = append(with.X, x), append(with.Y, x+1)
		without.X, without.Y = append(without.X, x), append(without.Y, x*(x+3)/2)
	}
	return chart.Lines{Title: "K/V computations, by tokens generated", XLabel: "tokens generated", YLabel: "computations",
		Series: []chart.Series{with, without}}
}

const (
	reserved = 2048 // slots that a contiguous layout sets aside for one sequence
	used     = 50
)

func pagedAttention(s *Section) {
	s.seed("slots wasted, reserved in one piece", 1998, "", "2,048 reserved, 50 used")
	s.seed("slots wasted, in blocks of 4", 2, "", "13 blocks, 52 slots")
	s.formula("slots wasted, reserved in one piece", reserved-used, "", "2,048 − 50")

	const size = 4
	paged, piece := kvcache.Config{BlockSize: size}, kvcache.Config{BlockSize: size, Contiguous: true}
	sharing := kvcache.Config{BlockSize: size, PrefixCaching: true}
	slots := func(c kvcache.Config) int {
		return len(newPool(reserved, c).admit(1, used, 0, reserved).BlockTables[0]) * size
	}
	s.counted("slots wasted, reserved in one piece", float64(slots(piece)-used), "", "the real block manager, --kv-layout contiguous, at most 2,048 tokens")
	s.counted("blocks of 4 for 50 tokens", float64(slots(paged)/size), "", "--kv-layout paged")
	s.counted("slots in them", float64(slots(paged)), "", "")
	s.counted("slots wasted, in blocks", float64(slots(paged)-used), "", "never more than a block less one slot")

	const slotsInPool = 16 * reserved
	few, many := newPool(slotsInPool, piece).fill(used), newPool(slotsInPool, paged).fill(used)
	s.formula("users that fit, reserved in one piece", slotsInPool/reserved, "", "a pool of 32,768 slots / 2,048")
	s.counted("users that fit, reserved in one piece", float64(few), "", "admitted until the block manager refuses")
	s.counted("users that fit, in blocks", float64(many), "", "the same pool")

	const sharers, prefix = 100, 40
	alone, shared := newPool(slotsInPool, paged), newPool(slotsInPool, sharing)
	for i := range sharers {
		alone.admit(int64(i+1), used, prefix, reserved)
		shared.admit(int64(i+1), used, prefix, reserved)
	}
	s.counted("blocks of 100 users, each its own", float64(alone.taken()), "", "50 tokens each, of which the first 40 are the same")
	s.counted("blocks of 100 users, prefix shared", float64(shared.taken()), "", "10 blocks of the prefix once, then 3 each")
	s.fragmentation()
	s.draw("", chart.Bars{Title: "Users of 50 tokens in a pool of 32,768 slots", Unit: "users", Bars: []chart.Bar{
		{Label: "2,048 slots reserved each", Value: float64(few), Text: Number(float64(few))}, {Label: "blocks of 4", Value: float64(many), Text: Number(float64(many)), Colour: 2}}})
}

// pool is a block manager being filled.
type pool struct {
	*kvcache.BlockManager
}

// newPool has so many slots.
func newPool(slots int, c kvcache.Config) pool {
	c.NumBlocks = slots / c.BlockSize
	m, err := kvcache.New(c)
	if err != nil {
		panic("explain: " + err.Error()) // the sizes are constants
	}
	return pool{m}
}

// admit places a sequence of n tokens, the first prefix of them common to all,
// that may grow to most, and has them computed; nil when the pool is too full.
func (p pool) admit(id int64, n, prefix, most int) *batch.Sequence {
	seq := &batch.Sequence{ID: id, Tokens: tokens(id, n, prefix), PromptLen: n, MaxTokens: most - n}
	cached, ok := p.Admit(seq, p.Chain(nil, "", seq.Tokens), 0)
	if !ok {
		return nil
	}
	seq.NumComputed = n
	p.Publish(seq, cached, n)
	return seq
}

// fill admits sequences until one is refused and counts them.
func (p pool) fill(n int) int {
	for users := 0; ; users++ {
		if p.admit(int64(users+1), n, 0, reserved) == nil {
			return users
		}
	}
}

func (p pool) taken() int { return p.Stats().Referenced }

// tokens are n ids, the first prefix of them the same for every sequence.
func tokens(id int64, n, prefix int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(i)
		if i >= prefix {
			ids[i] += int32(id) * 4096
		}
	}
	return ids
}

// fragmentation lets 16 sequences fill a pool and every second one leave: half
// the slots are free then. How many of four newcomers are turned away although
// they need no more slots than there are?
func (s *Section) fragmentation() {
	const size, long, newcomers = 4, 64, 4
	turnedAway := func(c kvcache.Config) (free, refused int) {
		p := newPool(16*long, c)
		var seqs []*batch.Sequence
		for i := range 16 {
			seqs = append(seqs, p.admit(int64(i+1), long, 0, long))
		}
		for i := 0; i < len(seqs); i += 2 {
			p.Free(seqs[i], 0)
		}
		free = p.Available() * size
		for i := range newcomers {
			if p.admit(int64(100+i), 2*long, 0, 2*long) == nil {
				refused++
			}
		}
		return free, refused
	}
	free, refused := turnedAway(kvcache.Config{BlockSize: size, Contiguous: true})
	s.counted("refused although enough slots are free, in one piece", float64(refused), "of 4", fmt.Sprintf("%d slots are free in holes of %d; none takes a sequence of %d", free, long, 2*long))
	_, refused = turnedAway(kvcache.Config{BlockSize: size})
	s.counted("refused although enough slots are free, in blocks", float64(refused), "of 4", "any free block will do: no external fragmentation")
}

func groupedQuery(s *Section) {
	const context = 131_072
	s.seed("K and V heads kept by LLaMA-2-70B", 100.0/8, "%", "1/8: 64 query heads in 8 groups")
	s.seed("K and V heads kept, 8 heads in 2 groups", 100.0/4, "%", "1/4: an existing model's K and V heads are averaged within a group")
	s.seed("uptraining after that", 5, "%", "of the original training")
	s.formula("K and V heads kept by LLaMA-2-70B", 100*8.0/64, "%", "8 / 64")
	s.formula("K and V heads kept, 8 heads in 2 groups", 100*2.0/8, "%", "2 / 8")
	llama, err := plan.Preset("llama-2-70b")
	if err != nil {
		s.fail(err)
		return
	}
	p, err := plan.Make(llama, plan.Request{KVDType: tensor.F16, BlockSize: 16, Context: context, Users: 1})
	if err != nil {
		s.fail(err)
		return
	}
	const gib = 1 << 30
	s.counted("KV cache at 131,072 tokens, every head", float64(p.MHABytes)/gib, "GiB", "80 layers × 64 heads × 128 × 2 × 2 bytes a token, as the pool allocates it: above 128K tokens it cannot be held")
	s.counted("KV cache at 131,072 tokens, 8 groups", float64(p.UserBytes)/gib, "GiB", "")
	s.counted("smaller", float64(p.MHABytes)/float64(p.UserBytes), "x", "")
	s.draw("", groupedQueryChart(s, llama))
}

func groupedQueryChart(s *Section, llama plan.Shape) chart.Chart {
	every, grouped := chart.Series{Name: "64 K and V heads"}, chart.Series{Name: "8 groups"}
	for context := 1024; context <= 256<<10; context *= 2 {
		p, err := plan.Make(llama, plan.Request{KVDType: tensor.F16, BlockSize: 16, Context: context, Users: 1})
		if err != nil {
			s.fail(err)
			break
		}
		every.X, every.Y = append(every.X, float64(context)), append(every.Y, float64(p.MHABytes))
		grouped.X, grouped.Y = slices.Clone(every.X), append(grouped.Y, float64(p.UserBytes))
	}
	return chart.Lines{Title: "KV cache of LLaMA-2-70B in 16 bits", XLabel: "tokens of context", YLabel: "bytes", Series: []chart.Series{every, grouped}}
}
