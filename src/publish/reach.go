package publish

import (
	"context"
	"fmt"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// maxSeenLists bounds reach.lists.
const maxSeenLists = 1 << 18

// reach finds what heads need. Objects that hold others are looked into once,
// however many heads have them.
type reach struct {
	// fetch returns an object's plain bytes, checked against its digest.
	fetch func(context.Context, tier.Ref) ([]byte, error)
	// each is called for every object after all that it leads to; for the same
	// one maybe more than once.
	each func(tier.Ref) error

	catalogs map[string]bool          // seen, by domain and digest
	lists    map[digest.Digest]string // seen, with their domain; forgotten when there are too many
}

func newReach(fetch func(context.Context, tier.Ref) ([]byte, error), each func(tier.Ref) error) *reach {
	return &reach{fetch: fetch, each: each, catalogs: map[string]bool{}, lists: map[digest.Digest]string{}}
}

// head goes through all that a head needs.
func (r *reach) head(ctx context.Context, h *object.Head) error {
	ref := tier.Ref{Domain: h.Domain, Digest: h.Index, Limit: h.IndexSize}
	raw, err := r.fetch(ctx, ref)
	if err != nil {
		return fmt.Errorf("index of %v, serial %d: %w", h.Tree, h.Serial, err)
	}
	index, err := object.ParseIndex(raw)
	if err != nil {
		return fmt.Errorf("index of %v, serial %d: %w", h.Tree, h.Serial, err)
	}
	for _, d := range index.Catalogs() {
		if err := r.catalog(ctx, tier.Ref{Domain: h.Domain, Digest: d, Limit: h.MaxSize}); err != nil {
			return fmt.Errorf("catalog %s of %v, serial %d: %w", d, h.Tree, h.Serial, err)
		}
	}
	return r.each(ref)
}

func (r *reach) catalog(ctx context.Context, ref tier.Ref) error {
	if r.catalogs[ref.String()] {
		return r.each(ref)
	}
	raw, err := r.fetch(ctx, ref)
	if err != nil {
		return err
	}
	err = object.ParseCatalog(raw, func(path, listing []byte) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		l, err := object.ParseListing(listing)
		if err != nil {
			return fmt.Errorf("directory %q: %w", path, err)
		}
		for i := range l.Len() {
			e := l.At(i)
			if e.Kind != object.File {
				continue
			}
			if err := r.file(ctx, ref.Domain, &e); err != nil {
				return fmt.Errorf("%q: %w", object.Join(string(path), string(e.Name)), err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.catalogs[ref.String()] = true
	return r.each(ref)
}

func (r *reach) file(ctx context.Context, domain string, e *object.Entry) error {
	if !e.Chunked {
		return r.each(tier.Ref{Domain: domain, Digest: e.Digest})
	}
	ref := tier.Ref{Domain: domain, Digest: e.Digest, Limit: object.MaxChunkList(e.Size)}
	if seen, ok := r.lists[e.Digest]; ok && seen == domain {
		return r.each(ref)
	}
	raw, err := r.fetch(ctx, ref)
	if err != nil {
		return fmt.Errorf("chunk list %v: %w", e.Digest, err)
	}
	list, err := object.ParseChunkList(raw, e.Size)
	if err != nil {
		return fmt.Errorf("chunk list %v: %w", e.Digest, err)
	}
	for _, c := range list.Chunks {
		if err := r.each(tier.Ref{Domain: domain, Digest: c.Digest}); err != nil {
			return err
		}
	}
	if len(r.lists) >= maxSeenLists {
		clear(r.lists)
	}
	r.lists[e.Digest] = domain
	return r.each(ref)
}

// fetcher returns a function that gets a blob's plain bytes, checked against its digest.
func fetcher(source tier.Source, codec *object.Codec) func(context.Context, tier.Ref) ([]byte, error) {
	return func(ctx context.Context, ref tier.Ref) ([]byte, error) {
		stored, err := source.Get(ctx, ref)
		if err != nil {
			return nil, err
		}
		return codec.Unpack(ref.Digest, stored, ref.Max())
	}
}
