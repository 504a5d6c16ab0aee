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

// prefetchAll brings near what a mount shows, and again with each tree that it
// moves to, until the mount is to go.
func (c *Client) prefetchAll(m *mount) {
	defer func() { m.pin(&c.pins, nil) }()
	for {
		select {
		case <-m.moved:
		case <-m.life.Done():
			return
		}
		if err := c.prefetch(m); err != nil && m.life.Err() == nil {
			c.log.Warn("prefetch ended early", "op", "prefetch", "mount", m.path, "err", err)
		}
	}
}

// prefetch brings near what the mount's config asks for. Without a disk cache
// there is no place to keep it.
func (c *Client) prefetch(m *mount) error {
	f, _ := m.showing()
	cfg, _ := m.config()
	v := f.View()
	near := c.cache != nil && cfg.Prefetch >= prefetchMetadata
	p := prefetcher{ctx: m.life, blobs: m.origin, moved: m.moved}
	var refs []tier.Ref
	if err := v.Metadata(m.life, func(ref tier.Ref) {
		refs = append(refs, ref)
		if near {
			p.bring(ref)
		}
	}); err != nil {
		return err
	}
	m.pin(&c.pins, refs)
	if !near {
		return nil
	}
	m.say(fmt.Sprintf("%d objects", len(refs)))
	if cfg.Prefetch < prefetchTree {
		return nil
	}
	return p.tree(v, "", v.Root(), func() { m.say(fmt.Sprintf("%d objects, %d files prefetched", len(refs), p.files)) })
}

// pin has the disk cache keep what this mount needs to start without network,
// and no longer what it needed before.
func (m *mount) pin(p *pins, refs []tier.Ref) {
	m.mu.Lock()
	was := m.pinned
	m.pinned = refs
	m.mu.Unlock()
	p.swap(was, refs)
}

func (m *mount) say(note string) {
	m.mu.Lock()
	m.note = note
	m.mu.Unlock()
}

// prefetcher brings blobs near one after the other, as the chain has room.
type prefetcher struct {
	ctx   context.Context
	blobs *origin
	moved <-chan struct{}
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
		if p.ctx.Err() != nil || len(p.moved) > 0 {
			return p.ctx.Err() // the next tree comes first
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
