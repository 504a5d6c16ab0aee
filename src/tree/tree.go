package tree

import (
	"context"
	"fmt"
	"slices"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// Blobs is where a tree's objects come from. It must be comparable, by ==: what it is
// asked for at a time is bounded.
type Blobs interface {
	// Copy returns a blob, from wherever it is nearest, in memory that stays. It
	// must not be changed.
	Copy(ctx context.Context, ref tier.Ref) ([]byte, error)
}

// Tree is a published tree at one head. It does not change.
type Tree struct {
	head  *object.Head
	blobs Blobs
	cache *Cache
	lost  failures
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
	// What is read and what is made of it are about as large.
	u, err := t.remembering(ctx, t.indexRef(), 2*t.head.IndexSize, func(raw []byte) (*unit, error) {
		x, err := object.ParseIndex(raw)
		if err != nil {
			return nil, err
		}
		return &unit{size: x.Footprint() + listingOverhead, index: x, digest: t.head.Index}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("get the index %s of %v: %w", t.head.Index, t.head.Tree, err)
	}
	x := u.index
	if x == nil {
		return nil, fmt.Errorf("index %s of %v: %w: it is something else", t.head.Index, t.head.Tree, object.ErrFormat)
	}
	if n := len(x.Catalogs()); int64(n) != t.head.Catalogs || x.Catalogs()[0] != t.head.Catalog {
		return nil, fmt.Errorf("index %s of %v: %w: %d catalogs from %s, the head says %d from %s", t.head.Index, t.head.Tree,
			object.ErrFormat, n, x.Catalogs()[0].Short(), t.head.Catalogs, t.head.Catalog.Short())
	}
	return x, nil
}

// remembering is load that does not try again at once what just failed.
func (t *Tree) remembering(ctx context.Context, ref tier.Ref, bytes int64, read func(raw []byte) (*unit, error)) (*unit, error) {
	if err := t.lost.of(ref.Digest); err != nil {
		return nil, err
	}
	u, err := t.load(ctx, loadKey{from: t.blobs, ref: ref}, bytes, read)
	if err != nil && ctx.Err() == nil {
		t.lost.add(ref.Digest, err)
	}
	return u, err
}

// load returns an object that is in memory, or fetches it and has it read. Both may
// take bytes.
func (t *Tree) load(ctx context.Context, k loadKey, bytes int64, read func(raw []byte) (*unit, error)) (*unit, error) {
	return t.cache.once(ctx, k, bytes, func(ctx context.Context) (*unit, error) {
		raw, err := t.blobs.Copy(ctx, k.ref)
		if err != nil {
			return nil, err
		}
		return read(raw)
	})
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
	u, err := t.remembering(ctx, t.catalogRef(catalog), t.head.MaxSize, func(raw []byte) (*unit, error) {
		return t.cache.readCatalog(catalog, raw)
	})
	if err != nil {
		return nil, fmt.Errorf("get catalog %s of %v: %w", catalog, t.head.Tree, err)
	}
	l := u.listing(d)
	if l == nil {
		return nil, fmt.Errorf("catalog %s of %v: %w: the listing %s of directory %q is not in it", catalog, t.head.Tree, object.ErrFormat, d, path)
	}
	return l.get(d)
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

// CachedChunks returns the chunk list d of a file of size bytes if it is in memory, or
// nil.
func (t *Tree) CachedChunks(d digest.Digest, size int64) *object.ChunkList {
	return t.cache.ChunkList(d, size)
}

// Chunks returns the chunk list d of a file of size bytes.
func (t *Tree) Chunks(ctx context.Context, d digest.Digest, size int64) (*object.ChunkList, error) {
	if c := t.cache.ChunkList(d, size); c != nil {
		return c, nil
	}
	u, err := t.load(ctx, loadKey{t.blobs, t.ChunkListRef(d, size), size}, object.LikelyChunkList(size), func(raw []byte) (*unit, error) {
		c, err := object.ParseChunkList(raw, size)
		if err != nil {
			return nil, err
		}
		return &unit{size: c.Footprint() + listingOverhead, list: c, digest: d}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("get chunk list %s: %w", d, err)
	}
	if u.list == nil || u.list.Size != size {
		return nil, fmt.Errorf("chunk list %s: %w: not of a file of %d bytes", d, object.ErrFormat, size)
	}
	return u.list, nil
}

// Fetch brings an object of the tree near, if it is not in memory anyway.
func (t *Tree) Fetch(ctx context.Context, ref tier.Ref) error {
	p, err := t.cache.admit(ctx, t.blobs, ref.Max())
	if err != nil {
		return fmt.Errorf("get %v: %w", ref, err)
	}
	defer t.cache.depart(p, nil)
	_, err = t.blobs.Copy(ctx, ref)
	return err
}

// metadataStep is for how many catalogs the index is looked into at a time.
const metadataStep = 1024

// Metadata calls each for the index and every catalog, the objects that a
// client needs in order to list the tree with no network, until each is false. The
// index need not stay in memory meanwhile.
func (t *Tree) Metadata(ctx context.Context, each func(tier.Ref) bool) error {
	if !each(t.indexRef()) {
		return nil
	}
	for i := 0; i < int(t.head.Catalogs); i += metadataStep {
		x, err := t.Index(ctx)
		if err != nil {
			return err
		}
		all := x.Catalogs()
		for _, d := range slices.Clone(all[i:min(i+metadataStep, len(all))]) {
			if !each(t.catalogRef(d)) {
				return nil
			}
		}
	}
	return nil
}
