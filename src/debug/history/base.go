package history

import (
	"context"
	"fmt"
	"strings"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tree"
)

// BaseOf returns the Base that a tree is, or the directory of it that a mount
// shows.
func BaseOf(v *tree.View, blobs tree.Blobs) func(ctx context.Context, path string, limit int64) ([]byte, error) {
	return func(ctx context.Context, path string, limit int64) ([]byte, error) {
		e, err := find(ctx, v, path)
		switch {
		case err != nil:
			return nil, err
		case e.Kind == object.Symlink:
			return []byte(e.Target), nil
		case e.Kind != object.File:
			return nil, nil // as a directory has no content
		case e.Size > limit:
			return nil, fmt.Errorf("%d bytes: %w", e.Size, ErrTooLarge)
		case e.Size == 0:
			return nil, nil
		case !e.Chunked:
			return blobs.Copy(ctx, v.BlobRef(e.Digest, e.Size))
		}
		list, err := v.Chunks(ctx, e.Digest, e.Size)
		if err != nil {
			return nil, err
		}
		var all []byte
		for _, c := range list.Chunks {
			b, err := blobs.Copy(ctx, v.BlobRef(c.Digest, c.Size))
			if err != nil {
				return nil, err
			}
			all = append(all, b...)
		}
		return all, nil
	}
}

// find looks a path up.
func find(ctx context.Context, v *tree.View, path string) (object.Entry, error) {
	e, dir := v.Root(), ""
	for name := range strings.SplitSeq(path, "/") {
		if e.Kind != object.Dir {
			return e, ErrNone
		}
		l, err := v.Listing(ctx, dir, e.Digest)
		if err != nil {
			return e, fmt.Errorf("look up %q in the tree: %w", path, err)
		}
		i, ok := l.Find([]byte(name))
		if !ok {
			return e, ErrNone
		}
		e = l.At(i)
		dir = object.Join(dir, name)
	}
	return e, nil
}
