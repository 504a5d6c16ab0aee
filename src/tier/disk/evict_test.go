package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/tier"
)

func TestMaxSizeIsNeverPassed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		maxSize int64
		size    func(i int) int
		n       int
	}{
		{"large", 24 << 20, func(int) int { return 700_000 }, 70},
		{"small", 12 << 20, func(int) int { return 600 }, 12_000},
		{"page", 16 << 20, func(int) int { return 4096 }, 3_000},
		{"mixed", 24 << 20, func(i int) int { return []int{0, 100, 900, 5_000, 50_000, 1 << 20}[i%6] }, 200},
		{"tiny cache", 2 << 20, func(int) int { return 100_000 }, 100},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c := open(t, Options{Path: dir, MaxSize: tc.maxSize})
			var most, dropped int64
			step := max(tc.n/50, 1)
			for i := range tc.n {
				ref := put(c, uint64(i), tc.size(i))
				if i%7 == 0 {
					if b, err := c.Get(ref); err == nil {
						b.Release()
					}
				}
				if i%step == 0 {
					flush(t, c)
					now := taken(t, dir)
					most = max(most, now)
					if now > tc.maxSize {
						t.Fatalf("after %d blobs: %d bytes on disk, at most %d", i, now, tc.maxSize)
					}
					if s := c.Stats(); s.Disk > s.MaxDisk {
						t.Fatalf("%+v", s)
					}
				}
			}
			flush(t, c)
			s := c.Stats()
			dropped = s.Dropped
			if s.EvictedSegments == 0 {
				t.Errorf("nothing was evicted: the test shows nothing: %+v", s)
			}
			if dropped > int64(tc.n)/100 {
				t.Errorf("%d of %d blobs were dropped", dropped, tc.n)
			}
			if most < tc.maxSize/2 {
				t.Errorf("only %d of %d bytes were ever used", most, tc.maxSize)
			}
			if !has(t, c, uint64(tc.n-1), tc.size(tc.n-1)) {
				t.Error("the blob put last is not there")
			}
			there := int64(0)
			for i := range tc.n {
				if has(t, c, uint64(i), tc.size(i)) {
					there++
				}
			}
			// Of equal sizes, but for the empty blob that "mixed" puts often.
			if s.Blobs != there && tc.name != "mixed" {
				t.Errorf("%d blobs are there, the index has %d", there, s.Blobs)
			}
			shut(t, c)
			if now := taken(t, dir); now > tc.maxSize {
				t.Errorf("closed: %d bytes on disk, at most %d", now, tc.maxSize)
			}
			// Less is allowed now: the rest goes back.
			c = open(t, Options{Path: dir, MaxSize: tc.maxSize / 2})
			c.call(c.keepWithin)
			if now := taken(t, dir); now > tc.maxSize/2 {
				t.Errorf("reopened with half the size: %d bytes on disk, at most %d", now, tc.maxSize/2)
			}
		})
	}
}

func TestWhatIsUsedStays(t *testing.T) {
	t.Parallel()
	const size = 25_000
	c := open(t, Options{Path: t.TempDir(), MaxSize: 4 << 20, segment: 512 << 10})
	for i := range uint64(5) {
		put(c, i, size)
	}
	flush(t, c)
	for i := range uint64(400) { // more than twice what there is room for
		put(c, 1000+i, size)
		if i%10 == 0 {
			flush(t, c)
			for k := range uint64(5) {
				if !has(t, c, k, size) {
					t.Fatalf("blob %d, in use all the time, went after %d others", k, i)
				}
			}
		}
	}
	flush(t, c)
	s := c.Stats()
	if s.EvictedSegments < 5 || s.Survived == 0 {
		t.Errorf("%+v", s)
	}
	// What came later than others stays longer.
	if has(t, c, 1020, size) || !has(t, c, 1390, size) {
		t.Error("an old blob is there, or a new one is not")
	}
	// Streaming through is not using: hardly more may be copied than was used.
	if s.Survived > 100 {
		t.Errorf("%d blobs were copied for five that were used", s.Survived)
	}
}

