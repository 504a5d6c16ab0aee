package ledisbolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ledisdb/ledisdb/ledis"
	"golang.org/x/sys/unix"
)

// du is what a directory takes on disk.
func du(t testing.TB, dir string) (n int64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		fi, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		n += onDisk(fi)
		return err
	}))
	return n
}

// testClock is a time that a test moves on.
type testClock struct{ at atomic.Int64 }

func newClock() *testClock {
	c := &testClock{}
	c.at.Store(1_800_000_000)
	return c
}

func (c *testClock) now() time.Time { return time.Unix(c.at.Load(), 0) }
func (c *testClock) add(d time.Duration) {
	c.at.Add(int64(d / time.Second))
}

func hashLen(t *testing.T, d *ledis.DB, key string) int {
	t.Helper()
	n, err := d.HLen([]byte(key))
	must(t, err)
	keys, err := d.HKeys([]byte(key))
	must(t, err)
	if int(n) != len(keys) {
		t.Fatalf("HLEN %s is %d, HKEYS are %d", key, n, len(keys))
	}
	return len(keys)
}

// TestEvict fills a store, fetches some blobs, and makes room while readers and
// a writer are at work.
func TestEvict(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clock := newClock()
	opt := small()
	opt.Now = clock.now
	s, err := Open(dir, opt)
	must(t, err)
	l, err := Register().OpenLedis(s)
	must(t, err)
	defer l.Close()
	d, err := l.Select(0)
	must(t, err)

	const n = 600 // about 10 MB
	fill(t, s, "d", n)
	fill(t, s, "other", 20)
	clock.add(time.Hour)
	hot := map[int]bool{}
	for i := 0; i < n; i += 7 {
		hot[i] = true
		v, ok, err := s.Blob("d", strconv.Itoa(i))
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		v.Release()
	}
	if before := du(t, dir); before < 9<<20 {
		t.Fatalf("only %d bytes on disk", before)
	}
	clock.add(time.Hour)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	for r := range 3 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(2, uint64(r)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				i := rnd.IntN(n/7+1) * 7 // one that is wanted
				if i >= n {
					continue
				}
				v, err := d.HGet([]byte("files:d"), strconv.AppendInt(nil, int64(i), 10))
				if err != nil || !bytes.Equal(v, crashValue(i)) {
					t.Errorf("while it was evicted, %d was %d bytes, %v", i, len(v), err)
					return
				}
				if _, err := d.HSet([]byte("files:w"), strconv.AppendInt(nil, int64(i), 10), []byte("v")); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	const target = 3 << 20
	freed, err := s.Evict(context.Background(), "d", target, time.Time{})
	close(stop)
	wg.Wait()
	must(t, err)
	must(t, s.Sync())

	var usage Usage
	for _, u := range s.Usage() {
		if u.Domain == "d" {
			usage = u
		}
	}
	if on := du(t, filepath.Join(dir, "files-d")); on > target || on != usage.Bytes {
		t.Errorf("%d bytes on disk, %d by its own account, target is %d", on, usage.Bytes, target)
	}
	if freed < 6<<20 {
		t.Errorf("says that %d bytes were freed", freed)
	}
	for i := range hot {
		if v, _ := s.get(fmt.Appendf(blobPrefix("d"), "%d", i)); !bytes.Equal(v, crashValue(i)) {
			t.Errorf("%d had been fetched, and is gone", i)
		}
	}
	if left := hashLen(t, d, "files:d"); left != usage.Blobs || left < len(hot) || left == n {
		t.Errorf("%d blobs are left, usage says %d", left, usage.Blobs)
	}
	if hashLen(t, d, "files:other") != 20 {
		t.Error("another domain was evicted from")
	}
	countAll(t, s, "d")

	// Everything expires.
	clock.add(time.Hour)
	if _, err := s.Evict(context.Background(), "", 1<<40, clock.now()); err != nil {
		t.Fatal(err)
	}
	for _, u := range s.Usage() {
		if u.Blobs > 0 {
			t.Errorf("%d blobs of %s are left though they have expired", u.Blobs, u.Domain)
		}
	}
	if hashLen(t, d, "files:d") != 0 {
		t.Error("fields are left")
	}
}

// TestEvictAllHot has nothing that is colder than the rest.
func TestEvictAllHot(t *testing.T) {
	t.Parallel()
	clock := newClock()
	opt := small()
	opt.Now = clock.now
	dir := t.TempDir()
	s := openStore(t, dir, opt)
	fill(t, s, "d", 300)
	if _, err := s.Evict(context.Background(), "", 2<<20, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if u := s.Usage(); len(u) > 0 && u[0].Bytes > 2<<20 {
		t.Errorf("%d bytes are left", u[0].Bytes)
	}
	countAll(t, s, "d")
}

func TestMaxSize(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	opt := small()
	opt.MaxSize = 4 << 20
	s := openStore(t, dir, opt)
	var full error
	for i := range 500 {
		must(t, db{s}.Put(fmt.Appendf(blobPrefix("d"), "%d", i), crashValue(i)))
		if i%20 == 0 {
			if err := s.Sync(); err != nil {
				full = err
			}
			if on := du(t, dir); on > opt.MaxSize {
				t.Fatalf("%d bytes on disk", on)
			}
		}
	}
	if !errors.Is(full, ErrFull) || !errors.Is(full, ErrBlobsDropped) {
		t.Fatalf("full: %v", full)
	}
	_ = s.Sync()
	must(t, db{s}.Put([]byte("k"), []byte("v")))
	must(t, s.Sync())
	want(t, db{s}, "k", []byte("v"))
	countAll(t, s, "d")
	if _, err := s.Evict(context.Background(), "", 2<<20, time.Time{}); err != nil {
		t.Fatal(err)
	}
	must(t, db{s}.SyncPut(fmt.Appendf(blobPrefix("d"), "%d", 1000), crashValue(1000)))
	countAll(t, s, "d")
	if s.Stats().Dropped == 0 || s.Stats().Evicted == 0 {
		t.Errorf("%+v", s.Stats())
	}
}

func TestDropDomain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, small())
	fill(t, s, "a", 200)
	fill(t, s, "b", 20)
	must(t, db{s}.Put(fmt.Appendf(blobPrefix("a"), "%d", 7777), crashValue(7777)))
	v, ok, err := s.Blob("a", "5")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	freed, err := s.DropDomain("a")
	must(t, err)
	if freed < 2<<20 {
		t.Errorf("says that %d bytes were freed", freed)
	}
	if _, err := os.Stat(filepath.Join(dir, "files-a")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the directory is left")
	}
	if !bytes.Equal(v.Data, crashValue(5)) {
		t.Error("a view changed")
	}
	v.Release()
	countAll(t, s, "a", "b")
	if u := s.Usage(); len(u) != 1 || u[0].Domain != "b" {
		t.Errorf("usage %+v", u)
	}
	fill(t, s, "a", 10)
	countAll(t, s, "a", "b")
	if _, err := s.DropDomain("never was"); err != nil {
		t.Error(err)
	}
}

