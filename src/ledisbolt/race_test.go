package ledisbolt

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// eventually polls until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in a minute: %s", what)
		}
	}
}

// sealed is a store with one blob, in a segment that takes no more: overwriting
// the blob moves it.
func sealed(t *testing.T) (s *Store, key []byte, d *domain, old *segment) {
	s = openStore(t, t.TempDir(), Options{SyncEvery: time.Hour})
	key = append(blobPrefix("d"), "moving"...)
	must(t, db{s}.SyncPut(key, []byte("old")))
	must(t, db{s}.SyncPut(append(blobPrefix("d"), "staying"...), []byte("old")))
	s.writing.Lock()
	defer s.writing.Unlock()
	d = s.domains["d"]
	old = d.active
	d.seal()
	return s, key, d, old
}

// TestIteratorSeesWhatMoves overwrites a blob between the moments at which an
// iterator lists the segments and reads them: it is in one that was not listed.
func TestIteratorSeesWhatMoves(t *testing.T) {
	s, key, _, _ := sealed(t)
	s.main.mu.Lock() // which is read first
	seen := make(chan []string)
	go func() {
		it := db{s}.NewIterator()
		it.First()
		seen <- walkAll(it, it.Next)
	}()
	eventually(t, "the iterator waits for main.bolt", func() bool {
		buf := make([]byte, 1<<20)
		return strings.Contains(string(buf[:runtime.Stack(buf, true)]), "(*files).read")
	})
	must(t, db{s}.SyncPut(key, []byte("new")))
	s.main.mu.Unlock()
	if keys := <-seen; !strings.Contains(strings.Join(keys, "\n"), string(key)) {
		t.Errorf("went over %q, not %q", keys, key)
	}
}

// TestLookSeesWhatMoves looks for a blob in the segment that a flush, which has
// yet to end, has just moved it from.
func TestLookSeesWhatMoves(t *testing.T) {
	s, key, d, old := sealed(t)
	s.mu.RLock()
	epoch := s.epoch
	s.mu.RUnlock()
	_, field, _ := splitBlob(key)

	must(t, db{s}.Put(key, []byte("new")))
	must(t, db{s}.Put([]byte("other"), nil))
	s.main.mu.Lock() // which is written last
	synced := make(chan error)
	go func() { synced <- s.Sync() }()
	eventually(t, "the blob has been moved", func() bool {
		f := s.lookIn(d, []*segment{old}, field, fingerprint(field))
		if f != nil {
			f.release()
		}
		return f == nil
	})
	s.mu.RLock()
	moved := s.moved(key, epoch)
	s.mu.RUnlock()
	s.main.mu.Unlock()
	must(t, <-synced)
	if !moved {
		t.Error("what is being moved would be taken for gone")
	}
	want(t, db{s}, string(key), []byte("new"))
}

// TestOverwrittenIsNeverGone has readers look for blobs that are always there,
// while they are overwritten, in segments that roll and are evicted.
func TestOverwrittenIsNeverGone(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), small())
	const keys = 60
	key := func(i int) []byte { return fmt.Appendf(blobPrefix("d"), "%03d", i) }
	value := bytes.Repeat([]byte("v"), 9000)
	write := func() {
		for i := range keys {
			must(t, db{s}.Put(key(i), value))
		}
	}
	write()
	var stop atomic.Bool
	var pages, looks atomic.Int64
	var wg sync.WaitGroup
	for r := range 8 {
		wg.Go(func() {
			for i := r; !stop.Load() && !t.Failed(); i++ {
				if ok, err := s.Has("d", string(key(i % keys)[len(blobPrefix("d")):])); err != nil || !ok {
					t.Errorf("%q: %v, %v", key(i%keys), ok, err)
				}
				looks.Add(1)
				if r%2 == 0 {
					continue
				}
				it := db{s}.NewIterator()
				at, step := 0, it.Next
				if it.Seek(blobPrefix("d")); i%2 == 0 {
					at, step = keys-1, it.Prev
					it.Seek(sizeKey("d")) // which is next to them
					it.Prev()
				}
				for n := range keys {
					if !it.Valid() || !bytes.Equal(it.Key(), key(at)) {
						t.Errorf("%d: %q, want %q", n, it.Key(), key(at))
						return
					}
					if at++; i%2 == 0 {
						at -= 2
					}
					step()
				}
				pages.Add(1)
			}
		})
	}
	for range 40 {
		write()
		must(t, s.Sync())
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d lookups, %d times over all", looks.Load(), pages.Load())
}
