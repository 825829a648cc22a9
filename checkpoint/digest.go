package checkpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
)

// digestChunk is what one goroutine hashes at a time.
const digestChunk = 8 << 20

// Digest names the model by its contents: SHA-256 over the SHA-256 of every 8 MiB
// of its weights files, in order, and of config.json where there is one. It reads
// everything, 1 to 2 GB a second and core.
func (c *Checkpoint) Digest() (string, error) {
	type chunk struct {
		source source
		offset int64
		size   uint64
		sum    [sha256.Size]byte
		err    error
	}
	var chunks []chunk
	for _, s := range c.sources {
		for at := uint64(0); at < s.size(); at += digestChunk {
			chunks = append(chunks, chunk{source: s, offset: int64(at), size: min(digestChunk, s.size()-at)})
		}
	}
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(len(chunks), runtime.GOMAXPROCS(0)) {
		group.Go(func() {
			data := make([]byte, digestChunk)
			for i := next.Add(1) - 1; i < int64(len(chunks)); i = next.Add(1) - 1 {
				ch := &chunks[i]
				if ch.err = ch.source.read(data[:ch.size], ch.offset); ch.err == nil {
					ch.sum = sha256.Sum256(data[:ch.size])
				}
			}
		})
	}
	group.Wait()
	all := sha256.New()
	for i := range chunks {
		if chunks[i].err != nil {
			return "", chunks[i].err
		}
		all.Write(chunks[i].sum[:])
	}
	config, err := c.File("config.json")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	sum := sha256.Sum256(config)
	all.Write(sum[:])
	return hex.EncodeToString(all.Sum(nil)), nil
}
