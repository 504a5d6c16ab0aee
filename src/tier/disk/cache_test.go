package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	bolt "go.etcd.io/bbolt"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/tier"
)

// Sizes on both sides of what is stored or read another way: nothing, within a
// page of the tree, a page, small reads, pooled buffers, and metadata that is
// larger than a blob of a file.
var sizes = []int{0, 1, 100, maxInline, maxInline + 1, 4000, 4063, 4064, 8191, 8192, 8193, 100_000, 1 << 20, 3 << 20}

func TestRoundTrip(t *testing.T) {
	c := open(t, Options{Path: t.TempDir()})
	check := func(when string) {
		for i, size := range sizes {
			if !has(t, c, uint64(i), size) {
				t.Errorf("%s: no blob of %d bytes", when, size)
			}
		}
	}
	for i, size := range sizes {
		put(c, uint64(i), size)
	}
	check("queued")
	flush(t, c)
	check("written")
	if s := c.Stats(); s.Puts != int64(len(sizes)) || s.Blobs != s.Puts || s.Dropped != 0 || s.Verified != 0 {
		t.Errorf("%+v", s)
	}
	for i, size := range sizes {
		put(c, uint64(i), size) // no-ops
	}
	flush(t, c)
	if s := c.Stats(); s.Puts != int64(len(sizes)) {
		t.Errorf("what was there was put again: %+v", s)
	}
	ref, _ := blob(12345, 10)
	if _, err := c.Get(ref); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("Get of what was never put: %v", err)
	}
	shut(t, c)
	if err := c.Close(context.Background()); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if has(t, c, 1, 1) {
		t.Error("a closed cache answers")
	}
	put(c, 99, 10)
}

func TestRange(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Path: dir})
	check := func(when string) {
		t.Helper()
		for i, size := range sizes {
			ref, want := blob(uint64(i), size)
			if b, err := c.Copy(ref); err != nil || !bytes.Equal(b, want) {
				t.Errorf("%s: Copy(%d bytes): %v", when, size, err)
			}
			for _, r := range [][2]int64{{0, 0}, {0, 1}, {0, 4096}, {4096, 4096}, {5, 20_000}, {90_000, 1 << 40}, {int64(size), 10}, {int64(size) + 1, 10}, {-1, 5}, {3, -1}} {
				b, err := c.Range(ref, r[0], r[1])
				if err != nil {
					t.Fatalf("%s: Range(%d bytes, %v): %v", when, size, r, err)
				}
				if !bytes.Equal(b.Data, cut(want, max(r[0], 0), max(r[1], 0))) {
					t.Errorf("%s: Range(%d bytes, %v): wrong bytes", when, size, r)
				}
				b.Release()
			}
		}
	}
	for i, size := range sizes {
		put(c, uint64(i), size)
	}
	check("queued")
	flush(t, c)
	check("written")
	crash(t, c)
	c = open(t, Options{Path: dir})
	check("unverified")
	check("verified")
	if n := c.Stats().Verified; n != int64(len(sizes)) {
		t.Errorf("%d blobs verified, want each once: %d", n, len(sizes))
	}
}

