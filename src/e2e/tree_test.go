package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// node is one name in a tree to publish.
type node struct {
	mode   os.FileMode // with the kind
	data   []byte
	target string // of a symlink
	mtime  time.Time
}

func file(size int) node { return node{mode: 0o644, data: content(size)} }

// content is made of size alone. Half of it can be compressed.
func content(size int) []byte {
	r := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16), byte(size >> 24)})
	b := make([]byte, size)
	for at := 0; at < size; at += 2000 {
		r.Read(b[at:min(at+1000, size)])
	}
	return b
}

// noise is size bytes that can't be compressed.
func noise(size int, seed byte) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// write makes the tree in dir. Nodes without a time get one of their own.
func write(t *testing.T, dir string, tree map[string]node) {
	t.Helper()
	for name, n := range tree {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case n.mode&os.ModeSymlink != 0:
			err = os.Symlink(n.target, path)
		case n.mode.IsDir():
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, n.data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// Only now: a directory's time changes with what is put into it.
	for name, n := range tree {
		path := filepath.Join(dir, name)
		if n.mode&os.ModeSymlink == 0 {
			if err := os.Chmod(path, n.mode); err != nil {
				t.Fatal(err)
			}
		}
		if !n.mtime.IsZero() {
			ts := unix.NsecToTimespec(n.mtime.UnixNano())
			if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// smallTree is a tree of a few files, named a to j, of some 100 KiB each.
func smallTree(t *testing.T) (dir string, names []string) {
	t.Helper()
	dir = shortDir(t)
	tree := map[string]node{}
	for i := range 10 {
		name := string(rune('a' + i))
		tree[name] = file(100_000 + i)
		names = append(names, name)
	}
	write(t, dir, tree)
	return dir, names
}

// noisyTree is a tree of n files that can't be compressed, in five directories, and
// what is in them. size is that of each.
func noisyTree(t *testing.T, n int, size func(i int) int) (dir string, contents map[string][]byte) {
	t.Helper()
	dir, contents = shortDir(t), map[string][]byte{}
	tree := map[string]node{}
	for i := range n {
		name, data := fmt.Sprintf("d%d/f%d", i%5, i), noise(size(i), byte(i))
		tree[name], contents[name] = node{mode: 0o644, data: data}, data
	}
	write(t, dir, tree)
	return dir, contents
}

// The tree of the cases in local_test.go.
const (
	crowd     = 100_000 // entries of the large directory
	crowdName = "entry-%06d"
)

var sizes = []int{0, 1, 4095, 4096, 4097, 1<<20 - 1, 1 << 20, 1<<20 + 1, 5 << 20}

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	return t
}

var localTree = map[string]node{
	"modes/private":     {mode: 0o600, data: []byte("secret\n"), mtime: at("2001-02-03T04:05:06.789012345Z")},
	"modes/none":        {mode: 0, data: []byte("x"), mtime: at("1970-01-01T00:00:00.000000001Z")},
	"modes/readable":    {mode: 0o444, data: []byte("for all\n"), mtime: at("2038-01-19T03:14:08.999999999Z")},
	"modes/executable":  {mode: 0o711, data: []byte("#!/bin/sh\n"), mtime: at("2100-01-01T00:00:00Z")},
	"modes/dir":         {mode: os.ModeDir | 0o700, mtime: at("1999-12-31T23:59:59.5Z")},
	"modes/before 1970": {mode: 0o644, data: []byte("old"), mtime: at("1960-05-04T03:02:01Z")},
	"modes/sticky":      {mode: os.ModeDir | os.ModeSticky | 0o777, mtime: at("1980-01-01T00:00:00Z")},
	"modes/sticky/f":    {mode: 0o640, data: []byte("f")},

	"links/relative": {mode: os.ModeSymlink, target: "../modes/readable", mtime: at("2010-10-10T10:10:10.101010101Z")},
	"links/dir":      {mode: os.ModeSymlink, target: "../modes"},
	"links/absolute": {mode: os.ModeSymlink, target: "/etc/passwd"},
	"links/dangling": {mode: os.ModeSymlink, target: "no/such/file"},
	"links/loop":     {mode: os.ModeSymlink, target: "loop"},
	"links/long":     {mode: os.ModeSymlink, target: strings.Repeat("long/", 800)},

	"names/with space":                  {mode: 0o644, data: []byte("1")},
	"names/line\nbreak":                 {mode: 0o644, data: []byte("2")},
	"names/-dash":                       {mode: 0o644, data: []byte("3")},
	"names/\xff\xfe not UTF-8":          {mode: 0o644, data: []byte("4")},
	"names/日本語":                         {mode: 0o644, data: []byte("5")},
	"names/" + strings.Repeat("n", 255): {mode: 0o644, data: []byte("6")},
	"names/a\\b'c\"d$e%41":              {mode: 0o644, data: []byte("7")},

	"bin/script": {mode: 0o755, data: []byte("#!/bin/sh\necho \"script got $1\"\n")},

	"empty":                      {mode: os.ModeDir | 0o755},
	"a/b/c/d/e/f/g/h/i/j/k/deep": {mode: 0o644, data: []byte("deep\n")},
}

// makeLocalTree writes localTree, and what can't be written down as nodes.
func makeLocalTree(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	for _, n := range sizes {
		localTree[sizeName(n)] = file(n)
	}
	program := mustRead(t, ays)
	localTree["bin/program"] = node{mode: 0o755, data: program}
	write(t, dir, localTree)

	holes, err := os.Create(filepath.Join(dir, "sizes/sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer holes.Close()
	for _, off := range []int64{1 << 20, 5<<20 + 123} {
		if _, err := holes.WriteAt(content(3000), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := holes.Truncate(12 << 20); err != nil {
		t.Fatal(err)
	}

	if err := os.Mkdir(filepath.Join(dir, "crowd"), 0o755); err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(dir, "crowd", fmt.Sprintf(crowdName, 0))
	mustWrite(t, first, nil, 0o644)
	for i := 1; i < crowd; i++ {
		// As many names as links to a file can have are far cheaper than files.
		if i%50_000 == 0 {
			first = filepath.Join(dir, "crowd", fmt.Sprintf(crowdName, i))
			mustWrite(t, first, nil, 0o644)
			continue
		}
		if err := os.Link(first, filepath.Join(dir, "crowd", fmt.Sprintf(crowdName, i))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func sizeName(n int) string { return fmt.Sprintf("sizes/%d", n) }
