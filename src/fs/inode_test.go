package fs

import (
	"fmt"
	"math/rand/v2"
	"testing"

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
	var st unix.Stat_t
	if err := unix.Fstat(table.fd, &st); err != nil {
		t.Fatal(err)
	}
	// The first segment holds the root and stays.
	if max := int64(2 * segmentBytes); st.Blocks*512 > max {
		t.Errorf("an empty table takes %d bytes, want at most %d", st.Blocks*512, max)
	}
}

func TestInodesTakeLittleMemory(t *testing.T) {
	table := testTable(t)
	const n = 300_000
	for i := range n {
		if _, err := table.acquire(rootID, i, entry(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(table.fd, &st); err != nil {
		t.Fatal(err)
	}
	if per := float64(st.Blocks*512+int64(len(table.buckets)*4)) / n; per > 100 {
		t.Errorf("%.1f bytes an inode", per)
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
