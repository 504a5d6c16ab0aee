package object_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// ComparePaths is the order in which a walk that sorts names meets directories.
func TestComparePaths(t *testing.T) {
	files := fstest.MapFS{}
	for _, p := range []string{"a/b/c", "a/b-c", "a-b/c", "a.b", "a/b", "a/b/c/d", "ab", "b", "\x01/x", "a\x01", "a/\x01", "ü/x", "Z"} {
		files[p] = &fstest.MapFile{Mode: fs.ModeDir}
	}
	var want []string
	must(t, fs.WalkDir(files, ".", func(path string, _ fs.DirEntry, err error) error {
		if path == "." {
			path = ""
		}
		want = append(want, path)
		return err
	}))
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, object.ComparePaths)
	equal(t, got, want)
}

func TestPaths(t *testing.T) {
	for _, c := range []struct{ dir, name, path string }{{"", "a", "a"}, {"a", "b", "a/b"}, {"a/b", "c", "a/b/c"}} {
		if got := object.Join(c.dir, c.name); got != c.path {
			t.Errorf("Join(%q, %q) = %q", c.dir, c.name, got)
		}
		if got := object.Parent(c.path); got != c.dir {
			t.Errorf("Parent(%q) = %q", c.path, got)
		}
	}
	if object.Parent("") != "" {
		t.Error("the root is not in itself")
	}
}

func someDirs() []object.DirListing {
	return []object.DirListing{
		{Path: "", Listing: []byte("root's")}, {Path: "a", Listing: []byte{}},
		{Path: "a/\xff\n", Listing: []byte("of a below a")}, {Path: "a-", Listing: []byte{0x90}},
	}
}

