package kvcache

import "math/bits"

// block is the book-keeping of one physical block. It holds no pointer, so the
// collector never looks at the pool's books.
type block struct {
	hash, parent Hash   // valid while hashed
	fence        uint64 // not to be written anew before this step has completed
	refs         int32  // block tables that name it
	group        int32  // whose layers' K and V it holds, while referenced or hashed
	prev, next   int32  // neighbours in its list
	older, newer int32  // indexed blocks with the same parent, by age
	state        State
	hashed       bool // full, contents final: hash, parent and tokens are set
	opening      bool // while hashed: the first block of a text
	indexed      bool // the index leads here (of equal blocks only one is indexed)
}

// key is what the block is indexed and saved under.
func (b *block) key() Hash { return b.hash.In(int(b.group)) }

// State is what a block is there for; see the package comment.
type State uint8

const (
	Free       State = iota // empty
	Idle                    // unused, its contents cached
	Referenced              // in a block table
	Fenced                  // unused, until a step completes
)

func (s State) String() string {
	return [...]string{"free", "idle", "referenced", "fenced"}[s]
}

const none = -1

// list is a doubly linked list threaded through the blocks themselves.
type list struct {
	head, tail int32
	len        int
	holds      State // Free stands for free and idle
}

func (l *list) init(holds State) { *l = list{head: none, tail: none, holds: holds} }

// insertAfter puts id behind at; at = none puts it at the head.
func (m *BlockManager) insertAfter(l *list, at, id int32, s State) {
	b := &m.blocks[id]
	b.prev, b.next, b.state = at, l.head, s
	if at != none {
		b.next = m.blocks[at].next
		m.blocks[at].next = id
	} else {
		l.head = id
	}
	if b.next != none {
		m.blocks[b.next].prev = id
	} else {
		l.tail = id
	}
	l.len++
	*m.count(s)++
}

func (m *BlockManager) pushBack(l *list, id int32, s State)  { m.insertAfter(l, l.tail, id, s) }
func (m *BlockManager) pushFront(l *list, id int32, s State) { m.insertAfter(l, none, id, s) }

func (m *BlockManager) unlink(l *list, id int32) {
	b := &m.blocks[id]
	if b.prev != none {
		m.blocks[b.prev].next = b.next
	} else {
		l.head = b.next
	}
	if b.next != none {
		m.blocks[b.next].prev = b.prev
	} else {
		l.tail = b.prev
	}
	l.len--
	*m.count(b.state)--
}

func (m *BlockManager) count(s State) *int {
	switch s {
	case Free:
		return &m.stats.Free
	case Idle:
		return &m.stats.Idle
	case Referenced:
		return &m.stats.Referenced
	}
	return &m.stats.Fenced
}

// take removes the first reusable block, evicting what the prefix cache still
// knew of it, and returns it with one reference, for a group's layers. The caller
// has made sure that there is one.
func (m *BlockManager) take(group int) int32 {
	id := m.reusable.head
	if id == none {
		panic("kvcache: a block was taken from an empty pool")
	}
	m.takeAt(id, group)
	return id
}

// takeAt takes a certain reusable block.
func (m *BlockManager) takeAt(id int32, group int) {
	m.unlink(&m.reusable, id)
	b := &m.blocks[id]
	if b.indexed {
		m.evict(id)
	}
	b.hashed = false
	b.refs, b.group, b.state = 1, int32(group), Referenced
	m.stats.Referenced++
}

// ref adds a reference, bringing an idle or fenced block back to use.
func (m *BlockManager) ref(id int32) {
	b := &m.blocks[id]
	switch b.state {
	case Free, Idle:
		m.unlink(&m.reusable, id)
	case Fenced:
		m.unlink(&m.fenced, id)
	}
	if b.refs == 0 {
		b.state = Referenced
		m.stats.Referenced++
	}
	b.refs++
}

// unref drops one reference, held by a step as late as fence. Fences only grow:
// the last one to let go need not be the last one to have been read.
func (m *BlockManager) unref(id int32, fence uint64) {
	b := &m.blocks[id]
	if b.refs < 1 {
		panic("kvcache: a block was freed twice")
	}
	b.fence = max(b.fence, fence)
	b.refs--
	if b.refs > 0 {
		return
	}
	m.stats.Referenced--
	if b.fence <= m.completed {
		m.park(id)
		return
	}
	at := m.fenced.tail
	for at != none && m.blocks[at].fence > b.fence {
		at = m.blocks[at].prev
	}
	m.insertAfter(&m.fenced, at, id, Fenced)
}

// park puts a block that nobody uses where it will be reused: behind the others
// if it is cached, first in line if not.
func (m *BlockManager) park(id int32) {
	if m.blocks[id].indexed {
		m.pushBack(&m.reusable, id, Idle)
	} else {
		m.pushFront(&m.reusable, id, Free)
	}
}

func ceilPow2(n int) int { return 1 << bits.Len(uint(n-1)) }