// TestHashCleared lets ledis delete a whole domain, field by field.
func TestHashCleared(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := Open(dir, small())
	must(t, err)
	l, err := Register().OpenLedis(s)
	must(t, err)
	defer l.Close()
	d, err := l.Select(0)
	must(t, err)
	fill(t, s, "d", 300)
	n, err := d.HClear([]byte("files:d"))
	must(t, err)
	must(t, s.Sync())
	if on := du(t, filepath.Join(dir, "files-d")); n != 300 || on > 1<<16 {
		t.Errorf("%d fields deleted, %d bytes left on disk", n, on)
	}
	if hashLen(t, d, "files:d") != 0 {
		t.Error("fields are left")
	}
}

// TestLastFetched is kept over a restart, clean or not.
func TestLastFetched(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clock := newClock()
	opt := small()
	opt.Now, opt.SaveEvery = clock.now, 20*time.Millisecond
	s, err := Open(dir, opt)
	must(t, err)
	fill(t, s, "d", 50)
	clock.add(time.Hour)
	_, err = s.get(append(blobPrefix("d"), "7"...))
	must(t, err)
	at := uint32(clock.now().Unix())
	stampOf := func() uint32 {
		d := s.domains["d"]
		s.mu.RLock()
		defer s.mu.RUnlock()
		fp := fingerprint("7")
		return d.index.stamp(fp, d.index.slots(nil, fp)[0])
	}
	if got := stampOf(); got != at {
		t.Fatalf("last fetched %d, want %d", got, at)
	}
	for d := s.domains["d"]; d.changed.Load(); time.Sleep(time.Millisecond) {
	}
	// A copy of the directory is what a crash leaves.
	crashed := t.TempDir()
	s.writing.Lock()
	must(t, os.CopyFS(crashed, os.DirFS(dir)))
	s.writing.Unlock()
	must(t, s.Close())
	for _, dir := range []string{dir, crashed} {
		clock.add(time.Hour)
		s, err = Open(dir, opt)
		must(t, err)
		if got := stampOf(); got != at {
			t.Errorf("after a restart last fetched %d, want %d", got, at)
		}
		must(t, s.Close())
	}
}

