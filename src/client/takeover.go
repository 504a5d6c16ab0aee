package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/fs"
	"github.com/aysfs/aysfs/src/keeper"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tree"
)

// Keeper is where mounts go that are to outlive this process, and come from.
type Keeper interface {
	fs.Keeper
	// Serving tells that what was Kept is served, or given up.
	Serving() error
}

// Predecessor is what was left to a client.
type Predecessor struct {
	Keeper Keeper
	Kept   []fs.Kept
	News   keeper.News
}

// note goes with a mount to whoever takes it up.
type note struct {
	Mount config.Mount
	Outer string // path of the mount that it lies in
	Since time.Time
}

func (m *mount) outerPath() string {
	if m.outer == nil {
		return ""
	}
	return m.outer.path
}

// keeping has a mount outlive this process, unless it can be changed: what was, and is
// not in redis, lies in this process alone.
func (c *Client) keeping(m *mount, cfg config.Mount, since time.Time, f *fs.Config) {
	if c.left == nil || cfg.Redis != nil {
		return
	}
	cfg.DebugFilter = nil
	b, err := json.Marshal(note{cfg, m.outerPath(), since})
	if err != nil {
		c.log.Warn("the mount will not outlive this process", "op", "mount", "mount", m.path, "err", err)
		return
	}
	f.Keeper, f.Note = c.left.Keeper, b
}

// depth is how many mounts a mount lies in.
func (m *mount) depth() int {
	if m == nil || m.outer == nil {
		return 0
	}
	return m.outer.depth() + 1
}

// resumed tells whether a mount goes on where another process left it, with a tree.
func (m *mount) resumed() bool {
	select {
	case <-m.up:
		return true
	default:
		return false
	}
}

// takeOver goes on with the mounts that the last process left, before anything
// else is done: everybody waits who works in them. One that can't go on, or that
// the config does not have as it was, is taken away.
func (c *Client) takeOver(ctx context.Context) {
	if c.left == nil {
		return
	}
	began := time.Now()
	byPath := make(map[string]*mount)
	for _, m := range c.mounts {
		byPath[m.path] = m
	}
	var mu sync.Mutex
	var lost []fs.Kept
	lose := func(k fs.Kept, err error) {
		c.log.Warn("a mount can't go on, and is made afresh: who has something open there gets errors", "op", "resume", "mount", k.Path, "err", err)
		if err := c.left.Keeper.Drop(k.Path); err != nil {
			c.log.Warn("can't have the keeper let go", "op", "resume", "mount", k.Path, "err", err)
		}
		mu.Lock()
		lost = append(lost, k)
		mu.Unlock()
	}
	// Outer ones first: those in one that is made afresh go with it.
	for depth, left := 0, len(c.left.Kept); left > 0; depth++ {
		var all sync.WaitGroup
		for _, k := range c.left.Kept {
			if m := byPath[k.Path]; m.depth() != depth {
				continue
			}
			left--
			all.Go(func() {
				resume := c.resume
				if _, ok := fs.DetachedFrom(k); ok {
					resume = c.resumeDetached
				}
				if err := resume(ctx, byPath[k.Path], k); err != nil {
					lose(k, err)
				}
			})
		}
		all.Wait()
	}
	for _, k := range c.left.Kept {
		_, away := fs.DetachedFrom(k)
		if !away && !slices.ContainsFunc(lost, func(l fs.Kept) bool { return l.Path == k.Path }) {
			continue
		}
		// What goes on without a path may not have been taken away from it yet.
		if err := fs.ClearKept(k); err != nil {
			c.log.Error("can't take away a mount", "op", "resume", "mount", k.Path, "err", err)
		}
	}
	if len(c.left.Kept) > 0 {
		c.log.Info("mounts go on", "op", "resume", "mounts", len(c.left.Kept), "lost", len(lost), "ms", time.Since(began).Milliseconds(), "after", c.left.News.Last)
		c.lookSoon()
	}
}

// serving tells the keeper that all is served that can be, and that this process
// can be asked how it is.
func (c *Client) serving() {
	if c.left == nil {
		return
	}
	if err := c.left.Keeper.Serving(); err != nil {
		c.log.Warn("can't tell the keeper that the mounts are served", "op", "resume", "err", err)
	}
}

