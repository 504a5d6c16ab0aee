package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tier/disk"
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
	defer c.unpin(m)
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
			if pause > prefetchFirst || errors.Is(err, errNotKept) { // of which the cache has warned
				level = slog.LevelDebug
			}
			c.log.Log(m.life, level, "prefetch ended early, and goes on later", "op", "prefetch", "mount", m.path, "err", err, "again_in", pause)
			again = time.After(pause)
			pause = min(2*pause, prefetchLast)
		}
	}
}

// errNotKept says that what comes would not stay.
var errNotKept = errors.New("the disk cache keeps nothing for now")

// prefetch brings near what the mount's config asks for. Without a disk cache, or one
// that keeps something, there is no place for it.
func (c *Client) prefetch(m *mount) error {
	f, _ := m.showing()
	cfg, _ := m.config()
	v := f.View()
	near := c.cache != nil && cfg.Prefetch >= prefetchKnown
	if near {
		if err := c.keeps(); err != nil {
			return err
		}
	}
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

// keeps is errNotKept while the disk cache keeps nothing.
func (c *Client) keeps() error {
	if why := c.cache.Trouble(); why != nil {
		return fmt.Errorf("%w: %w", errNotKept, why)
	}
	return nil
}

// prefetchMetadata finds out what metadata there is, and brings it near.
func (c *Client) prefetchMetadata(m *mount, v *tree.View, near bool) error {
	if err := m.pin(&c.pins, v.Tree); err != nil || !near {
		return err
	}
	var err error
	refs := func(yield func(tier.Ref) bool) { err = v.Metadata(m.life, yield) }
	all := v.Head().Catalogs + 1
	if err := m.bring(stageMetadata, refs, all, 0); err != nil {
		return err
	}
	if err == nil {
		m.say(fmt.Sprintf("%d objects", all))
	}
	return err
}

// pinStep is how many blobs are pinned at a time.
const pinStep = 256

// pin has the disk cache keep what this mount needs to start without network, and no
// longer what it needed before.
func (m *mount) pin(p *pins, t *tree.Tree) error {
	var pinned, step []tier.Ref
	full := false
	flush := func() bool {
		n := p.add(step)
		pinned, full, step = append(pinned, step[:n]...), n < len(step), step[:0]
		return !full
	}
	err := t.Metadata(m.life, func(ref tier.Ref) bool {
		step = append(step, ref)
		return len(step) < pinStep || flush()
	})
	if err != nil {
		p.drop(pinned)
		return err
	}
	if !full {
		flush()
	}
	m.repin(p, pinned)
	return nil
}

// pinKnown pins what mounts would need at the heads that are known from before, so
// that nothing of it goes until they show a tree.
func (c *Client) pinKnown(mounts []*mount) {
	if c.cache == nil {
		return
	}
	for _, m := range mounts {
		ch := m.origin.use()
		head := ch.heads.Known(treeName(m.cfg))
		ch.users.Done()
		if head == nil {
			continue
		}
		// What the disk cache doesn't have it can't lose.
		err := m.pin(&c.pins, tree.New(head, kept{c.cache}, c.metadata))
		if err != nil && !errors.Is(err, tier.ErrAbsent) {
			c.log.Warn("can't tell what to keep for a start without network", "op", "start", "mount", m.path, "err", err)
		}
	}
}

// kept is the blobs that the disk cache has.
type kept struct{ cache *disk.Cache }

// Copy returns a blob, or tier.ErrAbsent.
func (k kept) Copy(_ context.Context, ref tier.Ref) ([]byte, error) { return k.cache.Copy(ref) }

// repin takes note of what was pinned in place of what was before.
func (m *mount) repin(p *pins, pinned []tier.Ref) {
	m.mu.Lock()
	was := m.pinned
	m.pinned = pinned
	m.mu.Unlock()
	p.drop(was)
}

// unpin has the disk cache keep no longer what a mount needed that the config does not
// have any more. Where the client ends it keeps that to its last write: the next one
// may have to start with it.
func (c *Client) unpin(m *mount) {
	if c.life.Err() == nil {
		m.repin(&c.pins, nil)
	}
}

func (m *mount) say(note string) {
	m.mu.Lock()
	m.note = note
	m.mu.Unlock()
}

// wholeTree is all content of a view, in the order of its listings. It goes through
// for hours, and looks into listings and chunk lists for a moment at a time, so that
// they need not stay in memory.
type wholeTree struct {
	ctx  context.Context
	view *tree.View
	err  error // why there is no more
}

// Steps in which listings and chunk lists are gone through.
const (
	entriesStep = 256
	chunksStep  = 4096
)

// refs is an iterator.
func (w *wholeTree) refs(yield func(tier.Ref) bool) {
	w.err = nil
	w.below("", w.view.Root().Digest, yield)
}

// below is false when there shall be no more.
func (w *wholeTree) below(path string, d digest.Digest, yield func(tier.Ref) bool) bool {
	for from, more := 0, true; more; from += entriesStep {
		var step []object.Entry
		if step, more, w.err = w.entries(path, d, from); w.err != nil {
			return false
		}
		for _, e := range step {
			if w.ctx.Err() != nil || !w.content(path, e, yield) {
				return false
			}
		}
	}
	return true
}

// entries returns what is needed of some entries of a directory, from that number on, and
// whether there are more.
func (w *wholeTree) entries(path string, d digest.Digest, from int) (step []object.Entry, more bool, err error) {
	l, err := w.view.Listing(w.ctx, path, d)
	if err != nil {
		return nil, false, err
	}
	end := min(from+entriesStep, l.Len())
	for i := from; i < end; i++ {
		e := l.At(i)
		e.Target = nil
		if e.Name = nil; e.Kind == object.Dir {
			e.Name = bytes.Clone(l.At(i).Name)
		}
		step = append(step, e)
	}
	return step, end < l.Len(), nil
}

// content is false when there shall be no more.
func (w *wholeTree) content(path string, e object.Entry, yield func(tier.Ref) bool) bool {
	switch {
	case e.Kind == object.Dir:
		return w.below(object.Join(path, string(e.Name)), e.Digest, yield)
	case e.Kind == object.File && e.Chunked:
		for from, more := 0, true; more; from += chunksStep {
			list, err := w.view.Chunks(w.ctx, e.Digest, e.Size)
			if err != nil {
				w.err = err
				return false
			}
			end := min(from+chunksStep, len(list.Chunks))
			more = end < len(list.Chunks)
			for _, c := range slices.Clone(list.Chunks[from:end]) {
				if !yield(w.view.BlobRef(c.Digest, c.Size)) {
					return false
				}
			}
		}
	case e.Kind == object.File && e.Size > 0:
		return yield(w.view.BlobRef(e.Digest, e.Size))
	}
	return true
}
