package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/aysfs/aysfs/src/config"
	"github.com/aysfs/aysfs/src/fs"
	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
	"github.com/aysfs/aysfs/src/tree"
)

// mount is one configured mount, and what became of it.
type mount struct {
	path   string
	outer  *mount // the innermost mount that its path lies in, or nil
	origin *origin

	life  context.Context // ends when the mount is to go
	end   context.CancelFunc
	ended chan struct{} // closed when nothing works for it any more
	first chan error    // gets the result of the first try
	up    chan struct{} // closed once it shows a tree
	moved chan struct{} // tells that it shows another one; holds one

	needs    needs
	progress progress

	turn     *semaphore.Weighted // 1: held by who has it show another tree
	mounting sync.Mutex          // held by who mounts it

	mu       sync.Mutex
	cfg      config.Mount
	grafts   []string         // paths in it, relative, where other mounts need a directory
	fs       *fs.FS           // nil until it is mounted
	filter   []*regexp.Regexp // of debug, that fs was told to go by
	refilter bool             // fs could not wholly do so
	shown    shown
	pinned   []tier.Ref
	since    time.Time
	err      error // why it shows no tree
	note     string
	look     look
}

// shown is what a mount shows.
type shown struct {
	head   *object.Head // nil: nothing yet
	grafts []string
	fresh  bool
}

// newMount has the config's part of a mount alone.
func newMount(cfg config.Mount) *mount {
	return &mount{
		path: cfg.Path, cfg: cfg, turn: semaphore.NewWeighted(1), needs: needs{found: make(chan struct{})}, ended: make(chan struct{}), first: make(chan error, 1), up: make(chan struct{}), moved: make(chan struct{}, 1),
	}
}

// arrange puts outer mounts before those that lie in them.
func arrange(cfgs []config.Mount) []*mount {
	var all []*mount
	for _, c := range cfgs {
		all = append(all, newMount(c))
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

// prepare gives a mount its store and its life. c.mu is held, or nobody else
// knows c yet.
func (c *Client) prepare(m *mount) {
	m.origin = c.origins[m.cfg.Store]
	m.life, m.end = context.WithCancel(c.life)
}

// config is what the mount's config says now.
func (m *mount) config() (config.Mount, []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cfg, m.grafts
}

func (m *mount) showsNothing() bool {
	_, s := m.showing()
	return s.head == nil
}

func (m *mount) showing() (*fs.FS, shown) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fs, m.shown
}

// treeName is what a mount looks for.
func treeName(cfg config.Mount) object.TreeName {
	return object.TreeName{ID: cfg.ID, RepoID: cfg.RepoID, Platform: cfg.Platform}
}

// show has a mount show the tree of a head, and mounts it if need be. Where it
// shows another one already, that stays until all metadata of the new one is here.
func (c *Client) show(ctx context.Context, m *mount, head *object.Head, fresh bool) error {
	if err := m.takeTurn(ctx); err != nil {
		return err
	}
	defer m.turn.Release(1)
	return c.showNow(ctx, m, head, fresh)
}

// takeTurn waits until nobody else has a mount show another tree.
func (m *mount) takeTurn(ctx context.Context) error {
	if err := m.turn.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("mount %s: wait for a move to another tree: %w", m.path, tier.Unavailable(err))
	}
	return nil
}

