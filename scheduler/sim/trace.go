package sim

import (
	"math/rand/v2"
	"time"
)

// Trace is a run that can be replayed: what [Generate] makes of a seed, or what
// [Shrink] has left of it. It is kept as JSON.
type Trace struct {
	Version   int    `json:"sestina_trace"` // 1
	Seed      uint64 `json:"seed"`
	Violation string `json:"violation,omitempty"` // what it once showed
	Config    Config `json:"config"`
	Ops       []Op   `json:"ops"`
}

// Config is the part of the settings that traces vary.
type Config struct {
	NumBlocks, BlockSize   int
	PrefixCaching, Chunked bool
	MaxNumSeqs, MaxTokens  int
	MaxModelLen            int
	Policy, Order          uint8
	LongPrefill, Watermark int
	MaxQueued              int
	MaxQueuedTokens        int
	QueueTimeout           time.Duration
	TimeBudget             int // the cost of a step is 10 + its rows
	Depth                  int // steps in flight

	NoKVCache, Contiguous bool  `json:",omitempty"`
	Window                int   `json:",omitempty"` // of the one block group
	Windows               []int `json:",omitempty"` // of several
	Tier, TierFails       int   `json:",omitempty"` // blocks that the tier holds; % of loads that fail
	Recall                int   `json:",omitempty"` // blocks that come back from it before a step of others
}

// Op is one operation. Arrivals use all fields, the others Pick, Seed or Jump.
type Op struct {
	Kind string        `json:"op"`
	Seed uint64        `json:"seed,omitempty"`
	Pick int           `json:"pick,omitempty"`
	Jump time.Duration `json:"jump,omitempty"`

	Family int `json:"family,omitempty"` // which shared text the prompt begins with
	Len    int `json:"len,omitempty"`    // prompt tokens
	Shared int `json:"shared,omitempty"` // how many of them are of the family; the rest is its own
	Tail   int `json:"tail,omitempty"`   // which own text
	N      int `json:"n,omitempty"`      // choices
	Max    int `json:"max,omitempty"`    // output tokens

	Salt     int  `json:"salt,omitempty"`
	Priority int  `json:"priority,omitempty"`
	StopAt   int  `json:"stop_at,omitempty"` // a stop string ends the answer after so many tokens
	Greedy   bool `json:"greedy,omitempty"`
	Draft    int  `json:"draft,omitempty"`  // longest draft
	Accept   int  `json:"accept,omitempty"` // % of drafted tokens that are right
}

func (op *Op) prompt() []int32 {
	tokens := make([]int32, op.Len)
	for i := range tokens {
		text := uint64(op.Family)
		if i >= op.Shared {
			text = 1000 + uint64(op.Tail)
		}
		tokens[i] = int32(mix(text<<32|uint64(i)) % vocab)
	}
	return tokens
}

// Generate makes the trace of a seed: a configuration and so many operations.
func Generate(seed uint64, ops int) *Trace {
	g := generator{Rand: rand.New(rand.NewPCG(seed, 0x5e57)), more: rand.New(rand.NewPCG(seed, 0x5e58))}
	g.kind = pick(g, mixed, mixed, mixed, mixed, mixed, mixed, choices, storm)
	t := &Trace{Version: 1, Seed: seed, Config: g.config()}
	hogged := false
	for range ops {
		op := g.op(&t.Config)
		if op.Kind == "hog" || op.Kind == "unhog" {
			op.Kind = "hog"
			if hogged {
				op.Kind = "unhog"
			}
			hogged = !hogged
		}
		t.Ops = append(t.Ops, op)
	}
	return t
}

// A generator makes traces of one of several kinds (swarm testing: a mixture of
// everything rarely goes deep anywhere).
type generator struct {
	*rand.Rand
	more *rand.Rand // for what came later, so that a seed stays the trace that it was
	kind kind
}

type kind uint8

const (
	mixed   kind = iota
	choices      // many choices, few seats, parents that vanish
	storm        // cancel and retry
)

func (g generator) chance(percent int) bool { return g.IntN(100) < percent }

func pick[T any](g generator, from ...T) T { return from[g.IntN(len(from))] }

func (g generator) config() Config {
	c := Config{
		BlockSize:     pick(g, 1, 2, 3, 4, 4, 8, 16),
		PrefixCaching: g.chance(80),
		Chunked:       g.chance(80),
		MaxNumSeqs:    pick(g, 1, 2, 3, 4, 6, 8),
		Depth:         pick(g, 1, 2, 3),
		Watermark:     pick(g, 0, 0, 0, 1, 2),
	}
	blocks := 3 + g.IntN(5) // of the longest sequence
	c.MaxModelLen = c.BlockSize*blocks + g.IntN(3) - 1
	c.NumBlocks = pick(g, blocks, blocks+1, blocks+2, 2*blocks, 3*blocks, 5*blocks)
	c.MaxTokens = pick(g, 2, 5, 8, 16, 32, 64)
	if g.kind == choices {
		c.MaxNumSeqs, c.Depth = 2+g.IntN(3), 2+g.IntN(2)
	}
	if g.chance(12) {
		c.Policy = uint8(1 + g.IntN(2))
	}
	if g.chance(30) {
		c.Order = 1
	}
	if g.chance(20) {
		c.LongPrefill = 1 + g.IntN(2*c.BlockSize)
	}
	if g.chance(60) {
		c.MaxQueued = 1 + g.IntN(8)
	}
	if g.chance(10) {
		c.MaxQueuedTokens = c.MaxModelLen * (1 + g.IntN(3))
	}
	if g.chance(20) {
		c.QueueTimeout = time.Minute
	}
	if g.chance(20) {
		c.TimeBudget = 10 + g.IntN(30)
	}
	g.layout(&c)
	return c
}

