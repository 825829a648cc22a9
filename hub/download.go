package hub

// A download is a file "<key>.part" that only grows, and a running hash of what is in it. Every attempt asks for the
// bytes after the end; whatever arrives is appended. Nothing the server says is trusted to join the two halves (an ETag
// may lie): the whole file is hashed, and a mismatch throws it away and starts once more from zero.
// TestResume counts the bytes fetched twice; TestKillAtEveryFailpoint kills the process between any two steps.

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// remoteFile is one file as the hub announces it. Large files carry a SHA-256, small ones only git's SHA-1.
type remoteFile struct {
	path, url string
	size      int64
	digest    Digest        // "" when only gitSHA1 is known
	gitSHA1   string        // SHA-1 of "blob <size>\0" + content
	budget    time.Duration // > 0: time to the first answer, and no second attempt before the first byte
}

// key names the lock and the .part file.
func (r remoteFile) key() string {
	if r.digest != "" {
		return strings.TrimPrefix(r.digest.blob(), "blobs/")
	}
	return "sha1-" + r.gitSHA1
}

// download is one file on its way into the store.
type download struct {
	*Store
	remoteFile
	part       *os.File
	n          int64 // bytes in part, all of them hashed
	sum256     hash.Hash
	sum1       hash.Hash // git's, for a file without announced SHA-256; else nil
	etag       string    // of the bytes this process has appended
	mismatches int
	p          Progress
}

// fetch brings one file into the store and returns it with its digest. Concurrent fetches of the same file, in this
// process or another, run one after the other: the second finds the blob. Errors leave the .part for the next pull.
func (s *Store) fetch(ctx context.Context, r remoteFile, p Progress) (f File, err error) {
	unlock, err := s.lock(ctx, r.key(), false, true)
	if err != nil {
		return File{}, err
	}
	defer unlock()
	if r.digest != "" && s.hasBlob(r.digest, r.size) {
		return File{r.path, r.size, r.digest}, nil
	}
	d := &download{Store: s, remoteFile: r, p: p}
	if err := d.open(); err != nil {
		return File{}, err
	}
	defer d.part.Close()
	p.Start(r.path, r.size, d.n)
	defer func() { p.Done(err) }()
	if err := s.needSpace(r.size - d.n); err != nil {
		return File{}, err
	}
	if err := d.rehash(ctx); err != nil {
		return File{}, fmt.Errorf("hub: %s: %w", r.path, err)
	}
	digest, err := d.run(ctx)
	if err != nil {
		return File{}, fmt.Errorf("hub: %s: %w", r.path, err)
	}
	return File{r.path, r.size, digest}, nil
}

func (d *download) partPath() string { return "blobs/" + d.key() + ".part" }

func (d *download) open() error {
	root, err := d.Store.open(true)
	if err != nil {
		return err
	}
	if err := d.at("open"); err != nil {
		return diskError(err)
	}
	d.part, err = root.OpenFile(d.partPath(), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("hub: %w", diskError(err))
	}
	st, err := d.part.Stat()
	if err != nil {
		d.part.Close()
		return fmt.Errorf("hub: %w", err)
	}
	if d.n = st.Size(); d.n > d.size {
		d.n = 0 // not a beginning of this file
		err = d.part.Truncate(0)
	}
	return err
}

func (d *download) newHashes() {
	d.sum256 = sha256.New()
	if d.digest == "" {
		d.sum1 = sha1.New()
		fmt.Fprintf(d.sum1, "blob %d\x00", d.size)
	}
}

// absorb hashes the next bytes of the file.
func (d *download) absorb(b []byte) (int, error) {
	if d.sum1 != nil {
		d.sum1.Write(b)
	}
	return d.sum256.Write(b)
}

// rehash reads what an earlier process left.
func (d *download) rehash(ctx context.Context) error {
	d.newHashes()
	n, err := io.Copy(writerFunc(d.absorb), readerWith(ctx, io.LimitReader(d.part, d.n)))
	d.n = n
	return err
}

