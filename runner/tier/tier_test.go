package tier

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// memory is a pool of blocks of 64 bytes.
type memory struct{ blocks [][]byte }

const blockBytes = 64

func newMemory(n int) *memory {
	m := &memory{}
	for range n {
		m.blocks = append(m.blocks, make([]byte, blockBytes))
	}
	return m
}

func (m *memory) BlockBytes() int                    { return blockBytes }
func (m *memory) ReadBlock(dst []byte, block int32)  { copy(dst, m.blocks[block]) }
func (m *memory) WriteBlock(block int32, src []byte) { copy(m.blocks[block], src) }

// content is what block number n of a text holds, its key and its ids.
func content(n int) (key Key, ids []int32, data []byte) {
	ids = []int32{int32(n), int32(n * n), 7, 9}
	key = sha256.Sum256([]byte(fmt.Sprint("key", n)))
	data = make([]byte, blockBytes)
	for i := range data {
		data[i] = byte(n*31 + i*i)
	}
	return key, ids, data
}

// rig is a store over a memory, with what it logs.
type rig struct {
	t *testing.T
	*Store
	mem *memory
	log *lines
}

type lines struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}

var model = Identity{Model: "tiny", Contents: "abc", Numerics: "int8", KVDType: "f16", BlockSize: 4, Layout: "test 1"}

func open(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, mem: newMemory(2), log: &lines{}}
	cfg.Log = slog.New(slog.NewTextHandler(r.log, nil))
	if cfg.HostBytes == 0 {
		cfg.HostBytes = 64 * blockBytes
	}
	if cfg.DiskBytes == 0 {
		cfg.DiskBytes = 1 << 20
	}
	if cfg.Identity == (Identity{}) {
		cfg.Identity = model
	}
	var err error
	if r.Store, err = New(r.mem, cfg); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) save(numbers ...int) {
	for _, n := range numbers {
		key, ids, data := content(n)
		copy(r.mem.blocks[0], data)
		r.Save(0, key, ids)
		clear(r.mem.blocks[0])
	}
}

// load reports whether a block comes back, and fails if it comes back wrong.
func (r *rig) load(n int) bool {
	r.t.Helper()
	key, ids, data := content(n)
	clear(r.mem.blocks[1])
	ok := r.Load(1, key, ids)
	if ok && !bytes.Equal(r.mem.blocks[1], data) {
		r.t.Fatalf("block %d came back as %x, it was %x", n, r.mem.blocks[1], data)
	}
	return ok
}

func (r *rig) has(want string, numbers ...int) {
	r.t.Helper()
	var got strings.Builder
	for _, n := range numbers {
		got.WriteString(map[bool]string{true: "y", false: "n"}[r.load(n)])
	}
	if got.String() != want {
		r.t.Errorf("blocks %v: %s, want %s\n%s", numbers, got.String(), want, r.log)
	}
}

func (r *rig) close() {
	r.t.Helper()
	r.Patient()
	if err := r.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// says requires exactly so many lines of warning, and a text in them.
func (r *rig) says(warnings int, text string) {
	r.t.Helper()
	log := r.log.String()
	if n := strings.Count(log, "level=WARN"); n != warnings || !strings.Contains(log, text) {
		r.t.Errorf("%d warnings, want %d, and %q in\n%s", n, warnings, text, log)
	}
}

func TestHostMemoryKeepsTheNewest(t *testing.T) {
	r := open(t, Config{HostBytes: 3 * blockBytes})
	defer r.close()
	r.save(1, 2, 3)
	r.has("yyy", 1, 2, 3)
	r.save(2, 3) // the pool gives them up again; 1 is there still
	r.save(4)
	r.has("nyyy", 1, 2, 3, 4)
	if _, ids, _ := content(3); r.Load(1, key(2), ids) {
		t.Error("other ids under the same key were a hit")
	}
}

func key(n int) Key { k, _, _ := content(n); return k }

func TestNeedsRoomForTwoBlocks(t *testing.T) {
	if _, err := New(newMemory(1), Config{HostBytes: 2*blockBytes - 1}); err == nil {
		t.Fatal("accepted")
	}
}

func TestDiskSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	r := open(t, Config{Dir: dir})
	r.save(1, 2, 3)
	r.close()
	r = open(t, Config{Dir: dir})
	r.has("yyyn", 1, 2, 3, 4)
	if st := r.Stats(); st.DiskReads != 3 || st.DiskBlocks != 3 || st.Loaded != 3 {
		t.Errorf("%+v", st)
	}
	r.says(0, "")
	r.close()
}

