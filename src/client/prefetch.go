package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

// Values of prefetch in a mount's config.
const (
	prefetchKnown = 1 // all metadata, and what programs are known to need
	prefetchTree  = 2
)

// How long a prefetch that ended early waits until it goes on: twice as long each
// time.
const (
	prefetchFirst = 5 * time.Second
	prefetchLast  = 5 * time.Minute
)

// prefetchAll brings near what a mount shows, and again with each tree that it
// moves to, until the mount is to go. Unless that was done, it has recorded what
// programs need, as soon as the config wants that.
func (c *Client) prefetchAll(m *mount, recorded bool) {
	defer func() { m.pin(&c.pins, nil) }()
	var recording sync.WaitGroup
	defer recording.Wait()
	pause := prefetchFirst
	var again <-chan time.Time
	for {
		select {
		case <-m.moved:
			pause = prefetchFirst
		case <-again:
		case <-m.life.Done():
			return
		}
		again = nil
		if !recorded && c.learns(m) {
			recorded = true
			recording.Go(func() { c.record(m) })
		}
		err := c.prefetch(m)
		if err == nil {
			pause = prefetchFirst
		} else if m.life.Err() == nil {
			level := slog.LevelWarn
			if pause > prefetchFirst {
				level = slog.LevelDebug
			}
			c.log.Log(m.life, level, "prefetch ended early, and goes on later", "op", "prefetch", "mount", m.path, "err", err, "again_in", pause)
			again = time.After(pause)
			pause = min(2*pause, prefetchLast)
		}
	}
}

// prefetch brings near what the mount's config asks for. Without a disk cache
// there is no place to keep it.
func (c *Client) prefetch(m *mount) error {
	f, _ := m.showing()
	cfg, _ := m.config()
	v := f.View()
	near := c.cache != nil && cfg.Prefetch >= prefetchKnown
	var profiled errgroup.Group
	if near {
		profiled.Go(func() error { return c.bringProfile(m, v) })
	}
	err := c.prefetchMetadata(m, v, near)
	if err = errors.Join(err, profiled.Wait()); err != nil || !near || cfg.Prefetch < prefetchTree {
		return err
	}
	w := wholeTree{ctx: tier.InBackground(m.life), view: v}
	all := int64(0)
	if cfg.Remote == "" {
		all = v.Head().Counts.Bytes
	}
	err = m.bring(stageTree, w.refs, 0, all)
	if errors.Is(err, tier.ErrNoRoom) {
		return nil // which the status tells
	}
	return errors.Join(err, w.err)
}

// prefetchMetadata finds out what metadata there is, and brings it near.
func (c *Client) prefetchMetadata(m *mount, v *tree.View, near bool) error {
	var refs []tier.Ref
	if err := v.Metadata(m.life, func(ref tier.Ref) { refs = append(refs, ref) }); err != nil {
		return err
	}
	m.pin(&c.pins, refs)
	if !near {
		return nil
	}
	err := m.bring(stageMetadata, slices.Values(refs), int64(len(refs)), 0)
	if err == nil {
		m.say(fmt.Sprintf("%d objects", len(refs)))
	}
	return err
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

// wholeTree is all content of a view, in the order of its listings.
type wholeTree struct {
	ctx  context.Context
	view *tree.View
	err  error // why there is no more
}

// refs is an iterator.
func (w *wholeTree) refs(yield func(tier.Ref) bool) {
	w.err = nil
	w.below("", w.view.Root(), yield)
}

// below is false when there shall be no more.
func (w *wholeTree) below(path string, dir object.Entry, yield func(tier.Ref) bool) bool {
	l, err := w.view.Listing(w.ctx, path, dir.Digest)
	if err != nil {
		w.err = err
		return false
	}
	for i := range l.Len() {
		if w.ctx.Err() != nil {
			return false
		}
		e := l.At(i)
		switch {
		case e.Kind == object.Dir:
			if !w.below(object.Join(path, string(e.Name)), e, yield) {
				return false
			}
		case e.Kind == object.File && e.Chunked:
			list, err := w.view.Chunks(w.ctx, e.Digest, e.Size)
			if err != nil {
				w.err = err
				return false
			}
			for _, c := range list.Chunks {
				if !yield(w.view.BlobRef(c.Digest, c.Size)) {
					return false
				}
			}
		case e.Kind == object.File && e.Size > 0:
			if !yield(w.view.BlobRef(e.Digest, e.Size)) {
				return false
			}
		}
	}
	return true
}