// TestLayout holds the place where values are read from against where bolt
// itself has them.
func TestLayout(t *testing.T) {
	c := open(t, Options{Path: t.TempDir()})
	for i, size := range sizes {
		put(c, uint64(i), size)
	}
	flush(t, c)
	for i, size := range sizes {
		ref, _ := blob(uint64(i), size)
		e, _, _ := c.index.peek(fingerprint(&ref))
		h, err := c.acquire(c.segmentAt(e.slot()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.unref(h)
		p, err := c.locate(h, ref.Domain, &ref.Digest, true)
		if err != nil {
			t.Fatal(err)
		}
		if size <= maxInline {
			if p.off != 0 {
				t.Errorf("%d bytes are not in the tree", size)
			}
			continue
		}
		err = h.db.View(func(tx *bolt.Tx) error {
			v := tx.Bucket([]byte(ref.Domain)).Bucket(ref.Digest[:]).Get(valueKey)
			if off := int64(uintptr(unsafe.Pointer(&v[0])) - h.addr); p.off != off || p.size != int64(len(v)) {
				t.Errorf("%d bytes: located %d bytes at %d, bolt has %d at %d", size, p.size, p.off, len(v), off)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestDomainsApart(t *testing.T) {
	c := open(t, Options{Path: t.TempDir()})
	ref, b := blob(1, 5000)
	c.Put(context.Background(), ref, b)
	other := ref
	other.Domain = "other"
	for _, when := range []string{"queued", "written"} {
		if _, err := c.Get(other); !errors.Is(err, tier.ErrAbsent) {
			t.Errorf("%s: another domain's blob: %v", when, err)
		}
		flush(t, c)
	}
	c.Put(context.Background(), other, b)
	flush(t, c)
	c.Purge(ref)
	if _, err := c.Get(ref); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("after Purge: %v", err)
	}
	got, err := c.Get(other)
	if err != nil || !bytes.Equal(got.Data, b) {
		t.Errorf("Purge in one domain took it from another: %v", err)
	}
	got.Release()
}

func TestPurge(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Path: dir})
	for _, when := range []string{"queued", "written"} {
		ref := put(c, 1, 5000)
		if when == "written" {
			flush(t, c)
		}
		c.Purge(ref)
		flush(t, c)
		if c.Has(ref) || has(t, c, 1, 5000) {
			t.Errorf("%s: there after Purge", when)
		}
		// And it can be put again.
		put(c, 1, 5000)
		flush(t, c)
		if !c.Has(ref) || !has(t, c, 1, 5000) {
			t.Errorf("%s: not kept any more after Purge", when)
		}
		c.Purge(ref)
	}
	shut(t, c)
	if c = open(t, Options{Path: dir}); has(t, c, 1, 5000) {
		t.Error("Purge did not outlast a clean restart")
	}
}

func TestReopenClean(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Path: dir})
	for i := range uint64(200) {
		put(c, i, 50_000)
	}
	flush(t, c)
	before := c.Stats()
	for round := range 3 {
		shut(t, c)
		c = open(t, Options{Path: dir})
		if _, err := os.Stat(filepath.Join(dir, cleanFile)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("round %d: the mark of a clean shutdown is there while the cache is open: %v", round, err)
		}
		for i := range uint64(200) {
			if !has(t, c, i, 50_000) {
				t.Fatalf("round %d: blob %d is gone", round, i)
			}
		}
		s := c.Stats()
		if s.Verified != 0 || s.Corrupt != 0 {
			t.Errorf("round %d: verified again after a clean shutdown: %+v", round, s)
		}
		if s.Blobs != before.Blobs || s.Bytes != before.Bytes || s.Segments != before.Segments {
			t.Errorf("round %d: %+v, before %+v", round, s, before)
		}
	}
	// The segment that was active goes on.
	put(c, 1000, 1000)
	flush(t, c)
	if s := c.Stats(); s.Segments != before.Segments {
		t.Errorf("%d segments, %d before", s.Segments, before.Segments)
	}
}

func TestReopenUnclean(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Path: dir})
	for i := range uint64(100) {
		put(c, i, 50_000)
	}
	flush(t, c)
	before := c.Stats()
	crash(t, c)
	c = open(t, Options{Path: dir})
	if s := c.Stats(); s.Bytes != before.Bytes || s.Blobs != before.Blobs {
		t.Errorf("%+v, before %+v", s, before)
	}
	for range 2 {
		for i := range uint64(50) {
			if !has(t, c, i, 50_000) {
				t.Fatalf("blob %d is gone", i)
			}
		}
	}
	if s := c.Stats(); s.Verified != 50 {
		t.Errorf("%d verified, want each of 50 once", s.Verified)
	}
	// What was not verified remains so, over a clean shutdown too.
	shut(t, c)
	c = open(t, Options{Path: dir})
	for i := range uint64(100) {
		if !has(t, c, i, 50_000) {
			t.Fatalf("blob %d is gone", i)
		}
	}
	if s := c.Stats(); s.Verified != 50 {
		t.Errorf("%d verified, want the 50 that had not been", s.Verified)
	}
}