// showNow is show for who has the mount's turn.
func (c *Client) showNow(ctx context.Context, m *mount, head *object.Head, fresh bool) error {
	began := time.Now()
	cfg, grafts := m.config()
	f, was := m.showing()
	if want := cfg.Domain; want != "" && want != head.Domain {
		return fmt.Errorf("mount %s: the tree is in dedupe domain %s, the config says %s", cfg.Path, head.Domain, want)
	}
	t := tree.New(head, m.origin, c.metadata)
	if was.head != nil && was.head.Text() != head.Text() {
		if err := c.complete(ctx, t, cfg.Prefetch); err != nil {
			return fmt.Errorf("mount %s: %w", cfg.Path, err)
		}
		if err := probe(ctx, f.View().Tree, t, m.origin); err != nil {
			return fmt.Errorf("mount %s: %w", cfg.Path, err)
		}
	}
	view, err := tree.NewView(ctx, t, cfg.Remote, grafts)
	if err != nil {
		return fmt.Errorf("mount %s: %w", cfg.Path, err)
	}
	var made bool
	if f, made, err = c.mountWith(m, cfg, view); err != nil {
		return err
	}
	c.refilter(m) // a reload may have come while it was mounted
	if !made {
		if err := f.Show(ctx, view, m.origin); err != nil && f.View() != view {
			return err
		}
	}
	m.mu.Lock()
	m.shown, m.err = shown{head, grafts, fresh}, nil
	if m.since.IsZero() {
		m.since = time.Now()
	}
	m.mu.Unlock()
	if was.head == nil {
		c.log.Info("mounted", "op", "mount", "mount", cfg.Path, "tree", head.Tree.String(), "serial", head.Serial,
			"root", head.Root.String(), "store", cfg.Store, "fresh", fresh, "ms", time.Since(began).Milliseconds())
	}
	select {
	case m.moved <- struct{}{}:
	default:
	}
	return nil
}

// mountWith makes a mount that shows view, or, without a view, has no tree yet. One
// that is there already is returned as it is.
func (c *Client) mountWith(m *mount, cfg config.Mount, view *tree.View) (f *fs.FS, made bool, err error) {
	m.mounting.Lock()
	defer m.mounting.Unlock()
	if f, _ := m.showing(); f != nil {
		return f, false, nil
	}
	if f, err = fs.New(c.fsConfig(m, cfg, time.Now()), view, m.origin); err != nil {
		return nil, false, fmt.Errorf("mount %s: %w", cfg.Path, err)
	}
	if err := f.Mount(); err != nil {
		f.Abandon()
		return nil, false, err
	}
	c.mounted(m, cfg, f)
	return f, true, nil
}

// fsConfig is what the config says of a mount that is there since then.
func (c *Client) fsConfig(m *mount, cfg config.Mount, since time.Time) fs.Config {
	main := c.config().Main
	f := fs.Config{
		Path: cfg.Path, Name: cfg.Name, IOTimeout: main.IOTimeout, Xattr: main.Xattr,
		Window: share(main.Memory, windowShare), Nested: m.outer != nil, Debug: c.layer(cfg, main), Log: c.log,
	}
	c.keeping(m, cfg, since, &f)
	return f
}

// mounted takes note of what serves a mount.
func (c *Client) mounted(m *mount, cfg config.Mount, f *fs.FS) {
	f.SetGuess(c.learns(m))
	m.origin.mounts.Add(1)
	go func() {
		<-f.Done()
		m.origin.mounts.Done()
		if m.life.Err() == nil {
			c.log.Error("a mount has ended", "op", "unmount", "mount", m.path, "err", errOver)
		}
	}()
	m.mu.Lock()
	m.fs, m.filter = f, cfg.DebugFilter
	m.mu.Unlock()
}

// errOver says that a mount was taken away that is to be there.
var errOver = errors.New("somebody else unmounted it, or cut it off; a reload mounts it anew")

// over tells whether a mount that was made is no longer served.
func over(f *fs.FS) bool {
	if f == nil {
		return false
	}
	select {
	case <-f.Done():
		return true
	default:
		return false
	}
}

// sideBySide is how many objects of a new tree are fetched at once.
const sideBySide = 8

// complete brings all metadata of a tree near, so that one whose objects a store
// does not have yet is not shown. Without a disk cache there is no place for it:
// then what a move compares is all.
func (c *Client) complete(ctx context.Context, t *tree.Tree, prefetch int) error {
	if c.cache == nil || prefetch < prefetchKnown {
		_, err := t.Index(ctx)
		return err
	}
	// Lookups in the tree that is shown go before it.
	g, ctx := errgroup.WithContext(tier.InBackground(ctx))
	g.SetLimit(sideBySide)
	if err := t.Metadata(ctx, func(ref tier.Ref) bool {
		if !c.cache.Has(ref) {
			g.Go(func() error { return t.Fetch(ctx, ref) })
		}
		return ctx.Err() == nil
	}); err != nil {
		return errors.Join(err, g.Wait())
	}
	return g.Wait()
}

