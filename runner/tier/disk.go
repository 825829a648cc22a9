package tier

import (
	"bytes"
	"container/list"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"sestina/internal/filelock"
)

// Identity is what the bytes of a block depend on, besides the tokens and the
// salt, which are in its key. It is the folder's head, tier.json.
type Identity struct {
	Version    int    `json:"sestina_kv_tier"`
	Model      string `json:"model"`        // for people
	Contents   string `json:"model_sha256"` // of the model's files
	Numerics   string `json:"numerics"`     // what else the values depend on: the arithmetic of the activations
	KVDType    string `json:"kv_cache_dtype"`
	BlockSize  int    `json:"block_size"`
	Layout     string `json:"layout"`
	BlockBytes int    `json:"block_bytes"`
}

// version of the folder and of its records. Another one is refused by name.
const version = 1

// digest is the identity in a record's head. The model's name is not part of it.
func (id Identity) digest() [32]byte {
	id.Model = ""
	text, err := json.Marshal(id)
	if err != nil {
		panic(err) // plain fields
	}
	return sha256.Sum256(text)
}

// differs says what keeps blocks of other from being of use to id; "" if nothing does.
func (id Identity) differs(other Identity) string {
	for _, f := range []struct{ what, have, want string }{
		{"version", fmt.Sprint(other.Version), fmt.Sprint(id.Version)}, {"model", other.Model + " " + short(other.Contents), id.Model + " " + short(id.Contents)},
		{"arithmetic", other.Numerics, id.Numerics}, {"KV cache dtype", other.KVDType, id.KVDType}, {"block size", fmt.Sprint(other.BlockSize), fmt.Sprint(id.BlockSize)},
		{"layout", other.Layout, id.Layout}, {"block", fmt.Sprint(other.BlockBytes, " bytes"), fmt.Sprint(id.BlockBytes, " bytes")},
	} {
		if f.have == f.want || f.what == "model" && other.Contents == id.Contents {
			continue
		}
		return fmt.Sprintf("it holds blocks of %s %s, this is %s", f.what, f.have, f.want)
	}
	return ""
}

func short(digest string) string { return digest[:min(12, len(digest))] }

var (
	errAbsent = errors.New("no such record")
	errPaused = errors.New("the disk failed a moment ago")
)

// pause is how long a disk that failed is left alone.
const pause = time.Minute

// disk is a folder of records: xx/<key in hex>.kv.
type disk struct {
	dir      string
	identity [32]byte
	limit    int64
	lock     *os.File // nil: another process writes, this one reads
	secret   []byte

	mu      sync.Mutex
	records map[Key]*record // of the writer
	lru     *list.List      // of *record, the next to be removed first
	total   int64
	paused  time.Time // until then nothing is written
	temps   int
}

type record struct {
	key  Key
	size int64
	at   *list.Element
}

// openDisk opens a folder, making it if need be, or says why it cannot be used.
func openDisk(cfg Config, blockBytes int, log *slog.Logger) (*disk, error) {
	id := cfg.Identity
	id.Version, id.BlockBytes = version, blockBytes
	d := &disk{dir: cfg.Dir, identity: id.digest(), limit: int64(min(cfg.DiskBytes, 1<<62)), records: map[Key]*record{}, lru: list.New()}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return nil, err
	}
	if err := d.takeLock(); err != nil {
		return nil, err
	}
	err := d.head(id)
	if err != nil {
		d.close()
		return nil, err
	}
	if d.secret, err = d.keepSecret(); err != nil {
		d.close()
		return nil, err
	}
	if !d.writer() {
		log.Info("KV tier: another process writes this folder, or it is read-only; reading from it", "dir", d.dir)
		return d, nil
	}
	if err := d.scan(); err != nil {
		d.close()
		return nil, err
	}
	log.Info("KV tier on disk", "dir", d.dir, "blocks", len(d.records), "bytes", d.total, "limit", d.limit)
	return d, nil
}

