package profile_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/profile"
	"github.com/aysfs/aysfs/src/publish"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/store"
	"github.com/aysfs/aysfs/src/tree"
)

var name = object.TreeName{ID: "test|tree(1)"}

// published is a store, with a tree whose files change.
type published struct {
	t     *testing.T
	root  string
	store *store.Dir
	codec *object.Codec
	dir   string
	got   []tier.Ref // what the tree needed
}

func newPublished(t *testing.T) *published {
	codec, err := object.NewCodec(1)
	if err != nil {
		t.Fatal(err)
	}
	p := &published{t: t, root: t.TempDir(), dir: t.TempDir(), codec: codec}
	p.store = store.OpenDir("s", p.dir)
	return p
}

func (p *published) write(path string, content []byte) {
	p.t.Helper()
	full := filepath.Join(p.root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(full, content, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p *published) Copy(ctx context.Context, ref tier.Ref) ([]byte, error) {
	p.got = append(p.got, ref)
	stored, err := p.store.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	return p.codec.Unpack(ref.Digest, stored, ref.Max())
}

// tree publishes the files as they are.
func (p *published) tree() *tree.Tree {
	p.t.Helper()
	if _, err := publish.Run(p.t.Context(), publish.Options{Store: p.dir, Tree: name, Root: p.root}); err != nil {
		p.t.Fatal(err)
	}
	note, err := p.store.Head(p.t.Context(), name, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	head, err := object.OpenHead(note, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return tree.New(head, p, tree.NewCache(16<<20))
}

// entry finds a file by its path.
func entry(t *testing.T, tr *tree.Tree, path string) object.Entry {
	t.Helper()
	e, at := tr.Root(), ""
	for name := range strings.SplitSeq(path, "/") {
		l, err := tr.Listing(t.Context(), at, e.Digest)
		if err != nil {
			t.Fatal(err)
		}
		i, ok := l.Find([]byte(name))
		if !ok {
			t.Fatalf("no %s", path)
		}
		e, at = l.At(i), object.Join(at, name)
	}
	return e
}

// content is the refs of the chunks of a file from number i to k, or of its blob.
func content(t *testing.T, tr *tree.Tree, path string, i, k int) []tier.Ref {
	t.Helper()
	e := entry(t, tr, path)
	if !e.Chunked {
		return []tier.Ref{tr.BlobRef(e.Digest, e.Size)}
	}
	list, err := tr.Chunks(t.Context(), e.Digest, e.Size)
	if err != nil {
		t.Fatal(err)
	}
	var refs []tier.Ref
	for _, c := range list.Chunks[i:min(k, len(list.Chunks))] {
		refs = append(refs, tr.BlobRef(c.Digest, c.Size))
	}
	return refs
}

// recordChunks takes down that chunks i to k of a file are needed.
func recordChunks(t *testing.T, tr *tree.Tree, r *profile.Recording, path string, i, k int) {
	t.Helper()
	e := entry(t, tr, path)
	list, err := tr.Chunks(t.Context(), e.Digest, e.Size)
	if err != nil {
		t.Fatal(err)
	}
	off := int64(0)
	for j, c := range list.Chunks {
		if j >= i && j < k {
			r.Chunk(path, off, c.Size)
		}
		off += c.Size
	}
}

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// chunkLists finds the chunk lists in a tree.
func chunkLists(t *testing.T, tr *tree.Tree, path string, dir object.Entry, found map[digest.Digest]bool) {
	t.Helper()
	l, err := tr.Listing(t.Context(), path, dir.Digest)
	if err != nil {
		t.Fatal(err)
	}
	for i := range l.Len() {
		e := l.At(i)
		if e.Kind == object.Dir {
			chunkLists(t, tr, object.Join(path, string(e.Name)), e, found)
		}
		if e.Chunked {
			found[e.Digest] = true
		}
	}
}

// resolved is what a profile leads to, without the metadata, which is counted.
func resolved(t *testing.T, p *profile.Profile, tr *tree.Tree) (content []tier.Ref, metadata int) {
	t.Helper()
	all := slices.Collect(profile.Resolve(t.Context(), p, tr, profile.MaxFetch))
	lists := make(map[digest.Digest]bool)
	chunkLists(t, tr, "", tr.Root(), lists)
	for _, ref := range all {
		if ref.Digest == tr.Head().Catalog || lists[ref.Digest] {
			metadata++
		} else {
			content = append(content, ref)
		}
	}
	return content, metadata
}

func TestResolveFindsWhatWasRecorded(t *testing.T) {
	p := newPublished(t)
	big, small := random(1, 6<<20), random(2, 3000)
	p.write("lib/big", big)
	p.write("lib/small", small)
	p.write("lib/unused", random(3, 3000))
	p.write("empty", nil)
	tr := p.tree()
	r := profile.NewRecording()
	r.Listing("")
	r.Listing("lib")
	recordChunks(t, tr, r, "lib/big", 2, 5)
	r.File("lib/small", 3000)
	r.File("empty", 0)
	r.File("gone", 10)
	r.Listing("no/such/dir")
	last := len(content(t, tr, "lib/big", 0, 1000))
	recordChunks(t, tr, r, "lib/big", last-1, last)
	want := slices.Concat(content(t, tr, "lib/big", 2, 5), content(t, tr, "lib/small", 0, 0), content(t, tr, "lib/big", last-1, last))
	got, metadata := resolved(t, r.Profile(), tr)
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if metadata != 2 { // one catalog, one chunk list
		t.Errorf("%d objects of metadata", metadata)
	}

	// Another version: 100 bytes in front of the large file, another small one.
	p.write("lib/big", append(random(4, 100), big...))
	p.write("lib/small", random(5, 4000))
	if err := os.Remove(filepath.Join(p.root, "lib/unused")); err != nil {
		t.Fatal(err)
	}
	before := got
	tr = p.tree()
	got, _ = resolved(t, r.Profile(), tr)
	if !slices.Contains(got, content(t, tr, "lib/small", 0, 0)[0]) || slices.Contains(got, before[3]) {
		t.Errorf("the small file's new content is not there: %v", got)
	}
	for _, ref := range slices.Concat(content(t, tr, "lib/big", 2, 5), content(t, tr, "lib/big", last-1, last)) {
		if !slices.Contains(got, ref) {
			t.Errorf("a chunk of the changed large file is missing: %v", ref)
		}
	}
	if len(got) > 6 {
		t.Errorf("%d blobs are more than what was needed", len(got))
	}
}

// Every chunk of any file must be found again by what is recorded of it alone.
func TestEveryChunkIsFoundAgain(t *testing.T) {
	p := newPublished(t)
	rng := rand.New(rand.NewPCG(7, 7))
	for i := range 6 {
		p.write(fmt.Sprint("f", i), random(uint64(100+i), 1<<20+1+rng.IntN(2<<20)))
	}
	tr := p.tree()
	for i := range 6 {
		path := fmt.Sprint("f", i)
		chunks := content(t, tr, path, 0, 1000)
		for k := range chunks {
			r := profile.NewRecording()
			recordChunks(t, tr, r, path, k, k+1)
			if got, _ := resolved(t, r.Profile(), tr); !slices.Equal(got, chunks[k:k+1]) {
				t.Fatalf("%s, chunk %d of %d: got %v, want %v", path, k, len(chunks), got, chunks[k])
			}
		}
	}
}

func TestResolveFilesThatChangedTheirKind(t *testing.T) {
	p := newPublished(t)
	p.write("grows", random(1, 1000))
	p.write("shrinks", random(2, 4<<20))
	p.write("becomes a directory", random(3, 10))
	tr := p.tree()
	r := profile.NewRecording()
	r.File("grows", 1000)
	recordChunks(t, tr, r, "shrinks", 0, 1000)
	r.File("becomes a directory", 10)
	p.write("grows", random(1, 5<<20))
	p.write("shrinks", random(2, 100))
	if err := os.Remove(filepath.Join(p.root, "becomes a directory")); err != nil {
		t.Fatal(err)
	}
	p.write("becomes a directory/file", []byte("x"))
	tr = p.tree()
	got, _ := resolved(t, r.Profile(), tr)
	grown := content(t, tr, "grows", 0, 1000)
	n := len(got) - 1
	if n < 1 || n == len(grown) || !slices.Equal(got[:n], grown[:n]) {
		t.Errorf("of a file that grew its beginning is needed: %d of %d chunks", n, len(grown))
	}
	if !slices.Equal(got[n:], content(t, tr, "shrinks", 0, 0)) {
		t.Errorf("a file that became small is needed once: %v", got[n:])
	}
}

func TestResolveEnds(t *testing.T) {
	p := newPublished(t)
	for i := range 10 {
		p.write(fmt.Sprint("d/f", i), random(uint64(i), 1000))
	}
	tr := p.tree()
	r := profile.NewRecording()
	for i := range 10 {
		r.File(fmt.Sprint("d/f", i), 1000)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for range profile.Resolve(ctx, r.Profile(), tr, profile.MaxFetch) {
		if n++; n == 3 {
			cancel()
		}
	}
	if n != 3 {
		t.Errorf("%d more after the end", n-3)
	}
	for range profile.Resolve(t.Context(), r.Profile(), tr, profile.MaxFetch) {
		break
	}
	if all := slices.Collect(profile.Resolve(t.Context(), r.Profile(), tr, 3500)); len(all) != 1+3 {
		t.Errorf("%d objects, want a catalog and three of 1,000 bytes", len(all))
	}
}