// readerWith makes reads end with ctx.
func readerWith(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// run appends until the file is whole and right, then publishes it.
func (d *download) run(ctx context.Context) (digest Digest, err error) {
	err = d.hub.retry(ctx, func() (int64, error) {
		before := d.n
		if d.n < d.size {
			if err := d.more(ctx); err != nil {
				return d.n - before, err
			}
		}
		moved := d.n - before
		digest, err = d.check()
		return moved, err
	})
	if err != nil {
		return "", err
	}
	return digest, d.publish(d.part, d.partPath(), digest.blob())
}

// check compares the whole file with what was announced. A first mismatch may come from the bytes of an earlier pull or
// from a file that changed under way; a second is the hub's.
func (d *download) check() (Digest, error) {
	digest := Digest("sha256:" + hex.EncodeToString(d.sum256.Sum(nil)))
	good := digest == d.digest
	if d.digest == "" {
		good = hex.EncodeToString(d.sum1.Sum(nil)) == d.gitSHA1
	}
	if good {
		return digest, nil
	}
	err := fmt.Errorf("%w: %s announced, %s received", ErrCorrupt, d.key(), digest)
	if restart := d.restart(); restart != nil {
		return "", restart
	}
	if d.mismatches++; d.mismatches > 1 {
		return "", permanent{err}
	}
	return "", err
}

// restart throws the bytes away.
func (d *download) restart() error {
	d.p.Add(-d.n)
	d.n, d.etag = 0, ""
	d.newHashes()
	if err := d.part.Truncate(0); err != nil {
		return permanent{err}
	}
	return nil
}

// more makes one request for the bytes that lack. It returns nil only when the file has its announced size.
func (d *download) more(ctx context.Context) error {
	header := http.Header{}
	if d.n > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(d.n, 10)+"-")
		if d.etag != "" {
			header.Set("If-Range", d.etag)
		}
	}
	res, err := d.hub.get(ctx, d.url, header, d.budget)
	if err != nil {
		return d.oneTry(err)
	}
	defer res.Close()
	if err := d.accept(res); err != nil {
		return d.oneTry(err)
	}
	return d.append(res)
}

// oneTry makes a failure final for a file that has another source, until the hub has sent a byte of it.
func (d *download) oneTry(err error) error {
	if d.budget > 0 && d.n == 0 {
		return permanent{err}
	}
	return err
}

// accept checks that the answer's body is what lacks, or restarts when it is the whole file.
func (d *download) accept(res *response) error {
	switch res.StatusCode {
	case http.StatusOK:
		if d.n > 0 {
			if err := d.restart(); err != nil {
				return err
			}
		}
	case http.StatusPartialContent:
		if start, total, ok := parseRange(res.Header.Get("Content-Range")); !ok || start != d.n || total != d.size {
			if err := d.restart(); err != nil {
				return err
			}
			return fmt.Errorf("the hub answered another range than asked for (%q)", clip(res.Header.Get("Content-Range")))
		}
	case http.StatusRequestedRangeNotSatisfiable:
		if err := d.restart(); err != nil {
			return err
		}
		return errors.New("the hub has fewer bytes than it announced")
	default:
		return d.hub.statusError(res, d.path)
	}
	if want := d.size - d.n; res.ContentLength >= 0 && res.ContentLength != want {
		return permanent{fmt.Errorf("%w: the hub announced %d bytes and sends %d", ErrCorrupt, want, res.ContentLength)}
	}
	if tag := res.Header.Get("ETag"); !strings.HasPrefix(tag, "W/") {
		d.etag = tag
	}
	return nil
}

// parseRange reads "bytes 100-199/200".
func parseRange(s string) (start, total int64, ok bool) {
	s, found := strings.CutPrefix(s, "bytes ")
	span, size, found2 := strings.Cut(s, "/")
	first, _, found3 := strings.Cut(span, "-")
	start, err1 := strconv.ParseInt(first, 10, 64)
	total, err2 := strconv.ParseInt(size, 10, 64)
	return start, total, found && found2 && found3 && err1 == nil && err2 == nil
}

// append writes the body to the end of part. The body ends at the announced size, whatever the server goes on sending.
func (d *download) append(body io.Reader) error {
	buf := make([]byte, 256<<10)
	for d.n < d.size {
		n, readErr := io.ReadFull(body, buf[:min(int64(len(buf)), d.size-d.n)])
		if n > 0 {
			if err := d.write(buf[:n]); err != nil {
				return err
			}
		}
		if readErr != nil && d.n < d.size {
			if readErr == io.EOF || readErr == io.ErrUnexpectedEOF {
				readErr = fmt.Errorf("the connection ended after %d of %d bytes", d.n, d.size)
			}
			return readErr
		}
	}
	return nil
}

func (d *download) write(b []byte) error {
	err := d.at("write")
	n := 0
	if err == nil {
		n, err = d.part.WriteAt(b, d.n)
	}
	d.n += int64(n)
	d.absorb(b[:n])
	d.p.Add(int64(n))
	if err != nil {
		return permanent{diskError(err)}
	}
	return nil
}