// takeLock makes this process the writer if no other one is.
func (d *disk) takeLock() error {
	f, err := os.OpenFile(filepath.Join(d.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		if _, absent := os.Stat(filepath.Join(d.dir, headFile)); absent == nil {
			return nil // a folder that can be read
		}
		return err
	}
	ok, err := filelock.Try(f, false)
	if ok {
		d.lock = f
		return nil
	}
	f.Close()
	return err
}

func (d *disk) writer() bool { return d.lock != nil }

const headFile = "tier.json"

// head compares the folder's head, or writes it into an empty folder.
func (d *disk) head(id Identity) error {
	path := filepath.Join(d.dir, headFile)
	text, err := readUpTo(path, 1<<16)
	if errors.Is(err, fs.ErrNotExist) && d.writer() {
		return d.begin(path, id)
	}
	if err != nil {
		return err
	}
	var have Identity
	if err := json.Unmarshal(text, &have); err != nil || have.Version == 0 {
		return fmt.Errorf("%s is not the head of a KV tier; give another folder", path)
	}
	if why := id.differs(have); why != "" {
		return fmt.Errorf("%s; give each model and setting a folder of its own", why)
	}
	return nil
}

// begin writes the head of a new tier.
func (d *disk) begin(path string, id Identity) error {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); name != "lock" && name != secretFile && !strings.HasPrefix(name, tempPrefix) {
			return fmt.Errorf("the folder is not empty (%s) and has no %s; give an empty one", name, headFile)
		}
	}
	text, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return d.place(path, append(text, '\n'))
}

const secretFile = "secret"

// keepSecret reads the folder's secret, or makes one.
func (d *disk) keepSecret() ([]byte, error) {
	path := filepath.Join(d.dir, secretFile)
	secret, err := readUpTo(path, 64)
	if err == nil && len(secret) == 32 {
		return secret, nil
	}
	if !d.writer() {
		return nil, fmt.Errorf("%s is missing or broken, and another process writes this folder", path)
	}
	secret = make([]byte, 32)
	rand.Read(secret)
	return secret, d.place(path, secret)
}

func readUpTo(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

const tempPrefix = "tmp-"

// place makes a file appear whole.
func (d *disk) place(path string, parts ...[]byte) (err error) {
	d.temps++
	temp := filepath.Join(d.dir, fmt.Sprintf("%s%d-%d", tempPrefix, os.Getpid(), d.temps))
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(temp)
		}
	}()
	for _, p := range parts {
		if _, err = f.Write(p); err != nil {
			f.Close()
			return err
		}
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// scan lists the records there are, the longest unused first, and removes what a
// process that was killed left half written.
func (d *disk) scan() error {
	type found struct {
		record
		used time.Time
	}
	var all []found
	err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if strings.HasPrefix(e.Name(), tempPrefix) {
			os.Remove(path)
			return nil
		}
		name, isRecord := strings.CutSuffix(e.Name(), ".kv")
		key, err := hex.DecodeString(name)
		info, statErr := e.Info()
		if !isRecord || err != nil || statErr != nil || len(key) != len(Key{}) {
			return nil // not ours
		}
		all = append(all, found{record{key: Key(key), size: info.Size()}, info.ModTime()})
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b found) int {
		if c := a.used.Compare(b.used); c != 0 {
			return c
		}
		return bytes.Compare(a.key[:], b.key[:])
	})
	for _, f := range all {
		d.note(f.key, f.size)
	}
	d.trim(0)
	return nil
}

func (d *disk) path(key Key) string {
	name := hex.EncodeToString(key[:])
	return filepath.Join(d.dir, name[:2], name+".kv")
}

func (d *disk) note(key Key, size int64) {
	r := &record{key: key, size: size}
	r.at = d.lru.PushBack(r)
	d.records[key] = r
	d.total += size
}

// forget takes a record out of the books.
func (d *disk) forget(r *record) {
	d.lru.Remove(r.at)
	delete(d.records, r.key)
	d.total -= r.size
}

// drop removes a record.
func (d *disk) drop(key Key) {
	d.mu.Lock()
	if r := d.records[key]; r != nil {
		d.forget(r)
	}
	d.mu.Unlock()
	os.Remove(d.path(key))
}