func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	c := open(t, Options{Path: t.TempDir(), Queue: 1 << 20})
	stop := make(chan struct{})
	stalled := make(chan struct{})
	go c.call(func() { close(stalled); <-stop })
	<-stalled
	for i := range uint64(3) {
		put(c, i, 300_000)
	}
	ref, b := blob(3, 300_000)
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	c.Put(ctx, ref, b)
	if d := time.Since(start); d < 30*time.Millisecond || d > putPatience*3/4 {
		t.Errorf("Put into a full queue took %v, its context 30ms", d)
	}
	start = time.Now()
	c.Put(context.Background(), ref, b)
	if d := time.Since(start); d < putPatience || d > 10*putPatience {
		t.Errorf("Put into a full queue took %v, want about %v", d, putPatience)
	}
	if s := c.Stats(); s.Dropped != 2 || s.Pending > 1<<20 {
		t.Errorf("%+v", s)
	}
	// A Put that waits goes on when there is space.
	done := make(chan struct{})
	go func() { defer close(done); put(c, 4, 300_000) }()
	time.Sleep(20 * time.Millisecond)
	close(stop)
	<-done
	flush(t, c)
	for _, n := range []uint64{0, 1, 2, 4} {
		if !has(t, c, n, 300_000) {
			t.Errorf("blob %d was not kept", n)
		}
	}
	// What is larger than the queue may pass through it alone.
	put(c, 5, 2<<20)
	flush(t, c)
	if !has(t, c, 5, 2<<20) {
		t.Error("a blob larger than the queue was not kept")
	}
	put(c, 6, int(c.bounds.Load().segment))
	flush(t, c)
	if has(t, c, 6, int(c.bounds.Load().segment)) || c.Stats().Bypassed != "" {
		t.Error("a blob larger than a segment was kept")
	}
}

func TestInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := open(t, Options{Path: dir})
	if _, err := Open(Options{Path: dir, MaxSize: 64 << 20}); !errors.Is(err, ErrInUse) || !bytes.Contains([]byte(err.Error()), []byte(dir)) {
		t.Errorf("second Open: %v", err)
	}
	ref := put(c, 1, 100_000)
	flush(t, c)
	b, err := c.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	// A blob that is still held keeps nobody from opening the cache.
	if err := c.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	c2 := open(t, Options{Path: dir})
	put(c2, 2, 100_000)
	flush(t, c2)
	if !has(t, c2, 1, 100_000) || ref.Digest.Check(b.Data) != nil {
		t.Error("wrong bytes")
	}
	b.Release()
	b.Release() // must do no harm
	if !has(t, c2, 1, 100_000) {
		t.Error("gone")
	}
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Path: file, MaxSize: 64 << 20}); err == nil {
		t.Error("a file was taken for a directory")
	}
	for _, name := range []string{"thesis.txt", versionFile + "S"} {
		dir := t.TempDir()
		for _, f := range []string{name, versionFile} {
			if err := os.WriteFile(filepath.Join(dir, f), []byte("1.2.3\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Open(Options{Path: dir, MaxSize: 64 << 20}); !errors.Is(err, ErrForeign) {
			t.Errorf("a foreign directory: %v", err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != "1.2.3\n" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		if names, _ := os.ReadDir(dir); len(names) != 2 {
			t.Errorf("left in a foreign directory: %v", names)
		}
	}
}

func TestOtherVersion(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Path: dir})
	put(c, 1, 1000)
	shut(t, c)
	for name, text := range map[string]string{versionFile: formatWord + "77\n", "mine": "keep"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log logged
	c = open(t, Options{Path: dir, Log: log.logger()})
	if has(t, c, 1, 1000) || len(segmentFiles(t, dir)) != 0 {
		t.Error("a cache of another version was used")
	}
	if log.count("another version") != 1 {
		t.Errorf("log: %s", &log)
	}
	put(c, 2, 1000)
	shut(t, c)
	if c = open(t, Options{Path: dir}); !has(t, c, 2, 1000) {
		t.Error("the rebuilt cache does not keep")
	}
	if b, err := os.ReadFile(filepath.Join(dir, "mine")); err != nil || string(b) != "keep" {
		t.Errorf("a file that is not ours: %q, %v", b, err)
	}
}

func TestHeads(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Path: dir})
	if _, err := c.Head("t"); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("no head: %v", err)
	}
	for i := range 100 {
		if err := c.PutHead("t", bytes.Repeat([]byte{byte(i)}, 10_000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.PutValue("t", []byte("v")); err != nil {
		t.Fatal(err)
	}
	if err := c.PutHead("t", make([]byte, maxValue+1)); err == nil {
		t.Error("a head without bounds was taken")
	}
	if size := c.heads.size(); size > 1<<20 {
		t.Errorf("heads.db has %d bytes", size)
	}
	check := func() {
		t.Helper()
		note, err := c.Head("t")
		if err != nil || len(note) != 10_000 || note[0] != 99 {
			t.Errorf("Head: %d bytes, %v", len(note), err)
		}
		if v, err := c.Value("t"); err != nil || string(v) != "v" {
			t.Errorf("Value: %q, %v", v, err)
		}
	}
	check()
	crash(t, c)
	c = open(t, Options{Path: dir})
	check()
	if err := c.PutValue("t", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Value("t"); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("removed: %v", err)
	}
	shut(t, c)
	path := filepath.Join(dir, headsFile)
	for _, damage := range []func() error{
		func() error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 100_000), 0o600) },
		func() error { return os.Truncate(path, 9000) },
		func() error { return os.Truncate(path, 100) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		var log logged
		c := open(t, Options{Path: dir, Log: log.logger()})
		if _, err := c.Head("t"); !errors.Is(err, tier.ErrAbsent) {
			t.Errorf("damaged: %v", err)
		}
		if log.count("heads are damaged") != 1 {
			t.Errorf("log: %s", &log)
		}
		if err := c.PutHead("t", bytes.Repeat([]byte("n"), 20_000)); err != nil {
			t.Error(err)
		}
		if n, err := c.Head("t"); err != nil || len(n) != 20_000 {
			t.Errorf("after damage: %v", err)
		}
		shut(t, c)
	}
	// Damage while it is open.
	var log logged
	c = open(t, Options{Path: dir, Log: log.logger()})
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Head("t"); !errors.Is(err, tier.ErrAbsent) {
		t.Errorf("cut short: %v", err)
	}
	if err := c.PutHead("t", []byte("new")); err != nil {
		t.Error(err)
	}
	if n, err := c.Head("t"); err != nil || string(n) != "new" {
		t.Errorf("cut short and put again: %q, %v", n, err)
	}
	if log.count("heads are damaged") != 1 {
		t.Errorf("log: %s", &log)
	}
}