// probes is how many new files are tried before a move: all of a small change,
// and enough of a large one to find out a store that is still being filled.
const probes = 16

// Bounds of what a probe compares, as a few listings can make a tree that is endless.
const (
	maxProbed    = 1 << 20 // changes
	maxProbePath = 16 << 10
)

// probe brings near some of the files that a move would make appear, so that a tree
// whose metadata came first is not shown.
func probe(ctx context.Context, older, newer *tree.Tree, blobs *origin) error {
	var sample []object.Entry
	seen, changes := 0, 0
	enough := errors.New("enough")
	err := tree.Diff(ctx, older, newer, func(c tree.Change) error {
		if changes++; changes > maxProbed || len(c.Path) > maxProbePath {
			return enough
		}
		if c.New == nil || c.New.Kind != object.File || c.New.Size == 0 || c.Old != nil && c.Old.Digest == c.New.Digest {
			return nil
		}
		seen++
		if len(sample) < probes {
			sample = append(sample, *c.New)
		} else if i := rand.IntN(seen); i < probes {
			sample[i] = *c.New
		}
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return err
	case err != nil && err != enough:
		return nil // what is shown now can't be read: that is no reason to keep it
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(sideBySide)
	for _, e := range sample {
		g.Go(func() error {
			if e.Chunked {
				_, err := newer.Chunks(ctx, e.Digest, e.Size)
				return err
			}
			b, err := blobs.Get(ctx, newer.BlobRef(e.Digest, e.Size))
			if err == nil {
				b.Release()
			}
			return err
		})
	}
	return g.Wait()
}

// pend mounts without a tree: every access is answered with EIO, rather than by
// the empty directory below.
func (c *Client) pend(m *mount) error {
	cfg, _ := m.config()
	_, made, err := c.mountWith(m, cfg, nil)
	c.refilter(m)
	if made {
		c.log.Warn("no tree yet: the path answers with errors until there is one; ays doctor tells what may help", "op", "mount", "mount", m.path)
	}
	return err
}

// regraft has a mount show the directories that other mounts now need in it.
func (c *Client) regraft(ctx context.Context, m *mount) error {
	if m.grafted() {
		return nil
	}
	if err := m.takeTurn(ctx); err != nil {
		return err
	}
	defer m.turn.Release(1)
	if m.grafted() {
		return nil
	}
	_, s := m.showing() // after the move that may have been waited for
	return c.showNow(ctx, m, s.head, s.fresh)
}

// grafted tells whether a mount shows the directories that its config says, or nothing
// yet.
func (m *mount) grafted() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shown.head == nil || slices.Equal(m.shown.grafts, m.grafts)
}

// detach takes a mount away from its path. It is true where a request may still
// be under way.
func (c *Client) detach(m *mount, op string) bool {
	f, _ := m.showing()
	if f == nil {
		return false
	}
	lazy, err := f.Unmount()
	switch {
	case err != nil:
		c.log.Error("can't unmount", "op", op, "err", err)
		return false
	case lazy:
		c.log.Warn("unmounted lazily: files are open or somebody works in it", "op", op, "mount", m.path)
		c.remember(f)
		return false
	}
	return true
}

// unmountWait is how long a mount that nobody uses may take to end.
const unmountWait = 5 * time.Second

// await waits until a mount that nobody uses any more has ended.
func (c *Client) await(m *mount, op string) {
	f, _ := m.showing()
	select {
	case <-f.Done():
		c.log.Info("unmounted", "op", op, "mount", m.path)
	case <-time.After(unmountWait):
		c.log.Warn("unmounted, but not at its end: a request is still under way, or another mount namespace, as of a container, has it still", "op", op, "mount", m.path)
	}
}

// name is how a mount is called in logs where its config has no name.
func (m *mount) name() string {
	if m.cfg.Name != "" {
		return m.cfg.Name
	}
	return path.Base(m.cfg.Path)
}