// trim removes the records longest unused until size more bytes fit the limit.
// Files are touched without the lock: has is asked between steps.
func (d *disk) trim(size int64) {
	var old []Key
	d.mu.Lock()
	for d.total+size > d.limit && d.lru.Len() > 0 {
		r := d.lru.Front().Value.(*record)
		d.forget(r)
		old = append(old, r.key)
	}
	d.mu.Unlock()
	for _, key := range old {
		os.Remove(d.path(key))
	}
}

func (d *disk) has(key Key) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.records[key] != nil
}

func (d *disk) blocks() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.records)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const magic = "sestina kv block"

// heading is what a record begins with; the block's bytes and their checksum, over
// everything before it, follow.
//
//	magic [16] │ version u32 │ identity [32] │ key [32] │ ids u32 │ block bytes u64 │ ids …
func (d *disk) heading(key Key, ids []int32, size int) []byte {
	h := append(make([]byte, 0, 96+4*len(ids)), magic...)
	h = binary.LittleEndian.AppendUint32(h, version)
	h = append(append(h, d.identity[:]...), key[:]...)
	h = binary.LittleEndian.AppendUint32(h, uint32(len(ids)))
	h = binary.LittleEndian.AppendUint64(h, uint64(size))
	for _, id := range ids {
		h = binary.LittleEndian.AppendUint32(h, uint32(id))
	}
	return h
}

func checksum(parts ...[]byte) (sum uint32) {
	for _, p := range parts {
		sum = crc32.Update(sum, castagnoli, p)
	}
	return sum
}

// write makes a record, removing old ones if the limit asks for it. One goroutine
// writes.
func (d *disk) write(key Key, ids []int32, block []byte) error {
	head := d.heading(key, ids, len(block))
	size := int64(len(head) + len(block) + 4)
	switch {
	case d.has(key):
		return nil
	case size > d.limit:
		return fmt.Errorf("a record of %d bytes is more than --kv-disk-tier-bytes %d", size, d.limit)
	case time.Now().Before(d.paused):
		return errPaused
	}
	d.trim(size)
	path := d.path(key)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = d.place(path, head, block, binary.LittleEndian.AppendUint32(nil, checksum(head, block)))
	}
	if err != nil {
		d.paused = time.Now().Add(pause)
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.note(key, size)
	return nil
}

// read fills block from the record of key and ids, or says why not.
func (d *disk) read(key Key, ids []int32, block []byte) error {
	path := d.path(key)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errAbsent
	}
	if err != nil {
		return err
	}
	defer f.Close()
	want := d.heading(key, ids, len(block))
	head, tail := make([]byte, len(want)), make([]byte, 5) // a byte more than there should be
	for _, part := range [][]byte{head, block, tail[:4]} {
		if _, err := io.ReadFull(f, part); err != nil {
			return d.refuse(key, fmt.Errorf("%s is cut short: %w", path, err))
		}
	}
	if v := binary.LittleEndian.Uint32(head[len(magic):]); string(head[:len(magic)]) == magic && v != version {
		return d.refuse(key, fmt.Errorf("%s has version %d; this build reads version %d", path, v, version))
	}
	if n, _ := f.Read(tail[4:]); n > 0 || checksum(head, block) != binary.LittleEndian.Uint32(tail) {
		return d.refuse(key, fmt.Errorf("%s is corrupt: its checksum does not match", path))
	}
	if !bytes.Equal(head, want) {
		return d.refuse(key, fmt.Errorf("%s is a record of other contents", path))
	}
	d.touch(key, path)
	return nil
}

// refuse removes a record that is of no use, if this process may.
func (d *disk) refuse(key Key, why error) error {
	if d.writer() {
		d.drop(key)
	}
	return why
}

// touch makes a record the last to be removed.
func (d *disk) touch(key Key, path string) {
	d.mu.Lock()
	if r := d.records[key]; r != nil {
		d.lru.MoveToBack(r.at)
	}
	d.mu.Unlock()
	if now := time.Now(); d.writer() {
		os.Chtimes(path, now, now) // best effort
	}
}

func (d *disk) close() error {
	if d.lock == nil {
		return nil
	}
	return d.lock.Close()
}
