package client

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

// inMemory is blobs by digest.
type inMemory struct{ blobs map[digest.Digest][]byte }

func (m *inMemory) Copy(_ context.Context, ref tier.Ref) ([]byte, error) {
	if b, ok := m.blobs[ref.Digest]; ok {
		return b, nil
	}
	return nil, tier.ErrAbsent
}

func (m *inMemory) put(b []byte) digest.Digest {
	d := digest.Of(b)
	m.blobs[d] = b
	return d
}

// below is a tree in which each directory, down to depth, has two names for the next.
func below(t *testing.T, depth int) *tree.Tree {
	t.Helper()
	m := &inMemory{make(map[digest.Digest][]byte)}
	dirs := make([]object.DirListing, depth+1)
	var entries []object.Entry
	for i := depth; i >= 0; i-- {
		raw, err := object.EncodeListing(entries)
		if err != nil {
			t.Fatal(err)
		}
		dirs[i] = object.DirListing{Path: strings.TrimPrefix(strings.Repeat("/a", i), "/"), Listing: raw}
		entries = nil
		for _, name := range []string{"a", "b"} {
			entries = append(entries, object.Entry{Name: []byte(name), Kind: object.Dir, Mode: 0o755, Digest: digest.Of(raw), Size: int64(len(raw))})
		}
	}
	raw := object.EncodeCatalog(dirs)
	var x object.Index
	x.Add("", m.put(raw))
	root := dirs[0].Listing
	return tree.New(&object.Head{
		Tree: object.TreeName{ID: "d|app(1)"}, Serial: int64(depth + 1), Domain: "default",
		Root: digest.Of(root), RootSize: int64(len(root)), RootMode: 0o755,
		Index: m.put(x.Encode()), IndexSize: int64(len(x.Encode())),
		Catalog: digest.Of(raw), Catalogs: 1, MaxSize: int64(len(raw)),
	}, m, tree.NewCache(1<<20))
}

// A probe does not go through all of a tree that has no end, and one that is cut off
// is no probe.
func TestProbeEnds(t *testing.T) {
	older, newer := below(t, 0), below(t, 60)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := probe(ctx, older, newer, nil); err != nil {
		t.Error(err)
	}
	cancel()
	if err := probe(ctx, older, newer, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cut off: %v", err)
	}
}
