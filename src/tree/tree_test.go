package tree

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// blobs is a source that counts.
type blobs struct {
	mu   sync.Mutex
	by   map[digest.Digest][]byte
	gets map[digest.Digest]int
}

func (b *blobs) put(raw []byte) digest.Digest {
	d := digest.Of(raw)
	b.by[d] = raw
	return d
}

func (b *blobs) Copy(_ context.Context, ref tier.Ref) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gets[ref.Digest]++
	raw, ok := b.by[ref.Digest]
	if !ok {
		return nil, fmt.Errorf("get %v: %w", ref, tier.ErrAbsent)
	}
	return raw, nil
}

// published is a tree of dirs directories with one file each, in catalogs of
// per directories.
func published(t testing.TB, dirs, per int) (*blobs, *object.Head) {
	t.Helper()
	b := &blobs{by: make(map[digest.Digest][]byte), gets: make(map[digest.Digest]int)}
	must := func(raw []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	all := []object.DirListing{{}}
	var root []object.Entry
	for i := range dirs {
		name := fmt.Sprintf("d%04d", i)
		l := must(object.EncodeListing([]object.Entry{{Name: []byte("file"), Size: int64(i), Digest: b.put([]byte(name))}}))
		root = append(root, object.Entry{Name: []byte(name), Kind: object.Dir, Mode: 0o755, Size: int64(len(l)), Digest: digest.Of(l)})
		all = append(all, object.DirListing{Path: name, Listing: l})
	}
	all[0].Listing = must(object.EncodeListing(root))
	h := &object.Head{
		Tree: object.TreeName{ID: "test|tree(1)", Platform: "p"}, Serial: 5, Time: time.Now().UTC().Truncate(time.Second), Domain: "default",
		Root: digest.Of(all[0].Listing), RootSize: int64(len(all[0].Listing)), RootMode: 0o755,
	}
	var x object.Index
	for len(all) > 0 {
		n := min(per, len(all))
		raw := object.EncodeCatalog(all[:n])
		x.Add(all[0].Path, b.put(raw))
		h.Catalogs++
		h.MaxSize = max(h.MaxSize, int64(len(raw)))
		all = all[n:]
	}
	raw := x.Encode()
	h.Index, h.IndexSize, h.Catalog = b.put(raw), int64(len(raw)), x.Catalogs()[0]
	return b, h
}

func list(t *testing.T, v *View, path string) (*object.Listing, error) {
	t.Helper()
	dir, at := v.Root(), ""
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		l, err := v.Listing(t.Context(), at, dir.Digest)
		if err != nil {
			return nil, err
		}
		i, ok := l.Find([]byte(name))
		if !ok {
			return nil, fmt.Errorf("no %q in %q", name, at)
		}
		dir, at = l.At(i), object.Join(at, name)
	}
	return v.Listing(t.Context(), at, dir.Digest)
}

