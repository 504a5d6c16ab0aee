package fs

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

func testTable(t testing.TB) *inodes {
	t.Helper()
	table, err := newInodes(object.Entry{Kind: object.Dir, Mode: 0o755})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(table.close)
	return table
}

func entry(name string) *object.Entry {
	return &object.Entry{Name: []byte(name), Size: int64(len(name)), Digest: digest.Of([]byte(name))}
}

func TestInodesAgainstAModel(t *testing.T) {
	table := testTable(t)
	model := make(map[string]uint64) // lookups by name
	ids := make(map[string]uint64)
	name := func() string { return fmt.Sprint("file", rand.IntN(100_000)) }
	for range 400_000 {
		n := name()
		switch id := ids[n]; {
		case id == 0 || rand.IntN(2) == 0:
			got, err := table.acquire(rootID, 0, entry(n))
			if err != nil {
				t.Fatal(err)
			}
			if id != 0 && got != id {
				t.Fatalf("%s was inode %d, is %d", n, id, got)
			}
			ids[n] = got
			model[n]++
		default:
			k := 1 + rand.Uint64N(model[n])
			table.forget(id, k)
			if model[n] -= k; model[n] == 0 {
				delete(model, n)
				delete(ids, n)
				if _, ok := table.get(id); ok {
					t.Fatalf("%s is still there", n)
				}
			}
		}
	}
	for n, id := range ids {
		r, ok := table.get(id)
		if !ok || r.digest != entry(n).Digest || uint64(r.lookups) != model[n] {
			t.Fatalf("%s: %+v, want %d lookups", n, r, model[n])
		}
	}
	if table.held() != len(ids)+1 {
		t.Errorf("%d held, want %d", table.held(), len(ids)+1)
	}
	for n, id := range ids {
		table.forget(id, model[n])
	}
	if table.held() != 1 || table.lookups() != 0 {
		t.Errorf("%d inodes and %d lookups are left", table.held(), table.lookups())
	}
	if got, max := tableBytes(t, table), 2*segmentBytes+4*minBuckets; got > max {
		t.Errorf("an empty table takes %d bytes, want at most %d", got, max)
	}
}

// tableBytes is the memory that a table takes.
func tableBytes(t *testing.T, table *inodes) int {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(table.fd, &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Blocks*512) + len(table.buckets)*4
}

