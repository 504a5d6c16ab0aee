package publish

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// treeCheck follows one tree's metadata from its head.
type treeCheck struct {
	v     *verification
	head  *object.Head
	index *object.Index
	// want holds the directories that listings have named and catalogs have
	// not shown yet.
	want   map[string]wanted
	failed map[digest.Digest]error // catalogs that could not be read
	bad    map[string]bool         // directories whose listing is not to be trusted
	counts object.Counts
	max    int64 // bytes of the largest catalog
}

type wanted struct {
	digest digest.Digest
	size   int64
}

// tree checks a tree's metadata and notes what its files need.
func (v *verification) tree(ctx context.Context, name object.TreeName) error {
	head, err := v.head(ctx, name)
	if err != nil {
		return v.orFatal(Problem{Tree: name, Err: fmt.Errorf("head: %w", err)})
	}
	v.serials[name] = head.Serial
	index, err := v.index(ctx, head)
	if err != nil {
		return v.orFatal(Problem{Tree: name, Err: fmt.Errorf("index: %w", err)})
	}
	t := &treeCheck{
		v: v, head: head, index: index,
		want:   map[string]wanted{"": {head.Root, head.RootSize}},
		failed: map[digest.Digest]error{},
		bad:    map[string]bool{},
	}
	all := index.Catalogs()
	for len(all) > 0 {
		n := min(len(all), v.o.Workers)
		if err := t.catalogs(ctx, all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	t.conclude()
	return nil
}

// orFatal reports a problem whose error is about the store's content, and
// returns any other.
func (v *verification) orFatal(p Problem) error {
	if !wrong(p.Err) {
		return p.Err
	}
	v.report(p)
	return nil
}

func (v *verification) head(ctx context.Context, name object.TreeName) (*object.Head, error) {
	raw, err := v.o.Heads.Head(ctx, name, nil)
	if err != nil {
		return nil, err
	}
	return object.OpenHeadOf(name, raw, v.o.Keys)
}

func (v *verification) index(ctx context.Context, h *object.Head) (*object.Index, error) {
	raw, err := v.fetch(ctx, tier.Ref{Domain: h.Domain, Digest: h.Index, Limit: h.IndexSize})
	if err != nil {
		return nil, err
	}
	x, err := object.ParseIndex(raw)
	switch {
	case err != nil:
		return nil, err
	case int64(len(raw)) != h.IndexSize:
		return nil, fmt.Errorf("%w: %d bytes, the head says %d", object.ErrFormat, len(raw), h.IndexSize)
	case int64(len(x.Catalogs())) != h.Catalogs || x.Catalogs()[0] != h.Catalog:
		return nil, fmt.Errorf("%w: it has other catalogs than the head says", object.ErrFormat)
	}
	return x, nil
}

// catalogs fetches some catalogs side by side and goes through them in order.
func (t *treeCheck) catalogs(ctx context.Context, digests []digest.Digest) error {
	raw := make([][]byte, len(digests))
	errs := make([]error, len(digests))
	g, ctx := errgroup.WithContext(ctx)
	for i, d := range digests {
		g.Go(func() error {
			raw[i], errs[i] = t.v.fetch(ctx, tier.Ref{Domain: t.head.Domain, Digest: d, Limit: t.head.MaxSize})
			if errs[i] != nil && !wrong(errs[i]) {
				return fmt.Errorf("catalog: %w", errs[i])
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, d := range digests {
		err := errs[i]
		if err == nil {
			t.max = max(t.max, int64(len(raw[i])))
			err = object.ParseCatalog(raw[i], func(path, listing []byte) error {
				t.dir(string(path), listing, d)
				return nil
			})
		}
		if err != nil {
			t.failed[d] = err
		}
		raw[i] = nil
	}
	return nil
}

// dir checks a directory that a catalog carries.
func (t *treeCheck) dir(path string, listing []byte, catalog digest.Digest) {
	if t.index.Catalog(path) != catalog {
		t.problem(path, "is in a catalog where the index does not point to")
	}
	parent := object.Parent(path)
	w, ok := t.want[path]
	switch {
	case ok:
		delete(t.want, path)
		if d := digest.Of(listing); d != w.digest || int64(len(listing)) != w.size {
			t.bad[path] = true
			t.problem(path, fmt.Sprintf("listing of %d bytes has digest %v, but %d bytes and %v are named for it", len(listing), d, w.size, w.digest))
			return
		}
	case t.bad[parent] || t.failed[t.index.Catalog(parent)] != nil:
		// That there is nothing to check it against has its reason, which
		// has been told. What is in it is looked at all the same.
	default:
		t.bad[path] = true
		t.problem(path, "is in a catalog, but in no listing")
		return
	}
	l, err := object.ParseListing(listing)
	if err != nil {
		t.bad[path] = true
		t.problem(path, fmt.Sprintf("listing: %v", err))
		return
	}
	t.counts.Dirs++
	for i := range l.Len() {
		e := l.At(i)
		switch e.Kind {
		case object.Dir:
			t.want[object.Join(path, string(e.Name))] = wanted{e.Digest, e.Size}
		case object.Symlink:
			t.counts.Symlinks++
		case object.File:
			t.counts.Files++
			t.counts.Bytes += e.Size
			t.v.use(t.head, object.Join(path, string(e.Name)), &e)
		}
	}
}

// conclude tells what catalogs could not be read, which directories did not
// turn up, and whether the head's figures are right.
func (t *treeCheck) conclude() {
	missing := map[digest.Digest]*Problem{} // by the catalog that should have them
	for path := range t.want {
		c := t.index.Catalog(path)
		p := missing[c]
		if p == nil {
			p = &Problem{Tree: t.head.Tree, Path: path, Err: fmt.Errorf("is in no catalog; %v should have it", c)}
			missing[c] = p
		}
		p.Count++
		if object.ComparePaths(path, p.Path) < 0 {
			p.Path = path
		}
	}
	for c, err := range t.failed {
		p := missing[c]
		if p == nil {
			p = &Problem{Tree: t.head.Tree}
			missing[c] = p
		}
		p.Err = fmt.Errorf("catalog: %w", err)
	}
	for _, c := range t.index.Catalogs() {
		if p := missing[c]; p != nil {
			t.v.report(*p)
			delete(missing, c)
		}
	}
	whole := len(t.failed) == 0 && len(t.bad) == 0 && len(t.want) == 0
	if whole && (t.counts != t.head.Counts || t.max != t.head.MaxSize) {
		t.v.report(Problem{Tree: t.head.Tree, Err: fmt.Errorf("head: counts %+v and largest catalog %d, but there are %+v and %d",
			t.head.Counts, t.head.MaxSize, t.counts, t.max)})
	}
	c := &t.v.counts
	c.Files += t.counts.Files
	c.Dirs += t.counts.Dirs
	c.Symlinks += t.counts.Symlinks
	c.Bytes += t.counts.Bytes
}

func (t *treeCheck) problem(path, what string) {
	t.v.report(Problem{Tree: t.head.Tree, Path: path, Count: 1, Err: fmt.Errorf("directory %s", what)})
}
