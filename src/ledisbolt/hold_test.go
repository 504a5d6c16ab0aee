package ledisbolt

import (
	"bytes"
	"fmt"
	"os"
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