func TestIndex(t *testing.T) {
	x := newIndex()
	want := map[entry]uint16{}
	fpOf := func(i int) entry {
		d := digest.Of([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
		return fingerprint(&tier.Ref{Domain: "default", Digest: d})
	}
	check := func() {
		t.Helper()
		n := 0
		for fp, slot := range want {
			e, _, ok := x.peek(fp)
			if !ok || e.slot() != slot {
				t.Fatalf("entry %x: slot %d, %v, want %d", fp, e.slot(), ok, slot)
			}
			n++
		}
		if x.len() != int64(n) {
			t.Fatalf("%d entries, want %d", x.len(), n)
		}
		for i := 1_000_000; i < 1_001_000; i++ {
			if _, _, ok := x.peek(fpOf(i)); ok {
				t.Fatal("found what was never put")
			}
		}
	}
	for i := range 50_000 {
		slot := uint16(i%7 + 1)
		x.put(fpOf(i)|entry(slot), uint32(i+1))
		want[fpOf(i)] = slot
	}
	check()
	for i := 0; i < 50_000; i += 3 {
		x.remove(fpOf(i), 0)
		delete(want, fpOf(i))
	}
	check()
	x.dropSlot(4)
	for fp, slot := range want {
		if slot == 4 {
			delete(want, fp)
		}
	}
	check()
	x.put(fpOf(60_000)|maxSlot|verifiedFlag, 1)
	if e, _, _ := x.peek(fpOf(60_000)); e.slot() != maxSlot || !e.verified() || e&usedFlag != 0 {
		t.Errorf("%x", e)
	}
	x.distrust(maxSlot)
	x.touch(fpOf(60_000), 5, 1)
	if e, stamp, _ := x.peek(fpOf(60_000)); e.verified() || e&usedFlag == 0 || stamp != 5 {
		t.Errorf("%x at %d", e, stamp)
	}
}

// putPatterns puts n blobs of a size, and waits until they are on the disk. The i-th
// is i, 1, 2, 3, again and again.
func putPatterns(t *testing.T, c *Cache, n, size int) (refs []tier.Ref) {
	t.Helper()
	for i := range n {
		b := bytes.Repeat([]byte{byte(i), 1, 2, 3}, size/4)
		refs = append(refs, tier.Ref{Domain: "default", Digest: digest.Of(b)})
		c.Put(t.Context(), refs[i], b)
	}
	for end := time.Now().Add(20 * time.Second); c.Stats().Pending > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the queue is not written")
		}
	}
	return refs
}

