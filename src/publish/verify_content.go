package publish

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// blobKey is a blob, or a chunk list, and the size that a listing says the
// content has. Two that differ in size alone are both looked at: one is wrong.
type blobKey struct {
	domain string
	digest digest.Digest
	size   int64
}

// blobUse is who uses a blob.
type blobUse struct {
	tree  object.TreeName // the first
	path  string          // of the first file
	files int64
}

func (u *blobUse) problem(err error) Problem {
	return Problem{Tree: u.tree, Path: u.path, Count: u.files, Err: err}
}

// use notes what a file of a tree needs.
func (v *verification) use(h *object.Head, path string, e *object.Entry) {
	uses, bytes := v.blobs, e.Size
	if e.Chunked {
		uses, bytes = v.lists, 0
	}
	v.add(uses, blobKey{h.Domain, e.Digest, e.Size}, blobUse{h.Tree, path, 1}, bytes)
}

func (v *verification) add(uses map[blobKey]*blobUse, k blobKey, by blobUse, bytes int64) {
	if u := uses[k]; u != nil {
		u.files += by.files
		return
	}
	uses[k] = &by
	v.total.Add(1)
	v.totalBytes.Add(bytes)
}

// content checks what files need: the chunk lists, which may add chunks, then
// all blobs.
func (v *verification) content(ctx context.Context) error {
	err := v.each(ctx, v.lists, func(ctx context.Context, k blobKey, u *blobUse) error {
		list, err := v.chunkList(ctx, k)
		if err != nil {
			return fmt.Errorf("chunk list %v: %w", k.digest, err)
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		seen := map[digest.Digest]bool{}
		for _, c := range list.Chunks {
			// A file with the same chunk many times is still one file.
			if !seen[c.Digest] {
				seen[c.Digest] = true
				v.add(v.blobs, blobKey{k.domain, c.Digest, c.Size}, *u, c.Size)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return v.each(ctx, v.blobs, func(ctx context.Context, k blobKey, _ *blobUse) error {
		plain, err := v.fetch(ctx, tier.Ref{Domain: k.domain, Digest: k.digest})
		if err == nil && int64(len(plain)) != k.size {
			err = fmt.Errorf("%w: %d bytes where %d are named for it", object.ErrFormat, len(plain), k.size)
		}
		if err != nil {
			return fmt.Errorf("blob %v: %w", k.digest, err)
		}
		v.bytes.Add(k.size)
		return nil
	})
}

func (v *verification) chunkList(ctx context.Context, k blobKey) (*object.ChunkList, error) {
	raw, err := v.fetch(ctx, tier.Ref{Domain: k.domain, Digest: k.digest, Limit: object.MaxChunkList(k.size)})
	if err != nil {
		return nil, err
	}
	return object.ParseChunkList(raw, k.size)
}

// each calls check for all uses, by a number of workers, and reports what is
// wrong.
func (v *verification) each(ctx context.Context, uses map[blobKey]*blobUse, check func(context.Context, blobKey, *blobUse) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(v.o.Workers)
	for k, u := range uses {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			if err := check(gctx, k, u); err != nil {
				return v.orFatal(u.problem(err))
			}
			v.done.Add(1)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}
