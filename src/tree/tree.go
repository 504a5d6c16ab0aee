package tree

import (
	"context"
	"fmt"
	"sync"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// Blobs is where a tree's objects come from.
type Blobs interface {
	// Copy returns a blob, from wherever it is nearest, in memory that is the
	// caller's.
	Copy(ctx context.Context, ref tier.Ref) ([]byte, error)
}

// Tree is a published tree at one head. It does not change.
type Tree struct {
	head  *object.Head
	blobs Blobs
	cache *Cache

	mu    sync.Mutex
	index *object.Index // nil until first needed

	lost failures
}

// New returns the tree that head describes.
func New(head *object.Head, blobs Blobs, cache *Cache) *Tree {
	return &Tree{head: head, blobs: blobs, cache: cache}
}

// Head is the head the tree was made from.
func (t *Tree) Head() *object.Head { return t.head }

// Root is the root directory, as an entry without a name.
func (t *Tree) Root() object.Entry {
	return object.Entry{
		Kind: object.Dir, Mode: t.head.RootMode, Mtime: t.head.RootMtime,
		Digest: t.head.Root, Size: t.head.RootSize,
	}
}

func (t *Tree) indexRef() tier.Ref {
	return tier.Ref{Domain: t.head.Domain, Digest: t.head.Index, Limit: t.head.IndexSize}
}

func (t *Tree) catalogRef(d digest.Digest) tier.Ref {
	return tier.Ref{Domain: t.head.Domain, Digest: d, Limit: t.head.MaxSize}
}

// Index returns the tree's index.
func (t *Tree) Index(ctx context.Context) (*object.Index, error) {
	t.mu.Lock()
	x := t.index
	t.mu.Unlock()
	if x != nil {
		return x, nil
	}
	if err := t.lost.of(t.head.Index); err != nil {
		return nil, err
	}
	raw, err := t.blobs.Copy(ctx, t.indexRef())
	if err != nil {
		if ctx.Err() == nil {
			t.lost.add(t.head.Index, err)
		}
		return nil, fmt.Errorf("get the index of %v: %w", t.head.Tree, err)
	}
	if x, err = object.ParseIndex(raw); err != nil {
		return nil, fmt.Errorf("index %s of %v: %w", t.head.Index, t.head.Tree, err)
	}
	if n := len(x.Catalogs()); int64(n) != t.head.Catalogs || x.Catalogs()[0] != t.head.Catalog {
		return nil, fmt.Errorf("index %s of %v: %w: %d catalogs from %s, the head says %d from %s", t.head.Index, t.head.Tree,
			object.ErrFormat, n, x.Catalogs()[0].Short(), t.head.Catalogs, t.head.Catalog.Short())
	}
	t.mu.Lock()
	t.index = x
	t.mu.Unlock()
	return x, nil
}

// Cached returns a listing that is in memory; ok tells whether it is.
func (t *Tree) Cached(d digest.Digest) (l *object.Listing, ok bool) {
	l, err, ok := t.cache.Listing(d)
	return l, ok && err == nil
}

// Listing returns the listing d of the directory path, as seen from the tree's
// root.
func (t *Tree) Listing(ctx context.Context, path string, d digest.Digest) (*object.Listing, error) {
	if l, err, ok := t.cache.Listing(d); ok {
		return l, err
	}
	if err := t.lost.of(d); err != nil {
		return nil, err
	}
	l, err := t.listing(ctx, path, d)
	if err != nil && ctx.Err() == nil {
		t.lost.add(d, err)
	}
	return l, err
}

func (t *Tree) listing(ctx context.Context, path string, d digest.Digest) (*object.Listing, error) {
	catalog, err := t.catalogOf(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := t.load(ctx, catalog); err != nil {
		return nil, err
	}
	l, err, ok := t.cache.Listing(d)
	if !ok {
		return nil, fmt.Errorf("catalog %s of %v: %w: the listing %s of directory %q is not in it", catalog, t.head.Tree, object.ErrFormat, d, path)
	}
	return l, err
}

// catalogOf spares the first listing of all the way through the index.
func (t *Tree) catalogOf(ctx context.Context, path string) (digest.Digest, error) {
	if path == "" || t.head.Catalogs == 1 {
		return t.head.Catalog, nil
	}
	x, err := t.Index(ctx)
	if err != nil {
		return digest.Digest{}, err
	}
	return x.Catalog(path), nil
}

func (t *Tree) load(ctx context.Context, catalog digest.Digest) error {
	if err := t.lost.of(catalog); err != nil {
		return err
	}
	raw, err := t.blobs.Copy(ctx, t.catalogRef(catalog))
	if err != nil {
		if ctx.Err() == nil {
			t.lost.add(catalog, err)
		}
		return fmt.Errorf("get catalog %s of %v: %w", catalog, t.head.Tree, err)
	}
	if err := t.cache.AddCatalog(raw); err != nil {
		return fmt.Errorf("catalog %s of %v: %w", catalog, t.head.Tree, err)
	}
	return nil
}

// BlobRef is how the content of a file that is one blob is asked for.
func (t *Tree) BlobRef(d digest.Digest, size int64) tier.Ref {
	return tier.Ref{Domain: t.head.Domain, Digest: d, Limit: size}
}

// ChunkListRef is how the chunk list of a file of size bytes is asked for.
func (t *Tree) ChunkListRef(d digest.Digest, size int64) tier.Ref {
	return tier.Ref{Domain: t.head.Domain, Digest: d, Limit: object.MaxChunkList(size)}
}

// CatalogRef is the catalog that carries the listing of the directory path, as seen
// from the tree's root, if the tree has that directory.
func (t *Tree) CatalogRef(ctx context.Context, path string) (tier.Ref, error) {
	d, err := t.catalogOf(ctx, path)
	return t.catalogRef(d), err
}

// CachedChunks returns a chunk list that is in memory, or nil.
func (t *Tree) CachedChunks(d digest.Digest) *object.ChunkList { return t.cache.ChunkList(d) }

// Chunks returns the chunk list d of a file of size bytes.
func (t *Tree) Chunks(ctx context.Context, d digest.Digest, size int64) (*object.ChunkList, error) {
	if c := t.cache.ChunkList(d); c != nil {
		return c, nil
	}
	raw, err := t.blobs.Copy(ctx, t.ChunkListRef(d, size))
	if err != nil {
		return nil, fmt.Errorf("get chunk list %s: %w", d, err)
	}
	c, err := object.ParseChunkList(raw, size)
	if err != nil {
		return nil, fmt.Errorf("chunk list %s: %w", d, err)
	}
	t.cache.AddChunkList(d, c)
	return c, nil
}

// Fetch brings an object of the tree near.
func (t *Tree) Fetch(ctx context.Context, ref tier.Ref) error {
	_, err := t.blobs.Copy(ctx, ref)
	return err
}

// Metadata calls each for the index and every catalog, the objects that a
// client needs in order to list the tree with no network.
func (t *Tree) Metadata(ctx context.Context, each func(tier.Ref)) error {
	each(t.indexRef())
	x, err := t.Index(ctx)
	if err != nil {
		return err
	}
	for _, d := range x.Catalogs() {
		each(t.catalogRef(d))
	}
	return nil
}