func TestFirstListingTakesOneBlob(t *testing.T) {
	b, h := published(t, 100, 10)
	v, err := NewView(t.Context(), New(h, b, NewCache(1<<20)), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := list(t, v, ""); err != nil {
		t.Fatal(err)
	}
	if len(b.gets) != 1 || b.gets[h.Catalog] != 1 {
		t.Errorf("the root's listing took %d blobs", len(b.gets))
	}
	for i := range 100 {
		l, err := list(t, v, fmt.Sprintf("d%04d", i))
		if err != nil || l.Len() != 1 || l.At(0).Size != int64(i) {
			t.Fatal(i, err)
		}
	}
	if want := 1 + int(h.Catalogs); len(b.gets) != want {
		t.Errorf("the whole tree took %d blobs, want %d", len(b.gets), want)
	}
	for d, n := range b.gets {
		if n != 1 {
			t.Errorf("%s was got %d times", d.Short(), n)
		}
	}
}

func TestCacheKeepsToItsBound(t *testing.T) {
	b, h := published(t, 1000, 10)
	c := NewCache(20_000)
	v, err := NewView(t.Context(), New(h, b, c), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		if _, err := list(t, v, fmt.Sprintf("d%04d", i%1000)); err != nil {
			t.Fatal(err)
		}
		if c.Size() > 200_000 { // one catalog, of the root with 1,000 names, is more than the bound
			t.Fatalf("%d bytes after %d listings", c.Size(), i)
		}
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	var size int64
	n := 0
	for _, u := range c.units {
		size += u.size
		n += len(u.listings)
	}
	if c.large != nil {
		n += len(c.large.listings)
	}
	if size != c.size || size > c.limit || n != len(c.listings) || c.coming != 0 || len(c.units) > len(c.objects) {
		t.Errorf("%d bytes and %d listings are counted, %d and %d are there", c.size, len(c.listings), size, n)
	}
}

func TestWrongMetadataIsRefused(t *testing.T) {
	b, h := published(t, 20, 5)
	other, _ := published(t, 3, 5)
	for name, spoil := range map[string]func(h *object.Head){
		"another tree's catalog": func(h *object.Head) {
			for d, raw := range other.by {
				b.by[d] = raw
			}
			_, o := published(t, 3, 5)
			h.Catalog = o.Catalog
		},
		"a catalog that is none": func(h *object.Head) { h.Catalog = b.put([]byte("not a catalog")) },
		"an absent catalog":      func(h *object.Head) { h.Catalog = digest.Of([]byte("absent")) },
	} {
		bad := *h
		spoil(&bad)
		v, err := NewView(t.Context(), New(&bad, b, NewCache(1<<20)), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := list(t, v, ""); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	bad := *h
	bad.Index = b.put([]byte("not an index"))
	v, _ := NewView(t.Context(), New(&bad, b, NewCache(1<<20)), "", nil)
	if _, err := list(t, v, "d0015"); !errors.Is(err, object.ErrFormat) {
		t.Errorf("an index that is none: %v", err)
	}
}

func TestGraftedDirectories(t *testing.T) {
	b, h := published(t, 20, 5)
	tr := New(h, b, NewCache(1<<20))
	v, err := NewView(t.Context(), tr, "", []string{"new", "d0003/deep/er", "d0004"})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"": 21, "new": 0, "d0003": 2, "d0003/deep": 1, "d0003/deep/er": 0, "d0004": 1, "d0005": 1} {
		l, err := list(t, v, path)
		if err != nil || l.Len() != want {
			t.Errorf("%q: %v entries, want %d, %v", path, l, want, err)
		}
	}
	if _, err := NewView(t.Context(), tr, "", []string{"d0003/file/x"}); err == nil {
		t.Error("a mount point in a file")
	}
	v, err = NewView(t.Context(), tr, "d0003", []string{"sub"})
	if err != nil {
		t.Fatal(err)
	}
	if l, err := list(t, v, ""); err != nil || l.Len() != 2 {
		t.Errorf("a directory of the tree with a graft: %v", err)
	}
	for _, remote := range []string{"none", "d0003/file"} {
		if _, err := NewView(t.Context(), tr, remote, nil); err == nil {
			t.Errorf("remote %q was shown", remote)
		}
	}
}

// headStore is both a store that can fail and a place where heads are kept.
type headStore struct {
	notes map[string][]byte
	err   error
}

func (s *headStore) Head(key string) ([]byte, error) {
	if n, ok := s.notes[key]; ok {
		return n, nil
	}
	return nil, tier.ErrAbsent
}

func (s *headStore) PutHead(key string, note []byte) error { s.notes[key] = note; return nil }

type headSource struct{ *headStore }

func (s headSource) Head(_ context.Context, n object.TreeName, _ []byte) ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	return s.headStore.Head(n.Dir())
}

func TestHeads(t *testing.T) {
	_, h := published(t, 3, 5)
	skey, vkey, err := note.GenerateKey(nil, "publisher")
	if err != nil {
		t.Fatal(err)
	}
	signer, _ := note.NewSigner(skey)
	verifier, _ := note.NewVerifier(vkey)
	lostKey, lostPublic, err := note.GenerateKey(nil, "publisher")
	if err != nil {
		t.Fatal(err)
	}
	lost, _ := note.NewSigner(lostKey)
	lostVerifier, _ := note.NewVerifier(lostPublic)
	sign := func(change func(*object.Head), s note.Signer) []byte {
		c := *h
		if change != nil {
			change(&c)
		}
		raw, err := c.Sign(s)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	anywhere := func(h *object.Head) { h.Tree.Platform = "" }
	older := func(h *object.Head) { h.Serial = 4 }
	newer := func(h *object.Head) { h.Serial = 6 }
	another := func(h *object.Head) { h.Counts.Files++ }
	down := fmt.Errorf("dial: %w", tier.ErrUnavailable)

	for _, c := range []struct {
		name           string
		inStore, atAny []byte // heads of the tree for the platform, and for all
		kept           []byte
		storeErr       error
		unverified     bool
		want           error // nil: serial and fresh
		refused        error // why the store's is not taken
		serial         int64
		fresh          bool
	}{
		{name: "signed", inStore: sign(nil, signer), serial: 5, fresh: true},
		{name: "any platform", atAny: sign(anywhere, signer), serial: 5, fresh: true},
		{name: "platform first", inStore: sign(newer, signer), atAny: sign(anywhere, signer), serial: 6, fresh: true},
		{name: "absent", want: tier.ErrAbsent},
		{name: "absent, one kept", kept: sign(nil, signer), serial: 5},
		{name: "unsigned", inStore: sign(nil, nil), want: object.ErrUnsigned},
		{name: "unsigned, no key", inStore: sign(nil, nil), unverified: true, serial: 5, fresh: true},
		{name: "older", inStore: sign(older, signer), kept: sign(nil, signer), serial: 5},
		{name: "newer", inStore: sign(newer, signer), kept: sign(nil, signer), serial: 6, fresh: true},
		{name: "no network", storeErr: down, kept: sign(nil, signer), serial: 5},
		{name: "no network, nothing kept", storeErr: down, want: tier.ErrUnavailable},
		{name: "no network, an unsigned one kept", storeErr: down, kept: sign(nil, nil), want: tier.ErrUnavailable},
		{name: "forged", inStore: []byte(strings.Replace(string(sign(nil, signer)), "serial 5", "serial 9", 1)), want: object.ErrUnsigned},
		{name: "before the key was lost", inStore: sign(nil, lost), serial: 5, fresh: true},
		{name: "after the key was lost", inStore: sign(newer, lost), kept: sign(nil, lost), serial: 5},
		{name: "after the key was lost, nothing kept", inStore: sign(newer, lost), want: object.ErrUnsigned},
		{name: "from the lost key to the other", inStore: sign(newer, signer), kept: sign(nil, lost), serial: 6, fresh: true},
		{name: "what the lost key did is forgotten", inStore: sign(nil, signer), kept: sign(newer, lost), serial: 5, fresh: true},
		{name: "another of the same serial", inStore: sign(another, lost), kept: sign(nil, lost), serial: 5, refused: ErrAnother},
		{name: "the same, signed anew", inStore: sign(nil, signer), kept: sign(nil, lost), serial: 5, fresh: true},
		{name: "another of the same serial, no key", inStore: sign(another, nil), kept: sign(nil, nil), unverified: true, serial: 5, fresh: true},
		{name: "of another tree", inStore: sign(anywhere, signer), want: object.ErrHead},
		{name: "garbage", inStore: []byte("<html>"), unverified: true, want: object.ErrHead},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := &headStore{notes: map[string][]byte{}, err: c.storeErr}
			kept := &headStore{notes: map[string][]byte{}}
			if c.inStore != nil {
				st.notes[h.Tree.Dir()] = c.inStore
			}
			if c.atAny != nil {
				st.notes[object.TreeName{ID: h.Tree.ID}.Dir()] = c.atAny
			}
			if c.kept != nil {
				kept.notes["s/"+h.Tree.Dir()] = c.kept
			}
			heads := &Heads{Store: "s", Source: headSource{st}, Kept: kept, Log: slog.New(slog.DiscardHandler)}
			if !c.unverified {
				heads.Keys = object.Keys{{Verifier: verifier}, {Verifier: lostVerifier, Until: 5}}
			}
			if found := heads.Look(t.Context(), h.Tree); c.refused != nil && (!errors.Is(found.Err, c.refused) || !errors.Is(found.Err, ErrOlder)) {
				t.Errorf("refused for %v, want %v", found.Err, c.refused)
			}
			got, fresh, err := heads.Newest(t.Context(), h.Tree)
			if c.want != nil {
				if !errors.Is(err, c.want) {
					t.Errorf("got %v, %v, want %v", got, err, c.want)
				}
				return
			}
			if err != nil || got.Serial != c.serial || fresh != c.fresh {
				t.Errorf("got %v, fresh %v, %v; want serial %d, fresh %v", got, fresh, err, c.serial, c.fresh)
			}
		})
	}
}

// A comparison of trees without end, all of which is in memory, ends when nobody wants
// it any more.
func TestDiffEnds(t *testing.T) {
	b, older := published(t, 1, 1)
	encode := func(entries ...object.Entry) []byte {
		raw, err := object.EncodeListing(entries)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	// Each directory has the one below twice.
	const depth = 60
	below := encode()
	all := make([]object.DirListing, depth+1)
	for i := depth; ; i-- {
		all[i] = object.DirListing{Path: strings.TrimPrefix(strings.Repeat("/a", i), "/"), Listing: below}
		if i == 0 {
			break
		}
		e := object.Entry{Name: []byte("a"), Kind: object.Dir, Mode: 0o755, Size: int64(len(below)), Digest: digest.Of(below)}
		twin := e
		twin.Name = []byte("b")
		below = encode(e, twin)
	}
	raw := object.EncodeCatalog(all)
	newer := *older
	newer.Root, newer.RootSize = digest.Of(below), int64(len(below))
	newer.Catalog, newer.Catalogs, newer.MaxSize = b.put(raw), 1, int64(len(raw))
	cache := NewCache(1 << 20)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- Diff(ctx, New(older, b, cache), New(&newer, b, cache), func(Change) error { return nil })
	}()
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("it goes on and on")
	}
}