// TestNoRoomToMap holds a snapshot while much is changed in one file: bolt can't
// use its pages again then, and must not wait for the snapshot.
func TestNoRoomToMap(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), small())
	fill(t, s, "d", 100)
	snap, err := s.newSnapshot()
	must(t, err)
	done := make(chan error)
	go func() {
		for range 8 {
			for i := range 100 {
				if err := (db{s}).Put(fmt.Appendf(blobPrefix("d"), "%d", i), crashValue(i)); err != nil {
					done <- err
					return
				}
			}
		}
		done <- s.Sync()
	}()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("stuck")
	}
	snap.Close()
	countAll(t, s, "d")
}

// TestManyFiles has more segments than may be open.
func TestManyFiles(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), small())
	s.pool.mu.Lock()
	s.pool.maxOpen = 3
	s.pool.mu.Unlock()
	fill(t, s, "d", 400)
	if n := s.Usage()[0].Segments; n < 6 {
		t.Fatalf("%d segments", n)
	}
	var wg sync.WaitGroup
	wg.Go(func() { countAll(t, s, "d") })
	for i := range 400 {
		want(t, db{s}, fmt.Sprintf("%s%d", blobPrefix("d"), i), crashValue(i))
	}
	wg.Wait()
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if len(s.pool.open) > 3 {
		t.Errorf("%d files are open", len(s.pool.open))
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), small())
	for _, w := range []write{{"", nil}, {"k", make([]byte, 300<<10)}, {string(make([]byte, maxKey+1)), nil}} {
		if err := s.commit([]write{{"good", []byte("v")}, w}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%d, %d: %v", len(w.key), len(w.value), err)
		}
	}
	want(t, db{s}, "good", nil)
	big := bytes.Repeat([]byte("x"), 256<<10)
	must(t, db{s}.SyncPut(append(blobPrefix("d"), 'x'), big))
	want(t, db{s}, string(blobPrefix("d"))+"x", big)
}

// TestDiskFull has the disk refuse: that costs blobs, not reads.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	opt := small()
	full := atomic.Bool{}
	opt.MinFree = func(total int64) int64 {
		if full.Load() {
			return total
		}
		return 0
	}
	s := openStore(t, t.TempDir(), opt)
	fill(t, s, "d", 20)
	full.Store(true)
	must(t, db{s}.Put(fmt.Appendf(blobPrefix("d"), "%d", 100), crashValue(100)))
	if err := s.Sync(); !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	countAll(t, s, "d")
	if s.Usage()[0].Blobs != 20 {
		t.Errorf("%+v", s.Usage())
	}
	full.Store(false)
	fill(t, s, "d", 30)
	countAll(t, s, "d")
}

// TestIndexOnAFullDisk saves last-fetched times where there is no room for them: those
// that were saved before stay.
func TestIndexOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	s := openStore(t, dir+"/store", small())
	fill(t, s, "d", 50)
	save := func() error {
		s.writing.Lock()
		defer s.writing.Unlock()
		return s.saveAll()
	}
	must(t, save())
	if err := os.WriteFile(dir+"/hog", make([]byte, 24<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	d := s.domains["d"]
	d.changed.Store(true)
	if err := save(); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("saved on a full disk: %v", err)
	}
	saved, err := d.readIndex()
	if err != nil || len(saved.entries) != 50 {
		t.Errorf("%d entries, %v", len(saved.entries), err)
	}
	must(t, os.Remove(dir+"/hog"))
	if _, err := os.Stat(d.indexPath() + ".tmp"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was not saved is left behind: %v", err)
	}
	must(t, os.Remove(d.indexPath()))
	must(t, save()) // again, though nothing has changed since
	if saved, err := d.readIndex(); err != nil || len(saved.entries) != 50 {
		t.Errorf("afterwards %d entries, %v", len(saved.entries), err)
	}
}