func TestMostRecentlyUsedSurvive(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(time.Now().UnixNano())
	c := open(t, Options{Path: t.TempDir(), MaxSize: 64 << 20, Now: func() time.Time { return time.Unix(0, clock.Load()) }})
	const size = 50_000
	for i := range uint64(60) {
		put(c, i, size)
	}
	flush(t, c)
	c.call(func() { c.seal(true) })
	for i := range uint64(60) { // all are used, in order: more than half a segment
		clock.Add(int64(time.Second))
		if !has(t, c, i, size) {
			t.Fatal("gone at once")
		}
	}
	c.call(func() { c.evictOne() })
	kept, firstKept := 0, uint64(0)
	for i := range uint64(60) {
		if ref, _ := blob(i, size); c.Has(ref) {
			if kept == 0 {
				firstKept = i
			}
			kept++
		}
	}
	if kept < 20 || kept > 40 || firstKept != uint64(60-kept) {
		t.Errorf("%d of 60 survived, from %d on: want the half that was used last", kept, firstKept)
	}
}

// putPinned puts n blobs, and returns the test for these.
func putPinned(c *Cache, n uint64, size int) func(tier.Ref) bool {
	pinned := make(map[tier.Ref]bool)
	for i := range n {
		pinned[put(c, i, size)] = true
	}
	return func(ref tier.Ref) bool { return pinned[ref] }
}

// wantPinned wants the blobs that putPinned has put.
func wantPinned(t *testing.T, c *Cache, n uint64, size int) {
	t.Helper()
	for i := range n {
		if !has(t, c, i, size) {
			t.Fatalf("pinned blob %d is gone: %+v", i, c.Stats())
		}
	}
}

func TestPinnedSurvive(t *testing.T) {
	t.Parallel()
	const size = 4_000
	c := open(t, Options{Path: t.TempDir(), MaxSize: 4 << 20, segment: 512 << 10})
	pinned := putPinned(c, 200, size) // whole segments of them
	c.SetPinned(pinned)
	flush(t, c)
	for i := range uint64(250) {
		put(c, 1000+i, 25_000)
		if i%20 == 0 {
			flush(t, c)
		}
	}
	flush(t, c)
	if s := c.Stats(); s.EvictedSegments < 5 {
		t.Errorf("%+v", s)
	}
	wantPinned(t, c, 200, size)
	// More is pinned than fits: the cache must still take what is new.
	c.SetPinned(func(tier.Ref) bool { return true })
	for i := range uint64(200) {
		put(c, 5000+i, 25_000)
		flush(t, c)
		if ref, _ := blob(5000+i, 25_000); !c.Has(ref) {
			t.Fatalf("blob %d was not taken: %+v", i, c.Stats())
		}
	}
}

