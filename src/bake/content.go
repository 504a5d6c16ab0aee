package bake

import (
	"context"
	"errors"
	"fmt"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// content brings what is asked for of the files.
func (b *baker) content(ctx context.Context) error {
	switch b.opt.Content {
	case Traced:
		return b.traced(ctx)
	case Whole:
		for i := range b.shown {
			err := b.below(ctx, i, "", b.shown[i].view.Root())
			if err == nil {
				err = b.bring(ctx, b.source(i))
			}
			if err != nil {
				return fmt.Errorf("mount %s: %w", b.shown[i].cfg.Path, err)
			}
		}
	}
	return nil
}

// below brings all content below a directory of a mount.
func (b *baker) below(ctx context.Context, mount int, path string, dir object.Entry) error {
	l, err := b.shown[mount].view.Listing(ctx, path, dir.Digest)
	if err != nil {
		return err
	}
	for i := range l.Len() {
		e := l.At(i)
		name := object.Join(path, string(e.Name))
		switch e.Kind {
		case object.Dir:
			err = b.below(ctx, mount, name, e)
		case object.File:
			err = b.file(ctx, file{mount, name}, e)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// pendingMost is how many blobs are gathered before they are brought.
const pendingMost = 4096

// file puts a file's content on the list.
func (b *baker) file(ctx context.Context, f file, e object.Entry) error {
	if b.files[f] {
		return nil
	}
	b.files[f] = true
	v, m := b.shown[f.mount].view, &b.result.Mounts[f.mount]
	m.Files++
	m.Bytes += e.Size
	switch {
	case e.Size == 0:
	case e.Chunked:
		list, err := v.Chunks(ctx, e.Digest, e.Size)
		if err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
		b.need(tier.Ref{Domain: v.Head().Domain, Digest: e.Digest, Limit: object.MaxChunkList(e.Size)})
		for _, c := range list.Chunks {
			b.need(v.BlobRef(c.Digest, c.Size))
		}
	default:
		b.need(v.BlobRef(e.Digest, e.Size))
	}
	if len(b.refs)-b.brought >= pendingMost {
		return b.bring(ctx, b.source(f.mount))
	}
	return nil
}

// source is the store that a mount is from.
func (b *baker) source(mount int) *source { return b.stores[b.shown[mount].cfg.Store] }

// errUntraced says that a trace is of no use.
var errUntraced = errors.New("none of the trace's paths is in a mount of the config: they are absolute, as the machine will see them, or relative to a mount")

// traced brings the content that the trace names, in its order.
func (b *baker) traced(ctx context.Context) error {
	found := 0
	last := 0 // the mount of what is on the list
	for _, path := range b.opt.Trace {
		hits, err := b.find(ctx, path)
		if err != nil {
			return fmt.Errorf("trace: %s: %w", path.Name, err)
		}
		found += len(hits.places)
		switch {
		case hits.outside:
			b.result.Outside++
		case len(hits.places) == 0:
			if b.result.Missing++; b.result.Missing == 1 {
				b.result.FirstMissing = path.Name
			}
		}
		for _, p := range hits.places {
			if last != p.mount {
				if err := b.bring(ctx, b.source(last)); err != nil {
					return err
				}
			}
			last = p.mount
			switch {
			case p.entry.Kind == object.File:
				err = b.file(ctx, file{p.mount, p.path}, p.entry)
			case p.entry.Kind == object.Dir && path.Below:
				err = b.below(ctx, p.mount, p.path, p.entry)
			}
			if err != nil {
				return fmt.Errorf("mount %s: %s: %w", b.shown[p.mount].cfg.Path, path.Name, err)
			}
		}
	}
	switch {
	case found == 0 && b.result.Missing > 0:
		return fmt.Errorf("no path of the trace is in a tree that the config mounts, %s the first: look for a typo, or another version", b.result.FirstMissing)
	case found == 0:
		return errUntraced
	}
	return b.bring(ctx, b.source(last))
}
