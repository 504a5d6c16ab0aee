package fs

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/object"
)

// adopted is a table of the same memory, as a successor would have it.
func adopted(t *testing.T, table *inodes) *inodes {
	t.Helper()
	fd, err := duplicate(table.fd)
	if err != nil {
		t.Fatal(err)
	}
	next, err := adoptInodes(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(next.close)
	return next
}

func blocksOf(t *testing.T, fd int) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

// TestAdoptedTable takes over what a process leaves that was killed at some moment.
func TestAdoptedTable(t *testing.T) {
	table, err := newInodes(object.Entry{Kind: object.Dir, Mode: 0o755})
	if err != nil {
		t.Fatal(err)
	}
	defer table.close()
	r := rand.New(rand.NewPCG(3, 4))
	entry := func(i int) *object.Entry {
		return &object.Entry{Name: fmt.Append(nil, "n", i), Kind: object.Kind(i % 2), Mode: 0o644, Size: int64(i), Mtime: int64(i)}
	}
	counts := make(map[uint64]uint64)
	var ids []uint64
	for i := range 3*segmentSlots + 100 {
		id, err := table.acquire(rootID, i, entry(i))
		if err != nil {
			t.Fatal(err)
		}
		counts[id]++
		ids = append(ids, id)
	}
	for i, id := range ids {
		// One segment becomes empty, others get holes.
		if i > segmentSlots && i < 2*segmentSlots || r.IntN(3) == 0 {
			table.forget(id, 1)
			delete(counts, id)
		} else if r.IntN(3) == 0 {
			table.acquire(rootID, i, entry(i))
			counts[id]++
		}
	}
	// A record that is being written when the process dies has no id yet; one that
	// moves to a free slot is there twice, or is yet to come there.
	torn := table.at(uint32(table.count))
	torn.parent, torn.lookups, torn.digest[0] = 99, 7, 9
	twin, hole := table.at(5), table.at(9)
	delete(counts, twin.id)
	delete(counts, hole.id)
	twin.put(table.at(uint32(table.count - 1)))
	hole.put(&record{parent: 77})

	before := blocksOf(t, table.fd)
	next := adopted(t, table)
	if now := blocksOf(t, next.fd); now != before {
		t.Errorf("the table takes %d blocks, and %d once it is adopted", before, now)
	}
	check := func() {
		t.Helper()
		if next.held() != len(counts)+1 {
			t.Errorf("%d inodes, want %d", next.held(), len(counts)+1)
		}
		for id, n := range counts {
			if got, ok := next.get(id); !ok || uint64(got.lookups) != n {
				t.Fatalf("inode %d has %d lookups, want %d", id, got.lookups, n)
			}
		}
	}
	check()
	for i := range 5 * segmentSlots {
		e := entry(i + len(ids))
		id, err := next.acquire(rootID, i, e)
		if err != nil {
			t.Fatal(err)
		}
		counts[id]++
	}
	check()
	for id, n := range counts {
		next.forget(id, n)
	}
	if next.held() != 1 || next.lookups() != 0 {
		t.Errorf("%d inodes with %d lookups are left", next.held(), next.lookups())
	}
}

// TestAdoptedCollision keeps a directory found that does not have the id that its
// place gives it.
func TestAdoptedCollision(t *testing.T) {
	table, err := newInodes(object.Entry{Kind: object.Dir})
	if err != nil {
		t.Fatal(err)
	}
	defer table.close()
	d := object.Entry{Name: []byte("dir"), Kind: object.Dir}
	own := idOf(rootID, hashName(d.Name), &d)
	table.insert(&record{id: own, parent: 77, name: 7, lookups: 1})
	id, err := table.acquire(rootID, 0, &d)
	if err != nil || id == own {
		t.Fatal(id, err)
	}
	table.forget(own, 1)
	next := adopted(t, table)
	if got := next.directory(rootID, hashName(d.Name)); got != id {
		t.Errorf("found as %d, want %d", got, id)
	}
}

func TestAdoptRefuses(t *testing.T) {
	for name, size := range map[string]int64{"empty": 0, "of an odd size": 1000, "without a root": int64(segmentBytes)} {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Ftruncate(fd, size); err != nil {
			t.Fatal(err)
		}
		if _, err := adoptInodes(fd); err == nil {
			t.Errorf("a table is adopted that is %s", name)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			t.Errorf("%s: not closed", name)
		}
	}
}

func BenchmarkAdopt(b *testing.B) {
	table, err := newInodes(object.Entry{Kind: object.Dir})
	if err != nil {
		b.Fatal(err)
	}
	defer table.close()
	for i := range 1_000_000 {
		e := object.Entry{Name: fmt.Append(nil, "n", i), Mode: 0o644, Size: int64(i)}
		if _, err := table.acquire(rootID, i, &e); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		fd, err := duplicate(table.fd)
		if err != nil {
			b.Fatal(err)
		}
		next, err := adoptInodes(fd)
		if err != nil {
			b.Fatal(err)
		}
		next.close()
	}
}