// TestPrefetch: what a prompt needs is in host memory before its turn comes.
func TestPrefetch(t *testing.T) {
	dir := t.TempDir()
	r := open(t, Config{Dir: dir})
	r.save(1, 2, 3, 5)
	r.close()
	r = open(t, Config{Dir: dir, HostBytes: 8 * blockBytes})
	defer r.close()
	var keys []Key
	var ids []int32
	for n := 1; n <= 5; n++ {
		k, i, _ := content(n)
		keys, ids = append(keys, k), append(ids, i...)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() { r.Prefetch(keys, 1, ids) })
	}
	group.Wait()
	if st := r.Stats(); st.DiskReads != 3 {
		t.Errorf("%d blocks were read, want 3 (the fourth is missing, the fifth is of no use)", st.DiskReads)
	}
	r.has("yyy", 1, 2, 3)
	if st := r.Stats(); st.DiskReads != 3 {
		t.Errorf("%d blocks were read in all", st.DiskReads)
	}
	r.Prefetch(keys, 1, ids)
	if st := r.Stats(); st.DiskReads != 3 {
		t.Errorf("what the pool has was read again")
	}
}

func TestDiskKeepsItsLimit(t *testing.T) {
	dir := t.TempDir()
	d := &disk{}
	_, ids, _ := content(1)
	record := uint64(len(d.heading(key(1), ids, blockBytes)) + blockBytes + 4)
	r := open(t, Config{Dir: dir, DiskBytes: 3 * record})
	r.save(1, 2, 3)
	r.close()
	r = open(t, Config{Dir: dir, DiskBytes: 3 * record})
	r.has("y", 1) // used
	r.save(4)
	r.close()
	r = open(t, Config{Dir: dir, DiskBytes: 3 * record})
	r.has("ynyy", 1, 2, 3, 4)
	r.close()
	if n := countRecords(t, dir); n != 3 {
		t.Errorf("%d records", n)
	}
	r = open(t, Config{Dir: dir, DiskBytes: record})
	r.close()
	if n := countRecords(t, dir); n != 1 {
		t.Errorf("%d records although one may be", n)
	}
}

func records(t *testing.T, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".kv") {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func countRecords(t *testing.T, dir string) int { return len(records(t, dir)) }

// TestEveryFlippedBitIsNoticed flips each bit of a record, and cuts it and lengthens it.
func TestEveryFlippedBitIsNoticed(t *testing.T) {
	dir := t.TempDir()
	r := open(t, Config{Dir: dir})
	r.save(1)
	r.close()
	path := records(t, dir)[0]
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(bad []byte) {
		t.Helper()
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		r := open(t, Config{Dir: dir})
		r.has("n", 1)
		r.says(1, filepath.Base(path))
		if _, err := os.Stat(path); err == nil {
			t.Error("the record is still there")
		}
		r.close()
	}
	flips := 0
	for bit := range 8 * len(good) {
		if testing.Short() && bit%7 != 0 {
			continue
		}
		flips++
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		spoil(bad)
	}
	for _, n := range []int{0, 1, 20, len(good) - 1} {
		spoil(good[:n])
	}
	spoil(append(bytes.Clone(good), 0))

	old := bytes.Clone(good) // whole, but of another version
	binary.LittleEndian.PutUint32(old[len(magic):], version+1)
	binary.LittleEndian.PutUint32(old[len(old)-4:], checksum(old[:len(old)-4]))
	spoil(old)
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	r = open(t, Config{Dir: dir})
	r.has("y", 1)
	r.close()
	t.Logf("T24 %d bits of a K/V record flipped, one at a time: each noticed, said in one line, never used", flips)
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never happened")
		}
	}
}