func TestCatalog(t *testing.T) {
	raw := object.EncodeCatalog(someDirs())
	golden(t, "catalog", raw)
	var got []object.DirListing
	must(t, object.ParseCatalog(raw, func(path, listing []byte) error {
		got = append(got, object.DirListing{Path: string(path), Listing: listing})
		return nil
	}))
	equal(t, got, someDirs())
	stop := errors.New("enough")
	if err := object.ParseCatalog(raw, func([]byte, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error %v", err)
	}
}

func TestParseCatalogRefuses(t *testing.T) {
	raw := object.EncodeCatalog(someDirs())
	swapped := someDirs()
	swapped[2], swapped[3] = swapped[3], swapped[2]
	for what, b := range map[string][]byte{
		"length of path": append([]byte{0x91, 0x92, 0xc6, 0xff, 0xff, 0xff, 0xff}, make([]byte, 64)...),
		"nothing":        nil,
		"bytes behind":   append(bytes.Clone(raw), 0),
		"false count":    {0xdd, 0xff, 0xff, 0xff, 0xff},
		"order":          object.EncodeCatalog(swapped),
		"twice":          object.EncodeCatalog([]object.DirListing{{Path: "a"}, {Path: "a"}}),
		"triple":         {0x91, 0x93, 0xc4, 0, 0xc4, 0, 0xc4, 0},
	} {
		if err := object.ParseCatalog(b, func([]byte, []byte) error { return nil }); !errors.Is(err, object.ErrFormat) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	for n := range raw {
		if err := object.ParseCatalog(raw[:n], func([]byte, []byte) error { return nil }); err == nil {
			t.Errorf("took the first %d bytes of %d", n, len(raw))
		}
	}
}

// cut returns the first directory of each catalog.
func cut(paths []string, size func(string) int) []string {
	var firsts []string
	have := 0
	for _, p := range paths {
		if len(firsts) == 0 || object.CutCatalog(p, have, size(p)) {
			firsts, have = append(firsts, p), 0
		}
		have += size(p)
	}
	return firsts
}

func TestCutCatalog(t *testing.T) {
	var paths []string
	for i := range 20_000 {
		paths = append(paths, fmt.Sprintf("d%03d/e%03d", i/200, i%200))
	}
	size := func(p string) int { return 500 + 4*int(p[len(p)-1]) }
	before := cut(paths, size)
	if len(before) < 10 || len(before) > 40 {
		t.Errorf("%d catalogs for 14 MB", len(before))
	}
	have, firsts := 0, map[string]bool{}
	for _, f := range before {
		firsts[f] = true
	}
	for _, p := range paths {
		if firsts[p] {
			have = 0
		}
		if have += size(p); have > 1<<20 {
			t.Fatalf("a catalog of %d bytes at %s", have, p)
		}
	}
	// A directory that grows moves the cuts that follow only a little way.
	after := cut(paths, func(p string) int {
		if p == "d050/e050" {
			return 200_000
		}
		return size(p)
	})
	differ := 0
	for _, f := range after {
		if !firsts[f] {
			differ++
		}
	}
	if differ > len(before)/3 {
		t.Errorf("%d of %d cuts moved", differ, len(after))
	}
	if object.CutCatalog("x", 0, 5<<20) {
		t.Error("cut off an empty catalog")
	}
}

func someIndex() *object.Index {
	x := &object.Index{}
	x.Add("", sum("first"))
	x.Add("a/b", sum("second"))
	x.Add("a-", sum("third"))
	return x
}

func TestIndex(t *testing.T) {
	raw := someIndex().Encode()
	golden(t, "index", raw)
	x, err := object.ParseIndex(raw)
	must(t, err)
	equal(t, x, someIndex())
	equal(t, x.Catalogs(), []digest.Digest{sum("first"), sum("second"), sum("third")})
	for path, want := range map[string]string{
		"": "first", "a": "first", "a/a": "first", "a/a/z": "first", "a/b": "second", "a/b/c": "second", "a/z": "second",
		"a-": "third", "b": "third", "a.": "third", "a!": "second", "A": "first",
	} {
		if got := x.Catalog(path); got != sum(want) {
			t.Errorf("%q is not in the %s catalog", path, want)
		}
	}
}

func TestParseIndexRefuses(t *testing.T) {
	raw := someIndex().Encode()
	index := func(firsts ...string) []byte {
		x := &object.Index{}
		for _, f := range firsts {
			x.Add(f, sum(f))
		}
		return x.Encode()
	}
	for what, b := range map[string][]byte{
		"length of path": append([]byte{0x91, 0x92, 0xc6, 0xff, 0xff, 0xff, 0xff}, make([]byte, 64)...),
		"nothing":        nil,
		"no rows":        {0x90},
		"bytes behind":   append(bytes.Clone(raw), 0),
		"false count":    {0xdd, 0xff, 0xff, 0xff, 0xff},
		"no root":        index("a"),
		"order":          index("", "b", "a"),
		"twice":          index("", "a", "a"),
		"digest":         append([]byte{0x91, 0x92, 0xc4, 0, 0xc4, 31}, make([]byte, 31)...),
	} {
		if _, err := object.ParseIndex(b); !errors.Is(err, object.ErrFormat) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	for n := range raw {
		if _, err := object.ParseIndex(raw[:n]); err == nil {
			t.Errorf("took the first %d bytes of %d", n, len(raw))
		}
	}
}

func FuzzParseCatalog(f *testing.F) {
	f.Add(object.EncodeCatalog(someDirs()))
	f.Add([]byte{0x90})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var dirs []object.DirListing
		err := object.ParseCatalog(raw, func(path, listing []byte) error {
			dirs = append(dirs, object.DirListing{Path: string(path), Listing: listing})
			return nil
		})
		if err != nil {
			if !errors.Is(err, object.ErrFormat) {
				t.Fatalf("error %v is not ErrFormat", err)
			}
			return
		}
		i := 0
		must(t, object.ParseCatalog(object.EncodeCatalog(dirs), func(path, listing []byte) error {
			if string(path) != dirs[i].Path || !bytes.Equal(listing, dirs[i].Listing) {
				t.Fatalf("directory %d changed", i)
			}
			i++
			return nil
		}))
		if i != len(dirs) {
			t.Fatalf("%d directories became %d", len(dirs), i)
		}
	})
}

func FuzzParseIndex(f *testing.F) {
	f.Add(someIndex().Encode(), "a/b")
	f.Fuzz(func(t *testing.T, raw []byte, path string) {
		x, err := object.ParseIndex(raw)
		if err != nil {
			if !errors.Is(err, object.ErrFormat) {
				t.Fatalf("error %v is not ErrFormat", err)
			}
			return
		}
		if !slices.Contains(x.Catalogs(), x.Catalog(path)) {
			t.Fatalf("%q is in no catalog", path)
		}
		back, err := object.ParseIndex(x.Encode())
		must(t, err)
		equal(t, back, x)
	})
}

func FuzzComparePaths(f *testing.F) {
	f.Add("a", "a/b", "a-")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		// The same as comparing names one by one.
		want := slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
		if got := object.ComparePaths(a, b); sign(got) != want && a != "" && b != "" {
			t.Fatalf("ComparePaths(%q, %q) = %d, want %d", a, b, got, want)
		}
		if object.ComparePaths(a, b) <= 0 && object.ComparePaths(b, c) <= 0 && object.ComparePaths(a, c) > 0 {
			t.Fatalf("%q, %q and %q go round", a, b, c)
		}
	})
}

func sign(n int) int { return max(-1, min(1, n)) }