// resume goes on with one mount. k is used up.
func (c *Client) resume(ctx context.Context, m *mount, k fs.Kept) error {
	if m == nil {
		k.Close()
		return errors.New("the config no longer has it")
	}
	cfg, _ := m.config()
	var was note
	if err := json.Unmarshal(fs.NoteOf(k), &was); err != nil {
		k.Close()
		return fmt.Errorf("read what is kept of it: %w", err)
	}
	if m.outer != nil {
		if f, _ := m.outer.showing(); f == nil {
			k.Close()
			return fmt.Errorf("the mount at %s, in which it lies, is made afresh", m.outer.path)
		}
	}
	if !sameMount(was.Mount, cfg) || was.Outer != m.outerPath() || cfg.Redis != nil {
		k.Close()
		return errors.New("the config has changed it")
	}
	m.mounting.Lock()
	defer m.mounting.Unlock()
	f, err := c.resumeFS(ctx, m, cfg, was, k)
	if err != nil {
		return err
	}
	c.mounted(m, cfg, f)
	v := f.View()
	if v == nil {
		return nil // there was no tree yet
	}
	m.mu.Lock()
	m.shown, m.since = shown{v.Head(), v.Grafts(), true}, was.Since
	m.mu.Unlock()
	m.moved <- struct{}{} // so that what is missing of it is fetched
	close(m.up)
	m.tried(nil)
	return nil
}

// resumeFS has this process serve a mount. k is used up.
func (c *Client) resumeFS(ctx context.Context, m *mount, cfg config.Mount, was note, k fs.Kept) (*fs.FS, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config().Main.IOTimeout)
	defer cancel()
	open := func(ctx context.Context, s *fs.Seen) (*tree.View, error) {
		head, err := object.OpenHead([]byte(s.Head), nil) // its signature was looked at when it was fetched
		if err != nil {
			return nil, err
		}
		return tree.NewView(ctx, tree.New(head, m.origin, c.metadata), s.Remote, s.Grafts)
	}
	return fs.Resume(ctx, c.fsConfig(m, cfg, was.Since), k, open, m.origin)
}

// resumeDetached is resume for a mount that the config has not had for a while, for
// those who are still in it.
func (c *Client) resumeDetached(ctx context.Context, _ *mount, k fs.Kept) error {
	var was note
	if err := json.Unmarshal(fs.NoteOf(k), &was); err != nil {
		k.Close()
		return fmt.Errorf("read what is kept of it: %w", err)
	}
	m := newMount(was.Mount)
	m.life, m.end = context.WithCancel(c.life)
	m.end()
	if m.origin = c.origins[was.Mount.Store]; m.origin == nil {
		k.Close()
		return fmt.Errorf("the config no longer has the store %q", was.Mount.Store)
	}
	f, err := c.resumeFS(ctx, m, was.Mount, was, k)
	if err != nil {
		return err
	}
	c.mounted(m, was.Mount, f)
	c.remember(f)
	return nil
}

// remember takes note of a mount that goes on without a path.
func (c *Client) remember(f *fs.FS) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.detached = append(slices.DeleteFunc(c.detached, over), f)
}

// unsentWait is how long HandOver waits for what is being written in mounts with
// debug.
const unsentWait = 5 * time.Second

// ErrUnsent says that something is written in a mount with debug that redis does not
// have.
var ErrUnsent = errors.New("files are being written in a mount with debug; close them first")

// HandOver ends the client, but leaves the mounts to a successor, in which nothing
// is answered until then. Mounts with debug are taken away: what is written in them
// is waited for, and with ErrUnsent nothing has happened. ctx bounds the rest.
func (c *Client) HandOver(ctx context.Context) error {
	for end := time.Now().Add(unsentWait); c.unsent(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			return ErrUnsent
		}
	}
	c.end()
	idle := make(chan struct{})
	go func() {
		c.work.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	c.mu.Lock()
	mounts, detached := c.mounts, c.detached
	c.mu.Unlock()
	for _, f := range detached {
		if err := f.Release(); err != nil {
			c.log.Error("can't let go", "op", "upgrade", "err", err)
		}
	}
	for _, m := range slices.Backward(mounts) {
		f, _ := m.showing()
		if f == nil {
			continue
		}
		if f.Layer() != nil {
			if c.detach(m, "upgrade") {
				c.await(m, "upgrade")
			}
			continue
		}
		if err := f.Release(); err != nil {
			c.log.Error("can't let go", "op", "upgrade", "mount", m.path, "err", err)
		}
	}
	if c.control != nil {
		c.control.Close()
	}
	if c.cache != nil {
		if err := c.cache.Close(ctx); err != nil {
			c.log.Warn("close the disk cache", "op", "upgrade", "err", err)
		}
	}
	return nil
}

// unsent tells whether something is being written that redis does not have.
func (c *Client) unsent() bool {
	c.mu.Lock()
	mounts := c.mounts
	c.mu.Unlock()
	for _, m := range mounts {
		if f, _ := m.showing(); f != nil && f.Writing() {
			return true
		}
	}
	return false
}
