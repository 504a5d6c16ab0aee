package publish_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

func craftedTree(t testing.TB) string {
	return makeTree(t, map[string]string{
		"bin/mongod":         "#!/bin/sh\necho mongod\n",
		"bin/mongo":          "-> mongod",
		"share/doc/README":   strings.Repeat("All about it. ", 500),
		"share/doc/empty":    "",
		"share/doc/copy":     strings.Repeat("All about it. ", 500),
		"var/":               "",
		"share-x/z":          "sorts behind share/doc",
		"lib/libbig.so":      noise(7, 3<<19),
		"lib/noise":          noise(8, 50_000),
		"lib/exactly-a-blob": strings.Repeat("b", object.MaxBlob),
	})
}

// What is published must have the same names for ever, or whole stores would be
// published again.
func TestLayoutGolden(t *testing.T) {
	store := t.TempDir()
	run(t, store, craftedTree(t))
	codec, err := object.NewCodec(1)
	must(t, err)
	var got bytes.Buffer
	files := storeFiles(t, store)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		stored, err := os.ReadFile(filepath.Join(store, path))
		must(t, err)
		switch base := filepath.Base(path); {
		case base == "head", base == object.TreesFile:
			fmt.Fprintf(&got, "%s\n", path)
			for line := range strings.Lines(string(stored)) {
				fmt.Fprintf(&got, "    %s", line)
			}
		case len(base) == 64:
			// What compression makes of it may change with the compressor.
			plain, err := codec.Unpack(parseDigest(t, base), stored, 16<<20)
			must(t, err)
			fmt.Fprintf(&got, "%s %d\n", path, len(plain))
		default:
			fmt.Fprintf(&got, "%s\n", path)
		}
	}
	golden := "testdata/layout.golden"
	if *update {
		must(t, os.WriteFile(golden, got.Bytes(), 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("got\n%s\nwant\n%s", got.Bytes(), want)
	}
}

func TestReadBack(t *testing.T) {
	store, root := t.TempDir(), craftedTree(t)
	res := run(t, store, root)
	p := readBack(t, store)
	for path, content := range p.content {
		want, err := os.ReadFile(filepath.Join(root, path))
		must(t, err)
		if content != string(want) {
			t.Errorf("%q: published content differs", path)
		}
	}
	if want := (object.Counts{Files: 8, Dirs: 7, Symlinks: 1, Bytes: p.head.Counts.Bytes}); res.Counts != want || p.head.Counts != want {
		t.Errorf("counts %+v in the result, %+v in the head, want %+v", res.Counts, p.head.Counts, want)
	}
	if e := p.entries["bin/mongo"]; e.Kind != object.Symlink || string(e.Target) != "mongod" || e.Mode != 0o777 {
		t.Errorf("bin/mongo is %+v", e)
	}
	if e := p.entries["lib/libbig.so"]; !e.Chunked || e.Size != 3<<19 || e.Mtime != day.UnixNano() {
		t.Errorf("lib/libbig.so is %+v", e)
	}
	if e := p.entries["lib/exactly-a-blob"]; e.Chunked {
		t.Errorf("a file of MaxBlob bytes is chunked: %+v", e)
	}
	if p.head.RootMtime != day.UnixNano() || p.head.RootMode != 0o755 {
		t.Errorf("root has mode %o and mtime %d", p.head.RootMode, p.head.RootMtime)
	}
	mustBeClean(t, store)
}

func TestUnchanged(t *testing.T) {
	store, root := t.TempDir(), craftedTree(t)
	signer, _ := keyPair(t, "release")
	sign := func(o *publish.Options) { o.Signers = []note.Signer{signer} }
	if res := run(t, store, root, sign); res.Unchanged || res.Serial != 1 {
		t.Fatalf("first publish: %+v", res)
	}
	before := storeFiles(t, store)
	res := run(t, store, root, sign, func(o *publish.Options) { o.Now = nil })
	if !res.Unchanged || res.Serial != 1 || res.NewBlobs != 0 || !res.Time.Equal(day.Truncate(1e9)) {
		t.Errorf("second publish: %+v", res)
	}
	if after := storeFiles(t, store); !maps.Equal(before, after) {
		t.Errorf("the second publish touched files:\n%v\n%v", before, after)
	}
}

func TestWhatMakesANewSerial(t *testing.T) {
	signer, _ := keyPair(t, "release")
	other, _ := keyPair(t, "other")
	root := makeTree(t, map[string]string{"bin/mongod": "0"})
	for name, change := range map[string]func(*testing.T, *publish.Options){
		"root mode":  func(t *testing.T, o *publish.Options) { must(t, os.Chmod(o.Root, 0o750)) },
		"root mtime": func(t *testing.T, o *publish.Options) { must(t, os.Chtimes(o.Root, day, day.Add(1))) },
		"file mode":  func(t *testing.T, o *publish.Options) { must(t, os.Chmod(o.Root+"/bin/mongod", 0o755)) },
		"domain":     func(_ *testing.T, o *publish.Options) { o.Domain = "other" },
		"no key":     func(_ *testing.T, o *publish.Options) { o.Signers = nil },
		"other key":  func(_ *testing.T, o *publish.Options) { o.Signers = []note.Signer{other} },
	} {
		t.Run(name, func(t *testing.T) {
			setTimes(t, root)
			store := t.TempDir()
			sign := func(o *publish.Options) { o.Signers = []note.Signer{signer} }
			run(t, store, root, sign)
			res := run(t, store, root, sign, func(o *publish.Options) { change(t, o) })
			if res.Unchanged || res.Serial != 2 {
				t.Errorf("got %+v, want serial 2", res)
			}
			mustBeClean(t, store)
		})
	}
}

// moody signs as some tokens do: it works, but never gives the same signature
// twice.
type moody struct {
	note.Signer
	texts []string // that it was asked to sign
}

func (m *moody) Sign(text []byte) ([]byte, error) {
	m.texts = append(m.texts, string(text))
	return fmt.Appendf(nil, "signature %d", len(m.texts)), nil
}

// Verify accepts all that it signed.
func (m *moody) Verify(text, sig []byte) bool {
	return strings.HasPrefix(string(sig), "signature ") && slices.Contains(m.texts, string(text))
}

// Who signs sees each head once, and no two of one serial.
func TestSignedOnce(t *testing.T) {
	store, root := t.TempDir(), makeTree(t, map[string]string{"a": "1"})
	signer, verifier := keyPair(t, "release")
	other, _ := keyPair(t, "token")
	token := &moody{Signer: other}
	sign := func(o *publish.Options) {
		o.Signers = []note.Signer{signer, token}
		o.Public = object.Keys{{Verifier: token}, {Verifier: verifier}}
	}
	publishes := func(serial int64, unchanged bool, signed int) {
		t.Helper()
		if res := run(t, store, root, sign); res.Serial != serial || res.Unchanged != unchanged || len(token.texts) != signed {
			t.Errorf("serial %d, unchanged %v, %d texts signed; want %d, %v, %d", res.Serial, res.Unchanged, len(token.texts), serial, unchanged, signed)
		}
	}
	publishes(1, false, 1)
	publishes(1, true, 1)
	must(t, os.WriteFile(root+"/a", []byte("2"), 0o644))
	publishes(2, false, 2)
	publishes(2, true, 2)
	if !strings.Contains(token.texts[1], "serial 2\n") {
		t.Errorf("the second head signed is\n%s", token.texts[1])
	}
	// One key less is a head to be signed, too.
	sign = func(o *publish.Options) {
		o.Signers, o.Public = []note.Signer{token}, object.Keys{{Verifier: token}}
	}
	publishes(3, false, 3)
	publishes(3, true, 3)
}

func TestOneChangedFile(t *testing.T) {
	store, root := t.TempDir(), craftedTree(t)
	run(t, store, root)
	before := storeFiles(t, store)
	oldHead, err := os.ReadFile(filepath.Join(store, "md", testID, "any/head"))
	must(t, err)
	must(t, os.WriteFile(root+"/bin/mongod", []byte("another one"), 0o644))
	res := run(t, store, root)
	after := storeFiles(t, store)
	// The file's blob, the one catalog and the index; the older head.
	if res.Serial != 2 || res.NewBlobs != 3 || len(after) != len(before)+4 {
		t.Errorf("%d files became %d, %+v", len(before), len(after), res)
	}
	kept, err := os.ReadFile(filepath.Join(store, "md", testID, "any/head.1"))
	must(t, err)
	if !bytes.Equal(kept, oldHead) {
		t.Errorf("head.1 is not what the head was: %s", kept)
	}
	mustBeClean(t, store)
}

func TestChunksAreUsedAgain(t *testing.T) {
	content := noise(3, 12<<20)
	root := makeTree(t, map[string]string{"image": content})
	store := t.TempDir()
	first := run(t, store, root)
	middle := len(content) / 2
	must(t, os.WriteFile(root+"/image", []byte(content[:middle]+"inserted"+content[middle:]), 0o644))
	second := run(t, store, root)
	// One or two chunks, the chunk list, the catalog and the index.
	if second.NewBlobs > 6 || second.NewBytes > first.NewBytes/4 {
		t.Errorf("first %d objects and %d bytes, then %d and %d", first.NewBlobs, first.NewBytes, second.NewBlobs, second.NewBytes)
	}
	if p := readBack(t, store); len(p.content["image"]) != len(content)+8 {
		t.Errorf("published %d bytes", len(p.content["image"]))
	}
	mustBeClean(t, store)
}

// Holes, wherever they are, are the zeros that a read would give.
func TestSparse(t *testing.T) {
	root := makeTree(t, nil)
	f, err := os.Create(root + "/sparse")
	must(t, err)
	defer f.Close()
	for i, off := range []int64{3 << 20, 7<<20 + 5, 20 << 20} {
		_, err := f.WriteAt([]byte(noise(uint64(i), 1<<20+77)), off)
		must(t, err)
	}
	must(t, f.Truncate(33<<20+1))
	store := t.TempDir()
	run(t, store, root)
	if p := readBack(t, store); p.content["sparse"] != readFile(t, root+"/sparse") {
		t.Error("the content differs")
	}
	mustBeClean(t, store)
}

func TestMissingBlobIsPublishedAgain(t *testing.T) {
	store, root := t.TempDir(), craftedTree(t)
	run(t, store, root)
	for _, blob := range blobPaths(t, store) {
		must(t, os.Remove(filepath.Join(store, blob)))
	}
	if res := run(t, store, root); !res.Unchanged || res.NewBlobs == 0 {
		t.Errorf("got %+v", res)
	}
	mustBeClean(t, store)
}

// A serial is not used twice, even if somebody put an old head in place.
func TestSerialAfterRollback(t *testing.T) {
	store, root := t.TempDir(), makeTree(t, map[string]string{"a": "0"})
	head := filepath.Join(store, "md", testID, "any/head")
	for i := range 3 {
		must(t, os.WriteFile(root+"/a", []byte{byte('1' + i)}, 0o644))
		run(t, store, root)
	}
	must(t, os.Rename(head+".1", head))
	must(t, os.WriteFile(root+"/a", []byte("x"), 0o644))
	if res := run(t, store, root); res.Serial != 3 {
		// head.2 is the highest that is left: the rename took serial 3 away.
		t.Errorf("serial %d", res.Serial)
	}
	must(t, os.Remove(head))
	if res := run(t, store, root); res.Serial != 3 || res.Unchanged {
		t.Errorf("got %+v", res)
	}
}

func TestForeignHeadIsLeftAlone(t *testing.T) {
	store, root := t.TempDir(), makeTree(t, map[string]string{"a": "0"})
	run(t, store, root)
	head := filepath.Join(store, "md", testID, "any/head")
	for _, content := range []string{"garbage", strings.Replace(readFile(t, head), "10.1.888", "10.1.999", 1)} {
		must(t, os.WriteFile(head, []byte(content), 0o644))
		if _, err := tryRun(store, root); err == nil || !strings.Contains(err.Error(), head) {
			t.Errorf("error %v", err)
		}
		if got := readFile(t, head); got != content {
			t.Errorf("head became %q", got)
		}
	}
}

func TestConcurrentPublishesOfOneTree(t *testing.T) {
	store := t.TempDir()
	const n = 6
	serials := make([]int64, n)
	var wg sync.WaitGroup
	for i := range n {
		// The same file, so that they also meet at its blob.
		root := makeTree(t, map[string]string{"same": noise(1, 9<<17), "own": fmt.Sprint(i)})
		wg.Go(func() {
			res, err := tryRun(store, root)
			if err != nil {
				t.Error(err)
			}
			serials[i] = res.Serial
		})
	}
	wg.Wait()
	slices.Sort(serials)
	if !slices.Equal(serials, []int64{1, 2, 3, 4, 5, 6}) {
		t.Errorf("serials %v", serials)
	}
	mustBeClean(t, store)
	mustHaveNoTemp(t, store)
}

func TestConcurrentPublishesOfManyTrees(t *testing.T) {
	store := t.TempDir()
	names := []object.TreeName{
		{ID: "a|x(1)"}, {ID: "a|x(1)", Platform: "linux-arm"}, {ID: "a|x(2)"},
		{ID: "a|x!main", RepoID: "repo1"}, {ID: "a|x!main", RepoID: "repo2"}, {ID: "b|x(1)"},
	}
	root := makeTree(t, map[string]string{"same": noise(1, 9<<17)})
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() {
			if _, err := tryRun(store, root, func(o *publish.Options) { o.Tree = name }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want := "md/a|x(1)/any\nmd/a|x(1)/linux-arm\nmd/a|x(2)/any\nmd/b|x(1)/any\nmd/repo1/a|x!main/any\nmd/repo2/a|x!main/any\n"
	if got := readFile(t, store+"/md/trees"); got != want {
		t.Errorf("md/trees is\n%s", got)
	}
	mustBeClean(t, store)
	// Whatever becomes of the list, the next publish makes it right.
	must(t, os.WriteFile(store+"/md/trees", []byte("md/gone|x(1)/any\n"), 0o644))
	if res := run(t, store, root, func(o *publish.Options) { o.Tree = names[0] }); !res.Unchanged {
		t.Errorf("got %+v", res)
	}
	if got := readFile(t, store+"/md/trees"); got != want {
		t.Errorf("md/trees is\n%s", got)
	}
}

func TestSigning(t *testing.T) {
	store, root := t.TempDir(), makeTree(t, map[string]string{"a": "0"})
	signer, verifier := keyPair(t, "release")
	run(t, store, root, func(o *publish.Options) { o.Signers = []note.Signer{signer} })
	raw := readFile(t, filepath.Join(store, "md", testID, "any/head"))
	if _, err := note.Open([]byte(raw), note.VerifierList(verifier)); err != nil {
		t.Error(err)
	}
	var nw *publish.NotWholeError
	if _, err := tryRun(store, root, func(o *publish.Options) { o.Whole = true }); !errors.As(err, &nw) || nw.Warnings != 1 {
		t.Errorf("without a signature: %v", err)
	}
	if now := readFile(t, filepath.Join(store, "md", testID, "any/head")); now != raw {
		t.Errorf("the head has become\n%s", now)
	}
	var warnings logged
	if res := run(t, store, root, warnings.to); res.Warnings != 1 {
		t.Errorf("without a signature: %+v", res)
	}
	if !warnings.has("head is signed, the new one will not be") {
		t.Errorf("no word about the lost signature in %q", warnings.all())
	}
}

func TestRefusals(t *testing.T) {
	root := makeTree(t, map[string]string{"a/b": "0"})
	inside := root + "/a/store"
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(root, link))
	for name, c := range map[string]struct {
		set  func(*publish.Options)
		want string
	}{
		"http store":            {func(o *publish.Options) { o.Store = "https://h/s" }, "writes to a directory store"},
		"no store":              {func(o *publish.Options) { o.Store = "" }, "no store"},
		"file URL with host":    {func(o *publish.Options) { o.Store = "file://host/s" }, "file:///"},
		"bad id":                {func(o *publish.Options) { o.Tree.ID = "mongodb" }, "ays.id"},
		"bad domain":            {func(o *publish.Options) { o.Domain = "md" }, "dedupe domain"},
		"repo named trees":      {func(o *publish.Options) { o.Tree.RepoID = "trees" }, "repo id"},
		"root is a file":        {func(o *publish.Options) { o.Root += "/a/b" }, "not a directory"},
		"root is not there":     {func(o *publish.Options) { o.Root += "/x" }, "no such file"},
		"store inside":          {func(o *publish.Options) { o.Store = inside }, "inside the directory"},
		"store is root":         {func(o *publish.Options) { o.Store = o.Root }, "inside the directory"},
		"store inside, by link": {func(o *publish.Options) { o.Store = link + "/a/store" }, "inside the directory"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryRun(t.TempDir(), root, c.set)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if _, err := os.Stat(inside); err == nil {
				t.Error("a store was made inside the tree")
			}
		})
	}
	store := t.TempDir() + "/new/store"
	run(t, "file://"+store, root)
	mustBeClean(t, store)
}

// Who is told of an error is told, too, where the tree is published all the same.
func TestListOfTreesCantBeWritten(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/md/"+object.TreesFile, 0o755))
	_, err := tryRun(dir, makeTree(t, nil))
	if err == nil || !strings.Contains(err.Error(), "the head is in place") {
		t.Errorf("the list is a directory: %v", err)
	}
	mustBeClean(t, dir)
}
