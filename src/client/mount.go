package client

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/fs"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tree"
)

// mount is one configured mount, and what became of it.
type mount struct {
	cfg    config.Mount
	outer  *mount   // the innermost mount that its path lies in, or nil
	grafts []string // paths in it, relative, where other mounts need a directory

	first    chan<- error // gets the result of the first try
	firstErr error
	up       chan struct{} // closed once it is mounted

	mu    sync.Mutex
	fs    *fs.FS // nil until it is mounted
	since time.Time
	fresh bool
	err   error // of the last try
	note  string
}

// arrange puts outer mounts before those that lie in them.
func arrange(cfgs []config.Mount) []*mount {
	var all []*mount
	for _, c := range cfgs {
		all = append(all, &mount{cfg: c, up: make(chan struct{})})
	}
	slices.SortStableFunc(all, func(a, b *mount) int { return object.ComparePaths(a.cfg.Path, b.cfg.Path) })
	for i, m := range all {
		for _, o := range slices.Backward(all[:i]) {
			if rel, ok := strings.CutPrefix(m.cfg.Path, o.cfg.Path+"/"); ok {
				m.outer = o
				o.grafts = append(o.grafts, rel)
				break
			}
		}
	}
	return all
}

const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// keep makes a mount, however often that takes.
func (c *Client) keep(m *mount) {
	if m.outer != nil {
		select {
		case <-m.outer.up:
		case <-c.life.Done():
			return
		case <-time.After(c.cfg.Main.IOTimeout):
			// What it lies in is not there: say so, and go on waiting.
			m.tried(fmt.Errorf("mount %s: waiting for the mount at %s that it lies in", m.cfg.Path, m.outer.cfg.Path))
			select {
			case <-m.outer.up:
			case <-c.life.Done():
				return
			}
		}
	}
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := c.make(m)
		if c.life.Err() != nil {
			return
		}
		m.tried(err)
		if err == nil {
			close(m.up)
			break
		}
		c.log.Error("a mount could not be made", "op", "mount", "mount", m.cfg.Path, "err", err, "again_in", pause)
		select {
		case <-time.After(pause):
		case <-c.life.Done():
			return
		}
	}
	if err := c.prefetch(m); err != nil && c.life.Err() == nil {
		c.log.Warn("prefetch ended early", "op", "prefetch", "mount", m.cfg.Path, "err", err)
	}
}

// tried notes how a try went, and lets Start know of the first.
func (m *mount) tried(err error) {
	m.mu.Lock()
	m.err = err
	m.mu.Unlock()
	if m.first != nil {
		m.first <- err
		m.first = nil
	}
}

// make finds the newest head of a mount's tree and mounts it.
func (c *Client) make(m *mount) error {
	ctx, cancel := context.WithTimeout(c.life, c.cfg.Main.IOTimeout)
	defer cancel()
	s := c.stores[m.cfg.Store]
	began := time.Now()
	head, fresh, err := s.heads.Newest(ctx, object.TreeName{ID: m.cfg.ID, RepoID: m.cfg.RepoID, Platform: m.cfg.Platform})
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.cfg.Path, err)
	}
	if want := m.cfg.Domain; want != "" && want != head.Domain {
		return fmt.Errorf("mount %s: the tree is in dedupe domain %s, the config says %s", m.cfg.Path, head.Domain, want)
	}
	// Who waited in vain for the store has time left for what is nearer.
	ctx, cancel = context.WithTimeout(c.life, c.cfg.Main.IOTimeout)
	defer cancel()
	view, err := tree.NewView(ctx, tree.New(head, s.blobs, c.metadata), m.cfg.Remote, m.grafts)
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.cfg.Path, err)
	}
	f, err := fs.New(fs.Config{
		Path: m.cfg.Path, Name: m.cfg.Name, IOTimeout: c.cfg.Main.IOTimeout, Xattr: c.cfg.Main.Xattr,
		Window: share(c.cfg.Main.Memory, windowShare), Nested: m.outer != nil, Log: c.log,
	}, view, s.blobs)
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.cfg.Path, err)
	}
	if err := f.Mount(); err != nil {
		f.Abandon()
		return err
	}
	m.mu.Lock()
	m.fs, m.since, m.fresh = f, time.Now(), fresh
	m.mu.Unlock()
	c.log.Info("mounted", "op", "mount", "mount", m.cfg.Path, "tree", head.Tree.String(), "serial", head.Serial,
		"root", head.Root.String(), "store", m.cfg.Store, "fresh", fresh, "ms", time.Since(began).Milliseconds())
	return nil
}

// unmountWait is how long a mount that nobody uses may take to end.
const unmountWait = 5 * time.Second

func (m *mount) unmount(log *slog.Logger) {
	m.mu.Lock()
	f := m.fs
	m.mu.Unlock()
	if f == nil {
		return
	}
	lazy, err := f.Unmount()
	switch {
	case err != nil:
		log.Error("can't unmount", "op", "stop", "err", err)
		return
	case lazy:
		log.Warn("unmounted lazily: files are open or somebody works in it", "op", "stop", "mount", m.cfg.Path)
		return
	}
	select {
	case <-f.Done():
		log.Info("unmounted", "op", "stop", "mount", m.cfg.Path)
	case <-time.After(unmountWait):
		log.Warn("unmounted, but a request is still under way", "op", "stop", "mount", m.cfg.Path)
	}
}

// name is how a mount is called in logs where its config has no name.
func (m *mount) name() string {
	if m.cfg.Name != "" {
		return m.cfg.Name
	}
	return path.Base(m.cfg.Path)
}
