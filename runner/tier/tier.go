// Package tier keeps the bytes of K/V blocks that the pool has no room for: in
// host memory, and on disk, from where they come back after a restart. Package
// kvcache says which block is saved and which is wanted; here is where its bytes go.
//
//	pool ── Save ──▶ host memory ── behind the steps ──▶ disk
//	pool ◀── Load ── host memory ◀── Prefetch, before the request is queued ── disk
//
// # Nobody waits for the disk
//
// The step goroutine copies between the pool and host memory, a block in tens of
// microseconds. A goroutine of the store writes to the disk; when host memory holds
// nothing but blocks that it has yet to write, a saved block is dropped and counted.
// Reading is done by the request's own goroutine, before it is queued. Only a block
// that has left host memory again by the time that its turn comes is read by Load itself.
//
// # Wrong data is never used
//
// A record carries the digest of all that its bytes depend on (the model's
// contents, dtypes, block size, layout), its prefix hash, its token ids and a
// CRC-32C over everything. All of it is compared before a byte reaches the pool;
// a record that differs is a miss, is removed, and is said in one line of the log.
// The folder has a head (tier.json) with the same facts for people; a folder of
// another model or version is not touched, and the engine runs without it.
//
// # Crashes, other processes
//
// A record is a file of its own, written under another name and renamed: it is
// there whole or not at all when the process is killed. Nothing is synced: after a
// power cut a record may be torn, which its checksum shows. The first process to
// open a folder holds its lock and writes; others read what they find and change
// nothing, also on a file system that is read-only. The writer keeps the records
// within their limit, those longest unused go first; their order survives a
// restart as the files' times.
//
// Tests: tier_test.go (restart, kill -9, a full disk, flipped bits, foreign
// folders, two processes) and the engine's tier_test.go (answers stay what they were).
package tier

import (
	"container/list"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"sestina/internal/arena"
)

// Pool is where blocks come from and go to: a [sestina/backend.Cache].
type Pool interface {
	BlockBytes() int
	ReadBlock(dst []byte, block int32)
	WriteBlock(block int32, src []byte)
}

// Key names the contents of a block: kvcache's prefix hash.
type Key = [32]byte

// Config says how much is kept where.
type Config struct {
	HostBytes uint64   // host memory; everything passes through it, so at least two blocks
	Dir       string   // the disk's folder; "" = no disk
	DiskBytes uint64   // limit of the folder's records
	Identity  Identity // what the bytes of a block depend on; for the disk
	Log       *slog.Logger
}

// Store keeps blocks. Save and Load are the step goroutine's, the other methods anybody's.
type Store struct {
	pool Pool
	size int // bytes of a block
	log  *slog.Logger
	disk *disk // nil: host memory alone

	contents string

	mu      sync.Mutex
	changed *sync.Cond
	arena   *arena.Region
	most    int   // blocks that one Prefetch may bring
	free    []int // slots
	held    map[Key]*entry
	lru     *list.List // of *entry, the next to be given up first
	queue   []*entry   // to be written, oldest first
	dirty   int        // entries queued or being written
	reading int        // fetches under way
	patient bool       // Save waits for the disk
	closing bool
	inPool  map[Key]int32 // blocks that Load brought back and that have not been saved since
	loaded  map[int32]Key
	stopped chan struct{} // closed when the writer has ended

	counts struct{ saved, hits, reads, writes, dropped, faults atomic.Uint64 }
}

// entry is a block in host memory.
type entry struct {
	key   Key
	ids   []int32
	slot  int
	at    *list.Element
	ready bool // its bytes are there
	dirty bool // they are yet to be written
	pins  int  // uses under way
}

// Stats count blocks; BlockBytes is what one takes.
type Stats struct {
	BlockBytes             int
	Saved                  uint64 // taken from the pool
	Loaded                 uint64 // brought back to it
	DiskReads, DiskWrites  uint64
	Dropped                uint64 // not kept: the disk was behind or failed
	Faults                 uint64 // records that were refused, and failed reads and writes
	HostBlocks, DiskBlocks int    // held now
	Pending                int    // of the host's, yet to be written
}

