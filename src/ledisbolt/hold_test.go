package ledisbolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// finishes fails the test if do takes longer than anything but a deadlock.
func finishes(t *testing.T, what string, do func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(time.Minute):
		t.Fatalf("%s: stuck", what)
	}
}

// fileSize is that of a bolt file.
func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	must(t, err)
	return st.Size()
}

// TestIteratorHoldsNothing keeps an iterator open, in the middle of a page, over
// many commits: bolt would not use a page again that a transaction may still look
// at, and the file would grow with each of them, for good.
func TestIteratorHoldsNothing(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), small())
	rewrite := func(round int) error {
		for i := range 100 {
			if err := (db{s}).Put(fmt.Appendf(nil, "key %03d", i), bytes.Repeat([]byte{byte(round)}, 900)); err != nil {
				return err
			}
		}
		return s.Sync()
	}
	must(t, rewrite(0))
	it := db{s}.NewIterator()
	defer it.Close()
	it.First()
	it.Next()
	const rounds = 300 // of 100 KB
	finishes(t, "write under an open iterator", func() error {
		for round := range rounds {
			if err := rewrite(round + 1); err != nil {
				return err
			}
		}
		return nil
	})
	if n := fileSize(t, s.mainPath()); n > 3*mainAlloc {
		t.Errorf("100 KB written %d times take %d bytes", rounds, n)
	}
	n := 1
	for ; it.Valid(); it.Next() {
		n++
	}
	if n != 100 {
		t.Errorf("went over %d keys, want 100", n)
	}
}

// TestFileGrowsUnderReaders has readers hold what they read while the files that
// it lies in grow to many times their size: bolt waits for all readers when it has
// to map a file anew, and readers that wait for a commit would do so for ever.
func TestFileGrowsUnderReaders(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), Options{SegmentSize: 32 << 20, Buffer: 1 << 20, SyncEvery: 100 * time.Millisecond})
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 10_000) }
	key := func(i int) []byte { return fmt.Appendf(blobPrefix("d"), "%d", i) }
	mainKey := func(i int) []byte { return fmt.Appendf(nil, "key %d", i) }
	put := func(i int) error {
		if err := (db{s}).Put(key(i), value(i)); err != nil {
			return err
		}
		return db{s}.Put(mainKey(i), value(i))
	}
	must(t, put(0))
	must(t, s.Sync())
	segment := s.domains["d"].segments()[0]
	before := [2]int64{fileSize(t, segment.path), fileSize(t, s.mainPath())}

	held, ok, err := s.Blob("d", "0")
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	defer held.Release()
	var snaps []*snapshot
	for _, f := range []*boltFile{&segment.boltFile, s.main} {
		snap, err := f.acquire()
		must(t, err)
		snaps = append(snaps, snap)
	}
	defer func() {
		for _, snap := range snaps {
			snap.release()
		}
	}()

	const blobs = 1000 // 20 MB
	written := make(chan int, blobs)
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for i := range written {
				v, ok, err := s.Blob("d", fmt.Sprint(i))
				if err != nil || !ok || !bytes.Equal(v.Data, value(i)) {
					t.Errorf("blob %d while the file grows: %v, %v", i, ok, err)
				}
				v.Release()
				if got, err := s.get(mainKey(i)); err != nil || !bytes.Equal(got, value(i)) {
					t.Errorf("key %d while the file grows: %v", i, err)
				}
			}
		})
	}
	finishes(t, "grow under readers", func() error {
		defer close(written)
		for i := 1; i < blobs; i++ {
			if err := put(i); err != nil {
				return err
			}
			written <- i
		}
		return s.Sync()
	})
	readers.Wait()
	for i, path := range []string{segment.path, s.mainPath()} {
		if now := fileSize(t, path); now < before[i]+12<<20 {
			t.Errorf("%s has grown from %d to %d bytes only", path, before[i], now)
		}
	}
	if !bytes.Equal(held.Data, value(0)) {
		t.Error("what a reader holds has changed")
	}
}

// unlinked is what files take on disk that are gone from a directory, but not closed.
func unlinked(t *testing.T, dir string) (n int64) {
	t.Helper()
	const own = "/proc/self/fd"
	all, err := os.ReadDir(own)
	must(t, err)
	seen := make(map[string]bool)
	for _, e := range all {
		link, err := os.Readlink(filepath.Join(own, e.Name()))
		if err != nil || !strings.HasPrefix(link, dir) || !strings.HasSuffix(link, " (deleted)") || seen[link] {
			continue // of another test, perhaps, and closed by now
		}
		seen[link] = true
		st, err := os.Stat(filepath.Join(own, e.Name()))
		must(t, err)
		n += onDisk(st)
	}
	return n
}

// TestMaxSizeUnderReaders has readers hold a blob of each segment, as slow clients
// do, while segments go to make room: their disk is not free again until then, so
// there is none for others.
func TestMaxSizeUnderReaders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	opt := small()
	opt.MaxSize = 6 << 20
	s := openStore(t, dir, opt)
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 16<<10) }
	var held []View
	gone, full := int64(0), 0
	for i := range 600 { // 19 MB
		must(t, db{s}.Put(fmt.Appendf(blobPrefix("d"), "%d", i), value(i)))
		if i%10 != 0 {
			continue
		}
		switch err := s.Sync(); {
		case errors.Is(err, ErrFull):
			full++
			_, err := s.Evict(context.Background(), "", 2<<20, time.Time{})
			must(t, err)
		case err != nil:
			t.Fatal(err)
		default:
			v, ok, err := s.Blob("d", strconv.Itoa(i))
			if err != nil || !ok || v.snap == nil {
				t.Fatalf("blob %d is not held: %v, %v", i, ok, err)
			}
			held = append(held, v)
		}
		gone = max(gone, unlinked(t, dir))
		if on := du(t, dir) + unlinked(t, dir); on > opt.MaxSize {
			t.Fatalf("%d bytes on disk after %d blobs, %d of them of files that are gone: want at most %d", on, i, unlinked(t, dir), opt.MaxSize)
		}
	}
	if gone == 0 || full == 0 {
		t.Fatalf("%d bytes were held, and it was full %d times: nothing was tried", gone, full)
	}
	for i := range held {
		held[i].Release()
	}
	if n := unlinked(t, dir); n > 0 {
		t.Errorf("%d bytes are held by nobody", n)
	}
	_, err := s.Evict(context.Background(), "", 2<<20, time.Time{})
	must(t, err)
	must(t, db{s}.SyncPut(fmt.Appendf(blobPrefix("d"), "new"), value(0)))
	if got, on := s.Stats().Bytes, du(t, dir); got > on+1<<20 {
		t.Errorf("it counts %d bytes, and has %d", got, on)
	}
}