// TestDiskThatFails: saving goes on in host memory, one line says so.
func TestDiskThatFails(t *testing.T) {
	dir := t.TempDir()
	r := open(t, Config{Dir: dir})
	for i := range 256 { // a file where each folder would go: every write fails
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02x", i)), nil, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	r.save(1, 2, 3)
	r.has("yyy", 1, 2, 3)
	r.close()
	r.says(1, "takes no records for a minute")
	if st := r.Stats(); st.Dropped != 3 || st.Faults != 1 || st.DiskWrites != 0 {
		t.Errorf("%+v", st)
	}
}

// TestBehindTheDisk: when all of host memory waits for the disk, blocks are
// dropped, and nobody waits; at the end everybody does.
func TestBehindTheDisk(t *testing.T) {
	dir := t.TempDir()
	r := open(t, Config{Dir: dir, HostBytes: 2 * blockBytes})
	r.disk.mu.Lock() // the disk hangs
	started := make(chan struct{})
	go func() {
		r.mu.Lock()
		for n := range 2 { // as Save does it once it has asked the disk
			k, ids, _ := content(n)
			e := r.claim(k, ids)
			e.ready, e.pins, e.dirty = true, 0, true
			r.dirty++
			r.queue = append(r.queue, e)
		}
		r.changed.Broadcast()
		r.mu.Unlock()
		r.save(3)
		close(started)
	}()
	select {
	case <-started:
	case <-time.After(10 * time.Second):
		t.Fatal("a step waits for the disk")
	}
	if st := r.counts.dropped.Load(); st != 1 {
		t.Errorf("%d blocks dropped, want 1", st)
	}
	r.disk.mu.Unlock()
	r.Patient()
	r.save(3, 4, 5)
	r.close()
	if n := countRecords(t, dir); n != 5 {
		t.Errorf("%d records, want 5", n)
	}
}

const killedEnv = "SESTINA_TIER_TEST_DIR"

// TestKilledWhileSpilling kills a process that writes, again and again, at some
// moment; what it leaves behind is whole or nothing.
func TestKilledWhileSpilling(t *testing.T) {
	if dir := os.Getenv(killedEnv); dir != "" {
		r := open(t, Config{Dir: dir, DiskBytes: 1 << 30})
		r.Patient()
		fmt.Println("spilling")
		for n := 1; ; n++ {
			r.save(n)
		}
	}
	dir := t.TempDir()
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	whole := 0
	for i := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run", "TestKilledWhileSpilling")
		cmd.Env = append(os.Environ(), killedEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		out.Read(make([]byte, 1)) // it has begun
		time.Sleep(time.Duration(1+i*3) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		if i%3 == 0 { // as if it had been killed between write and rename
			os.WriteFile(filepath.Join(dir, tempPrefix+"1-1"), []byte("half a rec"), 0o600)
		}
		r := open(t, Config{Dir: dir})
		r.says(0, "")
		n := 1
		for ; r.load(n); n++ {
		}
		if st := r.Stats(); st.DiskBlocks != n-1 || st.Faults != 0 {
			t.Errorf("round %d: %d of %d records came back, %d faults\n%s", i, n-1, st.DiskBlocks, st.Faults, r.log)
		}
		whole = n - 1
		r.close()
		if temps, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*")); len(temps) > 0 {
			t.Errorf("left over: %v", temps)
		}
	}
	if whole == 0 {
		t.Error("no record was ever written before the kill")
	}
	t.Logf("T24 killed %d times while spilling: %d records whole, none torn or wrong", rounds, whole)
}

// big is a pool of two blocks of n bytes.
func big(n int) *memory { return &memory{blocks: [][]byte{make([]byte, n), make([]byte, n)}} }

// BenchmarkMove is what a block of 360 KiB costs the step loop, on its way out and back.
func BenchmarkMove(b *testing.B) {
	const size = 360 << 10
	mem := &pages{big(size)}
	s, err := New(mem, Config{HostBytes: 256 * size})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	_, ids, _ := content(1)
	b.Run("save", func(b *testing.B) {
		b.SetBytes(size)
		for i := range b.N {
			s.Save(0, Key{byte(i), byte(i >> 8), byte(i >> 16), 1}, ids)
		}
	})
	b.Run("load", func(b *testing.B) {
		b.SetBytes(size)
		for range b.N {
			s.Save(0, Key{2}, ids) // of a block that is held: no copy
			if !s.Load(1, Key{2}, ids) {
				b.Fatal("gone")
			}
		}
	})
	b.Run("copy", func(b *testing.B) {
		b.SetBytes(size)
		for range b.N {
			copy(mem.blocks[0], mem.blocks[1])
		}
	})
}

type pages struct{ *memory }

func (p *pages) BlockBytes() int { return len(p.blocks[0]) }
