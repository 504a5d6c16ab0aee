package profile

import (
	"context"
	"iter"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// MaxFetch is how many bytes of a tree a profile can lead to, and about how many
// are recorded.
const MaxFetch = 1 << 30

// Tree is a tree that paths are looked up in, as tree.Tree is one.
type Tree interface {
	Root() object.Entry
	// Listing returns the listing d of a directory, by its path from the root.
	Listing(ctx context.Context, path string, d digest.Digest) (*object.Listing, error)
	// CatalogRef is the object that the listing of a directory comes with.
	CatalogRef(ctx context.Context, path string) (tier.Ref, error)
	// Chunks returns the chunk list d of a file of size bytes.
	Chunks(ctx context.Context, d digest.Digest, size int64) (*object.ChunkList, error)
	ChunkListRef(d digest.Digest, size int64) tier.Ref
	BlobRef(d digest.Digest, size int64) tier.Ref
}

// Resolve returns what the needs of a profile are in a tree, each once: first the
// catalogs, then the chunk lists, then content, each in the profile's order. What the
// tree doesn't have is left out, and so is what can't be looked up at the moment.
//
// Each object is looked up when its turn comes, out of those that came before it
// then: who iterates begins to fetch what comes out at once, and does not wait for it.
// It ends when ctx is done, or before the content has more than most bytes, or MaxFetch.
func Resolve(ctx context.Context, p *Profile, t Tree, most int64) iter.Seq[tier.Ref] {
	return func(yield func(tier.Ref) bool) {
		newResolver(ctx, t, most, yield).run(p)
	}
}

func newResolver(ctx context.Context, t Tree, most int64, yield func(tier.Ref) bool) *resolver {
	return &resolver{
		ctx: ctx, tree: t, most: min(most, MaxFetch), dirs: make(map[string]found), given: make(map[tier.Ref]struct{}), yield: yield,
	}
}

func (r *resolver) run(p *Profile) { _ = r.catalogs(p) && r.chunkLists(p) && r.content(p) }

// found is what a path turned out to be.
type found struct {
	entry object.Entry
	ok    bool
}

type resolver struct {
	ctx   context.Context
	tree  Tree
	dirs  map[string]found // by path
	given map[tier.Ref]struct{}
	most  int64 // bytes of content
	bytes int64 // given
	yield func(tier.Ref) bool
}

// give is false where the iteration is to end.
func (r *resolver) give(ref tier.Ref) bool {
	if _, twice := r.given[ref]; twice {
		return true
	}
	if r.ctx.Err() != nil {
		return false
	}
	r.given[ref] = struct{}{}
	return r.yield(ref)
}

// blob gives content.
func (r *resolver) blob(d digest.Digest, size int64) bool {
	ref := r.tree.BlobRef(d, size)
	if _, twice := r.given[ref]; twice {
		return true
	}
	if r.bytes+size > r.most {
		return false
	}
	r.bytes += size
	return r.give(ref)
}

func (r *resolver) catalogs(p *Profile) bool {
	done := make(map[string]struct{})
	for i := range p.Needs {
		dir := p.Needs[i].Path
		if p.Needs[i].Block != Listing {
			dir = object.Parent(dir)
		}
		// The way to a directory leads through those above it.
		for {
			if _, ok := done[dir]; ok {
				break
			}
			done[dir] = struct{}{}
			ref, err := r.tree.CatalogRef(r.ctx, dir)
			if err != nil {
				return r.ctx.Err() == nil // without an index other things may still be found
			}
			if !r.give(ref) {
				return false
			}
			if dir == "" {
				break
			}
			dir = object.Parent(dir)
		}
	}
	return true
}

func (r *resolver) chunkLists(p *Profile) bool {
	for i := range p.Needs {
		if p.Needs[i].Block == Listing {
			continue
		}
		e, ok := r.file(p.Needs[i].Path)
		if ok && e.Chunked && !r.give(r.tree.ChunkListRef(e.Digest, e.Size)) {
			return false
		}
	}
	return r.ctx.Err() == nil
}

func (r *resolver) content(p *Profile) bool {
	for i := range p.Needs {
		n := &p.Needs[i]
		if n.Block == Listing {
			continue
		}
		e, ok := r.file(n.Path)
		switch {
		case !ok || e.Size == 0:
		case e.Chunked && !r.chunks(n, &e), !e.Chunked && !r.blob(e.Digest, e.Size):
			return false
		}
	}
	return true
}

// grown is how much is needed of a file that was one blob and isn't any more, in
// bytes: what it had at the most.
const grown = object.MaxBlob

func (r *resolver) chunks(n *Need, e *object.Entry) bool {
	list, err := r.tree.Chunks(r.ctx, e.Digest, e.Size)
	if err != nil {
		return r.ctx.Err() == nil
	}
	if n.Block == Whole {
		for at := int64(0); at < min(e.Size, grown); {
			i, start := list.At(at)
			c := list.Chunks[i]
			if !r.blob(c.Digest, c.Size) {
				return false
			}
			at = start + c.Size
		}
		return true
	}
	at, ok := pointOf(n.Block, e.Size)
	if !ok {
		return true
	}
	i, _ := list.At(at)
	return r.blob(list.Chunks[i].Digest, list.Chunks[i].Size)
}

// file finds a file by its path.
func (r *resolver) file(path string) (object.Entry, bool) {
	dir := object.Parent(path)
	d, ok := r.dir(dir)
	if !ok {
		return object.Entry{}, false
	}
	e, ok := r.in(dir, d, path)
	return e, ok && e.Kind == object.File
}

// dir finds a directory by its path.
func (r *resolver) dir(path string) (object.Entry, bool) {
	if path == "" {
		return r.tree.Root(), true
	}
	if f, known := r.dirs[path]; known {
		return f.entry, f.ok
	}
	up := object.Parent(path)
	d, ok := r.dir(up)
	var e object.Entry
	if ok {
		e, ok = r.in(up, d, path)
		ok = ok && e.Kind == object.Dir
	}
	if r.ctx.Err() == nil {
		r.dirs[path] = found{e, ok}
	}
	return e, ok
}

// in finds what has the path in a directory.
func (r *resolver) in(dir string, d object.Entry, path string) (object.Entry, bool) {
	l, err := r.tree.Listing(r.ctx, dir, d.Digest)
	if err != nil {
		return object.Entry{}, false
	}
	name := path
	if dir != "" {
		name = path[len(dir)+1:]
	}
	i, ok := l.Find([]byte(name))
	if !ok {
		return object.Entry{}, false
	}
	e := l.At(i)
	return e, true
}

// Measure tells how many objects Resolve gives, and how many bytes of files those have.
func Measure(ctx context.Context, p *Profile, t Tree) (objects int, bytes int64) {
	r := newResolver(ctx, t, MaxFetch, func(tier.Ref) bool { return true })
	r.run(p)
	return len(r.given), r.bytes
}

// Find finds a file of a tree by its path; false if there is none, or it can't be
// looked up.
func Find(ctx context.Context, t Tree, path string) (object.Entry, bool) {
	return newResolver(ctx, t, 0, nil).file(path)
}