// TestMapsDoNotFillMemory reads far more than maxViewed out of the maps. What
// the kernel counts as this process's memory must stay near that.
func TestMapsDoNotFillMemory(t *testing.T) {
	c, err := Open(Options{Path: t.TempDir(), MaxSize: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	const n, size = 160, 1 << 20
	refs := putPatterns(t, c, n, size)
	sink, err := os.OpenFile(filepath.Join(t.TempDir(), "sink"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	before := mappedMemory(t)
	for range 2 {
		for _, ref := range refs {
			b, err := c.Get(ref)
			if err != nil {
				t.Fatal(err)
			}
			// As a reply to the kernel does, which reads the map itself.
			if _, err := sink.WriteAt(b.Data, 0); err != nil {
				t.Fatal(err)
			}
			b.Release()
		}
	}
	const most = 48 << 20
	for end := time.Now().Add(5 * time.Second); mappedMemory(t)-before > most; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d MiB of maps in memory after reading %d MiB", (mappedMemory(t)-before)>>20, 2*n*size>>20)
		}
	}
}

// TestReadersHoldLittleMemory has readers hold more blobs than may be in buffers,
// all read from a disk that had to be waited for.
func TestReadersHoldLittleMemory(t *testing.T) {
	c, err := Open(Options{Path: t.TempDir(), MaxSize: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	const n, size = 40, 1 << 20
	refs := putPatterns(t, c, n, size)
	evictPages(t, c)
	var held []tier.Blob
	for i, ref := range refs {
		b, err := c.Range(ref, 0, size)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, b)
		if n := c.buffers.held.Load(); n > maxBuffered {
			t.Fatalf("%d bytes are in buffers", n)
		}
		if b.Data[0] != byte(i) || b.Data[size-1] != 3 {
			t.Errorf("blob %d is another one", i)
		}
	}
	for _, b := range held {
		b.Release()
		b.Release()
	}
	if n := c.buffers.held.Load(); n != 0 {
		t.Errorf("%d bytes are in buffers of nobody", n)
	}
}

// mappedMemory is the process's resident memory that files back, in bytes, by
// proc(5).
func mappedMemory(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, resident, shared int64
	if _, err := fmt.Sscan(string(b), &size, &resident, &shared); err != nil {
		t.Fatal(err)
	}
	return shared * int64(os.Getpagesize())
}

// A directory that others may write to is not used: they could have put a whole
// cache there, closed cleanly.
func TestDirectoryOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	for name, spoil := range map[string]func(dir string) error{
		"for all": func(dir string) error { return os.Chmod(dir, 0o777) },
		"sticky":  func(dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) },
		"a group": func(dir string) error { return os.Chmod(dir, 0o775) },
		"another": func(dir string) error { return os.Chown(dir, 65534, 65534) },
	} {
		dir := filepath.Join(t.TempDir(), "cache")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := CheckPrivate(dir); err != nil {
			t.Error(err)
		}
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		d, err := openDirectory(dir)
		if err != nil || d.unusable == nil || !strings.Contains(d.unusable.Error(), dir) {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("%s: it was written to: %v, %v", name, names, err)
		}
	}
}

// A new tmpfs lets all write. It is taken as long as nobody has.
func TestNewFileSystem(t *testing.T) {
	for name, c := range map[string]struct {
		planted string
		taken   bool
	}{"cache": {"", true}, "planted": {"lock", false}, "tmp": {"", false}} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatalf("mount a tmpfs: %v", err)
		}
		defer unix.Unmount(dir, unix.MNT_DETACH)
		if c.planted != "" {
			if err := os.WriteFile(filepath.Join(dir, c.planted), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d, err := openDirectory(dir)
		if err != nil || (d.unusable == nil) != c.taken {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
		if closed := CheckPrivate(dir) == nil; closed != c.taken {
			t.Errorf("%s: closed to others: %v", name, closed)
		}
		if err == nil {
			d.close()
		}
	}
}
