package publish

import (
	"context"
	"fmt"
	"iter"

	"golang.org/x/sync/errgroup"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// all gives a directory and all below it in object.ComparePaths order.
func (d *dir) all() iter.Seq[*dir] {
	return func(yield func(*dir) bool) { d.each(yield) }
}

func (d *dir) each(yield func(*dir) bool) bool {
	if !yield(d) {
		return false
	}
	for _, sub := range d.subdirs {
		if !sub.each(yield) {
			return false
		}
	}
	return true
}

// pathBytes is about what a directory takes in a catalog beside its path and
// its listing.
const pathBytes = 12

// catalogs cuts the tree's directories into runs, one for each catalog.
func catalogs(root *dir) iter.Seq[[]object.DirListing] {
	return func(yield func([]object.DirListing) bool) {
		var run []object.DirListing
		have := 0
		for d := range root.all() {
			// Paths count too: many small directories would else make a
			// catalog without bound.
			more := len(d.path) + len(d.listing) + pathBytes
			if object.CutCatalog(d.path, have, more) {
				if !yield(run) {
					return
				}
				run, have = nil, 0
			}
			run = append(run, object.DirListing{Path: d.path, Listing: d.listing})
			have += more
		}
		yield(run)
	}
}

// putMetadata stores catalogs and index, and returns a head without what only
// the one before it can tell: serial and time.
func putMetadata(ctx context.Context, s target, root *dir, workers int) (*object.Head, error) {
	h := &object.Head{
		Root: digest.Of(root.listing), RootSize: int64(len(root.listing)),
		RootMode: root.mode, RootMtime: root.mtime,
	}
	type row struct {
		first  string
		digest digest.Digest
	}
	var rows []*row
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for run := range catalogs(root) {
		if gctx.Err() != nil {
			break
		}
		raw := object.EncodeCatalog(run)
		h.MaxSize = max(h.MaxSize, int64(len(raw)))
		r := &row{first: run[0].Path}
		rows = append(rows, r)
		g.Go(func() (err error) {
			r.digest, err = s.put(raw)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("store catalogs: %w", err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var index object.Index
	for _, r := range rows {
		index.Add(r.first, r.digest)
	}
	raw := index.Encode()
	var err error
	if h.Index, err = s.put(raw); err != nil {
		return nil, fmt.Errorf("store index: %w", err)
	}
	h.IndexSize, h.Catalog, h.Catalogs = int64(len(raw)), rows[0].digest, int64(len(rows))
	return h, nil
}
