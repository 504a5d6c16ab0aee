package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tree"
)

// readInOrder reads files one after the other.
func readInOrder(t *testing.T, mnt string, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := os.ReadFile(filepath.Join(mnt, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// A walk is no more than so many files ahead of its reader, however small they are, and
// follows it to the end.
func TestWalksAreBoundedInFiles(t *testing.T) {
	const files = 3 * maxExpected
	d, names := dir{}, make([]string, files)
	for i := range names {
		names[i] = fmt.Sprintf("%06d", i)
		d[names[i]] = "tiny " + names[i]
	}
	m := newMemory()
	f, mnt := m.mount(t, d, nil)
	m.lose(nil)
	ahead := func() (n int) {
		m.change(func() { n = len(m.ahead) })
		return n
	}
	readInOrder(t, mnt, names[:10]...)
	eventually(t, "the walk waits", func() bool {
		before := ahead()
		time.Sleep(100 * time.Millisecond)
		return before > 0 && ahead() == before
	})
	if n := ahead(); n > maxExpected+10 {
		t.Errorf("it is %d files ahead", n)
	}
	began := time.Now()
	readInOrder(t, mnt, names[10:]...)
	t.Logf("%d files took %v", files, time.Since(began))
	m.change(func() {
		if waited := len(m.got); waited > 100 {
			t.Errorf("%d files were waited for", waited)
		}
	})
	eventually(t, "the walk ends", func() bool { return !f.walks.any.Load() })
}

// endless is a tree with some files and then more directories than anybody can look
// into, with nothing in them: each level has the one below twice.
func endless(t *testing.T, m *memory, files []string) *tree.View {
	t.Helper()
	const depth = 60
	encode := func(entries []object.Entry) []byte {
		raw, err := object.EncodeListing(entries)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	below := encode(nil)
	dirs := []object.DirListing{{Path: "z" + strings.Repeat("/a", depth), Listing: below}}
	for i := depth - 1; i >= 0; i-- {
		e := object.Entry{Kind: object.Dir, Mode: 0o755, Digest: digest.Of(below), Size: int64(len(below))}
		a, b := e, e
		a.Name, b.Name = []byte("a"), []byte("b")
		below = encode([]object.Entry{a, b})
		dirs = append(dirs, object.DirListing{Path: "z" + strings.Repeat("/a", i), Listing: below})
	}
	entries := []object.Entry{{Name: []byte("z"), Kind: object.Dir, Mode: 0o755, Digest: digest.Of(below), Size: int64(len(below))}}
	for _, name := range files {
		entries = append(entries, object.Entry{Name: []byte(name), Mode: 0o644, Digest: m.put([]byte(name)), Size: int64(len(name))})
	}
	root := encode(entries)
	dirs = append(dirs, object.DirListing{Listing: root})
	sortDirs(dirs)
	raw := object.EncodeCatalog(dirs)
	var x object.Index
	x.Add("", m.put(raw))
	m.serial++
	v, err := tree.NewView(t.Context(), tree.New(&object.Head{
		Tree: object.TreeName{ID: "test|endless(1)"}, Serial: m.serial, Time: time.Now(), Domain: m.domain,
		Root: digest.Of(root), RootSize: int64(len(root)), RootMode: 0o755,
		Index: m.put(x.Encode()), IndexSize: int64(len(x.Encode())),
		Catalog: digest.Of(raw), Catalogs: 1, MaxSize: int64(len(raw)),
	}, m, m.cache), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A walk does not look for files for ever.
func TestWalksEndWhereThereIsNothing(t *testing.T) {
	m := newMemory()
	f, mnt := m.mount(t, nil, nil)
	names := make([]string, 200) // who reads the last of them is not there before a walk begins
	for i := range names {
		names[i] = fmt.Sprintf("f%03d", i)
	}
	if err := f.Show(t.Context(), endless(t, m, names), m); err != nil {
		t.Fatal(err)
	}
	m.lose(nil, names...)
	readInOrder(t, mnt, names...)
	eventually(t, "there is a walk", func() (is bool) {
		m.change(func() { is = len(m.ahead) > 0 })
		return is
	})
	for end := time.Now().Add(5 * time.Second); f.walks.any.Load(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it goes on and on")
		}
	}
}