// New opens a store. A folder that cannot be used is said in the log, and the
// store does without it.
func New(pool Pool, cfg Config) (*Store, error) {
	s := &Store{pool: pool, size: pool.BlockBytes(), log: cfg.Log, contents: cfg.Identity.Contents, held: map[Key]*entry{}, lru: list.New(),
		inPool: map[Key]int32{}, loaded: map[int32]Key{}, stopped: make(chan struct{})}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.changed = sync.NewCond(&s.mu)
	slots := cfg.HostBytes / uint64(s.size)
	if slots < 2 {
		return nil, fmt.Errorf("a KV tier in %d bytes of host memory: a block has %d bytes, and two must fit; raise --kv-host-tier-bytes", cfg.HostBytes, s.size)
	}
	var err error
	if s.arena, err = arena.Alloc(slots * uint64(s.size)); err != nil {
		return nil, fmt.Errorf("KV tier in host memory: %w", err)
	}
	s.most = int(slots / 2)
	for i := range int(slots) {
		s.free = append(s.free, int(slots)-1-i)
	}
	if cfg.Dir != "" {
		if s.disk, err = openDisk(cfg, s.size, s.log); err != nil {
			s.log.Warn("KV tier on disk is off", "dir", cfg.Dir, "err", err)
		}
	}
	if s.disk != nil && s.disk.writer() {
		go s.write()
	} else {
		close(s.stopped)
	}
	return s, nil
}

// Contents names what the blocks depend on; it is the same after a restart.
func (s *Store) Contents() string { return s.contents }

// BlockBytes is the size of a block.
func (s *Store) BlockBytes() int { return s.size }

// Secret is kept in the folder, so that salts made with it are the same after a
// restart and in other processes; nil without a disk.
func (s *Store) Secret() []byte {
	if s.disk == nil {
		return nil
	}
	return s.disk.secret
}

func (s *Store) bytes(e *entry) []byte {
	return s.arena.Bytes()[e.slot*s.size:][:s.size:s.size]
}

// claim finds room for a block, giving up one that is longest unused if it must;
// nil if there is none. The entry is pinned and not ready.
func (s *Store) claim(key Key, ids []int32) *entry {
	e := &entry{key: key, ids: slices.Clone(ids), pins: 1}
	if n := len(s.free); n > 0 {
		e.slot, s.free = s.free[n-1], s.free[:n-1]
	} else {
		old := s.spare()
		if old == nil {
			return nil
		}
		s.forget(old)
		e.slot, s.free = old.slot, s.free[:len(s.free)-1]
	}
	e.at = s.lru.PushBack(e)
	s.held[key] = e
	return e
}

// spare is the entry that is longest unused and may go.
func (s *Store) spare() *entry {
	if s.dirty == s.lru.Len() {
		return nil
	}
	for at := s.lru.Front(); at != nil; at = at.Next() {
		if e := at.Value.(*entry); e.ready && !e.dirty && e.pins == 0 {
			return e
		}
	}
	return nil
}

func (s *Store) forget(e *entry) {
	s.lru.Remove(e.at)
	delete(s.held, e.key)
	s.free = append(s.free, e.slot)
}

// Save keeps a copy of a block's bytes.
func (s *Store) Save(block int32, key [32]byte, ids []int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.inPool, key)
	if e := s.held[key]; e != nil {
		s.lru.MoveToBack(e.at)
		return
	}
	e := s.claim(key, ids)
	for e == nil && s.patient && s.dirty > 0 {
		s.changed.Wait()
		e = s.claim(key, ids)
	}
	if e == nil {
		s.counts.dropped.Add(1)
		return
	}
	s.mu.Unlock()
	s.pool.ReadBlock(s.bytes(e), block)
	s.mu.Lock()
	e.ready, e.pins = true, 0
	s.counts.saved.Add(1)
	if s.disk != nil && s.disk.writer() && !s.disk.has(key) {
		e.dirty = true
		s.dirty++
		s.queue = append(s.queue, e)
	}
	s.changed.Broadcast()
}

// Load fills a block with what was saved for key and ids.
func (s *Store) Load(block int32, key [32]byte, ids []int32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.obtain(key, ids)
	if e == nil {
		return false
	}
	s.mu.Unlock()
	s.pool.WriteBlock(block, s.bytes(e))
	s.mu.Lock()
	e.pins--
	s.lru.MoveToFront(e.at) // the pool has it now
	if old := s.loaded[block]; s.inPool[old] == block {
		delete(s.inPool, old)
	}
	s.inPool[key], s.loaded[block] = block, key
	s.counts.hits.Add(1)
	return true
}