// Pinned blobs that there is no room to copy stay where they are, as long as something
// else can go.
func TestPinnedSurviveAFullDisk(t *testing.T) {
	t.Parallel()
	const size = 20_000
	dir := tmpfs(t, "24m")
	c := open(t, Options{
		Path: dir + "/cache", MaxSize: 1 << 30, segment: 1 << 20, MinFree: func(int64) int64 { return 4 << 20 },
	})
	pinned := putPinned(c, 20, size) // less than half of the first segment
	c.SetPinned(pinned)
	for i := range uint64(100) {
		put(c, 1000+i, 100_000)
	}
	flush(t, c)
	hog := bytes.Repeat([]byte("x"), 24<<20)
	if err := os.WriteFile(dir+"/hog", hog, 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	c.call(c.keepWithin)
	if spare, _ := c.spare(); spare < 0 || c.Stats().EvictedSegments == 0 {
		t.Fatalf("%d bytes to spare: %+v", spare, c.Stats())
	}
	wantPinned(t, c, 20, size)
}

// A cache that is made smaller has no room to copy anything until something is gone.
func TestPinnedSurviveASmallerLimit(t *testing.T) {
	t.Parallel()
	const size = 20_000
	c := open(t, Options{Path: t.TempDir(), segment: 1 << 20})
	c.SetPinned(putPinned(c, 20, size))
	for i := range uint64(100) {
		put(c, 1000+i, 100_000)
	}
	flush(t, c)
	if err := c.SetLimits(Limits{MaxSize: 5 << 20}); err != nil {
		t.Fatal(err)
	}
	c.call(c.keepWithin)
	if s := c.Stats(); s.Disk > s.MaxDisk || s.EvictedSegments > 8 {
		t.Errorf("%+v", s)
	}
	wantPinned(t, c, 20, size)
}

// A cache that is opened with less room than it takes evicts nothing before it is told
// what is pinned.
func TestPinnedSurviveARestart(t *testing.T) {
	t.Parallel()
	const size = 20_000
	opt := Options{Path: t.TempDir(), segment: 1 << 20}
	c := open(t, opt)
	pinned := putPinned(c, 20, size)
	for i := range uint64(100) {
		put(c, 1000+i, 100_000)
	}
	shut(t, c)
	opt.MaxSize = 5 << 20
	c = open(t, opt)
	c.call(func() {}) // it has begun
	c.SetPinned(pinned)
	c.call(c.keepWithin)
	if s := c.Stats(); s.Disk > s.MaxDisk || s.EvictedSegments == 0 {
		t.Errorf("%+v", s)
	}
	wantPinned(t, c, 20, size)
}

// Where pinned blobs can't be written once more although there should be room, as with
// a quota, their segment stays as long as something else can go.
func TestPinnedSurviveAFailedCopy(t *testing.T) {
	t.Parallel()
	const size = 20_000
	dir := tmpfs(t, "64m,nr_inodes=64")
	c := open(t, Options{Path: dir + "/cache", segment: 1 << 20})
	c.SetPinned(putPinned(c, 10, size))
	for i := range uint64(40) {
		put(c, 1000+i, 100_000)
	}
	flush(t, c)
	var hogs []string
	for i := 0; ; i++ { // no segment can be made any more
		hog := fmt.Sprintf("%s/hog%d", dir, i)
		if err := os.WriteFile(hog, nil, 0o600); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
		hogs = append(hogs, hog)
	}
	c.call(func() {
		c.seal(true)
		if !c.evictOne() {
			t.Error("nothing could go")
		}
	})
	wantPinned(t, c, 10, size)
	if s := c.Stats(); s.EvictedSegments != 1 {
		t.Errorf("%+v", s)
	}
	for _, hog := range hogs {
		if err := os.Remove(hog); err != nil {
			t.Fatal(err)
		}
	}
}

// Nothing goes of which it can't be told just now whether it is pinned.
func TestBusySegmentsStay(t *testing.T) {
	t.Parallel()
	const size = 20_000
	c := open(t, Options{Path: t.TempDir()})
	ref := put(c, 1, size)
	c.SetPinned(func(r tier.Ref) bool { return r == ref })
	flush(t, c)
	c.call(func() {
		c.seal(true)
		c.detach(c.segments()[0])
		c.openMu.Lock()
		most := c.maxMapped
		c.maxMapped = 0
		c.openMu.Unlock()
		if c.evictOne() {
			t.Error("a segment went")
		}
		c.openMu.Lock()
		c.maxMapped = most
		c.openMu.Unlock()
	})
	if !has(t, c, 1, size) {
		t.Errorf("what is pinned is gone: %+v", c.Stats())
	}
}

// What is pinned outlasts its time also where it is most of its segment.
func TestPinnedDoNotExpire(t *testing.T) {
	t.Parallel()
	const size = 50_000
	var clock atomic.Int64
	clock.Store(time.Now().UnixNano())
	c := open(t, Options{Path: t.TempDir(), Expiration: time.Hour, Now: func() time.Time { return time.Unix(0, clock.Load()) }})
	c.SetPinned(putPinned(c, 30, size))
	for i := range uint64(10) {
		put(c, 1000+i, size)
	}
	flush(t, c)
	for range 3 {
		clock.Add(int64(2 * time.Hour))
		c.call(c.sweep)
		wantPinned(t, c, 30, size)
	}
}

// A blob that an eviction moves while it is read is found where it is then.
func TestMovedWhileRead(t *testing.T) {
	t.Parallel()
	c := open(t, Options{Path: t.TempDir()})
	ref := put(c, 1, 50_000)
	put(c, 2, 50_000)
	c.SetPinned(func(r tier.Ref) bool { return r == ref })
	flush(t, c)
	c.call(func() { c.seal(true) })
	s := c.segments()[0]
	c.detach(s)
	s.lastUse.Store(0)
	s.mu.Lock() // whoever wants the segment open waits
	found := make(chan bool)
	go func() { found <- has(t, c, 1, 50_000) }()
	for s.lastUse.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	h, err := c.openHandle(s, false)
	if err != nil {
		t.Fatal(err)
	}
	h.refs.Store(1)
	s.handle.Store(h)
	go c.call(func() { c.evictOne() })
	for !s.dead.Load() {
		time.Sleep(time.Millisecond)
	}
	s.mu.Unlock()
	if !<-found {
		t.Error("not found")
	}
	if s := c.Stats(); s.Survived != 1 {
		t.Errorf("%+v", s)
	}
}

func TestExpiration(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(time.Now().UnixNano())
	opt := Options{
		Path: t.TempDir(), Expiration: time.Hour,
		Now: func() time.Time { return time.Unix(0, clock.Load()) },
	}
	pin, _ := blob(7, 1000)
	c := open(t, opt)
	c.SetPinned(func(ref tier.Ref) bool { return ref == pin })
	for i := range uint64(50) {
		put(c, i, 1000)
	}
	flush(t, c)
	c.call(func() { c.seal(true) })
	put(c, 100, 1000)
	flush(t, c)
	clock.Add(int64(50 * time.Minute))
	c.call(c.sweep)
	if !has(t, c, 3, 1000) || c.Stats().Segments != 2 {
		t.Fatal("gone before it expired")
	}
	// The whole first segment is kept by the one that was used; and it is
	// known over a restart.
	clock.Add(int64(20 * time.Minute))
	shut(t, c)
	clock.Add(int64(20 * time.Minute))
	c = open(t, opt)
	c.SetPinned(func(ref tier.Ref) bool { return ref == pin })
	c.call(c.sweep)
	if !c.Has(pin) || c.Stats().Segments != 1 {
		t.Errorf("want the first segment alone: %+v", c.Stats())
	}
	if ref, _ := blob(100, 1000); c.Has(ref) {
		t.Error("an expired blob is there")
	}
	clock.Add(int64(30 * time.Minute))
	c.call(c.sweep)
	if ref, _ := blob(3, 1000); c.Has(ref) {
		t.Error("an expired blob is there")
	}
	if !c.Has(pin) {
		t.Error("what is pinned has expired")
	}
	c.call(c.sweep) // it counts as used now, and is not copied each time
	if s := c.Stats(); s.Segments != 1 || s.Survived != 1 {
		t.Errorf("%+v", s)
	}
}

// Nothing has expired for a clock that had not been set when the cache was written, or
// is not now.
func TestClockThatWasNotSet(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	opt := Options{
		Path: t.TempDir(), Expiration: time.Hour,
		Now: func() time.Time { return time.Unix(0, clock.Load()) },
	}
	unset, set := int64(time.Minute), time.Now().UnixNano()
	for i, when := range []int64{unset, set, unset, set} {
		clock.Store(when)
		c := open(t, opt)
		clock.Add(int64(sweepRest))
		c.call(c.sweepInTime)
		for n := range uint64(i) {
			if ref, _ := blob(n, 1000); !c.Has(ref) {
				t.Fatalf("start %d: blob %d has expired", i, n)
			}
		}
		put(c, uint64(i), 1000)
		flush(t, c)
		shut(t, c)
	}
	// The same where the cache was not closed in order.
	file := segmentFiles(t, opt.Path)[0]
	if err := errors.Join(os.Remove(filepath.Join(opt.Path, cleanFile)), os.Chtimes(file, time.Time{}, time.Unix(60, 0))); err != nil {
		t.Fatal(err)
	}
	c := open(t, opt)
	clock.Add(int64(sweepRest))
	c.call(c.sweepInTime)
	if !has(t, c, 0, 1000) {
		t.Error("a blob of a segment of 1970 has expired")
	}
}

// A machine that was off for longer than anything is kept finds what it needs to start.
func TestStartUsesWhatExpired(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(time.Now().UnixNano())
	opt := Options{
		Path: t.TempDir(), Expiration: time.Hour,
		Now: func() time.Time { return time.Unix(0, clock.Load()) },
	}
	c := open(t, opt)
	for i := range uint64(2) {
		put(c, i, 1000)
		flush(t, c)
		c.call(func() { c.seal(true) })
	}
	shut(t, c)
	clock.Add(int64(50 * time.Hour))
	c = open(t, opt)
	c.call(c.sweepInTime)
	clock.Add(int64(sweepRest / 2))
	if !has(t, c, 0, 1000) {
		t.Error("gone before the machine has started")
	}
	clock.Add(int64(sweepRest))
	c.call(c.sweepInTime)
	if ref, _ := blob(1, 1000); !has(t, c, 0, 1000) || c.Has(ref) {
		t.Errorf("want what was used alone: %+v", c.Stats())
	}
}

// TestHardLimit fills a segment by single blobs, without the care that the
// writer takes: bolt itself must refuse what would not fit.
func TestHardLimit(t *testing.T) {
	for _, size := range []int{100, 700, 4000, 30_000} {
		const limit = 512 << 10
		c := open(t, Options{Path: t.TempDir(), MaxSize: 8 << 20, segment: limit})
		put(c, 0, 1)
		flush(t, c)
		c.call(func() {
			path := c.active.path
			for i := uint64(1); ; i++ {
				ref, b := blob(i, size)
				_, err := c.commit([]*item{{ref: ref, fp: fingerprint(&ref), data: b}})
				fi, serr := os.Stat(path)
				if serr != nil || fi.Size() > limit || onDisk(fi) != c.active.size.Load() {
					t.Errorf("%d bytes, known as %d, limit %d: %v", onDisk(fi), c.active.size.Load(), limit, serr)
					return
				}
				if errors.Is(err, bolterrors.ErrMaxSizeReached) {
					if left := limit - fi.Size(); left > int64(size)+20*pageSize {
						t.Errorf("blobs of %d bytes: refused with %d bytes left", size, left)
					}
					break
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
		if !has(t, c, 1, size) {
			t.Error("gone")
		}
		put(c, 1<<30, size)
		flush(t, c)
		if !has(t, c, 1<<30, size) {
			t.Error("a full segment is not followed by another")
		}
	}
}

// TestHeldBlob has a blob outlive the segment that it is in.
func TestHeldBlob(t *testing.T) {
	c := open(t, Options{Path: t.TempDir()})
	const size = 100_000
	ref := put(c, 1, size)
	flush(t, c)
	var blobs [3]tier.Blob
	for i := range blobs {
		var err error
		if blobs[i], err = c.Get(ref); err != nil {
			t.Fatal(err)
		}
	}
	snap := c.activeH.borrow()
	put(c, 2, size)
	flush(t, c)
	put(c, 3, size)
	flush(t, c)
	if n := snap.tx.Size(); n < size {
		t.Error("a snapshot was ended while it was in use")
	}
	snap.refs.Add(-1)
	blobs[0].Release()
	blobs[0].Release() // must not count for another
	blobs[0].Release()
	size0 := c.Stats().Disk
	c.call(func() { c.evictOne() })
	if has(t, c, 1, size) {
		t.Error("evicted and there")
	}
	if s := c.Stats(); s.Disk < size0/2 || s.Segments != 0 {
		t.Errorf("the disk that a reader keeps is not counted: %+v", s)
	}
	_, want := blob(1, size)
	for _, b := range blobs[1:] {
		if !bytes.Equal(b.Data, want) {
			t.Error("wrong bytes")
		}
		b.Release()
	}
}

// TestChurn has readers, a writer and evictions at work together.
func TestChurn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := open(t, Options{Path: dir, MaxSize: 6 << 20, segment: 512 << 10})
	c.maxOpen = 4 // segments come and go
	const blobs, size = 300, 30_000
	type want struct {
		ref  tier.Ref
		data []byte
	}
	all := make([]want, blobs)
	for i := range all {
		ref, b := blob(uint64(i), size+i)
		all[i] = want{ref, b}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var hits atomic.Int64
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			for ctx.Err() == nil {
				w := all[r.IntN(blobs)]
				off, n := int64(r.IntN(size)), int64(r.IntN(size))
				b, err := c.Range(w.ref, off, n)
				if err != nil {
					c.Put(ctx, w.ref, w.data)
					continue
				}
				hits.Add(1)
				if r.IntN(10) == 0 {
					time.Sleep(time.Millisecond)
				}
				if !bytes.Equal(b.Data, cut(w.data, off, n)) {
					t.Error("wrong bytes")
				}
				b.Release()
				if r.IntN(200) == 0 {
					c.Purge(w.ref)
				}
			}
		})
	}
	for ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
		if now := taken(t, dir); now > 6<<20 {
			t.Errorf("%d bytes on disk", now)
			break
		}
	}
	cancel()
	wg.Wait()
	flush(t, c)
	if s := c.Stats(); s.EvictedSegments == 0 || hits.Load() == 0 || s.Corrupt+s.Condemned != 0 {
		t.Errorf("%d hits, %+v", hits.Load(), s)
	}
}

// tmpfs mounts a file system of its own for a test.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount (these tests need root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestMinFree(t *testing.T) {
	t.Parallel()
	dir := tmpfs(t, "32m")
	var log logged
	const minFree = 12 << 20
	c := open(t, Options{
		Path: dir + "/cache", MaxSize: 1 << 30, segment: 2 << 20, Log: log.logger(),
		MinFree: func(total int64) int64 {
			if total != 32<<20 {
				t.Errorf("a file system of %d bytes", total)
			}
			return minFree
		},
	})
	free := func() int64 {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Bavail) * int64(st.Bsize)
	}
	for i := range uint64(200) {
		put(c, i, 150_000)
		if i%10 == 0 {
			flush(t, c)
			if f := free(); f < minFree {
				t.Fatalf("%d bytes free, want %d", f, minFree)
			}
		}
	}
	flush(t, c)
	if s := c.Stats(); s.EvictedSegments == 0 || s.Dropped != 0 || s.Bypassed != "" || !has(t, c, 199, 150_000) {
		t.Errorf("%+v", s)
	}
	if n := c.Capacity(); n < 10<<20 || n > 20<<20 || c.Trouble() != nil {
		t.Errorf("a capacity of %d bytes, %v", n, c.Trouble())
	}
	// Somebody else takes the space: the cache gives way, and then does without.
	hog := strings.Repeat("x", 1<<20)
	for i := range 18 {
		if err := os.WriteFile(fmt.Sprintf("%s/hog%d", dir, i), []byte(hog), 0o600); err != nil {
			t.Fatal(err)
		}
		c.call(c.keepWithin)
	}
	if f := free(); f < minFree {
		t.Errorf("%d bytes free, want %d: %+v", f, minFree, c.Stats())
	}
	for i := range 10 {
		if err := os.WriteFile(fmt.Sprintf("%s/more%d", dir, i), []byte(hog), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(20) {
		put(c, 1000+i, 150_000)
		flush(t, c)
		has(t, c, 1000+i, 150_000)
	}
	if s := c.Stats(); s.Dropped == 0 || s.Bypassed == "" || log.count("level=WARN") != 1 {
		t.Errorf("%+v\n%s", s, &log)
	}
	for i := range 18 {
		if err := os.Remove(fmt.Sprintf("%s/hog%d", dir, i)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(firstPause + 100*time.Millisecond)
	put(c, 2000, 150_000)
	flush(t, c)
	if s := c.Stats(); s.Bypassed != "" || !has(t, c, 2000, 150_000) || log.count("keeps blobs again") != 1 {
		t.Errorf("no recovery: %+v\n%s", s, &log)
	}
}

// TestFullDisk lets writes themselves fail: the space is not there although
// statfs had said so.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := tmpfs(t, "16m")
	var log logged
	var clock atomic.Int64
	clock.Store(time.Now().UnixNano())
	c, err := Open(Options{
		Path: dir + "/cache", MaxSize: 1 << 30, segment: 2 << 20, Log: log.logger(),
		MinFree: func(int64) int64 { return -1 << 40 },
		Now:     func() time.Time { return time.Unix(0, clock.Load()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(200) {
		put(c, i, 150_000)
		if i%10 == 0 {
			flush(t, c)
		}
	}
	flush(t, c)
	s := c.Stats()
	if s.Dropped == 0 || s.Bypassed == "" || s.Condemned != 0 {
		t.Fatalf("the disk was not full: %+v", s)
	}
	if n := log.count("level=WARN"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, &log)
	}
	kept := 0
	for i := range uint64(200) {
		if has(t, c, i, 150_000) {
			kept++
		}
	}
	if kept < 50 {
		t.Errorf("%d blobs are left", kept)
	}
	// It is left alone for a while, and then tried again.
	if !c.paused() {
		t.Error("tries again at once")
	}
	clock.Add(int64(2 * lastPause))
	if c.paused() {
		t.Error("never tries again")
	}
	// There is no room for the mark of a clean shutdown either.
	if err := c.Close(context.Background()); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Close: %v", err)
	}
	if c, err = Open(Options{Path: dir + "/cache", MaxSize: 1 << 30, segment: 2 << 20}); err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	again := 0
	for i := range uint64(200) {
		if has(t, c, i, 150_000) {
			again++
		}
	}
	if again != kept {
		t.Errorf("reopened on a full disk: %d blobs of %d", again, kept)
	}
}

func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	dir := tmpfs(t, "64m")
	opt := Options{Path: dir + "/cache", MaxSize: 40 << 20}
	remount := func(flags uintptr) {
		t.Helper()
		var err error
		for range 100 { // a file that is being closed keeps it busy
			if err = unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatal(err)
	}
	for _, unclean := range []bool{false, true} {
		c := open(t, opt)
		for i := range uint64(20) {
			put(c, i, 100_000)
		}
		if err := c.PutHead("t", []byte("note")); err != nil {
			t.Fatal(err)
		}
		flush(t, c)
		if unclean {
			crash(t, c)
		}
		shut(t, c)
		remount(unix.MS_RDONLY)
		var log logged
		o := opt
		o.Log = log.logger()
		c = open(t, o)
		put(c, 100, 100_000)
		for i := range uint64(20) {
			if !has(t, c, i, 100_000) {
				t.Fatalf("blob %d is not served", i)
			}
		}
		if note, err := c.Head("t"); err != nil || string(note) != "note" {
			t.Errorf("Head: %q, %v", note, err)
		}
		if err := c.PutHead("t", []byte("x")); err == nil {
			t.Error("a head was kept on a read-only disk")
		}
		if s := c.Stats(); s.Dropped != 1 || s.Bypassed == "" || log.count("level=WARN") != 1 {
			t.Errorf("%+v\n%s", s, &log)
		}
		if c.Room() > 0 || !errors.Is(c.Trouble(), unix.EROFS) {
			t.Errorf("room for %d bytes on a read-only disk, %v", c.Room(), c.Trouble())
		}
		shut(t, c)
		remount(0)
	}
	// And with nothing there at all.
	remount(unix.MS_RDONLY)
	var log logged
	c := open(t, Options{Path: dir + "/none", Log: log.logger()})
	put(c, 1, 10)
	if has(t, c, 1, 10) || c.Stats().Bypassed == "" || log.count("level=WARN") != 1 {
		t.Errorf("%+v\n%s", c.Stats(), &log)
	}
	if _, err := c.Head("t"); err == nil {
		t.Error("a head out of nothing")
	}
	if err := c.PutHead("t", []byte("n")); err == nil {
		t.Error("a head into nothing")
	}
	shut(t, c)
	remount(0)
}

// What fits into Room drops nothing, and where there is none something soon goes.
func TestRoom(t *testing.T) {
	t.Parallel()
	c := open(t, Options{Path: t.TempDir(), MaxSize: 24 << 20})
	const size = 200_000
	n := uint64(0)
	for ; c.Room() > 0; n++ {
		put(c, n, size)
		flush(t, c)
		if n > 200 {
			t.Fatalf("%d blobs, and still room for %d bytes", n, c.Room())
		}
	}
	if s := c.Stats(); s.EvictedSegments != 0 || n*size < 6<<20 {
		t.Errorf("no more room after %d blobs, of %d bytes each: %+v", n, size, s)
	}
	for range 60 {
		put(c, n, size)
		flush(t, c)
		n++
	}
	if s := c.Stats(); s.EvictedSegments == 0 {
		t.Errorf("there was room for twice as much: %+v", s)
	}
}