func TestInodesTakeLittleMemory(t *testing.T) {
	table := testTable(t)
	const n = 300_000
	ids := make([]uint64, n)
	var err error
	for i := range ids {
		if ids[i], err = table.acquire(rootID, i, entry(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if per := float64(tableBytes(t, table)) / n; per > 100 {
		t.Errorf("%.1f bytes an inode", per)
	}
	// The kernel keeps a few from all over.
	rand.Shuffle(n, func(i, k int) { ids[i], ids[k] = ids[k], ids[i] })
	const kept = n / 1000
	for _, id := range ids[kept:] {
		table.forget(id, 1)
	}
	if got, max := tableBytes(t, table), kept*100+2*segmentBytes+4*minBuckets; got > max {
		t.Errorf("%d inodes take %d bytes, want at most %d", kept, got, max)
	}
	for _, id := range ids[:kept] {
		if r, ok := table.get(id); !ok || r.id != id || r.lookups != 1 {
			t.Fatalf("inode %d is %+v, %v", id, r, ok)
		}
	}
}

// Whoever maps the file of a table finds the inodes in it, and nothing else.
func TestInodesAreInTheFile(t *testing.T) {
	table := testTable(t)
	held := map[uint64]bool{rootID: true}
	for i := range 3 * segmentSlots {
		id, err := table.acquire(rootID, i, entry(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		held[id] = true
		if i%3 == 0 {
			for id := range held { // any
				if id != rootID {
					table.forget(id, 1)
					delete(held, id)
					break
				}
			}
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(table.fd, &st); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(table.fd, 0, int(st.Size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	found := 0
	for _, r := range unsafe.Slice((*record)(unsafe.Pointer(&mem[0])), len(mem)/recordSize) {
		if r.id == 0 {
			continue
		}
		found++
		if !held[r.id] {
			t.Errorf("inode %d is not held", r.id)
		}
	}
	if found != len(held) {
		t.Errorf("%d inodes, want %d", found, len(held))
	}
}

func TestFilesWithNewContentAreNewInodes(t *testing.T) {
	table := testTable(t)
	e := entry("f")
	a, _ := table.acquire(rootID, 0, e)
	e.Digest = digest.Of([]byte("other"))
	b, _ := table.acquire(rootID, 0, e)
	if a == b {
		t.Error("the old and the new content have one inode")
	}
	d := &object.Entry{Name: []byte("d"), Kind: object.Dir, Digest: digest.Of([]byte("1"))}
	a, _ = table.acquire(rootID, 0, d)
	d.Digest = digest.Of([]byte("2"))
	b, _ = table.acquire(rootID, 0, d)
	if r, _ := table.get(b); a != b || r.digest != d.Digest {
		t.Error("a directory with new content is not the same inode, with the new listing")
	}
}

// TestInodesWithOneHash gives different entries the same first choice of id.
func TestInodesWithOneHash(t *testing.T) {
	table := testTable(t)
	e := entry("f")
	id := idOf(rootID, hashName(e.Name), e)
	other := record{id: id, parent: 99, name: 1, lookups: 1}
	table.mu.Lock()
	table.insert(&other)
	table.mu.Unlock()
	got, err := table.acquire(rootID, 0, e)
	if err != nil || got == id {
		t.Fatalf("inode %d stands for two entries, %v", got, err)
	}
	if r, _ := table.get(got); r.digest != e.Digest {
		t.Error("the second entry has the first one's content")
	}
}

func BenchmarkAcquireForget(b *testing.B) {
	table := testTable(b)
	entries := make([]*object.Entry, 1000)
	for i := range entries {
		entries[i] = entry(fmt.Sprint("some-file-name-", i))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		id, _ := table.acquire(rootID, i, entries[i%1000])
		if i%2 == 1 {
			table.forget(id, 1)
		}
	}
}

// A directory that left and came back, and has another id while somebody holds
// the old one, is found after that one was forgotten.
func TestDisplacedDirectory(t *testing.T) {
	table, err := newInodes(object.Entry{Kind: object.Dir})
	if err != nil {
		t.Fatal(err)
	}
	defer table.close()
	e := object.Entry{Name: []byte("d"), Kind: object.Dir}
	name := hashName(e.Name)
	first, err := table.acquireGone(rootID, 0, &e)
	if err != nil {
		t.Fatal(err)
	}
	second, err := table.acquire(rootID, 0, &e)
	if err != nil || second == first {
		t.Fatalf("ids %d and %d, %v", first, second, err)
	}
	for _, old := range []string{"held", "forgotten"} {
		if got := table.directory(rootID, name); got != second {
			t.Errorf("with the old one %s: directory %d, want %d", old, got, second)
		}
		if got, err := table.acquire(rootID, 0, &e); err != nil || got != second {
			t.Errorf("with the old one %s: acquired %d, %v, want %d", old, got, err, second)
		}
		table.forget(first, 1)
	}
	table.forget(second, 3)
	if len(table.displaced) != 0 || table.held() != 1 {
		t.Errorf("left: %v, %d inodes", table.displaced, table.held())
	}
	if got, err := table.acquire(rootID, 0, &e); err != nil || got != first {
		t.Errorf("acquired anew: %d, %v, want %d", got, err, first)
	}
}

// lookups adds up the lookup counts of all but the root.
func (t *inodes) lookups() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var n uint64
	for slot := range uint32(t.count) {
		if r := t.at(slot); r.id != rootID {
			n += uint64(r.lookups)
		}
	}
	return n
}