// Prefetch brings the blocks of a chain that are on the disk into host memory, as
// far as they are there and fill no more than half of it. There are so many keys in
// a row, one for each block group, that stand for the same B ids.
func (s *Store) Prefetch(keys []Key, groups int, ids []int32) {
	if len(keys) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*entry
	size := len(ids) * groups / len(keys)
	for i, key := range keys {
		if len(found) == s.most {
			break
		}
		if _, ok := s.inPool[key]; ok {
			continue // the pool has had it from here and has not given it up
		}
		at := i / groups * size
		e := s.obtain(key, ids[at:at+size])
		if e == nil {
			break
		}
		e.pins--
		found = append(found, e)
	}
	for _, e := range slices.Backward(found) { // the deepest is the first to be given up
		s.lru.MoveToBack(e.at)
	}
}

// obtain returns the entry of key, pinned and ready, reading it from the disk if
// need be; nil if there is none. The lock is held on entry and return.
func (s *Store) obtain(key Key, ids []int32) *entry {
	for !s.closing {
		e := s.held[key]
		if e == nil {
			return s.fetch(key, ids)
		}
		if !slices.Equal(e.ids, ids) {
			return nil
		}
		if e.ready {
			e.pins++
			return e
		}
		s.changed.Wait() // another goroutine is reading it
	}
	return nil
}

// fetch reads a record into host memory. The lock is held on entry and return.
func (s *Store) fetch(key Key, ids []int32) *entry {
	if s.disk == nil || s.disk.writer() && !s.disk.has(key) {
		return nil
	}
	e := s.claim(key, ids)
	if e == nil {
		return nil
	}
	s.reading++
	s.mu.Unlock()
	err := s.disk.read(key, ids, s.bytes(e))
	s.mu.Lock()
	s.reading--
	defer s.changed.Broadcast()
	if err == nil {
		s.counts.reads.Add(1)
		e.ready = true
		return e
	}
	s.forget(e)
	if !errors.Is(err, errAbsent) {
		s.counts.faults.Add(1)
		s.log.Warn("KV tier: a record is not used", "err", err)
	}
	return nil
}

// write is the goroutine that brings saved blocks to the disk.
func (s *Store) write() {
	defer close(s.stopped)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for len(s.queue) == 0 {
			if s.closing {
				return
			}
			s.changed.Wait()
		}
		e := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		err := s.disk.write(e.key, e.ids, s.bytes(e))
		s.mu.Lock()
		e.dirty = false
		s.dirty--
		switch {
		case err == nil:
			s.counts.writes.Add(1)
		default:
			s.counts.dropped.Add(1)
			if !errors.Is(err, errPaused) {
				s.counts.faults.Add(1)
				s.log.Warn("KV tier: the disk takes no records for a minute", "err", err)
			}
		}
		s.changed.Broadcast()
	}
}

// Patient makes Save wait for the disk from now on instead of dropping blocks: no
// step is to come, the pool's contents are being put away.
func (s *Store) Patient() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.patient = true
}

// Stats returns the current figures.
func (s *Store) Stats() Stats {
	c := &s.counts
	st := Stats{BlockBytes: s.size, Saved: c.saved.Load(), Loaded: c.hits.Load(), DiskReads: c.reads.Load(), DiskWrites: c.writes.Load(),
		Dropped: c.dropped.Load(), Faults: c.faults.Load()}
	s.mu.Lock()
	st.HostBlocks, st.Pending = s.lru.Len(), s.dirty
	s.mu.Unlock()
	if s.disk != nil {
		st.DiskBlocks = s.disk.blocks()
	}
	return st
}

// Close brings what was saved to the disk and gives the memory back.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return nil
	}
	s.closing = true
	s.changed.Broadcast()
	for s.reading > 0 {
		s.changed.Wait()
	}
	s.mu.Unlock()
	<-s.stopped
	var err error
	if s.disk != nil {
		err = s.disk.close()
	}
	return errors.Join(err, s.arena.Free())
}
