package publish_test

import (
	"context"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
)

const testID = "jumpscale|mongodb(10.1.888)"

// day is when everything in a crafted tree was modified, and when it is
// published.
var day = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

// makeTree makes a directory of files. A name that ends in '/' is a directory,
// content that starts with "-> " a symlink.
func makeTree(t testing.TB, files map[string]string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "tree")
	must(t, os.Mkdir(root, 0o755))
	for name, content := range files {
		path := root + "/" + name
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		target, isLink := strings.CutPrefix(content, "-> ")
		switch {
		case strings.HasSuffix(name, "/"):
			must(t, os.MkdirAll(path, 0o755))
		case isLink:
			must(t, os.Symlink(target, path))
		default:
			must(t, os.WriteFile(path, []byte(content), 0o644))
		}
	}
	setTimes(t, root)
	return root
}

// setTimes gives all that is in root, and root, the time day and ordinary modes.
func setTimes(t testing.TB, root string) {
	t.Helper()
	ts, err := unix.TimeToTimespec(day)
	must(t, err)
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			must(t, os.Chmod(path, 0o755))
		case d.Type().IsRegular():
			must(t, os.Chmod(path, 0o644))
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// run publishes root to store, as mine changes the options.
func run(t testing.TB, storeDir, root string, mine ...func(*publish.Options)) publish.Result {
	t.Helper()
	res, err := tryRun(storeDir, root, mine...)
	must(t, err)
	return res
}

func tryRun(storeDir, root string, mine ...func(*publish.Options)) (publish.Result, error) {
	o := publish.Options{
		Store: storeDir, Root: root, Tree: object.TreeName{ID: testID},
		Now: func() time.Time { return day },
	}
	for _, f := range mine {
		f(&o)
	}
	return publish.Run(context.Background(), o)
}

// verify returns what is wrong with a store's trees.
func verify(t testing.TB, storeDir string, verifier note.Verifier) []string {
	t.Helper()
	st := store.OpenDir("test", storeDir)
	trees, err := st.Trees(t.Context())
	must(t, err)
	var found []string
	var keys object.Keys
	if verifier != nil {
		keys = object.Keys{{Verifier: verifier}}
	}
	res, err := publish.Verify(t.Context(), publish.VerifyOptions{
		Source: st, Heads: st, Trees: trees, Keys: keys,
		Report: func(p publish.Problem) { found = append(found, p.String()) },
	})
	must(t, err)
	if int(res.Problems) != len(found) {
		t.Errorf("Verify says %d problems and reported %d", res.Problems, len(found))
	}
	return found
}

func mustBeClean(t testing.TB, storeDir string) {
	t.Helper()
	if found := verify(t, storeDir, nil); len(found) > 0 {
		t.Fatalf("verify found:\n%s", strings.Join(found, "\n"))
	}
}

// published is a tree as its store has it.
type published struct {
	head    *object.Head
	entries map[string]object.Entry // by path; the root is not among them
	content map[string]string       // of files
}

// readBack reads a whole tree, by other code than that under test.
func readBack(t testing.TB, storeDir string) *published {
	t.Helper()
	st := store.OpenDir("test", storeDir)
	codec, err := object.NewCodec(1)
	must(t, err)
	get := func(domain string, d digest.Digest, limit int64) []byte {
		t.Helper()
		stored, err := st.Get(t.Context(), tier.Ref{Domain: domain, Digest: d, Limit: limit})
		must(t, err)
		plain, err := codec.Unpack(d, stored, limit)
		must(t, err)
		return plain
	}
	raw, err := st.Head(t.Context(), object.TreeName{ID: testID}, nil)
	must(t, err)
	h, err := object.OpenHead(raw, nil)
	must(t, err)
	index, err := object.ParseIndex(get(h.Domain, h.Index, h.IndexSize))
	must(t, err)
	listings := map[digest.Digest][]byte{}
	for _, c := range index.Catalogs() {
		must(t, object.ParseCatalog(get(h.Domain, c, h.MaxSize), func(_, listing []byte) error {
			listings[digest.Of(listing)] = listing
			return nil
		}))
	}
	p := &published{head: h, entries: map[string]object.Entry{}, content: map[string]string{}}
	var walk func(dir string, d digest.Digest)
	walk = func(dir string, d digest.Digest) {
		l, err := object.ParseListing(listings[d])
		must(t, err)
		for i := range l.Len() {
			e := l.At(i)
			path := object.Join(dir, string(e.Name))
			p.entries[path] = e
			switch {
			case e.Kind == object.Dir:
				walk(path, e.Digest)
			case e.Kind == object.File && e.Chunked:
				list, err := object.ParseChunkList(get(h.Domain, e.Digest, object.MaxChunkList(e.Size)), e.Size)
				must(t, err)
				var b strings.Builder
				for _, c := range list.Chunks {
					b.Write(get(h.Domain, c.Digest, object.MaxBlob))
				}
				if digest.Of([]byte(b.String())) != list.SHA256 {
					t.Errorf("%q: the chunk list has a wrong digest for the file", path)
				}
				p.content[path] = b.String()
			case e.Kind == object.File:
				p.content[path] = string(get(h.Domain, e.Digest, object.MaxBlob))
			}
		}
	}
	walk("", h.Root)
	return p
}

// fileState is what a write to a file would change.
type fileState struct {
	inode uint64
	size  int64
	mtime time.Time
}

// storeFiles are all files of a store, by path.
func storeFiles(t testing.TB, dir string) map[string]fileState {
	t.Helper()
	files := map[string]fileState{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		rel, err := filepath.Rel(dir, path)
		files[rel] = fileState{st.Ino, st.Size, time.Unix(st.Mtim.Unix())}
		return err
	}))
	return files
}

// blobPaths are the files in a store's default domain that are named by a
// digest.
func blobPaths(t testing.TB, dir string) []string {
	t.Helper()
	var blobs []string
	for path := range storeFiles(t, dir) {
		if _, err := digest.Parse(filepath.Base(path)); err == nil && filepath.Dir(path) == object.DefaultDomain {
			blobs = append(blobs, path)
		}
	}
	return blobs
}

// noise is n bytes that don't compress.
func noise(seed uint64, n int) string {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return string(b)
}

func keyPair(t testing.TB, name string) (note.Signer, note.Verifier) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.NewChaCha8([32]byte{1}), name)
	must(t, err)
	s, err := note.NewSigner(skey)
	must(t, err)
	v, err := note.NewVerifier(vkey)
	must(t, err)
	return s, v
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