// layout gives every fourth trace a window, every third one with a prefix cache a
// tier, and some no cache or contiguous runs.
func (g generator) layout(c *Config) {
	if g.more.IntN(4) == 0 {
		c.Window = 1 + g.more.IntN(3*c.BlockSize)
	}
	switch n := g.more.IntN(100); {
	case n < 15:
		c.Contiguous, c.PrefixCaching = true, false
		c.NoKVCache = n < 2
	case n < 23:
		c.NoKVCache = true
	}
	if tiered := g.more.IntN(3) == 0; tiered && c.PrefixCaching {
		c.Tier, c.TierFails = 1+g.more.IntN(3*c.NumBlocks), []int{0, 0, 5, 50}[g.more.IntN(4)]
		c.Recall = g.more.IntN(4)
	}
	if g.more.IntN(3) == 0 && !c.Contiguous {
		g.groups(c)
	}
}

// groups makes it two or three block groups, some of them with a window, and the
// pool as many times larger, or as large as the longest sequence needs.
func (g generator) groups(c *Config) {
	w := func() int { return 1 + g.more.IntN(3*c.BlockSize) }
	c.Windows = [][]int{{0, w()}, {0, w(), w()}, {w(), w()}, {0, 0, w()}, {0, 0}}[g.more.IntN(5)]
	tight := g.more.IntN(2) == 0
	c.NumBlocks, c.Tier, c.Window = c.NumBlocks*len(c.Windows), c.Tier*len(c.Windows), 0
	if tight {
		c.NumBlocks = min(c.NumBlocks, c.need(c.MaxModelLen)+g.more.IntN(3))
	}
}

// windows are those of the block groups.
func (c *Config) windows() []int {
	if c.Windows != nil {
		return c.Windows
	}
	return []int{c.Window}
}

// chunk is how many tokens of a sequence a step can compute; 0 = any number.
func (c *Config) chunk() int {
	switch {
	case !c.Chunked || c.NoKVCache || c.Contiguous:
		return 0
	case c.LongPrefill > 0:
		return min(c.LongPrefill, c.MaxTokens)
	}
	return c.MaxTokens
}

// need counts the blocks that a sequence of n tokens holds at the worst moment: in
// each group those from the first that the next position still needs to the end of
// the chunk that begins there.
func (c *Config) need(n int) (blocks int) {
	size, chunk := c.BlockSize, c.chunk()
	for _, w := range c.windows() {
		most := (n + size - 1) / size
		if w > 0 && chunk > 0 {
			held := 0
			for next := range 2*size + w + 1 {
				first := max(0, min(next-w+1, next-size)) / size
				held = max(held, (next+chunk-1)/size+1-first)
			}
			most = min(most, held)
		}
		blocks += most
	}
	return blocks
}

// longest is the most tokens that a sequence can have.
func (c *Config) longest() int {
	n := c.MaxModelLen
	for n > 0 && c.need(n) > c.NumBlocks {
		n--
	}
	return n
}

func (g generator) op(c *Config) Op {
	if g.kind == choices && g.chance(6) {
		return Op{Kind: "orphan", Pick: g.IntN(64)}
	}
	if g.kind == storm && g.chance(12) {
		return Op{Kind: pick(g, "abort", "retry"), Pick: g.IntN(64)}
	}
	switch n := g.IntN(1000); {
	case n < 150:
		return g.arrival(c)
	case n < 180:
		return Op{Kind: "abort", Pick: g.IntN(64)}
	case n < 184:
		return Op{Kind: "orphan", Pick: g.IntN(64)}
	case n < 190:
		return Op{Kind: "retry"}
	case n < 194:
		return Op{Kind: "error", Pick: g.IntN(4)}
	case n < 196:
		return Op{Kind: "dead"}
	case n < 198:
		return Op{Kind: "clear"}
	case n < 204:
		return Op{Kind: "hog", Pick: 1 + g.IntN(c.NumBlocks)}
	case n < 208:
		return Op{Kind: "clock", Jump: pick(g, time.Second, time.Hour, -time.Hour)}
	case n == 208 && g.chance(20):
		return Op{Kind: "drain"}
	}
	return Op{Kind: "tick", Seed: g.Uint64()}
}

// edge is a length at or beside a block edge, below limit.
func (g generator) edge(c *Config, limit int) int {
	n := c.BlockSize*g.IntN(limit/c.BlockSize+1) + g.IntN(3) - 1
	return max(1, min(n, limit))
}

func (g generator) arrival(c *Config) Op {
	op := Op{
		Kind: "arrive", Seed: g.Uint64(),
		Family: g.IntN(3), Tail: g.IntN(6), Salt: g.IntN(8) / 6, Priority: g.IntN(3),
		N: pick(g, 1, 1, 1, 1, 2, 3, 4), Greedy: g.chance(40),
		Len: g.edge(c, c.MaxModelLen-1),
	}
	if g.kind == choices {
		op.N = 3 + g.IntN(4)
	}
	op.Shared = min(op.Len, g.edge(c, c.MaxModelLen))
	op.Max = 1 + g.IntN(c.MaxModelLen)
	if !g.chance(3) { // else it may never fit
		op.Max = min(op.Max, c.longest()-op.Len)
		op.Max = max(op.Max, 1)
	}
	if g.chance(30) { // stop at a block edge
		op.StopAt = max(0, g.edge(c, c.MaxModelLen)-op.Len)
	}
	if g.chance(50) {
		op.Draft, op.Accept = 1+g.IntN(6), pick(g, 0, 30, 70, 95, 100)
	}
	return op
}
