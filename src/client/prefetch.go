package client

import (
	"context"
	"fmt"
	"time"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

// Values of prefetch in a mount's config.
const (
	prefetchMetadata = 1
	prefetchTree     = 2
)

// prefetch brings near what the mount's config asks for. Without a disk cache
// there is no place to keep it.
func (c *Client) prefetch(m *mount) error {
	s, v := c.stores[m.cfg.Store], m.fs.View()
	if c.cache == nil || m.cfg.Prefetch < prefetchMetadata {
		return v.Metadata(c.life, c.pins.add)
	}
	p := prefetcher{ctx: c.life, blobs: s.blobs}
	n := 0
	if err := v.Metadata(c.life, func(ref tier.Ref) {
		c.pins.add(ref)
		p.bring(ref)
		n++
	}); err != nil {
		return err
	}
	m.say(fmt.Sprintf("%d objects", n))
	if m.cfg.Prefetch < prefetchTree {
		return nil
	}
	return p.tree(v, "", v.Root(), func() { m.say(fmt.Sprintf("%d objects, %d files prefetched", n, p.files)) })
}

func (m *mount) say(note string) {
	m.mu.Lock()
	m.note = note
	m.mu.Unlock()
}

// prefetcher brings blobs near one after the other, as the chain has room.
type prefetcher struct {
	ctx   context.Context
	blobs *tier.Chain
	files int
}

func (p *prefetcher) bring(ref tier.Ref) {
	for !p.blobs.Prefetch(ref) {
		select {
		case <-time.After(2 * time.Millisecond):
		case <-p.ctx.Done():
			return
		}
	}
}

// tree brings all content below a directory near.
func (p *prefetcher) tree(v *tree.View, path string, dir object.Entry, progress func()) error {
	l, err := v.Listing(p.ctx, path, dir.Digest)
	if err != nil {
		return err
	}
	for i := range l.Len() {
		if p.ctx.Err() != nil {
			return p.ctx.Err()
		}
		e := l.At(i)
		switch {
		case e.Kind == object.Dir:
			if err := p.tree(v, object.Join(path, string(e.Name)), e, progress); err != nil {
				return err
			}
		case e.Kind == object.File && e.Chunked:
			list, err := v.Chunks(p.ctx, e.Digest, e.Size)
			if err != nil {
				return err
			}
			for _, c := range list.Chunks {
				p.bring(v.BlobRef(c.Digest, c.Size))
			}
			p.files++
		case e.Kind == object.File && e.Size > 0:
			p.bring(v.BlobRef(e.Digest, e.Size))
			p.files++
		}
	}
	progress()
	return nil
}
