package sim

// mutant is one planted bug: in file, the text old becomes the text new, in
// which mutant("M..") asks whether this one is switched on.
type mutant struct {
	id, bug  string
	upstream string // where it happened, or the class of it
	file     string
	old, new string
}

// mutants are bugs that other engines had, by their public number where there is
// one, and bugs of a known class; each is as small a change as it takes.
var mutants = []mutant{
	{"M01", "freed blocks are reused while a step in flight writes them", "vllm 45357, sglang 35049", "kvcache/block.go",
		`if b.fence <= m.completed {`, `if mutant("M01") || b.fence <= m.completed {`},
	{"M02", "abort frees pages that are still being written", "sglang 27372, 32564", "scheduler/queue.go",
		`s.running = s.remove(s.running, e)
		s.blocks.Free(seq, e.inFlight)`,
		`s.running = s.remove(s.running, e)
		if mutant("M02") {
			e.inFlight = 0
		}
		if !(mutant("M03") && reason == batch.FinishError) {
			s.blocks.Free(seq, e.inFlight)
		}
		if mutant("M04") && reason == batch.FinishAbort && cap(seq.BlockTables[0]) > 0 {
			seq.BlockTables[0] = seq.BlockTables[0][:1]
			s.blocks.Free(seq, e.inFlight)
		}`},
	{"M03", "a failed sequence keeps its blocks for ever", "vllm 46283, sglang 6888", "scheduler/queue.go", "", ""},
	{"M04", "an abort frees twice", "vllm 33377", "scheduler/queue.go", "", ""},
	{"M05", "rejected drafts are pruned twice: by the optimistic length", "vllm-ascend 13501, 14055", "scheduler/update.go",
		`s.blocks.Truncate(seq, len(seq.Tokens), e.inFlight)`,
		`keep := len(seq.Tokens)
		if mutant("M05") {
			keep -= sch.NumDrafts - accepted
		}
		s.blocks.Truncate(seq, keep, e.inFlight)`},
	{"M06", "a block is published before the step that fills it has completed", "sglang 24175, 38140", "scheduler/schedule.go",
		`e.inFlight = p.step.ID`,
		`e.inFlight = p.step.ID
	if mutant("M06") {
		p.s.blocks.Publish(e.seq, e.seq.NumComputed, e.seq.NumComputed+n)
	}`},
	{"M07", "a failed row's blocks are published", "FreeToken 287 (poisoned contents)", "scheduler/update.go",
		`if r.Err != nil {`,
		`if mutant("M07") && r.Err != nil {
		s.blocks.Publish(seq, seq.NumComputed, min(len(seq.Tokens), seq.NumComputed+sch.NumTokens))
	}
	if r.Err != nil {`},
	{"M08", "the last cached token is recomputed into a shared block", "sglang 4175", "kvcache/prefix.go",
		`end < len(tokens); end += size`, `end < len(tokens) || mutant("M08") && end == len(tokens); end += size`},
	{"M09", "the tenant's salt is not in the hash", "vllm 51899, 53347", "kvcache/prefix.go",
		`m.cfg.KVDType, salt} {`, `m.cfg.KVDType, salt} {
		if mutant("M09") && tag == 3 {
			continue
		}`},
	{"M10", "a block's hash leaves out what comes before it", "class: a key that forgets the past", "kvcache/prefix.go",
		`m.buf = append(m.buf[:0], parent[:]...)`, `if mutant("M10") {
		parent = Hash{}
	}
	m.buf = append(m.buf[:0], parent[:]...)`},
	{"M11", "the hash collides and ids are not compared", "vllm CVE-2025-25183, 54727; Megatron 4158", "kvcache/prefix.go",
		`if !ok || !slices.Equal(m.ids(id), ids) {`, `if mutant("M11") && !ok {
		for weak, at := range m.index {
			if weak[0]&15 == h[0]&15 && m.blocks[at].indexed {
				return at
			}
		}
	}
	if !ok || !slices.Equal(m.ids(id), ids) {`},
	{"M12", "a prefix hit on a block in use takes no reference", "sglang 23392, 24845 (cancel, retry, shared prefix)", "kvcache/tier.go",
		`for _, id := range table {
			if id != none {
				m.ref`,
		`for _, id := range table {
			if id != none && !(mutant("M12") && m.blocks[id].refs > 0) {
				m.ref`},
	{"M13", "a fork takes no references", "class: missing reference", "kvcache/manager.go",
		`m.hold(tables)
	return m.Grow`,
		`if !mutant("M13") {
		m.hold(tables)
	}
	return m.Grow`},
	{"M14", "a fork writes into its parent's tail", "class: missing copy on write", "kvcache/manager.go",
		`return i < len(table) && !m.private`,
		`return !mutant("M14") && i < len(table) && !m.private`},
	{"M15", "the source of a copy is reused before it is read", "vllm 32255 (abort during a load)", "kvcache/manager.go",
		`m.unref(src, step.ID)`, `m.unref(src, fenceUnless(mutant("M15"), step.ID))`},
	{"M16", "the last owner's fence replaces a later one", "sglang 35049", "kvcache/block.go",
		`b.fence = max(b.fence, fence)`, `b.fence = fenceUnless(mutant("M16"), b.fence)
	b.fence = max(b.fence, fence)`},
	{"M17", "a fence opens one step early", "sglang-jax 1487 (ring one too small)", "kvcache/manager.go",
		`m.completed = max(m.completed, step)`, `if mutant("M17") {
		step++
	}
	m.completed = max(m.completed, step)`},
	{"M18", "rounding loses the last block at a block edge", "sglang 22819 (prefix of exactly one block)", "kvcache/manager.go",
		`keep := m.BlocksFor(n)`, `keep := m.BlocksFor(n)
	if mutant("M18") && n > 0 && n%m.cfg.BlockSize == 0 {
		keep--
	}`},
	{"M19", "an evicted block stays in the index", "vllm 42273, 50702 (pool full, cache on)", "kvcache/block.go",
		`if b.indexed {
		m.evict(id)
	}`,
		`if b.indexed && !mutant("M19") {
		m.evict(id)
	}`},
	{"M20", "a reused block keeps its published mark", "vllm 51091", "kvcache/block.go",
		`b.hashed = false
	b.refs`, `b.hashed = b.hashed && mutant("M20")
	b.refs`},
	{"M21", "a prefix hit leaves the block in the free list", "vllm 37076, 38606 (allocator suspected)", "kvcache/block.go",
		`case Free, Idle:
		m.unlink(&m.reusable, id)
	case Fenced:`,
		`case Free, Idle:
		if !mutant("M21") {
			m.unlink(&m.reusable, id)
		}
	case Fenced:`},
	{"M22", "after recompute, outputs count as prompt", "vllm 5349", "scheduler/queue.go",
		`e.seq.Preemptions++`, `e.seq.Preemptions++
	if mutant("M22") {
		e.seq.PromptLen = len(e.seq.Tokens)
	}
	if mutant("M23") && e.seq.NumOutput() > 0 {
		e.seq.Tokens = e.seq.Tokens[:len(e.seq.Tokens)-1]
	}`},
	{"M23", "preemption cuts the output", "vllm 16832", "scheduler/queue.go", "", ""},
	{"M24", "computed tokens survive the loss of their blocks", "vllm 18055", "scheduler/schedule.go",
		`seq.NumComputed = cached
	if !e.admitted {`,
		`seq.NumComputed = cached
	if mutant("M24") && e.admitted {
		seq.NumComputed = len(seq.Tokens) - 1
	}
	if !e.admitted {`},
	{"M25", "one draft too many counts as accepted", "vllm 41758, llama.cpp 25618, mlx-lm 1423", "scheduler/update.go",
		`accepted := max(0, len(r.Tokens)-1)`, `accepted := max(0, len(r.Tokens)-1)
	if mutant("M25") && sch.NumDrafts > accepted {
		accepted++
	}`},
	{"M26", "slots of rejected drafts are kept", "vllm 46272 (rollback skipped)", "scheduler/update.go",
		`if sch.NumDrafts > accepted {`, `if sch.NumDrafts > accepted && !mutant("M26") {`},
	{"M27", "drafts overrun the rows of a step", "class: rows beyond the buffers", "scheduler/schedule.go",
		`n = min(len(seq.Drafts), p.tokens, seq.MaxTokens-seq.NumOutput()-1)`,
		`n = min(len(seq.Drafts), p.tokens, seq.MaxTokens-seq.NumOutput()-1)
			if mutant("M27") {
				n = min(len(seq.Drafts), seq.MaxTokens-seq.NumOutput()-1)
			}
			if mutant("M28") {
				n = min(len(seq.Drafts), p.tokens)
			}`},
	{"M28", "drafts overrun max_tokens", "class: slots beyond the reservation", "scheduler/schedule.go", "", ""},
	{"M29", "a draft preempts a neighbour", "class: speculation disturbs neighbours", "scheduler/schedule.go",
		`n = max(0, p.room(seq, n))`,
		`if wanted := n; mutant("M29") && p.room(seq, n) < wanted && len(s.running) > 1 {
			s.preempt(s.running[len(s.running)-1])
		}
		n = max(0, p.room(seq, n))`},
	{"M30", "a request larger than the pool is queued", "vllm 35541", "scheduler/scheduler.go",
		`if seq.MaxTokens > pool-seq.PromptLen {`, `if seq.MaxTokens > pool-seq.PromptLen && !mutant("M30") {`},
	{"M31", "a request larger than the context is queued", "sglang 19881", "scheduler/scheduler.go",
		`if seq.MaxTokens > s.cfg.MaxModelLen-seq.PromptLen {`, `if seq.MaxTokens > s.cfg.MaxModelLen-seq.PromptLen && !mutant("M31") {`},
	{"M32", "a waiting request holds the blocks it found", "dynamo 10439, 11016 (hold and wait)", "kvcache/manager.go",
		`if m.demand(tables, hits, len(seq.Tokens))+reserve > m.Available() {`, `if need := m.demand(tables, hits, len(seq.Tokens)); mutant("M32") && need+reserve > m.Available() {
		m.hold(tables)
		return 0, false
	}
	if m.demand(tables, hits, len(seq.Tokens))+reserve > m.Available() {`},
	{"M33", "cached blocks that a hit takes are not counted as taken", "dynamo 9718 (over-admission)", "kvcache/window.go",
		`if id != none && m.blocks[id].state == Idle {`, `if id != none && m.blocks[id].state == Idle && !mutant("M33") {`},
	{"M34", "the oldest is preempted", "sglang 15626, sglang-jax 1229", "scheduler/schedule.go",
		`for j := len(s.running) - 1; j >= max(i, 1); j-- {`, `for j := len(s.running) - 1; mutant("M34") && j >= 0; j-- {
		if s.running[0].inFlight == 0 {
			return s.running[0]
		}
	}
	for j := len(s.running) - 1; j >= max(i, 1); j-- {`},
	{"M35", "small requests overtake one that does not fit yet", "class: starvation", "scheduler/schedule.go",
		`if wait := p.place(e); wait != WaitNothing {`, `wait := p.place(e)
		if mutant("M35") && wait == WaitBlocks {
			for _, o := range s.waiting {
				if o != e && s.blockedBy(o) == nil && p.place(o) == WaitNothing {
					e, wait = o, WaitNothing
					break
				}
			}
		}
		if wait != WaitNothing {`},
	{"M36", "siblings wait for a choice that has ended", "class: waiting for one who has left", "scheduler/queue.go",
		`return m == e })`, `return m == e && !mutant("M36") })`},
	{"M37", "an abort does not reach a sequence in flight", "sglang 36552", "scheduler/scheduler.go",
		`if e := s.byID[id]; e != nil {`, `if e := s.byID[id]; e != nil && !(mutant("M37") && e.inFlight != 0) {`},
	{"M38", "the output of an aborted request lives on", "sglang 37833", "scheduler/queue.go",
		`delete(s.byID, seq.ID)`, `if !(mutant("M38") && e.inFlight != 0) {
		delete(s.byID, seq.ID)
	}`},
	{"M39", "a sequence is in two steps at once", "sglang-jax 1487 (tokens swapped)", "scheduler/schedule.go",
		`case e.inFlight != 0:`, `case e.inFlight != 0 && !(mutant("M39") && n == 1):`},
	{"M40", "a chunk ignores the rows left", "class: rows beyond the buffers", "scheduler/schedule.go",
		`n := min(missing, p.tokens)`, `n := min(missing, p.tokens)
	if mutant("M40") {
		n = missing
	}`},
	{"M41", "admission ignores the seats", "dynamo 9718", "scheduler/schedule.go",
		`case len(s.running) >= s.cfg.MaxNumSeqs:`, `case len(s.running) >= s.cfg.MaxNumSeqs && !mutant("M41"):`},
	{"M42", "a fork has nothing left to compute, so no logits", "class: full-prompt hit", "scheduler/schedule.go",
		`seq.NumComputed = n
`, `seq.NumComputed = n
		if mutant("M42") {
			seq.NumComputed++
		}
`},
	{"M43", "a fork copies a tail that is itself yet to be copied", "class: copy of a copy; found here", "scheduler/queue.go",
		`m.seq.NumComputed >= e.seq.PromptLen && s`, `(m.seq.NumComputed >= e.seq.PromptLen || mutant("M43") && m.seq.NumComputed >= e.seq.PromptLen-1) && s`},
	{"M44", "the queue's token count leaks on abort", "class: leaking counter", "scheduler/queue.go",
		`s.dequeue(e)
	} else {`,
		`s.dequeue(e)
		if mutant("M44") {
			s.waitingTokens += len(seq.Tokens)
		}
	} else {`},
	{"M45", "the block to evict depends on chance", "class: chance in decisions", "kvcache/block.go",
		`id := m.reusable.head
`, `id := m.reusable.head
	if mutant("M45") && chance() {
		id = m.reusable.tail
	}
`},
	{"M46", "a preempted sequence expires as if it had never run", "class: early timeout", "scheduler/scheduler.go",
		`if e.admitted || now-e.arrived`, `if e.admitted && !mutant("M46") || now-e.arrived`},
	{"M47", "decodes use up the step's time and prompts starve", "vllm 2731, 1492", "scheduler/schedule.go",
		`left := min(p.tokens, max(most-used, least))`, `if mutant("M47") {
		least = 0
	}
	left := min(p.tokens, max(most-used, least))`},
	{"M48", "requests are taken while draining", "class: drain", "scheduler/scheduler.go",
		`if s.draining {`, `if s.draining && !mutant("M48") {`},
	{"M49", "a recomputation counts as a cache hit", "vllm 25780", "kvcache/manager.go",
		`first := seq.Preemptions == 0`, `first := seq.Preemptions == 0 || mutant("M49")`},
	{"M50", "a preempted sequence keeps its blocks", "vllm 46289", "scheduler/queue.go",
		`s.blocks.Free(e.seq, e.inFlight)
	e.seq.NumComputed = 0`,
		`if mutant("M50") {
		e.seq.BlockTables = nil
	}
	s.blocks.Free(e.seq, e.inFlight)
	e.seq.NumComputed = 0`},
	{"M51", "a step copies for a sequence that is not in it", "class: work without an owner; found here", "scheduler/schedule.go",
		`parent != nil && p.tokens > 0 {`, `parent != nil && (p.tokens > 0 || mutant("M51")) {`},
	{"M52", "K/V of the token before is read though the cache is off", "class: a switch that switches nothing", "scheduler/update.go",
		`case !silent:
`, `case mutant("M52"):
	case !silent:
`},
	{"M53", "without a cache blocks are published, and then written again", "class: a switch that leaves a door open", "scheduler/update.go",
		`if !s.cfg.NoKVCache {`, `if !s.cfg.NoKVCache || mutant("M53") {`},
	{"M54", "a contiguous run takes in blocks that a step in flight still uses", "vllm 45357 (reuse in flight)", "kvcache/contiguous.go",
		`if m.blocks[id].state != Free {`, `if s := m.blocks[id].state; s != Free && !(mutant("M54") && s == Fenced) {`},
	{"M55", "rejected drafts give back a part of the reservation", "class: reservation cut short", "kvcache/manager.go",
		`if m.cfg.Contiguous && n > 0 {`, `if m.cfg.Contiguous && n > 0 && !mutant("M55") {`},
	{"M56", "the window moves on with drafts that are then rejected", "vllm-ascend 13501 (pruned by the optimistic length)", "scheduler/update.go",
		`s.blocks.Prune(seq, e.inFlight)`, `ahead := 0
		if mutant("M56") {
			ahead = sch.NumDrafts - accepted
		}
		seq.NumComputed += ahead
		s.blocks.Prune(seq, e.inFlight)
		seq.NumComputed -= ahead`},
	{"M57", "the window is one position too short", "class: off by one", "kvcache/window.go",
		`return max(0, min((n-w+1)/size, n/size-1))`, `if mutant("M57") {
		n++
	}
	return max(0, min((n-w+1)/size, n/size-1))`},
	{"M58", "a prefix hit does not look whether the window before it is cached", "class: a hit on half a window", "kvcache/prefix.go",
		`whole = whole && m.missed[g] <= m.firstVisible(g, (i+1)*m.cfg.BlockSize)`, `whole = whole && (m.missed[g] <= m.firstVisible(g, (i+1)*m.cfg.BlockSize) || mutant("M58") || mutant("M76") && g > 0 && w > 0)`},
	{"M59", "a choice forks from a sibling whose window has moved on", "class: sharing what is gone", "kvcache/window.go",
		`table[i] == none {
			return false`, `table[i] == none && !mutant("M59") {
			return false`},
	{"M60", "blocks behind the window are never let go", "class: leak of the windowed", "kvcache/window.go",
		`if m.cfg.Contiguous {
		return`, `if m.cfg.Contiguous || mutant("M60") {
		return`},
	{"M61", "keys do not take turns", "class: a greedy client starves the others", "scheduler/fairness.go",
		`case best == nil || e.tenant.served < best.tenant.served:`, `case best == nil || e.tenant.served < best.tenant.served && !mutant("M61"):`},
	{"M62", "a key that comes back starts at zero", "class: saved-up turns", "scheduler/fairness.go",
		`if t.waiting == 0 {
		t.served = max`, `if t.waiting == 0 && !mutant("M62") {
		t.served = max`},
	{"M63", "newcomers of a key served less overtake the preempted", "class: answers stall half way", "scheduler/fairness.go",
		`case e.admitted:`, `case e.admitted && !mutant("M63"):`},
	{"M64", "a key pays again for being preempted", "class: punished for the pool's size", "scheduler/queue.go",
		`if !e.admitted {
		e.tenant`, `if !e.admitted || mutant("M64") {
		e.tenant`},
	{"M67", "victims are taken by arrival: whoever's turn came early goes first", "class: fair admission undone by preemption; found here", "scheduler/queue.go",
		`cmp.Compare(a.turn-1, b.turn-1); c != 0 {`, `cmp.Compare(a.turn-1, b.turn-1); c != 0 && !mutant("M67") {`},
	{"M65", "keys that have left are never forgotten", "class: leak by client", "scheduler/fairness.go",
		`if t.alive--; t.alive == 0 {`, `if t.alive--; t.alive == 0 && !mutant("M65") {`},
	{"M66", "without a cache the next token's block is not asked for", "class: a path that never grew", "scheduler/schedule.go",
		`(!whole || p.grow(i, n))`, `(!whole || mutant("M66") || p.grow(i, n))`},
	{"M68", "a load that failed counts as a hit", "class: a corrupt record is served", "kvcache/tier.go",
		`if !m.cfg.Tier.Load(id, chain[i].In(group), ids) {`, `saved := group
	if mutant("M79") {
		saved = 0
	}
	if !m.cfg.Tier.Load(id, chain[i].In(saved), ids) && !mutant("M68") {`},
	{"M69", "a neighbour's bytes are saved", "class: off by one in the tier", "kvcache/tier.go",
		`m.cfg.Tier.Save(id, m.blocks[id].key(), m.ids(id))`, `from := id
		if mutant("M69") {
			from = max(0, id-1)
		}
		m.cfg.Tier.Save(from, m.blocks[id].key(), m.ids(id))`},
	{"M70", "a failed load keeps its block for ever", "class: a hold without an owner (vllm 46283)", "kvcache/tier.go",
		`m.unref(id, 0) // to`, `if mutant("M70") {
			return none
		}
		m.unref(id, 0) // to`},
	{"M71", "blocks brought back from behind the window are kept", "class: leak of the windowed", "kvcache/tier.go",
		`m.prune(table, m.firstVisible(g, n*m.cfg.BlockSize), 0)`, `if !mutant("M71") {
				m.prune(table, m.firstVisible(g, n*m.cfg.BlockSize), 0)
			}`},
	{"M72", "a block is saved after it has been given away", "vllm 32255 (the first load is corrupt)", "kvcache/prefix.go",
		`func (m *BlockManager) evict(id int32) {
	m.save(id)`, `var late struct {
	id  int32
	key Hash
	ids []int32
}

func (m *BlockManager) evict(id int32) {
	if mutant("M72") && m.cfg.Tier != nil {
		if late.ids != nil {
			m.cfg.Tier.Save(late.id, late.key, late.ids)
		}
		late.id, late.key, late.ids = id, m.blocks[id].key(), slices.Clone(m.ids(id))
	} else {
		m.save(id)
	}`},
	{"M73", "what is warmed stays held", "class: a hold without an owner (vllm 46283)", "kvcache/tier.go",
		`m.letGo(m.warm, 0, 0)`, `if mutant("M73") {
		empty(m.warm)
	}
	m.letGo(m.warm, 0, 0)`},
	{"M74", "what comes back before a step of others has no bound", "class: a stall for everybody", "scheduler/schedule.go",
		`if p.recall -= n; more {`, `if p.recall -= n; more && !mutant("M74") {`},
	{"M75", "a group's blocks are let go by another group's window", "class: one window for all layers", "kvcache/window.go",
		`m.stats.Pruned += `, `if mutant("M75") {
			g = len(m.cfg.Windows) - 1
		}
		m.stats.Pruned += `},
	{"M76", "a match does not look at the groups with a window", "class: a hit in some layers only", "kvcache/prefix.go", "", ""},
	{"M77", "a group finds the blocks of another", "class: a key that forgets the group", "kvcache/prefix.go",
		`h[0] ^= byte(group)`, `if mutant("M77") {
		return h
	}
	h[0] ^= byte(group)`},
	{"M78", "admission takes a windowed group's blocks for the whole prompt", "class: a bound that does not hold", "kvcache/window.go",
		`return min(n, next+m.chunk)`, `if mutant("M78") {
		return n
	}
	return min(n, next+m.chunk)`},
	{"M79", "what the tier has of one group comes back in another", "class: a key that forgets the group", "kvcache/tier.go", "", ""},
	{"M80", "a chunk does not ask for its blocks in groups with a window", "class: a path that never grew", "scheduler/schedule.go",
		`n = min(n, p.s.blocks.Room(e.seq)-e.seq.NumComputed)`, `if mutant("M81") && !p.grow(i, n) {
				continue
			}
			if room := p.s.blocks.Room(e.seq) - e.seq.NumComputed; !mutant("M80") {
				n = min(n, room)
			}`},
	{"M81", "a prompt waits for its chunk's blocks behind those that came later", "class: an order that holds in one pass only; found here", "scheduler/schedule.go",
		`case n > 1:
`, `case n > 1 && (mutant("M80") || mutant("M81")):
		case n > 1:
`},
}

// hook is the file that an overlay adds to both packages.
const hook = `
import (
	"math/rand"
	"os"
)

var (
	_        = rand.Int
	switched = os.Getenv("SESTINA_MUTANT")
)

func mutant(id string) bool { return switched == id }

func chance() bool { return rand.Intn(2) == 0 }

func fenceUnless(off bool, fence uint64) uint64 {
	if off {
		return 0
	}
	return fence
}
`
